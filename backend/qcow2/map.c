// From guest offsets to places in the file, and changing where they lead ("Cluster mapping" in qcow2.txt).
//
// Invariants: the L1 table is in memory as a whole, in the host's byte order; L2 tables are in a cache. An entry of
// either has the flag COPIED iff the refcount of what it points to is 1. An L2 table without it is shared with a
// snapshot: it is copied before it is changed, and so are clusters of data. (When a snapshot was made, both its tables'
// and its data's refcounts were counted up, so copying a table changes no refcount of data.)
#include "backend/qcow2/image.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static uint64_t l1_index(const struct qcow2 *q, uint64_t offset)
{
    return cluster_of(q, offset) >> q->l2_bits;
}

static uint32_t l2_index(const struct qcow2 *q, uint64_t offset)
{
    return (uint32_t)(cluster_of(q, offset) & ((1u << q->l2_bits) - 1));
}

// Where the table is that an L1 entry points to; 0: nowhere. -EIO: nonsense.
static int table_offset(const struct qcow2 *q, uint64_t l1, uint64_t *offset)
{
    *offset = l1 & ENTRY_OFFSET;
    return (l1 & ~(ENTRY_OFFSET | ENTRY_COPIED)) || *offset % q->cluster ? -EIO : 0;
}

void map_compressed(const struct qcow2 *q, uint64_t entry, uint64_t *offset, uint64_t *bytes)
{
    unsigned shift = 62 - (q->h.cluster_bits - 8);
    *offset = entry & ((1ull << shift) - 1);
    uint64_t sectors = (entry & (ENTRY_COMPRESSED - 1)) >> shift;
    *bytes = (sectors + 1) * 512 - *offset % 512;
}

static int classify(const struct qcow2 *q, uint64_t entry, struct extent *x)
{
    *x = (struct extent){.kind = EXTENT_ABSENT};
    if (entry & ENTRY_COMPRESSED) {
        x->kind = EXTENT_COMPRESSED;
        x->host = entry;
        return entry & ENTRY_COPIED ? -EIO : 0;
    }
    uint64_t host = entry & ENTRY_OFFSET;
    if ((entry & ENTRY_RESERVED) || host % q->cluster || ((entry & ENTRY_ZERO) && q->h.version < 3))
        return -EIO;
    if (entry & ENTRY_ZERO) {
        x->kind = EXTENT_ZERO;
    } else if (host) {
        x->kind = EXTENT_DATA;
        x->host = host;
        x->copied = entry & ENTRY_COPIED;
    }
    return 0;
}

static bool follows(const struct extent *a, const struct extent *b, uint64_t bytes)
{
    return a->kind == b->kind && a->kind != EXTENT_COMPRESSED &&
           (a->kind != EXTENT_DATA || (a->host + bytes == b->host && a->copied == b->copied));
}

int map_find(struct qcow2 *q, uint64_t offset, uint64_t length, struct extent *out)
{
    uint64_t within = offset & (q->cluster - 1), at;
    uint32_t i = l2_index(q, offset), entries = 1u << q->l2_bits;
    uint64_t most = ((uint64_t)(entries - i) << q->h.cluster_bits) - within; // to the end of this L2 table
    if (l1_index(q, offset) >= q->h.l1_entries)
        return -EIO;
    int e = table_offset(q, q->l1[l1_index(q, offset)], &at);
    if (e)
        return e;
    if (length > most)
        length = most;
    if (!at) {
        *out = (struct extent){.kind = EXTENT_ABSENT, .length = length};
        return 0;
    }
    struct table *t;
    if ((e = cache_get(q, &q->l2, at, false, &t)) || (e = classify(q, load_be(t->data + i * 8, 8), out)))
        return e;
    uint64_t run = q->cluster;
    while (run - within < length) {
        struct extent next;
        if (classify(q, load_be(t->data + ++i * 8, 8), &next) || !follows(out, &next, run))
            break;
        run += q->cluster;
    }
    out->length = run - within < length ? run - within : length;
    if (out->kind == EXTENT_DATA)
        out->host += within;
    return 0;
}

static void l1_set(struct qcow2 *q, uint32_t i, uint64_t entry)
{
    q->l1[i] = entry;
    dirty_entries_add(&q->l1_dirty, i);
}

// The L2 table for offset, ready to be changed: a new one where there is none, a copy of one that is shared.
static int writable(struct qcow2 *q, uint64_t offset, struct table **out)
{
    uint32_t i = (uint32_t)l1_index(q, offset);
    uint64_t old, first, got;
    if (l1_index(q, offset) >= q->h.l1_entries)
        return -EIO;
    int e = table_offset(q, q->l1[i], &old);
    if (e)
        return e;
    if (old && (q->l1[i] & ENTRY_COPIED))
        return cache_get(q, &q->l2, old, false, out);
    uint8_t *copy = NULL;
    if (old) {
        copy = malloc(q->cluster);
        e = copy ? cache_get(q, &q->l2, old, false, out) : -ENOMEM;
        if (!e)
            memcpy(copy, (*out)->data, q->cluster);
    }
    if (!e)
        e = refcount_alloc(q, 1, &first, &got);
    if (!e) {
        e = cache_get(q, &q->l2, first << q->h.cluster_bits, true, out);
        if (e)
            refcount_drop(q, first, 1);
    }
    if (!e && copy)
        memcpy((*out)->data, copy, q->cluster);
    free(copy);
    if (e)
        return e;
    l1_set(q, i, first << q->h.cluster_bits | ENTRY_COPIED);
    return old ? refcount_free(q, cluster_of(q, old), 1) : 0;
}

// Gives back what an entry pointed to.
static int release(struct qcow2 *q, uint64_t entry)
{
    if (entry & ENTRY_COMPRESSED) {
        uint64_t offset, bytes;
        map_compressed(q, entry, &offset, &bytes);
        uint64_t first = cluster_of(q, offset);
        return refcount_free(q, first, cluster_of(q, offset + bytes - 1) - first + 1);
    }
    uint64_t host = entry & ENTRY_OFFSET;
    return host ? refcount_free(q, cluster_of(q, host), 1) : 0;
}

int map_set(struct qcow2 *q, uint64_t offset, uint64_t count, uint64_t entry, uint64_t *done)
{
    bool data = entry & ENTRY_OFFSET;
    struct table *t;
    *done = 0;
    int e = count ? writable(q, offset, &t) : 0;
    uint32_t i = l2_index(q, offset), first = i;
    if (e)
        return e;
    if (count > (1u << q->l2_bits) - i)
        count = (1u << q->l2_bits) - i;
    for (; !e && *done < count; ++*done, i++) {
        uint64_t old = load_be(t->data + i * 8, 8);
        store_be(t->data + i * 8, 8, entry);
        e = release(q, old); // only memory can be short here: the entry is right, at worst something leaks
        if (data)
            entry += q->cluster;
    }
    cache_dirty(&q->l2, t, first * 8, (i - first) * 8);
    return e;
}
