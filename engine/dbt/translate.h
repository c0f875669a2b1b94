// Inside of the translator: a decoded guest block and the state of making code from it.
//
//     scan.c       decodes a block into struct dbt_insn: what each instruction reads, writes, touches, and to which
//     class it belongs operand.c    memory operands: checks, groups of accesses, the stack window copy.c       writes a
//     guest instruction again with another memory operand or register flow.c       ways out of a block: direct,
//     conditional, indirect translate.c  goes through the block and calls the others
#pragma once
#include "engine/dbt/dbt.h"
#include "engine/dbt/emit.h"
#include <Zydis/Zydis.h>

enum dbt_class {
    CLASS_COPY, // innocuous; at most one explicit memory operand
    CLASS_SKIP, // does nothing that a guest could see: NOP, PREFETCH, ENDBR
    CLASS_LEA,
    CLASS_PUSH,
    CLASS_POP,
    CLASS_LEAVE,
    CLASS_RSP_ADD, // RSP changes by a constant: ADD, SUB, LEA
    CLASS_JMP,
    CLASS_JCC,
    CLASS_JRCXZ,
    CLASS_CALL,
    CLASS_RET,
    CLASS_JMP_INDIRECT,
    CLASS_CALL_INDIRECT,
    CLASS_SENSITIVE, // sensitive.c
    CLASS_STRING,    // string.c
    CLASS_POP_RSP,
    CLASS_STEP, // the interpreter does it
};

enum { FLAG_CF = 1, FLAG_PF = 2, FLAG_AF = 4, FLAG_ZF = 8, FLAG_SF = 16, FLAG_OF = 32, FLAGS_ALL = 63 };

// A memory operand in guest terms. The guest address is segment base + base + index*scale + disp, cut to 32 bits if
// addr32.
struct dbt_mem {
    bool present, read, write, addr32;
    uint8_t base, index, scale; // NO_REG: none
    bool rip_relative;          // then disp is the whole linear address
    uint8_t seg;                // CPU_FS, CPU_GS, or 0
    uint16_t size;              // bytes
    int64_t disp;
};

struct dbt_insn {
    uint64_t rip;
    const uint8_t *bytes;
    uint8_t len;
    uint8_t class;
    bool fpu;
    bool flags_conditional; // may leave flags as they were (shifts by CL)
    uint8_t flags_read, flags_written;
    uint8_t flags_live_in, flags_live_out; // needed by somebody before / after this instruction
    uint16_t used, written;                // general-purpose registers, implicit ones too
    bool rsp_operand;                      // RSP is named as a register operand
    int32_t rsp_change;                    // CLASS_PUSH, POP, RSP_ADD, CALL, RET
    bool rsp_unknown;                      // RSP becomes something not known here
    bool bit_string; // BT, BTS, BTR, BTC with a register as bit number: accesses a place around its operand
    struct dbt_mem mem;
    uint64_t target; // direct branches
    uint8_t cond;
    ZydisDecodedInstruction z;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
};

// Where a memory operand is found in the end: a host operand.
struct dbt_place {
    uint8_t base, index, scale;
    int32_t disp;
};

// Something to be written behind the block, where it does not stand in the way.
enum { COLD_ACCESS, COLD_COMPUTED, COLD_WINDOW, COLD_STACK, COLD_RSP, COLD_TSC, COLD_EXIT, COLD_POLL, COLD_FAR_MISS };

struct dbt_cold {
    uint8_t kind;       // COLD_*
    uint8_t *jump[2];   // displacements that come here
    unsigned insn;      // index
    struct dbt_mem mem; // ACCESS: what to compute the address from
    uint8_t reg;        // STACK, RSP: the register that holds the stack pointer to be; COMPUTED: the slot's number;
                        // WINDOW: gets the addend
    bool whole;         // WINDOW: s0 is to be the host's address
    int32_t low;        // ACCESS, STACK: first byte, relative
    unsigned span;
    bool write;
    uint8_t *retry;
    bool flags_in_slot;
    unsigned exit; // EXIT
    uint32_t at;   // offset of what was written, from the block's code
};

enum { MAX_COLD = 4 * DBT_MAX_INSNS, MAX_EXITS = 8, MAX_SITES = 2 * DBT_MAX_INSNS, MAX_POOL = 4 };

// An addend that a register of the pool holds: base + addend is a host address for [low, high) around base.
struct dbt_group {
    bool valid, write;
    uint8_t base;
    int32_t low, high;
};

struct dbt_translation {
    struct dbt_vcpu *v;
    const ZydisDecoder *decoder; // the interpreter's
    struct emit e;
    // The guest's side.
    uint64_t rip;
    uint8_t key;
    uint8_t bytes[DBT_MAX_INSNS * 15]; // a copy: other vCPUs may be writing
    unsigned count;
    struct dbt_insn insn[DBT_MAX_INSNS];
    uint16_t used, written;
    unsigned side_exits; // instructions that may leave the block and may go on
    bool ends_open;      // the block ends because it is long enough: an exit to the next instruction follows
    // Registers.
    uint16_t live, borrowed;
    uint8_t s0;             // scratch
    uint8_t pool[MAX_POOL]; // scratch registers that hold addends; pool[0] is a plain scratch register as well
    unsigned pools;
    struct dbt_group group[MAX_POOL];
    unsigned next_pool;
    // While going through it.
    bool flags_in_slot, slot_before; // now; before the instruction that is being written
    int8_t slot_if_fault;            // flags_in_slot at the instruction itself; -1: as it is afterwards
    unsigned stack_covered;          // the window check made last covers instructions before this index
    uint8_t *prologue_end;
    struct dbt_cold cold[MAX_COLD];
    unsigned colds;
    struct dbt_exit exit[MAX_EXITS];
    unsigned exits, exit_room;
    const struct dbt_insn *stepped[MAX_EXITS]; // what the interpreter does at the exit, or NULL
    unsigned look_after;                       // instruction behind STI, after which interrupts are open; 0: none
    struct dbt_site site[MAX_SITES];
    unsigned sites;
    uint32_t host_offset[DBT_MAX_INSNS];
    bool slot_in_fault[DBT_MAX_INSNS]; // flags were in flag_slot when the instruction was executed
    uint8_t *start;
    uint8_t *checks_at;  // where the block's number of checks goes, if it counts
    uint32_t cold_begin; // offset of the cold paths
    // Where the finished block's records will be: cold paths name them.
    struct dbt_block *block;
    struct dbt_exit *exit_base;
    struct dbt_site *site_base;
};

// Decodes from `rip`, whose bytes are at code, up to the page's end, the block's natural end, or `most` instructions. 0
// instructions: the first one cannot be translated.
void dbt_scan(struct dbt_translation *t, uint64_t rip, const uint8_t *code, unsigned available, unsigned most);

// Whether the instruction may be executed on the host as it is, if its operands allow (innocuous.c).
bool dbt_innocuous(const ZydisDecodedInstruction *z);

// Writes the instruction with its memory operand replaced by `p` (NULL: as it is) and, where RSP is a register operand,
// that register replaced by `rsp_as` (NO_REG: as it is).
void dbt_copy(struct emit *e, const struct dbt_insn *i, const struct dbt_place *p, unsigned rsp_as);
// Whether dbt_copy can: an instruction that names AH, BH, CH or DH cannot have a REX prefix.
bool dbt_copy_can(const struct dbt_insn *i);

// Makes insn's memory operand accessible and says where it is. False: it cannot be done, the interpreter must do the
// instruction.
bool dbt_access(struct dbt_translation *t, unsigned index, const struct dbt_mem *m, struct dbt_place *p);
// Makes sure that the stack accesses of instruction `index` lie in the window (not for DBT_KEY_SPLIT).
void dbt_stack_check(struct dbt_translation *t, unsigned index);
void dbt_stack_check_reg(struct dbt_translation *t, unsigned index, unsigned reg, int32_t low, unsigned span);
// RSP = reg, a host pointer that may be anything. Flags are gone; registers stay.
void dbt_stack_set(struct dbt_translation *t, unsigned index, unsigned reg);
// Forgets groups that depend on registers that `written` names.
void dbt_groups_drop(struct dbt_translation *t, uint16_t written);

// The guest's linear address of m, plus `more`, into reg. No flags.
void dbt_emit_address(struct dbt_translation *t, unsigned reg, const struct dbt_mem *m, int32_t more);

// Flags: free them for our own use before instruction `index`; have them in the host's flags again; temp registers are
// given.
void dbt_flags_free(struct dbt_translation *t, unsigned index, unsigned temp);
void dbt_flags_restore(struct dbt_translation *t, unsigned temp);
void dbt_flags_save(struct dbt_translation *t, unsigned temp);

void dbt_exit_direct(struct dbt_translation *t, unsigned index, uint64_t target);
void dbt_exit_cond(struct dbt_translation *t, unsigned index, uint64_t target, unsigned cond);
void dbt_exit_indirect(struct dbt_translation *t, unsigned index, unsigned target_reg);
// To what target_reg (or, if that is NO_REG, the vCPU's field `target`) says, in another view; flags are in flag_slot.
void dbt_exit_view(struct dbt_translation *t, unsigned index, enum dbt_view view, unsigned target_reg, size_t target);
// To the interpreter for instruction `index`; what follows may be reached, too.
void dbt_exit_step(struct dbt_translation *t, unsigned index);
// To the interpreter at the end of instruction `index`, for something else than that instruction; what follows may be
// reached, too.
void dbt_exit_look(struct dbt_translation *t, unsigned index);
void dbt_write_cold(struct dbt_translation *t);

// The check of one access at the address in s0, of which `pool[0]` may be part no longer: `a` gets the slot's number,
// s0 becomes the offset in the page; flags are gone. Returns the cold path that a miss takes: who calls says there how
// the address is had again.
struct dbt_cold *dbt_emit_check(struct dbt_translation *t, unsigned index, unsigned a, unsigned span, bool write,
                                uint8_t *retry);
// What is done where the kernel's window does not have the address: the check by the table.
void dbt_write_window_miss(struct dbt_translation *t, const struct dbt_cold *c);
// Field of the table for tags of reading or writing.
size_t dbt_tag_field(const struct dbt_translation *t, bool write);
// The slot's addend into `a`.
void dbt_emit_addend(struct dbt_translation *t, unsigned a);

// --- string.c
// Whether the instruction is one of CLASS_STRING here; *used, *written: its registers.
bool dbt_string_is(const struct dbt_translation *t, const struct dbt_insn *i, uint16_t *used, uint16_t *written);
void dbt_string_write(struct dbt_translation *t, unsigned index);

// --- sensitive.c
// Whether the instruction is one of CLASS_SENSITIVE here.
bool dbt_sensitive_is(const struct dbt_translation *t, const struct dbt_insn *i);
bool dbt_sensitive_ends_block(const struct dbt_insn *i);
// General registers that it names without saying so; *written: those that it changes.
uint16_t dbt_sensitive_registers(const struct dbt_insn *i, uint16_t *written);
// False: the interpreter must do it.
bool dbt_sensitive_write(struct dbt_translation *t, unsigned index);
// After each instruction: what an earlier one has left to be done.
void dbt_sensitive_after(struct dbt_translation *t, unsigned index);

// --- syscall.c
void dbt_syscall_write(struct dbt_translation *t, unsigned index);
void dbt_sysret_write(struct dbt_translation *t, unsigned index);

// Writes the block that was scanned; b's address, key and page_id are set, the rest is set here. NULL: no room, in the
// cache or in the tables.
struct dbt_block *dbt_translate(struct dbt_translation *t, struct dbt_block *b);
struct dbt_cold *dbt_cold(struct dbt_translation *t, int kind, unsigned index);

static inline size_t dbt_home(unsigned reg)
{
    return offsetof(struct dbt_vcpu, i.s.gpr) + 8 * (size_t)reg;
}
