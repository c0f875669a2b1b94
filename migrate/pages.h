// Memory in messages: pages by number, and ranges that are zero.
//
// PAGES: count (4 bytes, 1 to PAGES_BATCH), flags (4; PAGES_ZSTD), count page numbers (8 each), and the pages' contents
// one behind the other, or, with PAGES_ZSTD, one zstd frame of them. ZEROS: pairs of first page and number of pages (8
// each), at most ZEROS_BATCH. A page is PAGE_BYTES of RAM; number 0 is where RAM begins. Nothing is said of pages that
// have been zero from the beginning.
//
// Example:
//     pages_add(&b, n, ram + n * PAGE_BYTES); ... size = pages_finish(&b, false);    payload: b.data + FRAME_HEADER
//     pages_apply(payload, size, &ram, &count, &err);
#pragma once
#include "report/error.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    PAGE_BYTES = 4096,
    PAGES_BATCH = 256,
    PAGES_ZSTD = 1,
    PAGES_PAYLOAD = 8 + PAGES_BATCH * (8 + PAGE_BYTES) + 8192, // zstd may add a little to what can't be compressed
    ZEROS_BATCH = 4096,
    ZEROS_PAYLOAD = 16 * ZEROS_BATCH,
};

struct pages_batch {
    uint8_t *data; // room for a header of frame.h and the payload
    uint8_t *spare;
    void *zstd;
    unsigned count;
    uint64_t number[PAGES_BATCH];
};

int pages_batch_init(struct pages_batch *b); // -ENOMEM
void pages_batch_free(struct pages_batch *b);
void pages_add(struct pages_batch *b, uint64_t number, const void *page); // fewer than PAGES_BATCH are in it
// The payload is complete: its size. The batch begins anew with the next pages_add.
size_t pages_finish(struct pages_batch *b, bool compress);

struct zeros_batch {
    uint8_t *data; // as above
    unsigned count;
    uint64_t first, end; // the range that grows; none: equal
};

int zeros_batch_init(struct zeros_batch *z);
void zeros_batch_free(struct zeros_batch *z);
bool zeros_add(struct zeros_batch *z, uint64_t number); // false: it is full, and this one not in it
size_t zeros_finish(struct zeros_batch *z);             // 0: there are none

struct pages_ram {
    uint8_t *base;
    uint64_t size; // bytes
    // Makes [at, at+size) of it zero. NULL: by writing.
    void (*zero)(void *ctx, uint64_t at, uint64_t size);
    void *ctx;
    void *zstd; // decompressor; made when it is needed
    uint8_t *room;
};

// -EPROTO: it makes no sense; some of it may have been applied. *count: pages in it.
int pages_apply(const uint8_t *payload, size_t size, struct pages_ram *ram, uint64_t *count, struct error *err);
int zeros_apply(const uint8_t *payload, size_t size, struct pages_ram *ram, uint64_t *count, struct error *err);
void pages_ram_free(struct pages_ram *ram); // what decompressing needed; not the memory itself

bool page_is_zero(const void *page);
