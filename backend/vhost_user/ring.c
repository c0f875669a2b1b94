// The rings between us and a back end: see ring.h.
#include "backend/vhost_user/ring.h"
#include <errno.h>
#include <stdatomic.h>
#include <string.h>

enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4, USED_NO_NOTIFY = 1 };
enum { FLAGS = 0, IDX = 2, ELEMENTS = 4, TABLE_SIZE = 4096 };

struct descriptor { // 2.7.5
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next;
};
_Static_assert(sizeof(struct descriptor) * VHOST_BUFFERS_MAX == TABLE_SIZE, "a page for each slot");
_Static_assert(VHOST_RING_AVAILABLE >= VHOST_SLOTS * sizeof(struct descriptor), "descriptors and rings lie apart");
_Static_assert(VHOST_RING_TABLES - VHOST_RING_USED >= ELEMENTS + 8 * VHOST_SLOTS + 2, "rings and tables lie apart");

static _Atomic uint16_t *word(const struct vhost_ring *r, size_t at)
{
    return (_Atomic uint16_t *)(r->base + at);
}

void vhost_ring_init(struct vhost_ring *r, uint8_t *base, uint64_t gpa)
{
    *r = (struct vhost_ring){.base = base, .gpa = gpa};
}

void vhost_ring_submit(struct vhost_ring *r, uint16_t slot, const struct vhost_buffer *b, unsigned out, unsigned in)
{
    uint64_t table = VHOST_RING_TABLES + (uint64_t)slot * TABLE_SIZE;
    struct descriptor *d = (struct descriptor *)(r->base + table);
    unsigned count = out + in;
    for (unsigned i = 0; i < count; i++)
        d[i] = (struct descriptor){.addr = b[i].gpa,
                                   .len = b[i].len,
                                   .flags = (uint16_t)((i < out ? 0 : DESC_WRITE) | (i + 1 < count ? DESC_NEXT : 0)),
                                   .next = (uint16_t)(i + 1)};
    ((struct descriptor *)(r->base + VHOST_RING_DESCRIPTORS))[slot] = (struct descriptor){
        .addr = r->gpa + table, .len = count * (uint32_t)sizeof(struct descriptor), .flags = DESC_INDIRECT};
    atomic_store_explicit(&r->in_flight[slot], 1, memory_order_relaxed);
    atomic_store_explicit(word(r, VHOST_RING_AVAILABLE + ELEMENTS + 2ul * (r->available % VHOST_SLOTS)), slot,
                          memory_order_relaxed);
    // Release: whoever sees the index sees the rest, and so do we when the answer comes.
    atomic_store_explicit(word(r, VHOST_RING_AVAILABLE + IDX), ++r->available, memory_order_release);
}

bool vhost_ring_wants_kick(const struct vhost_ring *r)
{
    atomic_thread_fence(memory_order_seq_cst); // the index is out before we look whether they look
    return !(atomic_load_explicit(word(r, VHOST_RING_USED + FLAGS), memory_order_relaxed) & USED_NO_NOTIFY);
}

int vhost_ring_collect(struct vhost_ring *r, struct vhost_done *done, unsigned room, const char **why)
{
    uint16_t idx = atomic_load_explicit(word(r, VHOST_RING_USED + IDX), memory_order_acquire);
    unsigned waiting = (uint16_t)(idx - r->used), n;
    if (waiting > VHOST_SLOTS) {
        *why = "more answers than there are slots";
        return -EPROTO;
    }
    for (n = 0; n < waiting && n < room; n++) {
        uint32_t element[2];
        memcpy(element, r->base + VHOST_RING_USED + ELEMENTS + 8ul * (r->used % VHOST_SLOTS), sizeof element);
        __asm__ volatile("" : "+m"(element)); // from here on it is our copy
        if (element[0] >= VHOST_SLOTS || !atomic_load_explicit(&r->in_flight[element[0]], memory_order_relaxed)) {
            *why = "an answer to what was not asked";
            return -EPROTO;
        }
        atomic_store_explicit(&r->in_flight[element[0]], 0, memory_order_relaxed);
        done[n] = (struct vhost_done){(uint16_t)element[0], element[1]};
        r->used++;
    }
    return (int)n;
}
