// What the files of the system half of the interpreter share: descriptors, frames on new stacks, transfers of control
// between privilege levels, tasks. Private to deliver.c, descriptor.c, segment.c, far.c, return.c, task.c, control.c,
// cr.c, flags.c, syscall.c, io.c, debug.c and system.c.
//
// All of it keeps the rule of interp.h: a fault leaves no register changed, except where the architecture itself says
// that a task switch has already happened.
//
// Errors. Functions return false (or INTERP_FAULT) with v->fault recorded. The EXT bit of error codes is added by
// deliver.c alone, for everything that goes wrong while it delivers.
#pragma once
#include "engine/interp/interp.h"

// --- descriptors (descriptor.c)

enum {
    SYS_TSS16 = 1,
    SYS_LDT = 2,
    SYS_TSS16_BUSY = 3,
    SYS_CALL16 = 4,
    SYS_TASK_GATE = 5,
    SYS_INT16 = 6,
    SYS_TRAP16 = 7,
    SYS_TSS = 9, // 32-bit, or 64-bit in long mode
    SYS_TSS_BUSY = 11,
    SYS_CALL = 12,
    SYS_INT = 14,
    SYS_TRAP = 15,
};

struct descriptor {
    uint64_t la;        // where it lies
    uint64_t low, high; // high: the second half of a 16-byte one
    uint16_t attr;      // as in struct cpu_segment
};

static inline uint16_t gate_selector(const struct descriptor *d)
{
    return d->low >> 16 & 0xffff;
}

static inline uint64_t gate_offset(const struct descriptor *d)
{
    uint32_t low = (d->low & 0xffff) | (d->low >> 48) << 16;
    return d->high << 32 | low;
}

static inline unsigned descriptor_dpl(const struct descriptor *d)
{
    return (d->attr & CPU_SEG_DPL) >> CPU_SEG_DPL_SHIFT;
}

static inline unsigned segment_dpl(const struct cpu_segment *g)
{
    return (g->attr & CPU_SEG_DPL) >> CPU_SEG_DPL_SHIFT;
}

// System descriptor's type, or -1 for code and data.
static inline int descriptor_system_type(const struct descriptor *d)
{
    return d->attr & CPU_SEG_S ? -1 : d->attr & CPU_SEG_TYPE;
}

static inline bool selector_null(uint16_t sel)
{
    return !(sel & 0xfffc);
}

static inline bool is_protected(const struct interp_vcpu *v) // protected mode, not virtual-8086
{
    return (v->s.cr0 & CR0_PE) && !(v->s.rflags & RFLAGS_VM);
}

static inline bool is_v86(const struct interp_vcpu *v)
{
    return v->s.rflags & RFLAGS_VM;
}

static inline bool is_long(const struct interp_vcpu *v) // 64-bit or compatibility mode
{
    return v->s.efer & EFER_LMA;
}

// Records a fault with a selector as its error code; false, for `return selector_fault(...)`.
bool selector_fault(struct interp_vcpu *v, uint8_t vector, uint16_t sel);

// Reads the descriptor that sel names. One outside of its table is `vector` with sel as error code.
bool descriptor_fetch(struct interp_vcpu *v, uint16_t sel, uint8_t vector, struct descriptor *d);
// Adds the second half of a system descriptor in long mode; its reserved bits are `vector`. Nothing to do elsewhere.
bool descriptor_extend(struct interp_vcpu *v, uint16_t sel, uint8_t vector, struct descriptor *d);
// The segment that it describes.
struct cpu_segment descriptor_segment(uint16_t sel, const struct descriptor *d);
// Sets the accessed bit in memory and in d if it is clear.
bool descriptor_set_accessed(struct interp_vcpu *v, struct descriptor *d);
// Marks a TSS descriptor in memory.
bool descriptor_set_busy(struct interp_vcpu *v, uint64_t la, bool busy);
// A data segment (DS, ES, FS, GS) for `cpl`: `bad` is #GP or #TS. Nothing is changed but accessed bits.
bool data_segment_fetch(struct interp_vcpu *v, uint16_t sel, unsigned cpl, uint8_t bad, struct cpu_segment *out);
// A stack segment for `cpl`: writable, DPL and RPL equal to it. Not null.
bool stack_segment_fetch(struct interp_vcpu *v, uint16_t sel, unsigned cpl, uint8_t bad, struct cpu_segment *out);
struct cpu_segment null_segment(uint16_t sel, unsigned dpl); // unusable; SS keeps the CPL in its DPL
struct cpu_segment v86_segment(uint16_t sel);
struct cpu_segment flat_segment(uint16_t sel, uint16_t attr); // base 0, limit 4 GiB
// What loading sel gives in real and virtual-8086 mode.
struct cpu_segment real_segment(const struct interp_vcpu *v, const struct cpu_segment *old, uint16_t sel);

// --- frames (frame.c)

// A stack that is being built before the CPU switches to it.
struct frame {
    struct cpu_segment ss;
    uint64_t rsp;
    unsigned cpl;   // with whose rights it is written
    bool wide;      // 64-bit: no segment limits, whole RSP
    uint32_t error; // of the #SS that means "no room"
};

// The present stack.
struct frame frame_here(const struct interp_vcpu *v);
// Writes n values of `size` bytes, the first one highest, all or nothing, and moves f->rsp. f->ss.error for #SS.
bool frame_push(struct interp_vcpu *v, struct frame *f, const uint64_t *val, unsigned n, unsigned size);
// Reads n values of `size` bytes from the present stack, the lowest first, after skipping `skip` bytes. RSP stays.
bool frame_read(struct interp_vcpu *v, unsigned skip, uint64_t *val, unsigned n, unsigned size);
// RSP of a stack: 16-bit stacks keep the upper half.
void frame_set_rsp(struct interp_vcpu *v, const struct cpu_segment *ss, bool wide, uint64_t rsp);
// The stack of an inner level (or, in long mode, an IST stack if ist is not 0) from the TSS. In long mode f->ss is the
// null selector of the new level, elsewhere the checked segment.
bool frame_from_tss(struct interp_vcpu *v, unsigned cpl, unsigned ist, struct frame *f);

// --- transfers (far.c, return.c, task.c)

// CS becomes `cs`, rip becomes `rip`, CPL the DPL of `ss`.
void transfer(struct interp_vcpu *v, const struct cpu_segment *cs, const struct cpu_segment *ss, uint64_t rip);

enum task_reason { TASK_JUMP, TASK_CALL, TASK_INTERRUPT, TASK_RETURN };
// Switches to the task of an already checked TSS descriptor. next_rip is saved in the old one. `error` (or NULL) is
// pushed onto the new stack. False with v->fault: raised in the old task if v->s.tr is still the old one, else in the
// new.
bool task_switch(struct interp_vcpu *v, uint16_t sel, struct descriptor *d, enum task_reason reason, uint64_t next_rip,
                 const uint32_t *error);
// IRET with NT.
bool task_return(struct interp_vcpu *v, uint64_t next_rip);
// The TSS that a JMP, CALL or task gate names: available, present; `vector` otherwise (#NP if not present).
bool task_fetch(struct interp_vcpu *v, uint16_t sel, uint8_t vector, struct descriptor *d);

// --- flags (flags.c)

// Takes the flags of `mask` from val; single-step, interrupt and alignment changes take effect.
void flags_load(struct interp_vcpu *v, uint64_t val, uint64_t mask);
// Which flags IRET may load at this CPL and IOPL, for an operand size.
uint64_t flags_iret_mask(const struct interp_vcpu *v, unsigned opsize);

// INT n of virtual-8086 mode through the program's own vector table.
bool deliver_v86_redirected(struct interp_vcpu *v, uint8_t vector, uint64_t return_rip);
// An exception that is a trap, or INT1: returns to rip, checks no DPL.
void deliver_trap(struct interp_vcpu *v, uint8_t vector, uint64_t rip);

// --- debugging (debug.c)

enum { DR6_BD = 1 << 13, DR6_BS = 1 << 14, DR6_BT = 1 << 15 };
enum { DR7_GD = 1 << 13 };

// A port access: arms a trap if a breakpoint of DR7 watches it.
void debug_port(struct interp_vcpu *v, uint16_t port, unsigned size);
// A #DB trap or fault with these DR6 bits, now.
void debug_raise(struct interp_vcpu *v, uint64_t bits, bool fault);
// #DB as a fault of the instruction: recorded for delivery.
enum interp_result debug_fault(struct interp_vcpu *v, uint64_t bits);

// --- control registers (cr.c)

// Loads the four PDPTEs that cr3 points to, if PAE paging without long mode is what cr0, cr4 and efer say. False:
// #GP(0) because of reserved bits.
bool load_pdptes(struct interp_vcpu *v, uint64_t cr0, uint64_t cr3, uint64_t cr4, uint64_t efer);

// --- operands

// A general register or 16, 32 or 64 bits of memory.
bool operand_read(struct interp_vcpu *v, const struct interp_insn *i, unsigned n, unsigned size, uint64_t *val);
bool operand_write(struct interp_vcpu *v, const struct interp_insn *i, unsigned n, unsigned size, uint64_t val);
// A far pointer in memory: offset of `opsize` bytes, then a selector.
bool operand_far(struct interp_vcpu *v, const struct interp_insn *i, unsigned opsize, uint16_t *sel, uint64_t *offset);
// The operand size of far pointers: AMD knows no 64-bit offsets there.
unsigned far_opsize(const struct interp_vcpu *v, const struct interp_insn *i);

enum interp_result privileged(struct interp_vcpu *v); // INTERP_NEXT at CPL 0, else #GP(0)

// --- handlers

typedef enum interp_result system_handler(struct interp_vcpu *v, const struct interp_insn *i);

system_handler sys_far_jmp, sys_far_call, sys_far_ret, sys_iret, sys_int, sys_int1, sys_int3, sys_into;
system_handler sys_syscall, sys_sysret, sys_sysenter, sys_sysexit;
// CS and SS after SYSCALL, or SYSRET with REX.W, in 64-bit mode.
void interp_syscall_segments(uint64_t star, bool ret, struct cpu_segment *cs, struct cpu_segment *ss);
system_handler sys_pushf, sys_popf, sys_cli, sys_sti, sys_clac, sys_stac;
system_handler sys_mov_to_seg, sys_mov_from_seg, sys_push_seg, sys_pop_seg;
system_handler sys_lds, sys_les, sys_lss, sys_lfs, sys_lgs;
system_handler sys_lgdt, sys_lidt, sys_sgdt, sys_sidt, sys_lldt, sys_ltr, sys_sldt, sys_str;
system_handler sys_lar, sys_lsl, sys_verr, sys_verw, sys_arpl;
system_handler sys_mov_to_cr, sys_mov_from_cr, sys_mov_to_dr, sys_mov_from_dr, sys_clts, sys_lmsw, sys_smsw;
system_handler sys_rdtsc, sys_rdtscp, sys_rdpmc, sys_rdmsr, sys_wrmsr, sys_cpuid, sys_xgetbv, sys_xsetbv;
system_handler sys_rdfsbase, sys_rdgsbase, sys_wrfsbase, sys_wrgsbase, sys_swapgs;
system_handler sys_invlpg, sys_invpcid, sys_cache, sys_hlt, sys_hypercall;
system_handler sys_in, sys_out, sys_insb, sys_insw, sys_insd, sys_outsb, sys_outsw, sys_outsd;
