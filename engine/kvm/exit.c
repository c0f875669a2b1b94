// Why KVM_RUN has returned, and what is done about it.
//
// Accesses go up to the owner and leave the instruction unfinished (kvm.h). The reasons that belong to features that
// are never switched on or to other architectures cannot occur; if one does, the vCPU ends with an error that names it.
//
// Source: api.rst, section 5.
#include "engine/kvm/kvm.h"
#include <inttypes.h>
#include <string.h>

static enum kvm_outcome port(struct kvm_vcpu *v)
{
    const struct kvm_run *run = v->run;
    uint8_t *data = (uint8_t *)run + run->io.data_offset;
    uint16_t number = run->io.port;
    unsigned size = run->io.size, count = run->io.count;
    bool in = run->io.direction == KVM_EXIT_IO_IN;
    v->unfinished = true;
    for (unsigned n = 0; n < count; n++, data += size) { // INS and OUTS: several
        uint64_t val = 0;
        if (in) {
            val = KVM_UP(v)->port_read(v->base.owner, number, size);
            memcpy(data, &val, size);
        } else {
            memcpy(&val, data, size);
            KVM_UP(v)->port_write(v->base.owner, number, size, val);
        }
    }
    return KVM_GO_ON;
}

// KVM splits accesses at page borders, so sizes other than 1, 2, 4 and 8 occur: they go up in pieces.
static enum kvm_outcome mmio(struct kvm_vcpu *v)
{
    struct kvm_run *run = v->run;
    uint64_t gpa = run->mmio.phys_addr;
    unsigned len = run->mmio.len <= 8 ? run->mmio.len : 8;
    v->unfinished = true;
    if (run->mmio.is_write ? kvm_memory_write(v->vm, gpa, run->mmio.data, len)
                           : kvm_memory_read(v->vm, gpa, run->mmio.data, len))
        return KVM_GO_ON; // memory after all: memory.c tells how that comes
    v->tpr_stale = true;  // it may have been the local APIC's page
    for (unsigned at = 0, piece; at < len; at += piece) {
        for (piece = 8; piece > len - at;)
            piece /= 2;
        uint64_t val = 0;
        if (run->mmio.is_write) {
            memcpy(&val, run->mmio.data + at, piece);
            KVM_UP(v)->mmio_write(v->base.owner, gpa + at, piece, val);
        } else {
            val = KVM_UP(v)->mmio_read(v->base.owner, gpa + at, piece);
            memcpy(run->mmio.data + at, &val, piece);
        }
    }
    return KVM_GO_ON;
}

static enum kvm_outcome internal_error(struct kvm_vcpu *v, struct error *err)
{
    switch (v->run->internal.suberror) {
    case KVM_INTERNAL_ERROR_EMULATION:
        return kvm_fail(v, err, "KVM cannot emulate an instruction");
    case KVM_INTERNAL_ERROR_SIMUL_EX:
        return kvm_fail(v, err, "KVM: exceptions on top of each other");
    case KVM_INTERNAL_ERROR_DELIVERY_EV:
        return kvm_fail(v, err, "KVM: a fault while an event was delivered");
    default:
        return kvm_fail(v, err, "KVM: internal error %u", (unsigned)v->run->internal.suberror);
    }
}

// KVM_EXIT_HYPERCALL is for numbers that are asked for by KVM_CAP_EXIT_HYPERCALL, which are none.
enum kvm_outcome kvm_exit(struct kvm_vcpu *v, struct error *err)
{
    const struct kvm_run *run = v->run;
    unsigned reason = run->exit_reason;
    v->exits[reason < KVM_REASONS ? reason : 0]++;
    if (log_tracing(v->base.vm->config.log, TRACE_EXITS))
        kvm_trace_exit(v);
    switch (reason) {
    case KVM_EXIT_IO:
        return port(v);
    case KVM_EXIT_MMIO:
        return mmio(v);
    case KVM_EXIT_X86_RDMSR:
    case KVM_EXIT_X86_WRMSR:
        kvm_msr_exit(v);
        return KVM_GO_ON;
    case KVM_EXIT_HLT:
        v->activity = CPU_HALTED;
        return KVM_GO_ON;
    case KVM_EXIT_IOAPIC_EOI:
        if (KVM_UP(v)->eoi)
            KVM_UP(v)->eoi(v->base.owner, run->eoi.vector);
        return KVM_GO_ON;
    case KVM_EXIT_DIRTY_RING_FULL:
        kvm_ring_full(v);
        return KVM_GO_ON;
    case KVM_EXIT_IRQ_WINDOW_OPEN:
        v->windows++;
        return KVM_GO_ON;
    case KVM_EXIT_INTR:
    case KVM_EXIT_SET_TPR: // run->cr8 is looked at after every exit
        return KVM_GO_ON;
    case KVM_EXIT_SHUTDOWN:
        v->activity = CPU_SHUTDOWN;
        return KVM_SHUT_DOWN;
    case KVM_EXIT_INTERNAL_ERROR:
        return internal_error(v, err);
    case KVM_EXIT_FAIL_ENTRY:
        return kvm_fail(v, err, "KVM: the hardware refuses the guest's state (reason 0x%" PRIx64 ")",
                        (uint64_t)run->fail_entry.hardware_entry_failure_reason);
    case KVM_EXIT_UNKNOWN:
        return kvm_fail(v, err, "KVM: unknown hardware exit 0x%" PRIx64, (uint64_t)run->hw.hardware_exit_reason);
    case KVM_EXIT_SYSTEM_EVENT:
        return kvm_fail(v, err, "KVM: system event %u", (unsigned)run->system_event.type);
    default:
        return kvm_fail(v, err, "KVM: unexpected exit %u (%s)", reason, kvm_reason_name(reason));
    }
}
