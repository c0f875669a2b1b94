// Guest-physical memory as the engine sees it: regions of host memory, and a word of state per page.
//
// The page word says what must happen when the page is written: PAGE_CODE, some vCPU has decoded instructions of it;
// PAGE_LOG, the dirty log has not heard of it yet. Its upper bits are a generation that counts writes to code. The
// protocol, for vCPUs and devices alike:
//     a writer stores first and looks at the word afterwards; with PAGE_CODE set it steps the generation
//     a reader of code sets PAGE_CODE, issues world_barrier(), notes the word, then reads the bytes
// so a write is either seen by the reader or steps the generation that the reader has noted. Decoded code is good as
// long as the word (without PAGE_LOG) is what was noted. PAGE_CODE is dropped, with a step, when a page is written
// often, so that a page that once held code does not stay slow.
//
// The regions change only while the world is stopped: a vCPU that is in the guest reads them without a lock. Others
// hold `lock`.
#pragma once
#include "report/error.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct interp_vcpu;
struct interp_vm;

typedef _Atomic uint64_t page_word;

#define PAGE_SIZE 4096u
#define PAGE_CODE 1ull
#define PAGE_LOG 2ull
// Another engine's translated code may write the page without looking at its word (struct interp_mirror).
#define PAGE_INLINE 4ull
// The host was asked for the memory of this page and those around it (ram_populate).
#define PAGE_THERE 8ull
#define PAGE_STEP 256ull // one generation
#define PAGE_VERSION (~(PAGE_LOG | PAGE_INLINE | PAGE_THERE))
// Every so many steps PAGE_CODE is dropped.
#define PAGE_PATIENCE (64 * PAGE_STEP)

enum { RAM_REGIONS = 64 };

struct ram_region {
    uint64_t gpa, size;
    uint8_t *host;
    bool readonly;
    bool sparing;            // engine_tuning
    page_word *page;         // one per page
    _Atomic uint64_t *dirty; // one bit per page; NULL when not logging
};

struct interp_ram {
    pthread_mutex_t lock; // for those outside of the guest; taken after the world is stopped
    unsigned count;
    struct ram_region region[RAM_REGIONS]; // sorted by gpa
    bool logging;
};

int ram_init(struct interp_ram *r, struct error *err);
void ram_destroy(struct interp_ram *r);

// The region of a guest-physical address, or NULL: nobody's memory.
static inline const struct ram_region *ram_find(const struct interp_ram *r, uint64_t gpa)
{
    for (unsigned n = 0; n < r->count; n++)
        if (gpa - r->region[n].gpa < r->region[n].size)
            return &r->region[n];
    return NULL;
}

// Host address of a byte of guest memory, or NULL. Good up to the end of its page.
static inline uint8_t *ram_at(const struct interp_ram *r, uint64_t gpa)
{
    const struct ram_region *g = ram_find(r, gpa);
    return g ? g->host + (gpa - g->gpa) : NULL;
}

// After a write to [gpa, gpa+size) of one page whose word has PAGE_CODE or PAGE_LOG. `v` is the vCPU that wrote (its
// own current block is checked at once), or NULL.
void ram_touched(struct interp_vm *vm, struct interp_vcpu *v, page_word *page, uint64_t gpa, unsigned size);

// Marks a page as code and returns its word; every write from then on steps it. `v` is in the guest. Afterwards, with
// v->flush_wanted set, the memory map may have changed: `page` and host pointers are void.
uint64_t ram_mark_code(struct interp_vcpu *v, page_word *page);

// Asks the host for the memory around gpa, which lies in r: one system call for many pages is much cheaper than as many
// page faults. No matter if it fails.
void ram_populate(const struct ram_region *r, uint64_t gpa);

// Engine operations; see engine/engine.h.
int ram_map(struct interp_vm *vm, uint64_t gpa, uint64_t size, void *host, bool readonly, struct error *err);
int ram_unmap(struct interp_vm *vm, uint64_t gpa, uint64_t size, struct error *err);
void ram_invalidate(struct interp_vm *vm, uint64_t gpa, uint64_t size);
void ram_discarded(struct interp_vm *vm, uint64_t gpa, uint64_t size);
int ram_log_start(struct interp_vm *vm, struct error *err);
void ram_log_stop(struct interp_vm *vm);
int ram_log_fetch(struct interp_vm *vm, uint64_t gpa, uint64_t size, uint64_t *bitmap);
