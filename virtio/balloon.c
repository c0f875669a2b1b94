// The virtio memory balloon: see balloon.h.
//
// Queues (5.5.2): inflate and deflate carry arrays of page numbers, in units of 4 KiB whatever the guest's pages are.
// Statistics and reporting exist only if their features were accepted, and those that exist are numbered without gaps,
// as drivers have it; so a queue's meaning follows from the features (role_of).
//
//     inflate     out: [7 8 9 1000]                 pages 7..9 and 1000 are the host's now
//     deflate     out: [8]                          the guest wants page 8 back; it comes when it is touched
//     statistics  out: [tag16 value64]...           what the guest knows of its memory
//     reporting   in:  [buffer] [buffer]            these buffers are free memory; their contents are of no interest
//
// A guest that fills its free memory with something and counts on finding it there says so (PAGE_POISON, 5.5.6.5). If
// that is zero, what is discarded must read so; if it is anything else, reports are taken note of and nothing is
// discarded.
//
// Statistics. The driver offers one buffer; giving it back makes it write a new one (5.5.6.3). We take the buffer, read
// it and leave it in the ring as if it had not been taken, so that no chain is with us while the machine is saved. Who
// asks for the numbers gets the last ones and thereby has new ones made.
//
// A guest names whatever pages it likes: those that are no RAM, or are named twice, are passed over. It can harm nobody
// but itself. Discarding costs time, so it is counted against the kick's budget.
#include "virtio/balloon.h"
#include "vm/alloc.h"
#include <errno.h>
#include <string.h>

enum { INFLATE, DEFLATE, STATISTICS, REPORTING, ROLES, QUEUE_SIZE = 128 };
enum {
    PAGE = 4096,
    PAGES_AT_ONCE = 256,
    PAGES_MAX = 16384,
    PAGES_PER_CHAIN = 64
}; // page numbers in a chain; one's work

#define BALLOON_F_STATS_VQ (1ull << 1)
#define BALLOON_F_DEFLATE_ON_OOM (1ull << 2)
#define BALLOON_F_PAGE_POISON (1ull << 4)
#define BALLOON_F_REPORTING (1ull << 5)

struct balloon_config { // 5.5.4
    uint32_t num_pages, actual;
    uint32_t free_page_hint_cmd_id; // of a feature that is not offered
    uint32_t poison_val;
};
_Static_assert(sizeof(struct balloon_config) == 16, "Virtio 1.2, 5.5.4");

struct balloon_statistic { // 5.5.6.4
    uint16_t tag;
    uint64_t value;
} __attribute__((packed));

// By tag; those that count bytes or events.
static const char *const statistic_names[] = {"guest_swapped_in",   "guest_swapped_out", "guest_major_faults",
                                              "guest_minor_faults", "guest_free",        "guest_memory",
                                              "guest_available",    "guest_caches"};
enum { STATISTICS_KNOWN = sizeof statistic_names / sizeof *statistic_names };

struct virtio_balloon {
    struct virtio_device virtio;
    struct balloon_config config;
    uint32_t memory;          // pages that the machine has
    struct virtq_chain chain; // the one being looked at
    uint64_t statistic[STATISTICS_KNOWN];
    uint64_t inflated, reported; // bytes discarded: for statistics
};

// Bytes that are left when so many pages are in the balloon. The number may be anything: a guest's, or spoiled state.
static uint64_t without(const struct virtio_balloon *b, uint32_t pages)
{
    return pages < b->memory ? (uint64_t)(b->memory - pages) * PAGE : 0;
}

static unsigned role_of(const struct virtio_device *d, unsigned queue)
{
    if (queue >= STATISTICS && !virtio_has(d, BALLOON_F_STATS_VQ))
        queue++;
    if (queue >= REPORTING && !virtio_has(d, BALLOON_F_REPORTING))
        queue++;
    return queue < ROLES ? queue : ROLES;
}

// ---- inflating

struct run { // of pages with consecutive numbers
    uint64_t first, count;
};

static void discard(struct virtio_balloon *b, struct run *r)
{
    if (r->count)
        b->inflated += vm_ram_discard(b->virtio.dev.vm, r->first * PAGE, r->count * PAGE, false);
    r->count = 0;
}

// Pages are taken one by one but often lie side by side, in either direction.
static void add(struct virtio_balloon *b, struct run *r, uint64_t page)
{
    if (r->count && page == r->first + r->count) {
        r->count++;
    } else if (r->count && page + 1 == r->first) {
        r->first--;
        r->count++;
    } else {
        discard(b, r);
        *r = (struct run){page, 1};
    }
}

static void inflate(struct virtio_balloon *b, unsigned queue)
{
    const struct virtq_chain *c = &b->chain;
    uint32_t page[PAGES_AT_ONCE];
    struct run r = {0};
    if (c->out_bytes > PAGES_MAX * sizeof *page) {
        virtio_broken(&b->virtio, "too many pages at once");
        return;
    }
    for (uint64_t at = 0; at < c->out_bytes; at += sizeof page) {
        size_t n = virtq_chain_read(c, at, page, sizeof page) / sizeof *page;
        for (size_t i = 0; i < n; i++)
            add(b, &r, page[i]);
    }
    discard(b, &r);
    virtio_spend(&b->virtio, queue, (unsigned)(c->out_bytes / sizeof *page / PAGES_PER_CHAIN));
}

// ---- reporting

static void take_report(struct virtio_balloon *b, unsigned queue)
{
    const struct virtq_chain *c = &b->chain;
    bool poison = virtio_has(&b->virtio, BALLOON_F_PAGE_POISON);
    if (poison && b->config.poison_val)
        return;
    for (unsigned i = 0; i < c->in; i++) {
        const struct virtq_buffer *f = &c->buffer[c->out + i];
        b->reported += vm_ram_discard(b->virtio.dev.vm, f->gpa, f->len, poison);
        virtio_spend(&b->virtio, queue, f->len / PAGE / PAGES_PER_CHAIN);
    }
}

// ---- statistics

static void read_statistics(struct virtio_balloon *b)
{
    struct balloon_statistic s[2 * STATISTICS_KNOWN]; // tags that we don't know are among them
    size_t n = virtq_chain_read(&b->chain, 0, s, sizeof s) / sizeof *s;
    for (size_t i = 0; i < n; i++)
        if (s[i].tag < STATISTICS_KNOWN)
            b->statistic[s[i].tag] = s[i].value;
}

// The buffer that lies in the ring goes back, and the driver fills it anew.
static void want_statistics(struct virtio_balloon *b)
{
    struct virtio_device *d = &b->virtio;
    if (!virtio_has(d, BALLOON_F_STATS_VQ) || d->queue[STATISTICS].busy)
        return;
    d->queue[STATISTICS].budget = 1; // this is no kick, and takes one chain
    if (!virtio_pop(d, STATISTICS, &b->chain))
        return;
    virtio_push(d, STATISTICS, &b->chain, 0);
    virtio_notify(d, STATISTICS);
}

// ---- the device

static void balloon_kick(struct virtio_device *d, unsigned queue)
{
    struct virtio_balloon *b = (struct virtio_balloon *)d;
    unsigned role = role_of(d, queue);
    while (virtio_pop(d, queue, &b->chain)) {
        if (role == STATISTICS) {
            read_statistics(b);
            virtio_unpop(d, queue, 1);
            return;
        }
        if (role == INFLATE)
            inflate(b, queue);
        else if (role == REPORTING)
            take_report(b, queue);
        virtio_push(d, queue, &b->chain, 0);
    }
    virtio_notify(d, queue);
}

static void balloon_config_write(struct virtio_device *d, unsigned offset, unsigned size, uint32_t val)
{
    struct virtio_balloon *b = (struct virtio_balloon *)d;
    if (size == 4 && offset == offsetof(struct balloon_config, actual))
        b->config.actual = val;
    if (size == 4 && offset == offsetof(struct balloon_config, poison_val) && virtio_has(d, BALLOON_F_PAGE_POISON))
        b->config.poison_val = val;
}

// The target is the host's and stays.
static void balloon_reset(struct virtio_device *d)
{
    struct virtio_balloon *b = (struct virtio_balloon *)d;
    b->config.actual = 0;
    b->config.poison_val = 0;
    memset(b->statistic, 0, sizeof b->statistic);
}

static void balloon_stats(struct device *dev, void (*emit)(void *ctx, const char *name, uint64_t value), void *ctx)
{
    struct virtio_balloon *b = (struct virtio_balloon *)dev;
    virtio_device_stats(dev, emit, ctx);
    emit(ctx, "inflated_bytes", b->inflated);
    emit(ctx, "reported_bytes", b->reported);
    emit(ctx, "target_bytes", without(b, b->config.num_pages));
    for (unsigned i = 0; i < STATISTICS_KNOWN; i++)
        emit(ctx, statistic_names[i], b->statistic[i]);
    want_statistics(b);
}

static int balloon_loaded(struct device *dev)
{
    struct virtio_balloon *b = (struct virtio_balloon *)dev;
    if (b->config.num_pages > b->memory)
        return -EINVAL;
    return virtio_device_loaded(dev);
}

static void balloon_destroy(struct device *dev)
{
    vm_free(dev);
}

static const struct state_field balloon_fields[] = {
    VIRTIO_STATE(struct virtio_balloon, virtio),
    STATE_U32(struct virtio_balloon, config.num_pages, 1),
    STATE_U32(struct virtio_balloon, config.actual, 1),
    STATE_U32(struct virtio_balloon, config.poison_val, 1),
    STATE_END,
};
static const struct state_table balloon_state = {"virtio-balloon", 1, balloon_fields};

static const struct virtio_kind balloon_kind = {
    .device = {.name = "virtio-balloon",
               .reset = virtio_device_reset,
               .state = &balloon_state,
               .loaded = balloon_loaded,
               .stats = balloon_stats,
               .destroy = balloon_destroy},
    .id = 5,
    .pci_class = 0x00ff00,
    .kick = balloon_kick,
    .config_write = balloon_config_write,
    .reset = balloon_reset,
};

int virtio_balloon_create(struct vm *vm, const char *name, struct virtio_device **out, struct error *err)
{
    struct virtio_balloon *b = vm_alloc(sizeof *b);
    if (!b)
        return error_set(err, ENOMEM, "%s: out of memory", name);
    uint64_t pages = vm_ram_size(vm) / PAGE;
    b->memory = pages > UINT32_MAX ? UINT32_MAX : (uint32_t)pages;
    virtio_init(&b->virtio, vm, &balloon_kind, name,
                BALLOON_F_STATS_VQ | BALLOON_F_DEFLATE_ON_OOM | BALLOON_F_PAGE_POISON | BALLOON_F_REPORTING, ROLES,
                QUEUE_SIZE, &b->config, sizeof b->config);
    *out = &b->virtio;
    return 0;
}

void virtio_balloon_resize(struct virtio_device *d, uint64_t bytes)
{
    struct virtio_balloon *b = (struct virtio_balloon *)d;
    vm_lock(&d->dev.lock);
    uint64_t pages = bytes / PAGE;
    b->config.num_pages = pages < b->memory ? b->memory - (uint32_t)pages : 0;
    virtio_config_changed(d);
    vm_unlock(&d->dev.lock);
}

void virtio_balloon_state(struct virtio_device *d, struct virtio_balloon_state *s)
{
    struct virtio_balloon *b = (struct virtio_balloon *)d;
    vm_lock(&d->dev.lock);
    *s = (struct virtio_balloon_state){
        .memory = (uint64_t)b->memory * PAGE,
        .target = without(b, b->config.num_pages),
        .current = without(b, b->config.actual),
        .discarded = b->inflated + b->reported,
    };
    vm_unlock(&d->dev.lock);
}
