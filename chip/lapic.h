// The local APICs of all CPUs: xAPIC and x2APIC (Intel SDM vol. 3, chapter 11).
//
// One struct lapic per vCPU and one struct lapics, the set, through which everything comes in: the MMIO page and the
// MSRs of the CPU that asks, messages from the IOAPIC and from MSIs, the PIC's INT line, and the vCPUs' own questions
// (struct local_apic_ops). The APIC id of a CPU is its number and can't be changed by the guest, nor can the MMIO page
// be moved: a WRMSR of APIC_BASE with another address is #GP.
//
// Locks. Each lapic has its own (dev.lock) and no two are ever held together. What senders must know of a target (its
// logical id and modes) is published in one atomic word, so that choosing targets takes no lock at all.
//
// Time. The timer counts the crystal clock, CPU_CRYSTAL_KHZ; TSC deadlines are in guest TSC units.
//
// Example: lapics_send(pc->lapics, &(struct apic_message){.dest = 0, .vector = 0x30});
#pragma once
#include "chip/apic_message.h"
#include "cpu/model.h"
#include "vm/vm.h"
#include <stdatomic.h>

enum { MSR_KVM_EOI = 0x4b564d04 };
enum { LAPIC_MMIO_BASE = 0xfee00000, LAPIC_MMIO_SIZE = 0x1000 };

enum lapic_lvt { LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR, LVT_COUNT };

enum {
    LVT_MODE_SHIFT = 8,
    LVT_REMOTE_IRR = 1 << 14,
    LVT_LEVEL = 1 << 15,
    LVT_MASKED = 1 << 16,
    LVT_TIMER_SHIFT = 17, // mode of the timer
};

enum { LVT_TIMER_ONE_SHOT, LVT_TIMER_PERIODIC, LVT_TIMER_DEADLINE };

enum { SVR_ENABLE = 1 << 8, SVR_NO_EOI_BROADCAST = 1 << 12 };
enum { ESR_SEND_ILLEGAL_VECTOR = 1 << 5, ESR_RECEIVE_ILLEGAL_VECTOR = 1 << 6, ESR_ILLEGAL_REGISTER = 1 << 7 };

#define APIC_BASE_BSP CPU_APIC_BASE_BSP
#define APIC_BASE_X2APIC CPU_APIC_BASE_X2APIC
#define APIC_BASE_ENABLE CPU_APIC_BASE_ENABLE

struct lapics;

// Everything is guarded by dev.lock, but what says otherwise. Sets of vectors are 4 words, bit v % 64 of word v / 64.
struct lapic {
    struct device dev;
    struct lapics *set;
    unsigned cpu;
    uint64_t base; // APIC_BASE MSR
    uint32_t tpr, ldr, dfr, svr;
    uint32_t esr, esr_new; // what the guest reads, and what has happened since it last wrote there
    uint64_t icr;
    uint32_t lvt[LVT_COUNT];
    uint8_t extint; // an ExtINT message came (from the IOAPIC) and the PIC was not asked yet
    uint64_t irr[4], isr[4], tmr[4];
    int isr_top;      // highest vector in service, -1 if none; follows from isr
    uint64_t eoi_msr; // where the guest may note an EOI in memory (lapic_paravirt.c)
    bool eoi_offered; // it may for what is in service now, and perhaps has

    struct vm_timer timer;
    uint32_t timer_initial, timer_divide; // registers
    uint64_t timer_start;                 // guest ns at which timer_initial began to count down
    uint64_t timer_next;                  // guest ns of the next interrupt, VM_TIMER_NEVER if none is to come
    uint64_t tsc_deadline;                // MSR

    _Atomic uint64_t route;   // ROUTE_* and the logical id; written with the lock held, read by senders without
    _Atomic uint8_t priority; // PPR, likewise; for lowest-priority arbitration
};

// Where the state is (lapic_engine.c). Always in the chips but where the engine has local APICs of its own.
enum { LAPICS_IN_CHIPS, LAPICS_MOVING, LAPICS_IN_ENGINE };

struct lapics {
    struct device dev;
    bool engines;             // the engine has local APICs of its own
    _Atomic uint8_t where;    // LAPICS_*
    _Atomic unsigned senders; // messages under way
    unsigned count;
    struct lapic *apic[CPU_MAX];
    // Set once by the machine; called without a lapic's lock.
    void *ctx;
    void (*eoi)(void *ctx, uint8_t vector); // a level-triggered interrupt was finished
    int (*pic_ack)(void *ctx);              // asks the PIC for a vector; -1 if its INT is no longer up
    _Atomic bool pic_int;                   // level of the PIC's INT
    _Atomic unsigned turn;                  // where lowest-priority arbitration begins: ties are shared out
};

// Wires the APICs of `cpus` CPUs into the VM (MMIO page, MSRs, vm->local_apic). Owned by the VM from then on.
int lapics_create(struct vm *vm, unsigned cpus, struct lapics **out, struct error *err);
void lapics_send(struct lapics *s, const struct apic_message *m);
void lapics_set_pic(struct lapics *s, bool level); // the PIC's INT, wired to every LINT0
// What firmware leaves behind on the boot CPU: APIC enabled, LINT0 = ExtINT, LINT1 = NMI (virtual wire mode).
void lapics_virtual_wire(struct lapics *s);

// The rest is between lapic.c, lapic_registers.c and lapic_timer.c. With the lock held:
void lapic_publish(struct lapic *a);                            // after a change of base, ldr, dfr or svr
void lapic_accept(struct lapic *a, uint8_t vector, bool level); // a fixed interrupt
void lapic_local(struct lapic *a, enum lapic_lvt source);       // an interrupt of the APIC's own
void lapic_error(struct lapic *a, uint32_t esr);
void lapic_update(struct lapic *a); // TPR, ISR or IRR changed: tells the CPU, if need be
void lapic_set_lvt(struct lapic *a, enum lapic_lvt l, uint32_t val);
int lapic_top(const uint64_t set[4]);
uint32_t lapic_ppr(const struct lapic *a);
void lapic_state_reset(struct lapic *a, bool init); // power-on reset; or INIT, which keeps APIC_BASE
void lapic_retire(struct lapic *a); // the highest vector in service is finished, and nobody else waits for that
// lapic_paravirt.c; with the lock held and on the CPU's own thread:
void lapic_eoi_offer(struct lapic *a);  // the EOI of what is in service may be noted in memory, if that is possible
void lapic_eoi_settle(struct lapic *a); // ISR as the guest sees it; before anything that depends on it
// Without the lock:
int lapic_eoi_set_msr(struct lapic *a, uint64_t val); // 0, or -1 for #GP
void lapic_eoi(struct lapic *a);
void lapic_send_ipi(struct lapic *a, uint64_t icr, bool wide);

// lapic_engine.c
// Sends m to the engine, if that has the state; else false. Then lapics_sent() is called after it was delivered here.
bool lapics_send_to_engine(struct lapics *s, const struct apic_message *m);
void lapics_sent(struct lapics *s);
void lapics_hold(struct device *d); // device_ops of the set
void lapics_release(struct device *d);
// The level-triggered entries of the IOAPIC, as messages.
void lapics_set_routes(struct lapics *s, const struct apic_message *m, unsigned count);
void lapic_fetch(struct lapic *a); // from the engine, and back to it; the CPU stands still or this is its thread
void lapic_hand_over(struct lapic *a);

// lapic_registers.c
uint64_t lapics_mmio_read(struct device *d, struct bus_access b);
void lapics_mmio_write(struct device *d, struct bus_access b, uint64_t val);
int lapics_msr_read(struct device *d, unsigned cpu, uint32_t msr, uint64_t *val);
int lapics_msr_write(struct device *d, unsigned cpu, uint32_t msr, uint64_t val);

// lapic_timer.c; with the lock held
// Lets a due interrupt happen: before any change of the timer's registers. Returns the moment, in guest ns.
uint64_t lapic_timer_settle(struct lapic *a);
void lapic_timer_arm(struct lapic *a, uint64_t now); // after any change of them, with what settle has returned
void lapic_timer_set_initial(struct lapic *a, uint32_t initial);
void lapic_timer_set_divide(struct lapic *a, uint32_t divide);
void lapic_timer_set_deadline(struct lapic *a, uint64_t tsc);
void lapic_timer_put(struct lapic *a, uint32_t initial, uint32_t current, uint32_t divide); // as an engine left it
uint32_t lapic_timer_count(const struct lapic *a);
uint64_t lapic_timer_deadline(const struct lapic *a);
void lapic_timer_fire(struct device *d, struct vm_timer *t);
