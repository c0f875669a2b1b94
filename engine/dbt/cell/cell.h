// Cells: guest programs at the full speed of the host.
//
// A cell is a process that holds nothing but the address space of one guest program: guest pages, mapped at the very
// addresses where the guest sees them, and translated code. Its memory accesses need no check and no change, because
// the host's own page tables keep them where they belong: whatever is not mapped in the cell cannot be reached, and
// nothing of the hypervisor is. What remains to be translated is control flow (and what a user program may not do,
// which ends the visit).
//
// A visit costs two switches between processes, and each page that is touched for the first time a signal and a system
// call. So cells are for programs that compute (when.c).
//
//     process.c  making the process, waking it, waiting for it
//     child.c    what runs in there
//     runtime.c  entering and leaving guest code
//     code.c     translating: like dbt's, but memory operands are left alone
//     pages.c    which guest pages are mapped; forgetting them when the guest's TLB would
//     run.c      visits
//     when.c     when to make them
//
// Invariants
//   - A page in the cell is a translation that the vCPU's TLB could hold: it belongs to tlb->context, is dropped by
//     INVLPG, and is writable only if its dirty bit is set and nobody wants to see writes (page words, ram.h).
//   - All guest registers are in the host's registers of the same name, RSP too; flags are the host's. FS base is the
//     guest's, GS base is the cell's own.
//   - Between visits the cell sleeps in a system call: the world stands still for it.
#pragma once
#include "engine/dbt/cell/shared.h"
#include "engine/dbt/dbt.h"
#include "engine/dbt/emit.h"

struct dbt_translation;

enum {
    CELLS = 8, // per vCPU, at most
    CELL_HASH = 1 << 12,
    CELL_MAX_BLOCKS = 1 << 15,
    CELL_MAX_EXITS = 1 << 16,
    CELL_MAX_PLACES = 1 << 18,
    CELL_MAX_PAGES = 1024,
    CELL_MAX_RANGES = 2048,
    CELL_STREAMS = 4,
    CELL_PROGRAMS = 16,
};

// What must be done to the registers at a place to get the guest's: bits.
enum {
    PLACE_RCX = 1 << 0,       // RCX is in spill[0]
    PLACE_STORED = 1 << 1,    // RIP is in `target`
    PLACE_SCRATCH = 1 << 2,   // register `reg` is in spill[2]
    PLACE_TARGET = 1 << 3,    // RIP is in RCX (before that is restored)
    PLACE_UNDO_PUSH = 1 << 4, // RSP is 8 too low
};

// A host instruction before which the guest's state is known.
struct cell_place {
    uint32_t host; // offset from the cell's base
    uint16_t rip;  // of the guest, from the block's
    uint8_t fix;   // PLACE_*
    uint8_t reg;
};

struct cell_block {
    uint64_t rip;
    uint32_t host, begin, end; // offsets from the cell's base: direct entry, all of it
    uint32_t indirect;         // entry of indirect jumps, 0: none yet
    uint32_t place, places;
    uint32_t next; // in hash: number + 1
    uint16_t last; // the last instruction's offset from rip, and what that does to RSP if it is an indirect branch
    int16_t last_rsp;
};

struct cell_exit {
    uint64_t target;
    uint32_t jump; // offset of a 32-bit displacement
    uint32_t next; // waiting for the same target: number + 1
    bool waits;
};

struct cell_page { // a page of code
    uint64_t linear, phys;
};

struct cell_range { // pages that may be mapped
    uint64_t la, size;
    const uint8_t *host;
};

// A program that goes through memory in order: where its next fault will be, and how many pages were mapped ahead of
// the last one.
struct cell_stream {
    uint64_t next;
    unsigned ahead;
};

struct cell {
    struct dbt_vcpu *v;
    int pid, in, out;
    uint64_t base;   // where the cell's own part lies in it
    uint8_t *memory; // that part, writable
    struct cell_shared *s;
    unsigned commands; // that wait in s->command: what s->commands says the guest may have written
    uint64_t context, cr3;
    uint64_t used;  // when last, ns
    int64_t credit; // what it has brought, less what it has cost: ns (when.c)
    bool dead;
    bool pages_stale;     // every guest page is to be unmapped
    bool code_stale;      // every block is to be forgotten
    bool code_unverified; // code pages may have been mapped elsewhere
    bool fs_known;
    uint64_t fs_base;
    uint64_t time;                     // processor time it had used after the last stay, ns
    uint64_t fault_rip, fault_address; // of the last page that was mapped
    struct cell_stream stream[CELL_STREAMS];
    unsigned next_stream;
    struct cell_range range[CELL_MAX_RANGES];
    unsigned ranges;
    struct cell_page page[CELL_MAX_PAGES];
    unsigned pages;
    // Translated code.
    struct emit e;
    struct cell_block *block;
    struct cell_exit *exit;
    struct cell_place *place;
    unsigned blocks, exits, places;
    uint32_t hash[CELL_HASH], waiting[CELL_HASH];
};

struct cell_program {       // one that was interrupted in user code
    uint64_t context, seen; // of the TLB; when last, ns
    uint64_t used, need;    // user time since it began or was last found not to pay; what it takes to be tried: ns
};

struct cells {
    struct cell *cell[CELLS];
    unsigned limit;                 // how many of them may be used
    _Atomic(struct cell *) running; // guest code runs in it: who wants the vCPU must kick
    bool impossible;                // this host lets us make none
    bool lost;                      // a cell has died, and with it the registers that were in it
    bool always;                    // ENGINE_CELLS_ALWAYS
    struct cell_program program[CELL_PROGRAMS];
    uint64_t interrupted; // when last, ns
    uint64_t looked;      // context that `ready` is about, until the next interrupt; 0: none
    bool ready;           // it has used enough time, and was not refused
};

// --- process.c
int cell_create(struct dbt_vcpu *v, struct cell **out, struct error *err);
void cell_destroy(struct cell *c);
// Runs guest code from s->enter_at on until it is left. `brief`: it is kicked after a moment (a kick before the visit
// would not let it do a single instruction). False: the cell has died.
bool cell_visit(struct cell *c, bool brief);
void cell_kick(struct cell *c);     // any thread
uint64_t cell_time(struct cell *c); // processor time it has used, ns

// --- runtime.c
bool cell_runtime_write(struct cell *c);

// --- code.c
// The block at `rip`, translated now if need be, and much of what it leads to. NULL: it cannot be translated.
struct cell_block *cell_block(struct cell *c, uint64_t rip);
void cell_code_flush(struct cell *c);
// Whether code pages still are what they were.
bool cell_code_verify(struct cell *c);
// Makes indirect jumps find b.
void cell_code_indirect(struct cell *c, struct cell_block *b);
// The block that a host address lies in and the last place at or before it; NULL if there is none.
const struct cell_block *cell_code_at(const struct cell *c, uint64_t host, const struct cell_place **place);

// --- pages.c
// Has the page at la mapped at the next visit. False: the guest may not access it, or it is no plain memory.
bool cell_page_in(struct cell *c, uint64_t la, bool write);
void cell_pages_flush(struct cell *c);
bool cell_command(struct cell *c, struct cell_command command);

// --- when.c
// Whether the vCPU's user code should run in a cell now.
bool cells_wanted(struct dbt_vcpu *v);
// Not before the next interrupt.
void cells_refuse(struct dbt_vcpu *v);
// An interrupt was taken, from user code or not.
void cells_note_interrupt(struct dbt_vcpu *v, bool user);
// The cell is given to a program.
void cell_credit(struct cell *c);
// After a stay of so many visits, some of which ended because of a page.
void cell_judge(struct cell *c, unsigned visits, unsigned pages);
uint64_t cells_now(void); // ns

// --- run.c
// Takes what its cells may come to out of *code_cache, the bytes that the vCPU may use for translated code; makes none
// if that is too little.
int cells_create(struct dbt_vcpu *v, uint64_t *code_cache, struct error *err);
void cells_destroy(struct dbt_vcpu *v);
// Does so; false if it could not be done. The guest's vector state must be parked.
bool cells_run(struct dbt_vcpu *v);
// The guest's state is lost: the vCPU cannot go on.
bool cells_lost(const struct dbt_vcpu *v);
// What may no longer be true: a translation of the current context; what is mapped writable (NULL: anything); code at
// [gpa, gpa+size); everything.
void cells_flush_page(struct dbt_vcpu *v, uint64_t la, unsigned shift);
void cells_protect(struct dbt_vcpu *v, const uint8_t *host);
void cells_code_written(struct dbt_vcpu *v, uint64_t gpa, uint64_t size);
void cells_forget(struct dbt_vcpu *v);
void cells_kick(struct dbt_vcpu *v); // any thread
