// Decoded instructions, kept in blocks.
//
// A block is a run of instructions that were decoded together: it starts where the guest jumped to and ends with an
// unconditional transfer, at the end of the page, or after BLOCK_INSNS. Conditional branches don't end it, they leave
// it when taken. It is found by the guest-physical address of its first byte and by the mode it was decoded for, so it
// serves all address spaces that map the page. An instruction that crosses into the next page is a block of its own.
//
// Each vCPU has its own cache. What makes a block valid is written in ram.h: the page word noted at decoding must be
// the page's word now. If it is not, the bytes are compared: often something else on the page was written, and the
// block is good again.
//
// Memory: blocks are cut from one arena of fixed size; when it is used up, everything is dropped.
//
// Example: for (;;) { b = cache_find(v); run b->insn[0..count) }
#pragma once
#include "engine/interp/shared.h"

enum { BLOCK_INSNS = 32, CACHE_ARENA = 24 << 20, CACHE_BUCKETS = 1 << 15 };

struct interp_block {
    struct interp_block *next; // in its bucket
    page_word *page[2];        // [1]: of the second page, for an instruction that crosses; else NULL
    uint64_t word[2];          // page words noted
    uint64_t gpa[2];           // of the first byte; of the second page
    uint16_t size, count;      // bytes, instructions
    uint8_t key;               // enum interp_mode, and BLOCK_SINGLE
    _Alignas(64) struct interp_insn insn[];
    // the instructions' bytes follow
};

// A block for single-stepping: it holds one instruction only.
#define BLOCK_SINGLE 0x80

int cache_create(struct interp_vcpu *v, struct error *err);
void cache_destroy(struct interp_vcpu *v);
void cache_flush(struct interp_vcpu *v); // no block is running

// The block at CS:RIP; `single`: with one instruction. NULL: the fetch faults, v->fault says how.
struct interp_block *cache_find(struct interp_vcpu *v, bool single);

// The block that runs now (for cache_written), or NULL.
void cache_running(struct interp_vcpu *v, struct interp_block *b);

// This vCPU has written code bytes. If they belong to the block it is running, that ends after the current instruction.
void cache_written(struct interp_vcpu *v, uint64_t gpa, unsigned size);
