// The hardware engine: vCPUs run by Linux's KVM. What its files share.
//
// Division of labour. KVM runs the CPU; the registers live in the kernel while a vCPU exists. The model-specific ones
// live here, too, since the guest writes them only through us (msr.c). Local APICs, with their timers, IPIs, HLT and
// what is paravirtual about them, are the kernel's or our chips', as was chosen (struct engine_host, apic.c); all other
// chips are ours in any case, reached by the same upcalls as under the other engines. Where the local APICs are chips,
// the activity (running, halted, waiting for a startup IPI) is ours to keep.
//
// A vCPU that has left KVM_RUN with an access (port, MMIO, MSR) is in the middle of an instruction: the kernel finishes
// it at the beginning of the next KVM_RUN. Until then (`unfinished`) its state means nothing and nothing can be
// injected. kvm_settle() finishes it and runs no further instruction; run() never returns without.
//
// Files: engine.c the table of functions, vcpu.c making and breaking, cpuid.c the model, memory.c slots, dirty.c what
// was written, apic.c the kernel's local APICs, run.c the loop and what happens between instructions, exit.c the
// reasons for which KVM_RUN returns, msr.c, state.c, clock.c the time stamp counter, stats.c counters, tell.c errors
// and the trace.
//
// Two things a guest can see of the vendor beneath: SYSCALL, SYSRET, SYSENTER and SYSEXIT do outside of what both
// vendors share as the host's CPU does; and on VMX, MWAIT does not raise #UD (cpuid.c says why).
//
// Source: Linux, Documentation/virt/kvm/api.rst; the number in brackets beside a function is the section there.
#pragma once
#include "cpu/msr.h"
#include "engine/engine.h"
#include <linux/kvm.h>
#include <pthread.h>
#include <sys/ioctl.h>

enum { KVM_PAGE = 4096, KVM_SLOTS = 64, KVM_REASONS = 40, KVM_RING_ENTRIES = 4096 };

struct kvm_slot {
    uint64_t gpa, size; // size 0: free
    uint8_t *host;
    bool readonly;
    uint64_t *dirty; // one bit per page, while the log is on: fetched from the kernel or written by devices
};

// /dev/kvm, and a virtual machine that nothing is in yet: the next vm_create takes it over. (Some questions can only be
// put to a machine, and making one and removing it again takes longer than all the rest of a start.)
struct kvm_host {
    struct engine_host base;
    int dev, vm;           // vm: -1 if it was taken
    unsigned ring_entries; // of each vCPU's dirty ring, a power of two; 0: bitmaps
    struct kvm_cpuid2 *supported;
};

struct kvm_vm {
    struct engine_vm base;
    int fd;
    size_t run_size;                     // bytes of a vCPU's struct kvm_run and what lies behind it
    bool sregs2;                         // KVM_GET_SREGS2 is there
    _Atomic uint64_t messages, routings; // sent to the kernel's local APICs; and how often routes were set
    pthread_mutex_t lock;                // guards slot and logging
    struct kvm_slot slot[KVM_SLOTS];
    _Atomic bool logging;
    unsigned ring_entries;       // 0: there are no dirty rings
    struct kvm_vcpu *vcpus;      // that have one; guarded by lock
    _Atomic uint64_t tsc_offset; // where the owner's clock is not the host's TSC plus a number (clock.c)
};

struct kvm_vcpu {
    struct engine_vcpu base;
    struct kvm_vm *vm;
    int fd;
    struct kvm_run *run; // shared with the kernel
    // The MSRs (the kernel has copies of those that act by themselves), and as much of the rest as msr.c needs.
    struct cpu_state s;
    struct kvm_dirty_gfn *ring; // shared with the kernel; what we have of it is guarded by vm->lock
    uint32_t ring_at;
    struct kvm_vcpu *next; // in vm->vcpus
    uint64_t efer_hidden;  // bits of the guest's EFER that the kernel does not have
    uint8_t activity;      // with local APICs in the kernel: running or shut down; kvm_activity() knows more
    bool unfinished;
    bool tpr_stale;      // the local APIC may have another task priority than run->cr8
    uint64_t cr8;        // what both have agreed on
    uint64_t tsc_offset; // what the kernel has
    // Kicking: see run.c.
    _Atomic bool inside;
    _Atomic uint32_t waiting; // bits of pending that stay set while the guest runs, for it is not open for them
    int tid;                  // of the thread that is or was inside
    uint64_t exits[KVM_REASONS], runs, finishes, injected, windows, nmis;
};

#define KVM_HOST(e) ((struct kvm_host *)(e))
#define KVM_VM(e) ((struct kvm_vm *)(e))
#define KVM_VCPU(e) ((struct kvm_vcpu *)(e))
#define KVM_UP(v) ((v)->base.vm->config.up)

// What became of an exit.
enum kvm_outcome { KVM_GO_ON, KVM_FAILED, KVM_SHUT_DOWN };

// engine.c
bool kvm_on_vmx(void);

// vcpu.c
int kvm_vcpu_create(struct engine_vm *e, unsigned id, void *owner, struct engine_vcpu **out, struct error *err);
void kvm_vcpu_destroy(struct engine_vcpu *e);

// cpuid.c
struct kvm_cpuid2 *kvm_cpuid_ask(int dev, struct error *err); // what KVM supports; the caller frees it
int kvm_cpuid_supported(struct engine_host *e, struct cpuid_leaf *leaf, unsigned room, struct error *err);
int kvm_cpuid_set(struct kvm_vcpu *v, struct error *err);

// apic.c
bool kvm_apic_possible(int dev, const struct kvm_cpuid2 *supported);
int kvm_apic_prepare(struct kvm_vm *vm, struct error *err);
void kvm_apic_get(struct engine_vcpu *e, struct cpu_apic *a);
int kvm_apic_set(struct engine_vcpu *e, const struct cpu_apic *a, struct error *err);
extern const struct engine_apic_ops kvm_apic_ops;

// memory.c
int kvm_map(struct engine_vm *e, uint64_t gpa, uint64_t size, void *host, unsigned flags, struct error *err);
int kvm_unmap(struct engine_vm *e, uint64_t gpa, uint64_t size, struct error *err);
void kvm_memory_destroy(struct kvm_vm *vm);
// Copies between guest memory and buf; false, and nothing is copied, if the range is not in one slot (or is to be
// written and read-only).
bool kvm_memory_read(struct kvm_vm *vm, uint64_t gpa, void *buf, unsigned size);
bool kvm_memory_write(struct kvm_vm *vm, uint64_t gpa, const void *buf, unsigned size);

// With vm->lock held: tells the kernel what the slot is now; the slot that holds all of the range, or NULL.
int kvm_slot_commit(struct kvm_vm *vm, const struct kvm_slot *s, uint64_t size);
struct kvm_slot *kvm_slot_find(struct kvm_vm *vm, uint64_t gpa, uint64_t size);

// dirty.c
void kvm_invalidate(struct engine_vm *e, uint64_t gpa, uint64_t size);
int kvm_log_start(struct engine_vm *e, struct error *err);
void kvm_log_stop(struct engine_vm *e);
int kvm_log_fetch(struct engine_vm *e, uint64_t gpa, uint64_t size, uint64_t *bitmap);
void kvm_rings_prepare(struct kvm_vm *vm, unsigned entries); // before the first vCPU; without them, bitmaps
int kvm_ring_map(struct kvm_vcpu *v, struct error *err);
void kvm_ring_unmap(struct kvm_vcpu *v);
void kvm_ring_full(struct kvm_vcpu *v);
size_t kvm_bitmap_bytes(uint64_t size); // of a slot of so many bytes
// With vm->lock held: notes a write; empties all rings into the slots' bitmaps.
void kvm_slot_note(struct kvm_slot *s, uint64_t gpa, uint64_t size);
void kvm_log_collect(struct kvm_vm *vm);

// run.c
enum engine_exit kvm_run(struct engine_vcpu *e, struct error *err);
void kvm_kick(struct engine_vcpu *e);
int kvm_kick_prepare(struct error *err); // the process can be kicked: once before the first vCPU
enum kvm_outcome kvm_settle(struct kvm_vcpu *v, struct error *err);

// exit.c
enum kvm_outcome kvm_exit(struct kvm_vcpu *v, struct error *err);

// msr.c
int kvm_msr_prepare(struct kvm_vm *vm, struct error *err);
uint64_t kvm_msr_read_kernel(struct kvm_vcpu *v, uint32_t msr); // the kernel's copy; 0 if it has none
bool kvm_msr_write_kernel(struct kvm_vcpu *v, uint32_t msr, uint64_t val);
void kvm_msr_exit(struct kvm_vcpu *v); // answers KVM_EXIT_X86_RDMSR or _WRMSR
void kvm_msr_get(struct kvm_vcpu *v, struct cpu_msrs *m);
void kvm_msr_set(struct kvm_vcpu *v, const struct cpu_msrs *m);
void kvm_msr_set_efer(struct kvm_vcpu *v, uint64_t efer);

// state.c
unsigned kvm_activity(struct kvm_vcpu *v); // enum cpu_activity
void kvm_get_state(struct engine_vcpu *e, struct cpu_state *s, unsigned groups);
int kvm_set_state(struct engine_vcpu *e, const struct cpu_state *s, unsigned groups, struct error *err);

// clock.c
uint32_t kvm_tsc_khz(struct engine_host *e);
int kvm_clock_prepare(struct kvm_vcpu *v, struct error *err);
void kvm_clock_sync(struct kvm_vcpu *v); // the guest's TSC is what the owner says; before KVM_RUN

// stats.c
void kvm_vcpu_stats(struct engine_vcpu *e, engine_stat_fn emit, void *ctx);

// tell.c
const char *kvm_reason_name(unsigned reason); // of KVM_EXIT_*
// "what at 0010:ffffffff81000000 (0f 0b ...)". Returns KVM_FAILED.
enum kvm_outcome kvm_fail(struct kvm_vcpu *v, struct error *err, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void kvm_trace_exit(struct kvm_vcpu *v);
