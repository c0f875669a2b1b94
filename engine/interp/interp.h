// The reference interpreter: every mode, every instruction; slow, simple, right.
//
// How it runs. Guest code is decoded once by Zydis into struct interp_insn and kept in blocks (cache.c). For each
// instruction the loop (run.c) calls insn->fn. A handler does the whole instruction on v->s or none of it: if it raises
// a fault, no register and no flag has changed (memory that was legitimately written before the fault, as in REP MOVS,
// stays). v->s is the architectural state at every instruction boundary; rflags is always right (no lazy flags).
//
// Who does what:
//     decode.c cache.c run.c mmu.c memory.c   the machinery
//     gp_*.c                                  general-purpose instructions, in C
//     deliver.c segment.c far.c task.c control.c syscall.c io.c debug.c   what only an operating system does
//     host*.c                                 x87, MMX, SSE, AVX and other innocuous instructions, executed on the host
//     CPU in a generated stub
//
// Other software engines use this one for what they don't translate themselves: they share struct interp_vcpu and call
// interp_step().
#pragma once
#include "cpu/exception.h"
#include "cpu/paging.h"
#include "engine/engine.h"

struct interp_insn;
struct interp_vcpu;
struct interp_tlb; // mmu.c
struct tlb_near;
struct tlb_near_code;
struct interp_block;   // cache.c
struct interp_cache;   // cache.c
struct interp_decoder; // decode.c
struct interp_vm;

// What a handler says.
enum interp_result {
    INTERP_NEXT,  // done; the loop advances rip by the instruction's length
    INTERP_JUMP,  // done; the handler has set rip
    INTERP_BREAK, // as NEXT, but what follows may have changed (mode, paging, interrupts, code): leave the block, look
                  // at events
    INTERP_AGAIN, // a repeated string instruction did a bounded part: rip stays, look at events
    INTERP_FAULT, // v->fault says what; rip stays at the instruction
};

typedef enum interp_result (*interp_fn)(struct interp_vcpu *v, const struct interp_insn *i);

// REG is a general-purpose register; SEG, CR, DR are the others that have a number in `reg`; OTHER is everything else
// (vector, x87, mask, bound registers: only the host handlers know them, through Zydis's operands).
enum interp_operand_kind {
    OPERAND_NONE,
    OPERAND_REG,
    OPERAND_MEM,
    OPERAND_IMM,
    OPERAND_SEG,
    OPERAND_CR,
    OPERAND_DR,
    OPERAND_OTHER,
};

struct interp_operand {
    uint8_t kind;
    uint8_t size; // bytes: 1, 2, 4, 8; memory operands of other instructions up to 64 or, for state areas, 0
    uint8_t reg;  // number of the register
    uint8_t high; // 1: AH, CH, DH, BH (reg is 0..3)
};

enum { INSN_RIP = 0x10, INSN_NONE = 0xff };

// 64 bytes, one cache line. op[] are the visible operands in Zydis's order, at most four. There is one memory operand
// at most (string instructions name their registers themselves): seg, base, index, scale, disp describe it.
struct interp_insn {
    interp_fn fn;
    uint8_t len;
    uint8_t opsize;             // effective operand size in bytes: 2, 4, 8
    uint8_t addrsize;           // effective address size in bytes: 2, 4, 8
    uint8_t seg;                // segment of the memory operand (enum cpu_seg_name)
    uint8_t base, index, scale; // INSN_NONE, INSN_RIP (base only), register; scale 1, 2, 4, 8
    uint8_t lock, rep;          // rep: 0, 0xf3 or 0xf2
    uint8_t cond;               // Jcc, SETcc, CMOVcc: the low four bits of the opcode
    uint8_t ops;
    uint8_t far;       // CALL, JMP, RET: 1 if it goes to another segment (a direct one has its pointer in disp:imm)
    uint16_t mnemonic; // ZydisMnemonic
    int64_t disp;      // also: selector of a direct far pointer, second immediate (ENTER's level, EXTRQ, INSERTQ)
    int64_t imm;       // sign-extended as the instruction does; relative branches: displacement; far pointers: offset
    struct interp_operand op[4];
    const void *stub; // host*.c
};

struct interp_counters { // trapeze run --stats
    uint64_t instructions, blocks_decoded, code_invalidated;
    uint64_t exceptions[32], interrupts, nmis;
    uint64_t port_reads, port_writes, mmio_reads, mmio_writes, msr_reads, msr_writes, cpuids, halts, hypercalls;
    uint64_t tlb_fills, tlb_flushes, host_executed;
};

struct interp_vcpu {
    struct engine_vcpu base;
    struct interp_vm *vm;
    const struct cpu_model *model;
    struct cpu_state s;
    struct cpu_fault fault; // meaningful after INTERP_FAULT or a false from memory functions
    uint8_t cpl;  // copies that memory and decode functions need often; interp_mode_changed() sets them from s
    uint8_t mode; // enum interp_mode
    bool keep_rf; // the instruction has loaded RF itself (IRET, a task switch); see interp_after_debug
    bool no_step; // it is not single-stepped by the TF from before it (SYSCALL, INT n, ...)
    bool amid;    // the last instruction said AGAIN: what is delivered now saves RF, so that it is resumed
    struct interp_tlb *tlb;
    struct tlb_near *near; // of tlb: the tables in force
    struct tlb_near_code *near_code;
    struct interp_cache *cache;
    struct interp_decoder *decoder;
    struct interp_host *host; // host*.c
    struct interp_counters count;
    _Atomic bool in_guest; // world.h
    bool flush_wanted;     // everything derived from the memory map is stale; set while the world is stopped
    unsigned bus_locks;    // depth of interp_bus_lock()
};

enum interp_mode { MODE_REAL, MODE_PROT16, MODE_PROT32, MODE_COMPAT16, MODE_COMPAT32, MODE_LONG64 };

// --- faults
// Record a fault and return INTERP_FAULT, so that handlers can say: return interp_gp(v, 0);
enum interp_result interp_fault(struct interp_vcpu *v, uint8_t vector);                       // without error code
enum interp_result interp_fault_error(struct interp_vcpu *v, uint8_t vector, uint32_t error); // with one
enum interp_result interp_fault_page(struct interp_vcpu *v, uint64_t la, uint32_t error);
static inline enum interp_result interp_gp(struct interp_vcpu *v, uint32_t error)
{
    return interp_fault_error(v, EXC_GP, error);
}
static inline enum interp_result interp_ud(struct interp_vcpu *v)
{
    return interp_fault(v, EXC_UD);
}

// --- memory (memory.c, mmu.c)
// Effective address of the memory operand, wrapped to the address size (offset within the segment).
uint64_t interp_ea(const struct interp_vcpu *v, const struct interp_insn *i);

// Segment checks (limit, rights, canonical form): offset -> linear address. False: v->fault is #GP or #SS as the
// architecture says.
bool interp_linear(struct interp_vcpu *v, unsigned seg, uint64_t offset, unsigned size, enum cpu_access access,
                   uint64_t *la);

// False: `la` is no multiple of size (a power of two) and v->fault is #AC, if alignment checking is on.
bool interp_aligned(struct interp_vcpu *v, uint64_t la, unsigned size);

// Data at seg:offset, any alignment, sizes 1, 2, 4, 8; page-crossing handled; alignment checked when #AC is on. Writes
// are all or nothing.
bool interp_read(struct interp_vcpu *v, unsigned seg, uint64_t offset, unsigned size, uint64_t *val);
bool interp_write(struct interp_vcpu *v, unsigned seg, uint64_t offset, unsigned size, uint64_t val);
// Bytes of any number up to 4096 (vector operands, state areas, descriptor tables): at a linear address, with this
// CPU's rights or as the processor itself (system: implicit supervisor).
bool interp_read_bytes(struct interp_vcpu *v, uint64_t la, void *buf, unsigned size, bool system);
bool interp_write_bytes(struct interp_vcpu *v, uint64_t la, const void *buf, unsigned size, bool system);
// Probes that a range can be written (or read) without doing it, so that an instruction can be all or nothing.
bool interp_probe(struct interp_vcpu *v, uint64_t la, unsigned size, enum cpu_access access, bool system);
// A host pointer for direct use by one instruction, if the range lies in one page of RAM and the access is allowed.
// NULL with v->fault.raised false: use the byte functions (MMIO, ROM, page crossing); NULL with v->fault.raised true:
// it faults. LOCKed instructions work on such a pointer with host atomics. Whoever has written through it calls
// interp_host_written() with the same la and size afterwards, before anything else: that is what keeps decoded code and
// dirty logs right. No pointer is kept across an upcall or interp_bus_lock().
void *interp_host_pointer(struct interp_vcpu *v, uint64_t la, unsigned size, enum cpu_access access);
void interp_host_written(struct interp_vcpu *v, uint64_t la, unsigned size);

// The stack, with SS and the stack's address size (interp_stack_mask). On a fault RSP is unchanged. Sizes 2, 4, 8.
uint64_t interp_stack_mask(const struct interp_vcpu *v); // 0xffff, 0xffffffff or all ones
bool interp_push(struct interp_vcpu *v, unsigned size, uint64_t val);
// Moves RSP by `size`, but writes only the low `written` bytes.
bool interp_push_part(struct interp_vcpu *v, unsigned size, unsigned written, uint64_t val);
bool interp_pop(struct interp_vcpu *v, unsigned size, uint64_t *val);
// Near transfer of control: checks that `target`, cut to opsize, is canonical or within CS's limit, and sets rip.
// INTERP_JUMP, or #GP(0).
enum interp_result interp_jump_near(struct interp_vcpu *v, uint64_t target, unsigned opsize);

// Locked read-modify-write where interp_host_pointer gives none (page crossing, MMIO): between these two no other
// vCPU executes guest code. Take it before looking at memory; host pointers from before are void.
void interp_bus_lock(struct interp_vcpu *v);
void interp_bus_unlock(struct interp_vcpu *v);

void interp_tlb_flush_all(struct interp_vcpu *v);                 // global pages too
void interp_tlb_flush_nonglobal(struct interp_vcpu *v);           // all PCIDs
void interp_tlb_flush_pcid(struct interp_vcpu *v, unsigned pcid); // not global ones
void interp_tlb_flush_page(struct interp_vcpu *v, uint64_t la);   // INVLPG
void interp_tlb_switch(struct interp_vcpu *v); // cr3, cr4.pcide, cpl or AC changed: select the tables for the new state

// CPL, CS, CR0, CR4 or EFER changed: recompute what is derived. Handlers that change them call this and return BREAK or
// JUMP.
void interp_mode_changed(struct interp_vcpu *v);

// --- decoding (decode.c)
// Decodes up to 15 bytes. Never fails: bytes that are no instruction give a handler that raises #UD (or #GP for more
// than 15 bytes; a code fetch that faults is the fetcher's business).
void interp_decode(struct interp_vcpu *v, const uint8_t *bytes, unsigned available, struct interp_insn *out);

// Handlers by mnemonic. Each returns NULL where the mnemonic is not its own. Order: gp, system, host; nothing: #UD.
// The decoder has already refused (as #UD) what the model's CPUID lacks and LOCK where it is not allowed.
//
// gp: everything whose operands are general-purpose registers, memory and immediates and that needs no privilege; near
//     control transfers; string instructions but INS and OUTS; BOUND; fences, CLFLUSH, PAUSE; RDRAND, RDSEED, RDPID.
// system: whatever names a segment, control or debug register (MOV, PUSH, POP, LDS..., with OPERAND_SEG, CR or DR), far
//     transfers, INT*, IRET, SYS*, PUSHF, POPF, CLI, STI, CLAC, STAC, HLT, I/O, descriptor tables, SMSW, LMSW, CLTS,
//     INVLPG, INVPCID, WBINVD, RDTSC(P), RDPMC, RDMSR, WRMSR, CPUID, XGETBV, XSETBV, FSGSBASE, SWAPGS, VMCALL, VERR...
interp_fn interp_gp_handler(const struct interp_insn *i);
interp_fn interp_system_handler(const struct interp_insn *i);
// `bytes` are the instruction's, `decoded` and `operands` Zydis's (const ZydisDecodedInstruction *, const
// ZydisDecodedOperand *); builds the stub and may set i->stub.
interp_fn interp_host_handler(struct interp_vcpu *v, struct interp_insn *i, const uint8_t *bytes, const void *decoded,
                              const void *operands);
// What host*.c keeps per vCPU (v->host): made and freed with the vCPU.
int interp_host_create(struct interp_vcpu *v, struct error *err);
void interp_host_destroy(struct interp_vcpu *v);
// The cache has dropped every decoded instruction (it was full, or memory was unmapped): no stub is referred to.
void interp_host_forget(struct interp_vcpu *v);

// --- what only an operating system does
// Delivers v->fault (a fault, with the combining rules), a software or an external interrupt. INTERP_JUMP; or, on a
// triple fault, activity becomes CPU_SHUTDOWN.
void interp_deliver_fault(struct interp_vcpu *v);
enum interp_result interp_soft_interrupt(struct interp_vcpu *v, uint8_t vector,
                                         uint64_t return_rip);       // INT n, INT3, INTO
void interp_deliver_external(struct interp_vcpu *v, uint8_t vector); // vector 2 is NMI
// After an instruction: single step, data breakpoints, RF. True if a #DB was delivered (debug.c). The loop takes the
// slow path, one instruction at a time with these two around it, whenever rflags has TF or RF, ev.shadow is set, DR7
// arms anything or ev.pending_debug waits. It clears ev.shadow just before the instruction executes: what is there
// afterwards was set by it (STI, MOV SS), what was there before is seen by interp_before_debug.
// `branched`: it said JUMP (for DEBUGCTL.BTF).
bool interp_after_debug(struct interp_vcpu *v, bool single_step_was_on, bool branched);
bool interp_before_debug(struct interp_vcpu *v); // instruction breakpoint at rip
void interp_data_breakpoint(struct interp_vcpu *v, uint64_t la, unsigned size,
                            enum cpu_access access); // called by memory.c only when DR7 arms some
// Loads a segment register by selector, with all checks, as MOV Sreg and POP Sreg do.
bool interp_load_segment(struct interp_vcpu *v, unsigned seg, uint16_t selector);
// CR0, CR3, CR4, CR8, EFER writes with all checks and flushes. False: v->fault.
bool interp_write_cr(struct interp_vcpu *v, unsigned cr, uint64_t val);

// --- running
// One instruction, with events looked at before and traps after it. What another engine calls for an instruction it
// doesn't translate.
enum interp_result interp_step(struct interp_vcpu *v);

// Upcalls (upcall.c), counted, and made so that meanwhile memory may be unmapped and other vCPUs may stop the world:
// call these, never engine_upcalls directly. They may change nothing in v->s.
uint64_t interp_up_port_read(struct interp_vcpu *v, uint16_t port, unsigned size);
void interp_up_port_write(struct interp_vcpu *v, uint16_t port, unsigned size, uint64_t val);
uint64_t interp_up_mmio_read(struct interp_vcpu *v, uint64_t gpa, unsigned size);
void interp_up_mmio_write(struct interp_vcpu *v, uint64_t gpa, unsigned size, uint64_t val);
int interp_up_msr_read(struct interp_vcpu *v, uint32_t msr, uint64_t *val);
int interp_up_msr_write(struct interp_vcpu *v, uint32_t msr, uint64_t val);
uint64_t interp_up_tpr_read(struct interp_vcpu *v);
void interp_up_tpr_write(struct interp_vcpu *v, uint64_t tpr);
uint64_t interp_up_hypercall(struct interp_vcpu *v, uint64_t nr, const uint64_t arg[4], bool wide);
uint64_t interp_up_tsc(struct interp_vcpu *v); // before TSC_ADJUST
// HLT sets v->s.ev.activity = CPU_HALTED and returns BREAK; the loop makes the halt and interrupt_ack upcalls.

static inline uint64_t interp_reg(const struct interp_vcpu *v, const struct interp_operand *o)
{
    uint64_t r = v->s.gpr[o->reg];
    switch (o->size) {
    case 1:
        return o->high ? (r >> 8) & 0xff : r & 0xff;
    case 2:
        return r & 0xffff;
    case 4:
        return (uint32_t)r;
    default:
        return r;
    }
}

// Writes of 32 bits clear the upper half (Intel SDM vol. 1, 3.4.1.1).
static inline void interp_set_reg(struct interp_vcpu *v, const struct interp_operand *o, uint64_t val)
{
    uint64_t *r = &v->s.gpr[o->reg];
    switch (o->size) {
    case 1:
        if (o->high)
            *r = (*r & ~0xff00ull) | (val & 0xff) << 8;
        else
            *r = (*r & ~0xffull) | (val & 0xff);
        break;
    case 2:
        *r = (*r & ~0xffffull) | (val & 0xffff);
        break;
    case 4:
        *r = (uint32_t)val;
        break;
    default:
        *r = val;
    }
}
