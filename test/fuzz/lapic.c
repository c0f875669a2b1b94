// Local APICs of two CPUs that send each other interrupts and let their timers run, through both register faces and
// KVM's paravirtual interface: no crash, vectors in range, and what is saved loads. The registers are chosen so that
// something happens: the pc's target (pc.c) writes anywhere.
#include "chip/lapic.h"
#include "chip/steal_time.h"
#include "cpu/msr.h"
#include "guest.h"
#include "vm/hypercall.h"

enum { CPUS = 2, X2APIC = 0x800 };

// ID, TPR, EOI, LDR, DFR, SVR, ESR, ICR, LVTs, timer; and the self-IPI, which the page does not have.
static const uint16_t registers[] = {0x20,  0x80,  0xb0,  0xd0,  0xe0,  0xf0,  0x280, 0x300, 0x310, 0x320,
                                     0x330, 0x340, 0x350, 0x360, 0x370, 0x380, 0x3e0, 0x3f0, 0x390, 0x100};

// Hypercalls, words for EOIs, pages for steal time; wherever the guest likes.
static void ask_hypervisor(struct fuzz_guest *g, unsigned cpu, uint64_t val)
{
    enum { HYPERCALLS = 16, MSR_STEAL_TIME = 0x4b564d03 };
    struct vm *vm = &g->f.vm;
    const uint64_t arg[4] = {val, val >> 8, val & 3, val >> 16};
    switch (val % 6) {
    case 0:
        vm_hypercall(vm, cpu, val >> 3 & (HYPERCALLS - 1), arg, val & 1 << 7);
        break;
    case 1:
        vm_msr_write(vm, cpu, MSR_KVM_EOI, val & 1 << 20 ? val : (val & 0x7ffc) | 1);
        break;
    case 2:
        vm_msr_write(vm, cpu, MSR_STEAL_TIME, val & 1 << 20 ? val : (val & 0x7fc0) | 1);
        break;
    case 3:
        vm->watch.sleeps(vm->watch.ctx, cpu);
        break;
    case 4:
        vm->watch.wakes(vm->watch.ctx, cpu);
        break;
    default: { // the handler notes its EOI
        uint64_t at = 0;
        uint32_t word = 0;
        if (!vm_msr_read(vm, cpu, MSR_KVM_EOI, &at) && vm_read(vm, at & ~1ull, &word, sizeof word)) {
            word &= ~1u;
            vm_write(vm, at & ~1ull, &word, sizeof word);
        }
    }
    }
}

static void on_eoi(void *ctx, uint8_t vector)
{
    (void)vector;
    ++*(unsigned *)ctx;
}

static int no_vector(void *ctx)
{
    (void)ctx;
    return -1;
}

static void act(struct fuzz_guest *g, void *ctx)
{
    struct lapics *s = ctx;
    struct vm *vm = &g->f.vm;
    unsigned what = (unsigned)fuzz_take(g, 1), cpu = what & 1;
    uint16_t reg = registers[fuzz_take(g, 1) % (sizeof registers / sizeof *registers)];
    uint64_t val = fuzz_take(g, what & 2 ? 8 : 3);
    if (val & 1 << 23) // ordinary: a few bits at the bottom, as drivers write them
        val &= 0x700ff;
    switch (what >> 2 & 15) {
    case 0: // off, xAPIC, x2APIC
        vm_msr_write(vm, cpu, MSR_APIC_BASE, LAPIC_MMIO_BASE | (what >> 6) << 10 | (cpu ? 0 : 0x100));
        break;
    case 1:
        bus_write(&vm->mmio, cpu, LAPIC_MMIO_BASE + 0xf0, 4, 0x100 | (val & 0xff));
        vm_msr_write(vm, cpu, X2APIC + 0xf, 0x100 | (val & 0xff));
        break;
    case 2:
        vm_msr_write(vm, cpu, MSR_TSC_DEADLINE, val);
        break;
    case 3:
        vm->local_apic.tpr_write(vm->local_apic_ctx, cpu, (uint8_t)val & 0xf);
        break;
    case 4: {
        const struct apic_message m = {
            .dest = (uint8_t)(val >> 16) & 3, .vector = (uint8_t)val, .mode = val >> 8 & 7, .logical = val >> 11 & 1};
        lapics_send(s, &m);
        break;
    }
    case 5:
        lapics_set_pic(s, val & 1);
        break;
    case 6:
    case 7: {
        int vector = vm->local_apic.ack(vm->local_apic_ctx, cpu);
        FUZZ_CHECK(vector >= -1 && vector <= 255);
        break;
    }
    case 8:
        vm->local_apic.init(vm->local_apic_ctx, cpu);
        break;
    case 9:
    case 10:
        vm_msr_read(vm, cpu, X2APIC + reg / 16, &val);
        bus_read(&vm->mmio, cpu, LAPIC_MMIO_BASE + reg, 4);
        break;
    case 11:
    case 12:
        vm_msr_write(vm, cpu, X2APIC + reg / 16, val);
        break;
    case 13:
        ask_hypervisor(g, cpu, val);
        break;
    default:
        bus_write(&vm->mmio, cpu, LAPIC_MMIO_BASE + reg, 4, val);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_guest g;
    struct lapics *s;
    struct steal_time *steal;
    struct error err;
    unsigned eois = 0;
    fuzz_begin(&g, data, size);
    g.longest = 100000000; // a periodic timer may interrupt 10000 times a second
    g.f.model.leaf[g.f.model.count++] = (struct cpuid_leaf){CPU_LEAF_PARAVIRT, CPUID_ANY, {.eax = 0xffffffff}};
    FUZZ_CHECK(!lapics_create(&g.f.vm, CPUS, &s, &err) && !steal_time_create(&g.f.vm, &steal, &err));
    s->ctx = &eois;
    s->eoi = on_eoi;
    s->pic_ack = no_vector;
    fuzz_range(&g, &g.f.vm.mmio, LAPIC_MMIO_BASE, 0x400);
    fuzz_run(&g, act, s);
    fuzz_end(&g);
    return 0;
}
