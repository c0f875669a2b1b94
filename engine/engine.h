// The engine interface: the one narrow door behind which a CPU executes.
//
// An engine runs vCPUs: it has the guest's register state and its MMU. It knows nothing of devices, threads or
// machines. Whoever owns the vCPU (vm/) calls down through struct engine_ops, and the engine calls up through struct
// engine_upcalls, always on the vCPU's own thread. run() returns only for lifecycle events; I/O, MSRs and HLT are
// upcalls made in the middle of it.
//
// How a vCPU is told of something. Anybody, on any thread, sets bits in `pending` (engine_notify). The engine looks at
// them between instructions:
//     INTR  the interrupt controller may have a vector: when interrupts are open (IF, no shadow) the engine clears the
//     bit, then calls
//           interrupt_ack(); a vector >= 0 is delivered, -1 means there is none after all. While interrupts are closed
//           the bit just stays.
//     NMI, INIT, SIPI  as the architecture says (the SIPI vector lies in sipi_vector).
//     EXIT  run() returns ENGINE_EXIT_REQUESTED.
//     UNHALT  a CPU in HLT goes on with the next instruction, interrupts or not; one that is not in HLT takes no
//     notice. TLB_FLUSH  all translations are forgotten before the next instruction or event. By the vCPU's own thread
//     only.
// A bit that is set while the vCPU sits in the halt upcall ends it. Example: a timer fires on the event loop thread,
// the LAPIC model latches vector 0xec and calls engine_notify(vcpu, ENGINE_INTR); the guest, in HLT, leaves halt(), the
// engine asks interrupt_ack() and delivers 0xec.
//
// Local APICs of the engine's own (engine_vm.own_apic). Then interrupts, their priorities, IPIs, INIT, HLT and the
// local timers do not come up: what is sent to a local APIC is given to the engine (struct engine_apic_ops), and the
// owner's models of them hold the state while the vCPUs stand still. INTR then says that the PIC's line is up, and
// interrupt_ack() asks for the PIC's vector alone.
//
// Threads: create/destroy/map/unmap/protect are called by one thread at a time while vCPUs may run; get/set only while
// the vCPU is not running; engine_notify, invalidate, discarded and dirty_log from any thread.
#pragma once
#include "cpu/apic.h"
#include "cpu/model.h"
#include "cpu/state.h"
#include "report/error.h"
#include "report/log.h"
#include <stdatomic.h>

enum {
    ENGINE_INTR = 1 << 0,
    ENGINE_NMI = 1 << 1,
    ENGINE_INIT = 1 << 2,
    ENGINE_SIPI = 1 << 3,
    ENGINE_EXIT = 1 << 4,
    ENGINE_UNHALT = 1 << 5,
    ENGINE_TLB_FLUSH = 1 << 6,
};

enum engine_exit {
    ENGINE_EXIT_REQUESTED, // somebody set ENGINE_EXIT (the bit is cleared), or step()'s count is used up
    ENGINE_EXIT_SHUTDOWN,  // triple fault; where it was is in the vCPU's state
    ENGINE_EXIT_ERROR,     // the engine cannot go on: the error text says why
};

// Called on the vCPU's thread; `owner` is what vcpu_create was given. Sizes are 1, 2, 4 or 8 bytes (ports: 1, 2, 4).
struct engine_upcalls {
    uint64_t (*port_read)(void *owner, uint16_t port, unsigned size);
    void (*port_write)(void *owner, uint16_t port, unsigned size, uint64_t val);
    // Guest-physical accesses outside of mapped memory, and writes to memory mapped read-only.
    uint64_t (*mmio_read)(void *owner, uint64_t gpa, unsigned size);
    void (*mmio_write)(void *owner, uint64_t gpa, unsigned size, uint64_t val);
    // MSRs that are not the CPU's (see cpu/msr.h). Return 0, or -1 for #GP.
    int (*msr_read)(void *owner, uint32_t msr, uint64_t *val);
    int (*msr_write)(void *owner, uint32_t msr, uint64_t val);
    // Task priority, CR8 (0..15).
    uint64_t (*tpr_read)(void *owner);
    void (*tpr_write)(void *owner, uint64_t tpr);
    int (*interrupt_ack)(void *owner); // see above
    // An engine's own local APIC has finished a vector of a level-triggered message that it was told of (apic->routes).
    void (*eoi)(void *owner, uint8_t vector);
    // The CPU took an INIT (ENGINE_INIT, in whatever activity it was): its local APIC does so too. May be NULL.
    void (*init)(void *owner);
    // VMCALL and VMMCALL at CPL 0: the number in RAX and arguments in RBX, RCX, RDX, RSI; returns RAX. `wide`: in
    // 64-bit mode; else all of them are cut to 32 bits.
    // Software engines only: hardware virtualization answers by itself, and what its hypercalls are for (UNHALT and
    // TLB_FLUSH, too) is offered as far as it says that it has it.
    uint64_t (*hypercall)(void *owner, uint64_t nr, const uint64_t arg[4], bool wide);
    // Blocks until a bit of `mask` is set in pending. (HLT, wait for SIPI.)
    void (*halt)(void *owner, unsigned mask);
    // The guest's time stamp counter now, before TSC_ADJUST; monotonic over all vCPUs of a VM. Guests ask often: it
    // leaves vector registers alone, so that an engine need not save the guest's.
    uint64_t (*tsc)(void *owner);
};

// What an engine has opened of the host before there is a VM. It answers what models and clocks are made of, and a VM
// made from it takes over what it can. Engines extend it.
struct engine_host {
    const struct engine_ops *ops;
    bool own_apic; // VMs made from it have local APICs of the engine's own
};

// Whose local APICs a VM has, where an engine has some: AUTO is what was measured to be better.
enum engine_apics { ENGINE_APICS_AUTO, ENGINE_APICS_OWN, ENGINE_APICS_CHIPS };

struct engine_vm_config {
    struct engine_host
        *host; // of the same engine; it must outlive vm_create only. NULL: the engine opens what it needs
    const struct cpu_model *model;
    const struct engine_upcalls *up;
    struct log *log;
    // The guest's TSC, as `tsc` above says it, is the host's plus this, whenever a vCPU runs. NULL: it is not that
    // simple.
    const _Atomic uint64_t *tsc_offset;
};

// Whether guest programs may run in processes of their own (engine/dbt/cell/cell.h): when it pays; never; whenever it
// is possible, which is slow and for tests.
enum engine_cells { ENGINE_CELLS_AUTO, ENGINE_CELLS_OFF, ENGINE_CELLS_ALWAYS };

// Bytes for each vCPU. Jumps in translated code reach 2 GiB.
enum { ENGINE_CODE_CACHE_MIN = 1 << 20, ENGINE_CODE_CACHE_MAX = 1 << 30 };

// What can be chosen for engines that translate. All zero: the defaults.
struct engine_tuning {
    uint64_t code_cache; // limit in bytes of each vCPU's translated code and what describes it; what is outside of
                         // ENGINE_CODE_CACHE_MIN and _MAX is taken as these, 0 as the default
    enum engine_cells cells;
    bool translate_always; // code is translated when it runs for the first time, not only once it is hot
    bool count;            // translated code counts what it does (vcpu_stats), which costs some speed
    bool sparing; // no page of guest memory is touched before the guest does: many VMs share what it was made of
    int perf_map; // file descriptor that the ranges of translated code are written to for perf; 0: none
    // Guest memory as other processes can map it: what is mapped from [memory, memory + memory_size) is the contents of
    // the file memory_fd, which stays the caller's. memory_size 0: they cannot, and there will be no cells.
    int memory_fd;
    const void *memory;
    uint64_t memory_size;
};

struct engine_ops;

// Engines extend these two (first member). The owner reads them but writes only through engine_notify.
struct engine_vm {
    bool own_apic;
    const struct engine_ops *ops;
    struct engine_vm_config config;
};

struct engine_vcpu {
    struct engine_vm *vm;
    void *owner;
    unsigned id; // also the APIC id
    _Atomic uint32_t pending;
    _Atomic uint8_t sipi_vector;
};

enum { ENGINE_MAP_READONLY = 1 << 0 };

typedef void (*engine_stat_fn)(void *ctx, const char *name, uint64_t value);

// Where engine_vm.own_apic is set.
struct engine_apic_ops {
    // While the vCPU is not running. The timer goes on from what is set. -EINVAL where it is no state of a local APIC.
    void (*get)(struct engine_vcpu *vcpu, struct cpu_apic *a);
    int (*set)(struct engine_vcpu *vcpu, const struct cpu_apic *a, struct error *err);
    // MSRs of the paravirtual interface that are the engine's then: EOIs in memory, steal time. The same rules.
    uint64_t (*get_msr)(struct engine_vcpu *vcpu, uint32_t msr);
    int (*set_msr)(struct engine_vcpu *vcpu, uint32_t msr, uint64_t val);
    void (*send)(struct engine_vm *vm, const struct cpu_msi *m); // any thread
    // All level-triggered messages that an IOAPIC may send from now on: the end of their vectors goes up. Any thread.
    int (*routes)(struct engine_vm *vm, const struct cpu_msi *m, unsigned count);
};

struct engine_ops {
    const char *name;
    const struct engine_apic_ops *apic; // NULL: it never has any
    // 0 if the engine works on this host; else err says why not.
    int (*probe)(struct error *err);
    // Whether `auto` should take it where it works: 0, or err says why not. NULL: always.
    int (*recommend)(struct error *err);
    // NULL: there is nothing to open, and the next three are NULL, too.
    int (*open)(enum engine_apics apics, struct engine_host **out, struct error *err);
    void (*close)(struct engine_host *host);
    // What the hardware under this engine can give a guest, for cpu_config.hardware: fills at most `room` leaves and
    // returns how many, or a negative errno.
    int (*cpuid)(struct engine_host *host, struct cpuid_leaf *leaf, unsigned room, struct error *err);
    // The host's TSC in kHz as what is under this engine knows it, or 0.
    uint32_t (*tsc_khz)(struct engine_host *host);

    int (*vm_create)(const struct engine_vm_config *config, struct engine_vm **out, struct error *err);
    void (*vm_destroy)(struct engine_vm *vm); // all vCPUs are destroyed before
    // Before vCPUs are created. NULL where there is nothing to choose.
    void (*tune)(struct engine_vm *vm, const struct engine_tuning *tuning);

    // Guest-physical memory. gpa, size and host address are multiples of 4096. The host memory stays the caller's and
    // outlives the mapping.
    int (*map)(struct engine_vm *vm, uint64_t gpa, uint64_t size, void *host, unsigned flags, struct error *err);
    int (*unmap)(struct engine_vm *vm, uint64_t gpa, uint64_t size, struct error *err);
    // Somebody other than a vCPU (a device) wrote to guest memory: drop what was derived from the old contents.
    void (*invalidate)(struct engine_vm *vm, uint64_t gpa, uint64_t size);
    // The same for whole pages whose contents changed because the host took its memory back (a balloon): it comes again
    // when the pages are touched. NULL: as `invalidate`.
    void (*discarded)(struct engine_vm *vm, uint64_t gpa, uint64_t size);
    // Dirty pages. log_start begins logging; log_fetch sets one bit per 4096 bytes page written since the last fetch
    // (bit 0 is gpa) and starts afresh.
    int (*log_start)(struct engine_vm *vm, struct error *err);
    void (*log_stop)(struct engine_vm *vm);
    int (*log_fetch)(struct engine_vm *vm, uint64_t gpa, uint64_t size, uint64_t *bitmap);

    // From now on (or no longer, with `on` false) a guest's write of `value` in `size` bytes to gpa, or of anything if
    // size is 0, signals the eventfd `fd` and is no upcall. 0 or a negative errno. NULL: not possible.
    int (*bell)(struct engine_vm *vm, uint64_t gpa, unsigned size, uint32_t value, int fd, bool on);

    int (*vcpu_create)(struct engine_vm *vm, unsigned id, void *owner, struct engine_vcpu **out, struct error *err);
    void (*vcpu_destroy)(struct engine_vcpu *vcpu);
    enum engine_exit (*run)(struct engine_vcpu *vcpu, struct error *err);
    // As run(), but at most `count` instructions; for tests, lockstep comparison and debuggers. NULL where an engine
    // can't.
    enum engine_exit (*step)(struct engine_vcpu *vcpu, uint64_t count, struct error *err);
    // Makes a running vCPU look at `pending` soon. Called by engine_notify after the bit is set. May be NULL.
    void (*kick)(struct engine_vcpu *vcpu);

    void (*get_state)(struct engine_vcpu *vcpu, struct cpu_state *s, unsigned groups);
    int (*set_state)(struct engine_vcpu *vcpu, const struct cpu_state *s, unsigned groups, struct error *err);

    void (*vcpu_stats)(struct engine_vcpu *vcpu, engine_stat_fn emit, void *ctx);
    void (*vm_stats)(struct engine_vm *vm, engine_stat_fn emit, void *ctx);
};

// Sets bits in pending and makes the vCPU look. Any thread. Returns the bits that were set before (a sleeping halt() is
// woken by the owner: vm/vcpu.c).
static inline uint32_t engine_notify(struct engine_vcpu *v, uint32_t bits)
{
    uint32_t old = atomic_fetch_or_explicit(&v->pending, bits, memory_order_seq_cst);
    if (v->vm->ops->kick)
        v->vm->ops->kick(v);
    return old;
}

extern const struct engine_ops engine_interp, engine_dbt, engine_kvm;
