// A virtual machine: memory, buses, devices, vCPUs, and its life from power-on to its end.
//
// Life. vm_init, then the machine (machine/pc.c) adds memory and devices, then vm_add_cpus, vm_reset and vm_run. vm_run
// returns when the machine has ended; vm_destroy frees everything that was added. A guest reset stops all vCPUs, resets
// every device, calls `boot` again, and goes on.
//
// Threads. One per vCPU, one event loop (host/loop.h), which runs timers and completions. Ending and resetting may be
// asked for on any thread; they are carried out on the event loop's.
//
// No globals: several VMs live side by side in one process.
#pragma once
#include "cpu/model.h"
#include "report/error.h"
#include "report/log.h"
#include "vm/bus.h"
#include "vm/clock.h"
#include "vm/device.h"
#include "vm/irq.h"
#include "vm/memory.h"
#include "vm/timer.h"
#include "vm/vcpu.h"

struct bells;
struct engine_host;
struct engine_ops;
struct engine_vm;
struct host_instant;
struct loop;
struct vcpu;
struct vm_timers;

enum vm_end {
    VM_END_NONE,
    VM_END_POWEROFF,
    VM_END_RESET,  // and rebooting is off
    VM_END_CRASH,  // triple fault or engine error: vm->end_text says where
    VM_END_KILLED, // vm_kill
    VM_END_DEBUG,  // debug-exit port: vm->end_status
};

enum { VM_MSR_RANGES = 16 };

struct vm_msr_range {
    uint32_t first, last;
    struct device *dev;
};

struct vm {
    struct log *log;
    struct loop *loop; // NULL in unit tests: then the clock is virtual and timers run in vm_clock_advance
    struct vm_clock clock;
    struct vm_timers *timers;
    struct vm_memory memory;
    struct bus ports, mmio;
    struct vm_irq irq;
    struct local_apic_ops local_apic; // set by the machine
    void *local_apic_ctx;
    struct vcpu_watch watch; // set by a device
    bool with_bells;
    struct bells *bells; // NULL until there is one; made under bells_lock
    struct vm_lock bells_lock;
    struct vm_msr_range msr[VM_MSR_RANGES];
    unsigned msrs;
    struct device *devices; // in order of creation
    bool released;          // the engine has what is its of the devices' state; guarded by life's stop_lock
    const struct cpu_model *model;
    const struct engine_ops *engine_ops;
    struct engine_vm *engine;
    unsigned cpus;
    struct vcpu *vcpu[CPU_MAX];
    // Loads what the guest starts with and sets the boot CPU's state; called after every reset.
    int (*boot)(struct vm *vm, void *ctx, struct cpu_state *boot_cpu, struct error *err);
    void *boot_ctx;
    // What firmware would have done to each CPU's registers before (NULL: nothing); called before `boot`.
    void (*prepare_cpu)(struct cpu_state *s, unsigned cpu);
    void (*power_button)(void *ctx); // set by the machine
    void *power_button_ctx;
    bool no_reboot; // a reset ends the machine
    // While the VM is paused: whoever else can write guest memory (a network card's thread) holds off. Looked at with
    // the device's lock held.
    _Atomic bool frozen;
    // How it ended; written once, guarded by life_lock.
    struct vm_lock life_lock;
    enum vm_end end;
    int end_status;
    char end_text[256];
    struct vm_life *life; // private to vm.c
};

// log, loop, model and engine are the caller's and outlive the VM; the loop serves this VM alone and is not run again
// after it.
struct vm_config {
    struct log *log;
    struct loop *loop;
    const struct engine_ops *engine;
    const struct cpu_model *model;
    struct engine_host *host;         // what the engine has opened; NULL: nothing yet
    const struct host_instant *since; // see host/clock.h; may be NULL
    bool bells;                       // writes to doorbells are not the vCPUs' to serve, where the engine can (bell.h)
};

// On failure nothing is left to destroy.
int vm_init(struct vm *vm, const struct vm_config *config, struct error *err);
void vm_destroy(struct vm *vm);
int vm_add_cpus(struct vm *vm, unsigned cpus, struct error *err);
// MSRs first..last are the device's. -EEXIST if another has one of them, -ENOSPC if there are too many ranges.
int vm_msr_add(struct vm *vm, uint32_t first, uint32_t last, struct device *dev);
int vm_msr_read(struct vm *vm, unsigned cpu, uint32_t msr, uint64_t *val); // 0, or -1 for #GP
int vm_msr_write(struct vm *vm, unsigned cpu, uint32_t msr, uint64_t val);
struct engine_vcpu *vm_engine_vcpu(struct vm *vm, unsigned cpu); // for tests and debuggers

int vm_reset(struct vm *vm, struct error *err); // vCPUs are stopped
// Starts the vCPU threads and runs the event loop on the calling thread until the end. VM_END_NONE: it could not start,
// err says why. A loop that is stopped by others ends the VM as vm_kill does. Once only in a VM's life.
enum vm_end vm_run(struct vm *vm, struct error *err);

// Any thread, guest-visible models too.
void vm_request_poweroff(struct vm *vm);
void vm_request_reset(struct vm *vm);
void vm_debug_exit(struct vm *vm, int status);
void vm_crash(struct vm *vm, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void vm_press_power_button(struct vm *vm);
void vm_kill(struct vm *vm);

// Stops every vCPU at an instruction boundary and the clock with them; and goes on. Not on a vCPU's thread. Before
// vm_run, too: then the VM begins paused.
void vm_pause(struct vm *vm);
void vm_resume(struct vm *vm);
// Stops every vCPU while the clock goes on, and lets them run again: for slowing a guest down. Not on a vCPU's thread.
void vm_hold_cpus(struct vm *vm);
void vm_free_cpus(struct vm *vm);

// Counters of engine, buses and devices, by name.
void vm_stats(struct vm *vm, void (*emit)(void *ctx, const char *name, uint64_t value), void *ctx);
