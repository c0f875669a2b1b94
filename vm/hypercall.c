// Hypercalls. Everything that a guest passes is hostile: APIC ids that no CPU has are passed over, as KVM does.
//
// Source: Linux, Documentation/virt/kvm/x86/hypercalls.rst, and for the error codes include/uapi/linux/kvm_para.h.
#include "vm/hypercall.h"
#include "host/thread.h"
#include "vm/vm.h"
#include <inttypes.h>

enum { HC_KICK_CPU = 5, HC_SEND_IPI = 10, HC_SCHED_YIELD = 11 };

// KVM's error codes, which are not the host's.
enum { PV_EINVAL = 22, PV_EOPNOTSUPP = 95, PV_ENOSYS = 1000 };

static uint64_t error(int code)
{
    return (uint64_t) - (int64_t)code;
}

// Bit i of a word that begins with APIC id `first`, as a set of CPUs (bit n: CPU n, whose APIC id that is).
static uint64_t cpus_of(uint64_t word, uint64_t first)
{
    return first < 64 ? word << first : 0;
}

static uint64_t send_ipi(struct vm *vm, const uint64_t arg[4], bool wide)
{
    enum { LOGICAL = 1 << 11, SHORTHAND = 3 << 18 };
    uint32_t first = (uint32_t)arg[2], icr = (uint32_t)arg[3];
    if (icr & (LOGICAL | SHORTHAND))
        return error(PV_EINVAL);
    if (!vm->local_apic.multicast)
        return error(PV_EOPNOTSUPP);
    uint64_t cpus = cpus_of(arg[0], first) | cpus_of(arg[1], (uint64_t)first + (wide ? 64 : 32));
    return vm->local_apic.multicast(vm->local_apic_ctx, cpus, icr >> 8 & 7, icr & 0xff);
}

uint64_t vm_hypercall(struct vm *vm, unsigned cpu, uint64_t nr, const uint64_t arg[4], bool wide)
{
    if (nr == HC_KICK_CPU && cpu_model_has_paravirt(vm->model, CPU_PV_UNHALT)) {
        if (arg[1] < vm->cpus)
            vcpu_unhalt(vm, (unsigned)arg[1]);
        return 0;
    }
    if (nr == HC_SEND_IPI && cpu_model_has_paravirt(vm->model, CPU_PV_SEND_IPI))
        return send_ipi(vm, arg, wide);
    if (nr == HC_SCHED_YIELD && cpu_model_has_paravirt(vm->model, CPU_PV_SCHED_YIELD)) {
        if (arg[0] != cpu)
            thread_yield();
        return 0;
    }
    log_guest(vm->log, "hypercall %" PRIu64 ": unknown", nr);
    return error(PV_ENOSYS);
}
