// Tables of an image in memory: L2 tables in one cache, refcount blocks in another.
//
// A cache has a number of slots that its size in bytes decides: 4 MiB, but at least 4 tables and at most 8192. With
// clusters of 64 KiB that maps 32 GiB. The slot to be reused is found by a clock's hand, which passes over what was
// used since it came by last. A slot's memory is had when it is first needed.
//
// Invariant: a table is in the bucket of its offset iff offset is not 0; `dirty` of the cache counts its dirty tables.
#include "backend/qcow2/image.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { CACHE_BYTES = 4 << 20, SLOTS_MIN = 4, SLOTS_MAX = 8192 };

int cache_init(struct table_cache *c, uint32_t table_size, int (*clean)(struct qcow2 *q, struct table *t))
{
    unsigned slots = CACHE_BYTES / table_size;
    slots = slots < SLOTS_MIN ? SLOTS_MIN : slots > SLOTS_MAX ? SLOTS_MAX : slots;
    *c = (struct table_cache){.slots = slots, .size = table_size, .clean = clean};
    c->slot = calloc(slots, sizeof *c->slot);
    c->bucket = calloc(slots, sizeof *c->bucket);
    return c->slot && c->bucket ? 0 : -ENOMEM;
}

void cache_free(struct table_cache *c)
{
    for (unsigned i = 0; c->slot && i < c->slots; i++)
        free(c->slot[i].data);
    free(c->slot);
    free(c->bucket);
}

static struct table **bucket_of(const struct table_cache *c, uint64_t offset)
{
    return &c->bucket[offset / c->size % c->slots];
}

static struct table *find(const struct table_cache *c, uint64_t offset)
{
    struct table *t = *bucket_of(c, offset);
    while (t && t->offset != offset)
        t = t->next;
    return t;
}

static void unlink_table(struct table_cache *c, struct table *t)
{
    if (!t->offset)
        return;
    struct table **at = bucket_of(c, t->offset);
    while (*at != t)
        at = &(*at)->next;
    *at = t->next;
    t->offset = 0;
    if (t->dirty < t->dirty_end)
        c->dirty--;
    t->dirty = t->dirty_end = 0;
}

static int make_room(struct qcow2 *q, struct table_cache *c, struct table **out)
{
    struct table *t;
    for (;;) {
        t = &c->slot[c->hand];
        c->hand = (c->hand + 1) % c->slots;
        if (!t->offset || !t->used)
            break;
        t->used = false;
    }
    if (t->dirty < t->dirty_end) {
        int e = c->clean(q, t);
        if (e)
            return e;
    }
    unlink_table(c, t);
    if (!t->data)
        t->data = malloc(c->size);
    *out = t;
    return t->data ? 0 : -ENOMEM;
}

int cache_get(struct qcow2 *q, struct table_cache *c, uint64_t offset, bool fresh, struct table **out)
{
    struct table *t = find(c, offset);
    if (t && fresh) {
        unlink_table(c, t);
        t = NULL;
    }
    if (!t) {
        if (!offset || offset % c->size)
            return -EIO;
        int e = make_room(q, c, &t);
        if (e)
            return e;
        struct iovec v = {t->data, c->size};
        if (fresh)
            memset(t->data, 0, c->size);
        else if (file_size(q->fd) <= offset) // a file may end within its last table, but not before it
            return -EIO;
        else if ((e = file_readv(q->fd, &v, 1, offset)))
            return e;
        t->offset = offset;
        t->next = *bucket_of(c, offset);
        *bucket_of(c, offset) = t;
        if (fresh)
            cache_dirty(c, t, 0, c->size);
    }
    t->used = true;
    *out = t;
    return 0;
}

void cache_dirty(struct table_cache *c, struct table *t, uint32_t at, uint32_t bytes)
{
    if (t->dirty == t->dirty_end) {
        t->dirty = at;
        t->dirty_end = at + bytes;
        c->dirty++;
        return;
    }
    if (at < t->dirty)
        t->dirty = at;
    if (at + bytes > t->dirty_end)
        t->dirty_end = at + bytes;
}

int cache_write(struct qcow2 *q, struct table_cache *c, struct table *t)
{
    if (t->dirty == t->dirty_end)
        return 0;
    int e = file_write(q->fd, t->data + t->dirty, t->dirty_end - t->dirty, t->offset + t->dirty);
    if (e)
        return e;
    t->dirty = t->dirty_end = 0;
    c->dirty--;
    return 0;
}

int cache_write_all(struct qcow2 *q, struct table_cache *c)
{
    for (unsigned i = 0; c->dirty && i < c->slots; i++) {
        int e = cache_write(q, c, &c->slot[i]);
        if (e)
            return e;
    }
    return 0;
}

void cache_drop(struct table_cache *c, uint64_t offset)
{
    struct table *t = find(c, offset);
    if (t)
        unlink_table(c, t);
}
