// Random guest programs, in pieces that can be taken out again.
//
// A piece is a few instructions that stay together; it may refer to others by number. Where the pieces lie is decided
// by program_lay(): one behind the other from some offset in the code pages on. So when a program shows a difference
// between engines, pieces can be taken out one by one for as long as the difference stays (test_sequences.c).
//
// The linear address space of a program (machine.c makes it):
//     code      CODE_PAGES pages, each of which has a twin in memory with the same contents
//     alias     the same pages (not the twins), writable
//     data      enum data_page
//     stack     an absent page, STACK_PAGES pages, an absent page
// and DIRECT_MAP and, at an address that is the same for all, the machine's own pages. Each base is chosen from a few
// that need different ways of addressing.
#pragma once
#include "test/diff/encode.h"
#include "test/diff/forms.h"
#include "test/diff/values.h"

enum {
    PAGE = 4096,
    CODE_PAGES = 4,
    CODE_SIZE = CODE_PAGES * PAGE,
    STACK_PAGES = 3,
    MAX_PIECES = 80,
    MAX_BYTES = 64, // of a piece
    MAX_REFERENCES = 3,
    GPRS = 16,
    // Where counters of loops and targets of jumps lie in DATA_OWN.
    COUNTERS = 0x800,
    TARGETS = 0xc00,
    TARGETS_TAKEN = 12, // those that calls use
    RAM = 0x80000,
    LARGE = 2 << 20, // a page of the direct map; so many of them, of which RAM is the beginning and the rest is ROM:
    LARGE_PAGES = 3,
    MAPPED_FIRST = 0x50000, // from here on RAM is the program's own,
    MAPPED_DATA = 0x60000,  // from here on its data
    // The top-level page table is its own entry of this number.
    TABLES_SLOT = 510,
    // Page table entries of pages that have twins differ from theirs by this.
    CODE_TWIN = 0x8000,
    SECOND_TWIN = 0xd000,
    PORT_INTERRUPT = 0x41, // a write to it asks for another interrupt
};

// At this address ring 0 finds all memory, by large pages that are global.
#define DIRECT_MAP 0xffffc80000000000ull

enum data_page {
    DATA_FIRST,    // writable; the next one is not its neighbour in memory, and has a twin with other contents
    DATA_SECOND,   // writable
    DATA_READONLY, // read-only
    DATA_ABSENT,   // absent
    DATA_ALIAS,    // DATA_FIRST once more
    DATA_DEVICE,   // no memory
    DATA_KERNEL,   // not for ring 3
    DATA_OWN,      // writable
    DATA_PAGES,
};

// What a piece's bytes refer to, and how.
enum reference {
    REF_SHORT, // 8-bit displacement to a piece
    REF_NEAR,  // 32-bit displacement to a piece
    REF_CODE,  // 64-bit address of a piece
    REF_ALIAS, // 64-bit address of a piece in the writable alias
};

struct piece {
    uint8_t bytes[MAX_BYTES];
    uint8_t len;
    uint8_t refs;
    struct {
        uint8_t kind, at, next; // next: offset of the instruction behind it
        uint8_t target;         // piece
        int16_t more;           // is added to addresses
    } ref[MAX_REFERENCES];
    uint8_t room;  // not 0: a jump over bytes that are no instruction, so that this many are left in the page
    uint8_t patch; // offset of an immediate byte that others may change, 0: none
    bool gone;
};

struct setup {
    bool user;          // ring 3, not 0
    bool smap, smep;    // and data is for users
    bool write_protect; // CR0.WP
    bool code_readonly;
    bool exact_flags; // flags are compared after faults, which is right only where instructions are counted
    bool no_sse;
    uint64_t code, alias, data, stack; // linear addresses
    uint64_t good_rsp;                 // what RSP becomes after a fault, 0: it stays
    unsigned faults;                   // so many at most
    unsigned interrupts;               // so many, as soon as they are open; see PORT_INTERRUPT
    unsigned start;                    // offset in the code pages
    uint64_t seed;                     // of memory's contents and the order of pages
    uint64_t gpr[GPRS], rflags;
    _Alignas(64) uint8_t xsave[832];
};

struct program {
    struct setup setup;
    struct piece piece[MAX_PIECES];
    unsigned pieces;
};

// What the machine needs to know of where pieces lie.
struct image {
    uint8_t code[CODE_SIZE];
    uint16_t next[CODE_SIZE];      // offset of the piece behind the one that this byte belongs to; NOWHERE: none
    uint16_t piece_at[MAX_PIECES]; // offset of each
    uint16_t end;
};
enum { NOWHERE = 0xffff };

// The forms that programs are made of, sorted by kind. False if there is no memory.
struct grammar;
struct cpu_model;
struct grammar *grammar_make(const struct cpu_model *model);
void grammar_free(struct grammar *g);
// A program from a seed: the same seed always gives the same program.
void program_make(struct program *p, const struct grammar *g, uint64_t seed);
// False: it does not fit.
bool program_lay(const struct program *p, struct image *image);
