// Split virtqueues: see queue.h.
#include "virtio/queue.h"
#include "vm/vm.h"
#include <errno.h>
#include <stdatomic.h>
#include <string.h>

// One descriptor (Virtio 1.2, 2.7.5).
struct descriptor {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next;
};
_Static_assert(sizeof(struct descriptor) == 16, "the ring's format");

enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4 };
enum { AVAIL_NO_INTERRUPT = 1 };
// Both rings: flags, idx, then the elements; after them, used_event in the available ring, avail_event in the used one.
enum { RING_FLAGS = 0, RING_IDX = 2, RING_ELEMENTS = 4, AVAIL_ELEMENT = 2, USED_ELEMENT = 8 };

// Accesses to fields that the guest changes meanwhile: each exactly once.
static uint16_t load16(const uint8_t *p)
{
    return atomic_load_explicit((const _Atomic uint16_t *)p, memory_order_acquire);
}

static void store16(uint8_t *p, uint16_t val)
{
    atomic_store_explicit((_Atomic uint16_t *)p, val, memory_order_release);
}

static int broken(struct virtq *q, const char *why)
{
    q->fault = why;
    return -EPROTO;
}

void virtq_init(struct virtq *q, struct vm *vm, uint16_t size_max)
{
    q->vm = vm;
    q->size_max = size_max;
    virtq_reset(q);
}

void virtq_reset(struct virtq *q)
{
    *q = (struct virtq){.vm = q->vm, .size_max = q->size_max, .size = q->size_max, .epoch = q->epoch + 1};
}

int virtq_enable(struct virtq *q)
{
    uint64_t n = q->size;
    q->enabled = false;
    if (!n || n > q->size_max || (n & (n - 1)))
        return broken(q, "queue size is no power of two or too large");
    // Alignment and length of the areas: Virtio 1.2, 2.7.
    if (q->desc % 16 || q->avail % 2 || q->used % 4)
        return broken(q, "ring address is not aligned");
    q->desc_host = vm_ram(q->vm, q->desc, 16 * n, false);
    q->avail_host = vm_ram(q->vm, q->avail, RING_ELEMENTS + AVAIL_ELEMENT * n + 2, false);
    q->used_host = vm_ram(q->vm, q->used, RING_ELEMENTS + USED_ELEMENT * n + 2, true);
    if (!q->desc_host || !q->avail_host || !q->used_host)
        return broken(q, "ring is not in RAM");
    q->enabled = true;
    return 0;
}

// Asks to be notified of the next chain; true if one has come meanwhile.
static bool ask_for_notification(struct virtq *q)
{
    if (!q->event_idx)
        return false; // without the feature the driver always notifies: we never set the flag that says otherwise
    uint64_t at = RING_ELEMENTS + (uint64_t)USED_ELEMENT * q->size;
    store16(q->used_host + at, q->next_avail);
    vm_ram_written(q->vm, q->used + at, 2);
    atomic_thread_fence(memory_order_seq_cst); // the driver reads avail_event after it has written avail.idx
    return load16(q->avail_host + RING_IDX) != q->next_avail;
}

// Appends the buffer of one descriptor to the chain.
static int take_buffer(struct virtq *q, struct virtq_chain *c, const struct descriptor *d)
{
    bool write = d->flags & DESC_WRITE;
    if (!write && c->in)
        return broken(q, "readable buffer after a writable one");
    if (!d->len)
        return 0;
    if (c->out + c->in >= q->size)
        return broken(q, "chain longer than the queue");
    void *host = vm_ram(q->vm, d->addr, d->len, write);
    if (!host)
        return broken(q, "buffer is not in RAM");
    c->buffer[c->out + c->in] = (struct virtq_buffer){.base = host, .gpa = d->addr, .len = d->len};
    if (write) {
        c->in++;
        c->in_bytes += d->len;
    } else {
        c->out++;
        c->out_bytes += d->len;
    }
    return 0;
}

// Follows a chain from descriptor `at` of the queue's table, which may end in one indirect table.
static int take_chain(struct virtq *q, struct virtq_chain *c, unsigned at)
{
    const uint8_t *table = q->desc_host;
    unsigned entries = q->size;
    bool inside = false; // an indirect table
    // No chain has more buffers than the queue descriptors, indirect or not (2.7.5.2, 2.7.5.3.1); the one more is the
    // descriptor that names the indirect table. So loops end.
    for (unsigned steps = 0; steps <= q->size; steps++) {
        if (at >= entries)
            return broken(q, "descriptor outside of its table");
        struct descriptor d;
        memcpy(&d, table + 16ul * at, sizeof d);
        __asm__ volatile("" : "+m"(d)); // from here on it is our copy: the compiler may not read the table again
        if (d.flags & DESC_INDIRECT) {
            if (!q->indirect || inside || (d.flags & DESC_NEXT))
                return broken(q, "indirect descriptor where none may be");
            if (!d.len || d.len % 16 || d.len / 16 > q->size)
                return broken(q, "indirect table of a wrong size");
            table = vm_ram(q->vm, d.addr, d.len, false);
            if (!table)
                return broken(q, "indirect table is not in RAM");
            entries = d.len / 16;
            at = 0;
            inside = true;
            continue;
        }
        int rc = take_buffer(q, c, &d);
        if (rc)
            return rc;
        if (!(d.flags & DESC_NEXT))
            return 0;
        at = d.next;
    }
    return broken(q, "chain longer than the queue");
}

int virtq_pop(struct virtq *q, struct virtq_chain *c)
{
    if (!q->enabled)
        return 0;
    uint16_t idx = load16(q->avail_host + RING_IDX);
    if (idx == q->next_avail) {
        if (!ask_for_notification(q))
            return 0;
        idx = load16(q->avail_host + RING_IDX);
    }
    uint16_t waiting = (uint16_t)(idx - q->next_avail);
    if (!waiting)
        return 0;
    if (waiting > q->size)
        return broken(q, "more chains available than the queue holds");
    unsigned slot = q->next_avail % q->size;
    uint16_t head = load16(q->avail_host + RING_ELEMENTS + AVAIL_ELEMENT * slot);
    c->head = head;
    c->epoch = q->epoch;
    c->out = c->in = 0;
    c->out_bytes = c->in_bytes = 0;
    int rc = take_chain(q, c, head);
    if (rc)
        return rc;
    q->next_avail++;
    return 1;
}

void virtq_push_together(struct virtq *q, uint32_t epoch, const struct virtq_used *used, unsigned count)
{
    if (epoch != q->epoch || !q->enabled)
        return;
    for (unsigned i = 0; i < count; i++) {
        uint64_t at = RING_ELEMENTS + (uint64_t)USED_ELEMENT * (q->next_used % q->size);
        uint32_t element[2] = {used[i].head, used[i].written};
        memcpy(q->used_host + at, element, sizeof element);
        vm_ram_written(q->vm, q->used + at, sizeof element);
        q->next_used++;
    }
    store16(q->used_host + RING_IDX, q->next_used); // release: after the elements
    vm_ram_written(q->vm, q->used + RING_IDX, 2);
}

void virtq_push(struct virtq *q, uint16_t head, uint32_t epoch, uint32_t written)
{
    virtq_push_together(q, epoch, &(struct virtq_used){head, written}, 1);
}

void virtq_unpop(struct virtq *q, unsigned count)
{
    q->next_avail = (uint16_t)(q->next_avail - count);
}

bool virtq_wants_interrupt(struct virtq *q)
{
    if (!q->enabled || q->told == q->next_used)
        return false;
    uint16_t old = q->told;
    q->told = q->next_used;
    atomic_thread_fence(memory_order_seq_cst); // used.idx is out before we read what the driver wants
    if (!q->event_idx)
        return !(load16(q->avail_host + RING_FLAGS) & AVAIL_NO_INTERRUPT);
    // The driver wants to hear of the step from used_event to used_event + 1 (2.7.10).
    uint16_t event = load16(q->avail_host + RING_ELEMENTS + AVAIL_ELEMENT * (unsigned)q->size);
    return (uint16_t)(q->next_used - event - 1) < (uint16_t)(q->next_used - old);
}

// Walks over the bytes [offset, offset + size) of `count` buffers; copies to buf or from it.
static size_t copy(const struct virtq_buffer *b, unsigned count, uint64_t offset, uint8_t *buf, size_t size,
                   struct vm *vm)
{
    size_t done = 0;
    for (unsigned i = 0; i < count && done < size; i++) {
        if (offset >= b[i].len) {
            offset -= b[i].len;
            continue;
        }
        size_t n = b[i].len - (size_t)offset;
        if (n > size - done)
            n = size - done;
        if (vm) {
            memcpy(b[i].base + offset, buf + done, n);
            vm_ram_written(vm, b[i].gpa + offset, n);
        } else {
            memcpy(buf + done, b[i].base + offset, n);
        }
        done += n;
        offset = 0;
    }
    return done;
}

size_t virtq_chain_read(const struct virtq_chain *c, uint64_t offset, void *buf, size_t size)
{
    return copy(c->buffer, c->out, offset, buf, size, NULL);
}

size_t virtq_chain_write(struct vm *vm, const struct virtq_chain *c, uint64_t offset, const void *buf, size_t size)
{
    return copy(c->buffer + c->out, c->in, offset, (uint8_t *)buf, size, vm);
}
