// The binary translator: 64-bit guest code at near-native speed, without hardware virtualization.
//
// The idea is near-identity. Guest and host have the same instruction set, so most instructions are copied; what
// touches memory, transfers control or is sensitive is rewritten. Whatever is not translated (a rare instruction, real
// and 32-bit modes, single-stepping, faults, MMIO) is done by the interpreter, one instruction at a time, on the same
// struct interp_vcpu: this engine is never wrong because an instruction is rare.
//
// In translated code
//     GPRs     guest registers live in the host registers of the same name, except:
//     RSP      the host's RSP is guest RSP + stack_addend: a host pointer into guest RAM. A block that uses the stack
//     checks once that what it will touch lies in the window
//              (one page that the guest may write). push, pop, call, ret and [rsp+n] are then native.
//     R14 R15  are at home in memory (s.gpr) between blocks, and scratch registers of blocks that don't use them. A
//     block that does use them loads them and borrows others,
//              whose guest value it has stored at home first: so every guest register is always either in its own host
//              register or at home, and which is a property of the block.
//     flags    live in the host's flags, or, where the translator needed the flags for itself, in flag_slot (AH as
//     LAHF, AL the overflow flag). DF       is kept in s.rflags only; the host's DF is always clear. IF, AC likewise.
//     x87, SSE, AVX state is live in the host's registers while `fpu_live`.
//     GS       the host's GS base is the struct dbt_vcpu: its fields are reached as gs:[offset]. C keeps FS.
//
// Memory. Every access goes through a check against a table of pages (struct dbt_tlb) that this vCPU may read or write
// just now; reads of the kernel's also against its window (window.h). A miss walks the page tables; whatever is not
// plain RAM in one page leaves the block precisely before the instruction, and the interpreter does it. Pages that hold
// translated code never enter the table as writable.
//
// Blocks are keyed by linear address, physical page and mode, and are private to a vCPU. They jump into each other:
//     near   from a block in the same page: nothing can have changed between
//     far    from another page, or where an indirect jump was guessed to go: the entry checks that the linear page
//     still maps to the physical page it was translated from (itlb)
//
//     indirect  through the table ibl: the entry also checks that the address is this one
//
// Flags are in flag_slot at a far entry, in the host's flags at a near one.
//
// Why a guest cannot get out: the only memory operands in translated code are (1) those whose address passed a check in
// the same block with no change of the registers involved, (2) stack accesses within a window that passed a check, (3)
// gs:[constant]. The guest's own segment prefixes are dropped, its control transfers go through tables that hold only
// addresses of block entries.
#pragma once
#include "engine/interp/interp.h"

enum {
    DBT_TLB_BITS = 10,
    DBT_TLB_SIZE = 1 << DBT_TLB_BITS,
    DBT_ITLB_KERNEL = 1 << 14,
    DBT_ITLB_USER = 1 << 10,
    DBT_IBL_SIZE = 1 << 16,
    DBT_MAX_INSNS = 64,
    DBT_FILLED = 128,
    DBT_WRITTEN = 64,
};

// What a memory access is checked against: who asks (and how).
enum dbt_view { DBT_KERNEL, DBT_KERNEL_AC, DBT_USER, DBT_VIEWS };

// Slot i belongs to pages whose number is i modulo DBT_TLB_SIZE. An address a hits if a - tag[i] is below 4096 minus
// the access's size (unsigned); the host address is then a + addend[i]. An empty slot's tag is a page that belongs to
// another slot, so no address can hit it.
struct dbt_tlb {
    uint64_t tag_r[DBT_TLB_SIZE], tag_w[DBT_TLB_SIZE], addend[DBT_TLB_SIZE];
    bool global[DBT_TLB_SIZE];
};

// Bits of a block's key besides its address.
enum {
    DBT_KEY_VIEW = 3,     // enum dbt_view
    DBT_KEY_FPU = 1 << 2, // x87, SSE and AVX instructions can be copied (CR0, CR4, XCR0 allow them)
    // Every access is checked on its own, the stack's too: the stack pointer, or something else that is accessed in
    // pieces, is at a page's edge.
    DBT_KEY_SPLIT = 1 << 3,
    // Instructions are counted: every way out of the block goes to the dispatcher, none is linked.
    DBT_KEY_ALONE = 1 << 4,
    DBT_KEY_SINGLE = 1 << 5, // and it has one instruction only
    DBT_KEY_CELL = 1 << 6,   // for a cell (cell/cell.h): no register need be free
};

struct dbt_block;
struct dbt_cache;
struct cells;

// A range of the kernel's addresses that may all be read: window.h. An access at a with a - low below room is in it,
// and what is read is at a + addend.
struct dbt_window {
    uint64_t low, room, addend;
    uint64_t first, last; // bytes of the pages that it lies in: these may go beyond memory
    uint64_t candidate;   // addend of the pages that were looked up lately, so far as they agree,
    uint32_t votes;       // and how many more do than don't
    uint32_t need;        // votes that it takes
    bool seen;            // there has been one: translated code asks for it
};

#define DBT_NO_WINDOW 0x8000000000000000ull // stack_low where there is no window: no address of ours is near it
// End of the host's user addresses. Guest RSP may be anything, but the host's must be an address: interrupts of the
// host return to it. So whatever makes RSP something unknown compares it with this, and makes another addend if need
// be; small constants that are added cannot lead far from a window, and blocks that add them check that they are in
// one.
#define DBT_HOST_END (1ull << 47)
#define DBT_HOST_MIDDLE (1ull << 46)

// A way out of a block to a known target. Its jump goes to a stub that names the exit; once the target is translated
// the jump is patched to go there.
struct dbt_exit {
    struct dbt_block *from;
    uint64_t target;          // linear address
    uint8_t *jump;            // the 32-bit displacement to patch (writable view)
    uint8_t *stub;            // what it points to while not linked
    struct dbt_block *to;     // linked target, or NULL
    struct dbt_exit *next_in; // in to->links_in
    const struct interp_insn
        *quick; // the instruction at target, if it is to be interpreted and dbt_quick() can; or NULL
    // An indirect jump's inline cache: the exit is taken if the target is the one guessed, which the instructions
    // before it compare. Where the constant is that they compare with (writable view), of how many bytes, and how far
    // behind the stub a jump to the dispatcher stands until there is a guess. guess NULL: a direct exit.
    uint8_t *guess;
    uint8_t guess_size, guess_first;
    uint8_t key;  // bits of the target's key that are inherited (DBT_KEY_SPLIT)
    uint8_t done; // instructions of the block that are done when it is taken
    bool far;     // target in another page: enters at entry_far, flags in flag_slot
    bool back;    // enters where interrupts are polled
};

// Where an instruction that may leave the block in the middle is: what precise state needs.
enum { DBT_SITE_ACCESS, DBT_SITE_STACK, DBT_SITE_RSP, DBT_SITE_TSC };

struct dbt_site {
    struct dbt_block *block;
    uint16_t rip_offset; // of the guest instruction, from the block's rip
    uint16_t span;       // bytes to be accessed, from exit_address on
    uint8_t kind, write;
    uint8_t flags_in_slot; // else: nobody needs the flags
    uint8_t done;          // instructions before this one
    uint32_t retry;        // where to try again: offset from the block's code
};

#define DBT_NO_PAGE UINT64_MAX
#define DBT_NOBODY UINT32_MAX

struct dbt_map {
    uint32_t host; // offset of its code
    uint16_t rip;  // offset from the block's rip
    bool flags_in_slot;
};

struct dbt_block {
    uint64_t rip, phys; // of the first instruction
    uint64_t phys2; // page of the second half of an instruction that crosses (then the block is that instruction), or
                    // DBT_NO_PAGE
    uint8_t key;
    bool dead;
    uint16_t length; // guest bytes
    uint16_t insns;
    bool steps; // the interpreter does one more
    uint16_t exits, sites;
    uint8_t branch_length;      // of the indirect branch that ends it, if one does: bytes,
    int32_t branch_rsp;         // and what it does to RSP
    uint16_t live;              // guest registers that are in host registers inside of the block (others are at home)
    uint32_t page_id, page_id2; // what itlb must hold for a far entry; for the second page at any entry
    uint8_t *code;              // executable view
    uint32_t near, back, far, indirect, end; // entries: offsets from code
    struct dbt_exit *exit;
    struct dbt_site *site;
    struct dbt_map *map; // for host faults: one for each instruction, ascending
    struct dbt_exit *links_in;
    struct dbt_block *next_hash, *next_page, *next_page2;
};

struct dbt_counters {
    uint64_t blocks, guest_bytes, host_bytes, record_bytes, translate_ns;
    uint64_t entries, guess_hits, indirect_hits, checks, misses;
    uint64_t dispatches, links, guesses, indirect_misses, far_misses, steps, quick, cold;
    uint64_t tlb_fills, tlb_walks, tlb_flushes, tlb_page_flushes, stack_fills, stack_splits;
    uint64_t windows, window_drops, window_misses;
    uint64_t invalidated, cache_flushes, polls, fpu_parks, host_faults;
    uint64_t cells, cell_visits, cell_links, cell_steps, cell_misses, cell_kicks, cell_pages, cell_faults;
};

struct dbt_vcpu {
    struct interp_vcpu i; // first: registers are gs:[offsetof(i.s.gpr)]
    // How translated code is entered and left.
    uint64_t host_rsp;
    uint64_t enter_at;
    uint64_t exit_arg;     // struct dbt_exit *, struct dbt_block * or site number: see exit_why
    uint64_t exit_address; // linear address of an access, or target of an indirect jump
    uint32_t fault_done;   // instructions of the block before the one that raised a host signal
    uint32_t exit_from;    // number of the block whose indirect jump it was (dbt_block_number), or DBT_NOBODY
    uint32_t exit_why;
    uint32_t poll; // nonzero: leave at the next back edge
    uint32_t flag_slot;
    uint32_t flags_saved; // flag_slot is what counts, not host_flags
    uint64_t host_flags;
    uint64_t save[16]; // host registers at the moment of leaving
    // The stack window.
    uint64_t stack_addend, stack_negative; // host RSP - guest RSP and its negative
    uint64_t stack_low;                    // host address of the window's first byte, or DBT_NO_WINDOW
    uint64_t user_low, user_addend; // the user program's window while the kernel does what it asked for by SYSCALL
    uint64_t stack_limit;           // DBT_HOST_END: host RSP stays below
    uint8_t stack_view;             // who may use it
    struct dbt_window window;       // window.h
    uint64_t direct;                // TLB context of the program that SYSRET may go to at once; 0: none
    struct dbt_assumed {
        uint64_t cr4, efer, star;
        bool window;
    } assumed;                   // as it was when blocks were made: the bits that they depend on
    uint8_t ibl_fpu;             // DBT_KEY_FPU of the blocks that ibl leads to
    uint64_t scratch[2];         // addends of the string instruction under way
    bool counting;               // translated code counts what it does
    bool eager;                  // code is translated when it is come to for the first time
    bool fpu_live;               // the guest's x87, SSE and AVX state is in the host's registers, not in s.xsave
    bool kernel_code_not_global; // some itlb entry of the kernel's is of a page that a CR3 write flushes
    uint16_t filled[DBT_VIEWS][DBT_FILLED]; // slots with pages that are not global, filled since the last flush
    uint16_t fills[DBT_VIEWS];              // more than DBT_FILLED: search all
    struct {
        uint32_t lock;
        uint32_t count; // more than DBT_WRITTEN: too many, forget everything
        uint64_t gpa[DBT_WRITTEN];
        uint32_t size[DBT_WRITTEN];
    } written; // by others, see written.h; guarded by its lock
    struct dbt_cache *cache;
    struct cells *cells; // NULL: none
    struct dbt_counters count;
    struct dbt_tlb tlb[DBT_VIEWS];
    // Id of the (linear page, physical page) pair that is mapped now (dbt_itlb). The user's is emptied whenever CR3
    // changes. The kernel's hardly ever is, and its code is so large that hot pages would compete for slots.
    uint32_t itlb_kernel[DBT_ITLB_KERNEL], itlb_user[DBT_ITLB_USER];
    uint64_t ibl[DBT_VIEWS][DBT_IBL_SIZE]; // host address of the indirect entry of a block whose rip has these low bits
};
