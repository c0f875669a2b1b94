// Memory in messages: see pages.h.
#include "migrate/pages.h"
#include "migrate/frame.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

enum { CONTENTS = PAGES_BATCH * PAGE_BYTES, LEVEL = 1 };

bool page_is_zero(const void *page)
{
    const uint64_t *word = page;
    // Most pages that aren't zero show it at once.
    for (unsigned i = 0; i < PAGE_BYTES / 8; i += 8)
        if (word[i] | word[i + 1] | word[i + 2] | word[i + 3] | word[i + 4] | word[i + 5] | word[i + 6] | word[i + 7])
            return false;
    return true;
}

// --- writing pages

int pages_batch_init(struct pages_batch *b)
{
    *b = (struct pages_batch){.data = malloc(FRAME_HEADER + PAGES_PAYLOAD), .spare = malloc(CONTENTS)};
    return b->data && b->spare ? 0 : -ENOMEM;
}

void pages_batch_free(struct pages_batch *b)
{
    free(b->data);
    free(b->spare);
    ZSTD_freeCCtx(b->zstd);
}

void pages_add(struct pages_batch *b, uint64_t number, const void *page)
{
    b->number[b->count] = number;
    memcpy(b->spare + (size_t)b->count * PAGE_BYTES, page, PAGE_BYTES);
    b->count++;
}

size_t pages_finish(struct pages_batch *b, bool compress)
{
    uint8_t *payload = b->data + FRAME_HEADER;
    size_t head = 8 + (size_t)b->count * 8, bytes = (size_t)b->count * PAGE_BYTES, packed = 0;
    put_u32(payload, b->count);
    for (unsigned i = 0; i < b->count; i++)
        put_u64(payload + 8 + (size_t)i * 8, b->number[i]);
    if (compress && !b->zstd)
        b->zstd = ZSTD_createCCtx();
    if (compress && b->zstd) {
        packed = ZSTD_compressCCtx(b->zstd, payload + head, bytes, b->spare, bytes, LEVEL);
        if (ZSTD_isError(packed)) // it would not become smaller
            packed = 0;
    }
    put_u32(payload + 4, packed ? PAGES_ZSTD : 0);
    if (!packed)
        memcpy(payload + head, b->spare, bytes);
    b->count = 0;
    return head + (packed ? packed : bytes);
}

// --- writing ranges

int zeros_batch_init(struct zeros_batch *z)
{
    *z = (struct zeros_batch){.data = malloc(FRAME_HEADER + ZEROS_PAYLOAD)};
    return z->data ? 0 : -ENOMEM;
}

void zeros_batch_free(struct zeros_batch *z)
{
    free(z->data);
}

static void close_range_of(struct zeros_batch *z)
{
    if (z->first == z->end)
        return;
    uint8_t *at = z->data + FRAME_HEADER + (size_t)z->count * 16;
    put_u64(at, z->first);
    put_u64(at + 8, z->end - z->first);
    z->count++;
    z->first = z->end = 0;
}

bool zeros_add(struct zeros_batch *z, uint64_t number)
{
    if (z->first != z->end && z->end == number) {
        z->end++;
        return true;
    }
    if (z->count + (z->first != z->end) == ZEROS_BATCH)
        return false;
    close_range_of(z);
    z->first = number;
    z->end = number + 1;
    return true;
}

size_t zeros_finish(struct zeros_batch *z)
{
    close_range_of(z);
    size_t size = (size_t)z->count * 16;
    z->count = 0;
    return size;
}

// --- reading

static int wrong(struct error *err)
{
    return error_set(err, EPROTO, "migration stream: pages that make no sense");
}

static int unpack(const uint8_t *data, size_t size, size_t bytes, struct pages_ram *ram)
{
    if (!ram->zstd)
        ram->zstd = ZSTD_createDCtx();
    if (!ram->room)
        ram->room = malloc(CONTENTS);
    if (!ram->zstd || !ram->room)
        return -ENOMEM;
    return ZSTD_decompressDCtx(ram->zstd, ram->room, bytes, data, size) == bytes ? 0 : -EPROTO;
}

int pages_apply(const uint8_t *payload, size_t size, struct pages_ram *ram, uint64_t *count, struct error *err)
{
    uint32_t pages = size < 8 ? 0 : get_u32(payload), flags = size < 8 ? 0 : get_u32(payload + 4);
    size_t head = 8 + (size_t)pages * 8, bytes = (size_t)pages * PAGE_BYTES;
    if (!pages || pages > PAGES_BATCH || flags & ~(uint32_t)PAGES_ZSTD || size < head)
        return wrong(err);
    const uint8_t *contents = payload + head;
    if (flags & PAGES_ZSTD) {
        int e = unpack(contents, size - head, bytes, ram);
        if (e)
            return e == -ENOMEM ? error_set(err, ENOMEM, "migration stream: out of memory") : wrong(err);
        contents = ram->room;
    } else if (size - head != bytes) {
        return wrong(err);
    }
    for (uint32_t i = 0; i < pages; i++) {
        uint64_t number = get_u64(payload + 8 + (size_t)i * 8);
        if (number >= ram->size / PAGE_BYTES)
            return error_set(err, EPROTO, "migration stream: a page lies outside of the machine's memory");
        memcpy(ram->base + number * PAGE_BYTES, contents + (size_t)i * PAGE_BYTES, PAGE_BYTES);
    }
    *count = pages;
    return 0;
}

int zeros_apply(const uint8_t *payload, size_t size, struct pages_ram *ram, uint64_t *count, struct error *err)
{
    if (!size || size % 16)
        return wrong(err);
    *count = 0;
    for (size_t at = 0; at < size; at += 16) {
        uint64_t first = get_u64(payload + at), pages = get_u64(payload + at + 8), all = ram->size / PAGE_BYTES;
        if (first >= all || !pages || pages > all - first || *count + pages > all)
            return error_set(err, EPROTO, "migration stream: a page lies outside of the machine's memory");
        if (ram->zero)
            ram->zero(ram->ctx, first * PAGE_BYTES, pages * PAGE_BYTES);
        else
            memset(ram->base + first * PAGE_BYTES, 0, pages * PAGE_BYTES);
        *count += pages;
    }
    return 0;
}

void pages_ram_free(struct pages_ram *ram)
{
    ZSTD_freeDCtx(ram->zstd);
    free(ram->room);
    ram->zstd = NULL;
    ram->room = NULL;
}
