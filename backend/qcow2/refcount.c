// How many refer to each cluster of the file, and finding free ones ("Host cluster management" in qcow2.txt).
//
// Refcounts are numbers of 1 to 64 bits in blocks of one cluster, which the reftable finds. A block is made when the
// first cluster it describes is needed, and lies among the clusters it describes if it can; when the reftable is full,
// a longer one is built behind everything else, and the header turned to it in one write.
//
// Nothing here counts up beyond 1: sharing clusters is for those who make snapshots. Counting down happens in two ways:
// at once for what nothing ever pointed to (refcount_drop), after the next commit for the rest (refcount_free), so that
// no cluster is used anew while the file still has a pointer to it.
//
// Invariants: all clusters below `hint` are in use; none from `top` on is. A search looks at SEARCH_MAX clusters and
// then goes on at top: an image whose blocks claim that all is taken costs bounded time.
#include "backend/qcow2/image.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SEARCH_MAX = 1 << 26, BEYOND_MAX = 1 << 20 };

uint64_t refcount_load(const uint8_t *block, unsigned order, uint64_t index)
{
    if (order >= 3)
        return load_be(block + (index << (order - 3)), 1u << (order - 3));
    unsigned bits = 1u << order, per_byte = 8 / bits;
    return block[index / per_byte] >> (index % per_byte * bits) & ((1u << bits) - 1);
}

void refcount_store(uint8_t *block, unsigned order, uint64_t index, uint64_t value)
{
    if (order >= 3) {
        store_be(block + (index << (order - 3)), 1u << (order - 3), value);
        return;
    }
    unsigned bits = 1u << order, per_byte = 8 / bits, shift = (unsigned)(index % per_byte) * bits;
    uint8_t *b = &block[index / per_byte];
    *b = (uint8_t)((*b & ~(((1u << bits) - 1) << shift)) | value << shift);
}

static uint64_t index_of(const struct qcow2 *q, uint64_t cluster)
{
    return cluster & ((1ull << q->rb_bits) - 1);
}

static void reftable_set(struct qcow2 *q, uint32_t i, uint64_t offset)
{
    q->reftable[i] = offset;
    dirty_entries_add(&q->reftable_dirty, i);
}

// The block that describes the cluster. *out is NULL where there is none.
static int block_of(struct qcow2 *q, uint64_t cluster, struct table **out)
{
    uint64_t i = cluster >> q->rb_bits;
    *out = NULL;
    if (i >= q->reftable_entries || !q->reftable[i])
        return 0;
    if (q->reftable[i] % q->cluster || q->reftable[i] > ENTRY_OFFSET)
        return image_broken(q);
    return cache_get(q, &q->rb, q->reftable[i], false, out);
}

int refcount_get(struct qcow2 *q, uint64_t cluster, uint64_t *value)
{
    struct table *t;
    int e = block_of(q, cluster, &t);
    *value = !e && t ? refcount_load(t->data, q->h.refcount_order, index_of(q, cluster)) : 0;
    return e;
}

static void store_in(struct qcow2 *q, struct table *t, uint64_t cluster, uint64_t value)
{
    uint64_t bit = index_of(q, cluster) << q->h.refcount_order;
    refcount_store(t->data, q->h.refcount_order, index_of(q, cluster), value);
    cache_dirty(&q->rb, t, (uint32_t)(bit / 8), q->h.refcount_order < 3 ? 1 : 1u << (q->h.refcount_order - 3));
}

// --- growing

// Writes blocks for the clusters from `start` on that describe themselves and a new reftable behind them.
static int write_grown(struct qcow2 *q, uint64_t start, uint64_t blocks, const uint64_t *table, uint32_t clusters)
{
    uint64_t first = start >> q->rb_bits, end = start + blocks + clusters;
    uint8_t *b = malloc(q->cluster);
    int e = b ? 0 : -ENOMEM;
    for (uint64_t n = 0; !e && n < blocks; n++) {
        uint64_t base = (first + n) << q->rb_bits;
        memset(b, 0, q->cluster);
        for (uint64_t c = base < start ? start : base; c < end && c >> q->rb_bits == first + n; c++)
            refcount_store(b, q->h.refcount_order, index_of(q, c), 1);
        e = file_write(q->fd, b, q->cluster, (start + n) << q->h.cluster_bits);
    }
    for (uint32_t n = 0; !e && n < clusters; n++) {
        for (uint64_t i = 0; i < q->cluster / 8; i++)
            store_be(b + i * 8, 8, table[n * (q->cluster / 8) + i]);
        e = file_write(q->fd, b, q->cluster, (start + blocks + n) << q->h.cluster_bits);
    }
    free(b);
    return e;
}

static int sync_file(const struct qcow2 *q)
{
    return fdatasync(q->fd) ? -errno : 0;
}

// A reftable of at least twice the entries, such that `needed` is one of them.
static int grow_reftable(struct qcow2 *q, uint64_t needed)
{
    uint64_t per = q->cluster / 8, start = (uint64_t)q->reftable_entries << q->rb_bits, blocks = 1, clusters = 1;
    if (start < q->top)
        start = q->top;
    for (;;) { // blocks and table describe themselves: each makes the other grow
        uint64_t last = (start + blocks + clusters - 1) >> q->rb_bits, want = 2ull * q->reftable_entries;
        uint64_t b = last - (start >> q->rb_bits) + 1;
        want = want <= last ? last + 1 : want;
        want = want <= needed ? needed + 1 : want;
        uint64_t c = (want + per - 1) / per;
        if (c * q->cluster > REFTABLE_BYTES_MAX)
            return -EFBIG;
        if (b == blocks && c == clusters)
            break;
        blocks = b > blocks ? b : blocks;
        clusters = c > clusters ? c : clusters;
    }
    if ((start + blocks + clusters) > ENTRY_OFFSET >> q->h.cluster_bits)
        return -EFBIG;
    uint64_t *table = calloc(clusters * per, sizeof *table);
    if (!table)
        return -ENOMEM;
    memcpy(table, q->reftable, (size_t)q->reftable_entries * sizeof *table);
    for (uint64_t n = 0; n < blocks; n++)
        table[(start >> q->rb_bits) + n] = (start + n) << q->h.cluster_bits;
    // The new table also points to blocks that may not have been written yet.
    int e = cache_write_all(q, &q->rb);
    if (!e)
        e = write_grown(q, start, blocks, table, (uint32_t)clusters);
    if (!e)
        e = sync_file(q);
    uint8_t place[12];
    store_be(place, 8, (start + blocks) << q->h.cluster_bits);
    store_be(place + 8, 4, clusters);
    if (!e)
        e = file_write(q->fd, place, sizeof place, 48);
    if (!e)
        e = sync_file(q);
    if (e) {
        free(table);
        return e;
    }
    uint64_t old = cluster_of(q, q->h.reftable_offset), old_count = q->h.reftable_clusters;
    free(q->reftable);
    q->reftable = table;
    q->reftable_entries = (uint32_t)(clusters * per);
    q->reftable_dirty = (struct dirty_entries){0, 0};
    q->h.reftable_offset = (start + blocks) << q->h.cluster_bits;
    q->h.reftable_clusters = (uint32_t)clusters;
    q->top = start + blocks + clusters;
    return refcount_free(q, old, old_count);
}

// Makes block i. It is put where it describes itself, or, if that part of the file is in use already though there is no
// block (after a crash with lazy refcounts), behind everything else.
static int make_block(struct qcow2 *q, uint64_t i)
{
    for (;;) {
        uint64_t place = i << q->rb_bits, used;
        if (place < q->top)
            place = q->top;
        uint64_t j = place >> q->rb_bits;
        struct table *t;
        int e = 0;
        if (place > ENTRY_OFFSET >> q->h.cluster_bits)
            return -EFBIG;
        if (i >= q->reftable_entries || j >= q->reftable_entries) {
            if ((e = grow_reftable(q, i > j ? i : j)))
                return e;
            if (q->reftable[i])
                return 0;
            continue;
        }
        if (j != i && !q->reftable[j]) { // then `place` is free, and block j goes there
            e = cache_get(q, &q->rb, place << q->h.cluster_bits, true, &t);
            if (e)
                return e;
            store_in(q, t, place, 1);
            reftable_set(q, (uint32_t)j, place << q->h.cluster_bits);
            q->top = place + 1;
            continue;
        }
        if (j != i) {
            if ((e = refcount_get(q, place, &used)))
                return e;
            if (used) {
                q->top = place + 1;
                continue;
            }
            if ((e = refcount_put(q, place, 1)))
                return e;
        }
        e = cache_get(q, &q->rb, place << q->h.cluster_bits, true, &t);
        if (e)
            return e;
        if (j == i)
            store_in(q, t, place, 1);
        reftable_set(q, (uint32_t)i, place << q->h.cluster_bits);
        q->top = place + 1;
        return 0;
    }
}

int refcount_put(struct qcow2 *q, uint64_t cluster, uint64_t value)
{
    struct table *t;
    int e = block_of(q, cluster, &t);
    if (!e && !t) {
        e = make_block(q, cluster >> q->rb_bits);
        if (!e)
            e = block_of(q, cluster, &t);
    }
    if (e)
        return e;
    if (!t)
        return image_broken(q);
    store_in(q, t, cluster, value);
    return 0;
}

// --- taking

static bool meets(const struct qcow2 *q, uint64_t first, uint64_t count, uint64_t offset, uint64_t bytes)
{
    uint64_t from = cluster_of(q, offset);
    return bytes && first < from + clusters_for(q, bytes) && from < first + count;
}

// Whether clusters that are said to be free are known to be in use: then refcounts are not to be trusted.
static bool in_use(const struct qcow2 *q, uint64_t first, uint64_t count)
{
    if (first == 0 || meets(q, first, count, q->h.l1_offset, (uint64_t)q->h.l1_entries * 8) ||
        meets(q, first, count, q->h.reftable_offset, (uint64_t)q->h.reftable_clusters << q->h.cluster_bits) ||
        (q->h.snapshots && meets(q, first, count, q->h.snapshots_offset, 1)))
        return true;
    uint64_t from = first << q->h.cluster_bits, to = (first + count) << q->h.cluster_bits;
    for (uint32_t i = 0; i < q->h.l1_entries; i++)
        if ((q->l1[i] & ENTRY_OFFSET) >= from && (q->l1[i] & ENTRY_OFFSET) < to)
            return true;
    for (uint32_t i = 0; i < q->reftable_entries; i++)
        if (q->reftable[i] >= from && q->reftable[i] < to)
            return true;
    return false;
}

// Finds the first free cluster from hint on, with its block.
static int search(struct qcow2 *q, uint64_t *found, struct table **block)
{
    uint64_t looked = 0, c = q->hint;
    uint64_t limit = q->top + BEYOND_MAX;
    for (;;) {
        if (looked > SEARCH_MAX && c < q->top)
            c = q->top;
        if (c > limit || c > ENTRY_OFFSET >> q->h.cluster_bits)
            return image_broken(q);
        int e = block_of(q, c, block);
        if (e)
            return e;
        if (!*block) {
            // A stretch without a block is free, unless it was in use before a crash: see make_block.
            e = make_block(q, c >> q->rb_bits);
            if (e)
                return e;
            if (limit < q->top + BEYOND_MAX)
                limit = q->top + BEYOND_MAX;
            continue;
        }
        uint64_t end = ((c >> q->rb_bits) + 1) << q->rb_bits;
        for (; c < end; c++, looked++)
            if (!refcount_load((*block)->data, q->h.refcount_order, index_of(q, c))) {
                *found = c;
                return 0;
            }
    }
}

int refcount_alloc(struct qcow2 *q, uint64_t want, uint64_t *first, uint64_t *got)
{
    struct table *t;
    if (q->broken)
        return -EIO;
    if ((q->h.compatible & COMPATIBLE_LAZY) && !(q->h.incompatible & INCOMPATIBLE_DIRTY)) {
        int e = header_set_incompatible(q, q->h.incompatible | INCOMPATIBLE_DIRTY);
        if (e)
            return e;
    }
    int e = search(q, first, &t);
    if (e)
        return e;
    uint64_t end = ((*first >> q->rb_bits) + 1) << q->rb_bits, n = 1;
    while (n < want && *first + n < end && !refcount_load(t->data, q->h.refcount_order, index_of(q, *first + n)))
        n++;
    if (in_use(q, *first, n))
        return image_broken(q);
    for (uint64_t c = *first; c < *first + n; c++)
        store_in(q, t, c, 1);
    *got = n;
    q->hint = *first + n;
    if (q->top < q->hint)
        q->top = q->hint;
    return 0;
}

// --- giving back

// The file system may have the space of free clusters; that it can't take it is no error.
static void punch(const struct qcow2 *q, uint64_t first, uint64_t count)
{
    if (count)
        (void)!fallocate(q->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(first << q->h.cluster_bits),
                         (off_t)(count << q->h.cluster_bits));
}

int refcount_drop(struct qcow2 *q, uint64_t first, uint64_t count)
{
    uint64_t free_from = first, c; // [free_from, c) are free now and not punched yet
    int e = 0;
    for (c = first; c < first + count; c++) {
        uint64_t n;
        e = refcount_get(q, c, &n);
        if (!e && !n)
            e = image_broken(q);
        if (!e)
            e = refcount_put(q, c, n - 1);
        if (e)
            break;
        if (n > 1) {
            punch(q, free_from, c - free_from);
            free_from = c + 1;
            continue;
        }
        if (c < q->hint)
            q->hint = c;
        cache_drop(&q->l2, c << q->h.cluster_bits); // should it have been a table
    }
    punch(q, free_from, c - free_from);
    return e;
}

int refcount_free(struct qcow2 *q, uint64_t first, uint64_t count)
{
    if (q->freed_count) { // often the neighbour of the last
        struct freed *last = &q->freed[q->freed_count - 1];
        if (last->first + last->count == first) {
            last->count += count;
            return 0;
        }
    }
    if (q->freed_count == q->freed_room) {
        unsigned room = q->freed_room ? 2 * q->freed_room : 64;
        struct freed *more = realloc(q->freed, room * sizeof *more);
        if (!more)
            return -ENOMEM;
        q->freed = more;
        q->freed_room = room;
    }
    q->freed[q->freed_count++] = (struct freed){first, count};
    return 0;
}

int refcount_free_pending(struct qcow2 *q)
{
    int e = 0;
    while (!e && q->freed_count) {
        struct freed f = q->freed[--q->freed_count];
        e = refcount_drop(q, f.first, f.count);
    }
    return e;
}
