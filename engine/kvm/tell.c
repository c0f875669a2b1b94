// What an exit is called, and how a vCPU that cannot go on says so: one line with the place and the bytes that are
// there.
//
// Example: KVM cannot emulate an instruction at 0010:ffffffff81012345 (0f 01 d0 48 ...)
#include "engine/kvm/kvm.h"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { SHOWN = 15 }; // bytes: no instruction is longer

const char *kvm_reason_name(unsigned reason)
{
    static const char *const names[KVM_REASONS] = {
        [KVM_EXIT_UNKNOWN] = "unknown",
        [KVM_EXIT_EXCEPTION] = "exception",
        [KVM_EXIT_IO] = "io",
        [KVM_EXIT_HYPERCALL] = "hypercall",
        [KVM_EXIT_DEBUG] = "debug",
        [KVM_EXIT_HLT] = "hlt",
        [KVM_EXIT_MMIO] = "mmio",
        [KVM_EXIT_IRQ_WINDOW_OPEN] = "irq_window",
        [KVM_EXIT_SHUTDOWN] = "shutdown",
        [KVM_EXIT_FAIL_ENTRY] = "fail_entry",
        [KVM_EXIT_INTR] = "signal",
        [KVM_EXIT_SET_TPR] = "set_tpr",
        [KVM_EXIT_TPR_ACCESS] = "tpr_access",
        [KVM_EXIT_NMI] = "nmi",
        [KVM_EXIT_INTERNAL_ERROR] = "internal_error",
        [KVM_EXIT_SYSTEM_EVENT] = "system_event",
        [KVM_EXIT_IOAPIC_EOI] = "ioapic_eoi",
        [KVM_EXIT_HYPERV] = "hyperv",
        [KVM_EXIT_X86_RDMSR] = "rdmsr",
        [KVM_EXIT_X86_WRMSR] = "wrmsr",
        [KVM_EXIT_DIRTY_RING_FULL] = "dirty_ring_full",
        [KVM_EXIT_X86_BUS_LOCK] = "bus_lock",
        [KVM_EXIT_NOTIFY] = "notify",
    };
    return reason < KVM_REASONS && names[reason] ? names[reason] : "other";
}

// The bytes at linear address `la` as text; empty if they cannot be had.
static void bytes_at(struct kvm_vcpu *v, uint64_t la, char *text, size_t size)
{
    text[0] = 0;
    for (unsigned n = 0, used = 0; n < SHOWN && used + 4 < size; n++) {
        struct kvm_translation t = {.linear_address = la + n};
        uint8_t byte;
        if (ioctl(v->fd, KVM_TRANSLATE, &t) < 0 || !t.valid || !kvm_memory_read(v->vm, t.physical_address, &byte, 1))
            return;
        used += (unsigned)snprintf(text + used, size - used, n ? " %02x" : "%02x", byte);
    }
}

enum kvm_outcome kvm_fail(struct kvm_vcpu *v, struct error *err, const char *fmt, ...)
{
    char what[96], bytes[SHOWN * 3 + 1];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    struct kvm_regs r;
    struct kvm_sregs s;
    if (ioctl(v->fd, KVM_GET_REGS, &r) < 0 || ioctl(v->fd, KVM_GET_SREGS, &s) < 0) {
        error_set(err, EIO, "%s, and its registers cannot be had", what);
        return KVM_FAILED;
    }
    bytes_at(v, s.cs.l ? r.rip : (uint32_t)(s.cs.base + r.rip), bytes, sizeof bytes);
    error_set(err, EIO, "%s at %04x:%" PRIx64 "%s%s%s", what, (unsigned)s.cs.selector, (uint64_t)r.rip,
              bytes[0] ? " (" : "", bytes, bytes[0] ? ")" : "");
    return KVM_FAILED;
}

void kvm_trace_exit(struct kvm_vcpu *v)
{
    const struct kvm_run *r = v->run;
    char detail[64] = "";
    switch (r->exit_reason) {
    case KVM_EXIT_IO:
        snprintf(detail, sizeof detail, " %s 0x%x, %u x %u bytes", r->io.direction == KVM_EXIT_IO_IN ? "in" : "out",
                 (unsigned)r->io.port, (unsigned)r->io.count, (unsigned)r->io.size);
        break;
    case KVM_EXIT_MMIO:
        snprintf(detail, sizeof detail, " %s 0x%" PRIx64 ", %u bytes", r->mmio.is_write ? "write" : "read",
                 (uint64_t)r->mmio.phys_addr, (unsigned)r->mmio.len);
        break;
    case KVM_EXIT_X86_RDMSR:
    case KVM_EXIT_X86_WRMSR:
        snprintf(detail, sizeof detail, " 0x%x", (unsigned)r->msr.index);
        break;
    }
    log_trace(v->base.vm->config.log, TRACE_EXITS, "cpu%u exit %s%s, rip 0x%" PRIx64, v->base.id,
              kvm_reason_name(r->exit_reason), detail, (uint64_t)r->s.regs.regs.rip);
}
