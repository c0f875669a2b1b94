// The virtio block device (Virtio 1.2, 5.2): turns chains into disk requests and gives them back when these are done.
//
// A chain is a header (type, sector), data, and one status byte at the very end of its writable part. Its pieces may be
// cut anywhere (2.7.4), so the header is gathered and the data sliced rather than expected in descriptors of its own:
//
//     out: [type sector | data of a write ...]      in: [data of a read ... | status]
//
// Every chain that has a header and a status byte is completed: what the disk can't do is answered with UNSUPP or
// IOERR. One that lacks them leaves nowhere to say so, and the device needs a reset.
//
// Requests run on the disk's own threads and come back in any order. They live in a pool that has one from the start
// and grows as needed up to the size of all queues; while it is empty (a driver may reset again and again without
// waiting), chains wait in the ring until a request comes back. Disk requests are submitted without the device's lock,
// because they may be done before submit() returns.
//
// Without the flush feature, or with the cache switched to write-through, a write is completed only after a flush
// (5.2.6.2).
#include "virtio/blk.h"
#include "vm/alloc.h"
#include <errno.h>
#include <string.h>

enum { SECTOR = 512, QUEUE_SIZE = 256, BATCH = 16 };

// Limits told to the driver; LENGTH_MAX is what a driver within them can ask for at most.
enum { SEGMENTS_MAX = QUEUE_SIZE - 2, SEGMENT_BYTES_MAX = 1 << 20, RANGE_SECTORS_MAX = 1 << 22 };
#define LENGTH_MAX ((uint64_t)SEGMENTS_MAX * SEGMENT_BYTES_MAX)

#define BLK_F_SIZE_MAX (1ull << 1)
#define BLK_F_SEG_MAX (1ull << 2)
#define BLK_F_RO (1ull << 5)
#define BLK_F_BLK_SIZE (1ull << 6)
#define BLK_F_FLUSH (1ull << 9)
#define BLK_F_TOPOLOGY (1ull << 10)
#define BLK_F_CONFIG_WCE (1ull << 11)
#define BLK_F_MQ (1ull << 12)
#define BLK_F_DISCARD (1ull << 13)
#define BLK_F_WRITE_ZEROES (1ull << 14)

enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2 };
enum { ID_BYTES = 20, RANGE_UNMAP = 1 };

struct blk_header {
    uint32_t type, reserved;
    uint64_t sector;
};

struct blk_range { // the data of discard and write zeroes
    uint64_t sector;
    uint32_t sectors, flags;
};

struct blk_config { // 5.2.4
    uint64_t capacity;
    uint32_t size_max, seg_max;
    uint16_t cylinders;
    uint8_t heads, sectors;
    uint32_t blk_size;
    uint8_t physical_block_exp, alignment_offset;
    uint16_t min_io_size;
    uint32_t opt_io_size;
    uint8_t writeback, unused0;
    uint16_t num_queues;
    uint32_t max_discard_sectors, max_discard_seg, discard_sector_alignment;
    uint32_t max_write_zeroes_sectors, max_write_zeroes_seg;
    uint8_t write_zeroes_may_unmap, unused1[3];
};
_Static_assert(sizeof(struct blk_config) == 60 + 4 && offsetof(struct blk_config, num_queues) == 34,
               "Virtio 1.2, 5.2.4");

struct blk_request {
    struct disk_request disk;
    struct virtio_blk *blk;
    struct blk_request *next; // in the pool, or to be submitted
    unsigned queue;
    bool write_through; // a flush follows the write
    struct disk_segment seg[VIRTQ_SIZE_MAX];
    struct virtq_chain chain;
};

struct virtio_blk {
    struct virtio_device virtio;
    struct disk *disk;
    struct blk_config config;
    struct blk_request *pool;                    // free ones
    unsigned requests;                           // made so far
    uint32_t starved;                            // queues in which chains wait for a request
    uint64_t bytes_read, bytes_written, flushes; // asked of the disk: for statistics
};

static struct blk_request *take_request(struct virtio_blk *b)
{
    struct blk_request *r = b->pool;
    if (r) {
        b->pool = r->next;
        return r;
    }
    if (b->requests >= b->virtio.queues * QUEUE_SIZE)
        return NULL;
    r = vm_alloc(sizeof *r);
    if (r) {
        b->requests++;
        r->blk = b;
    }
    return r;
}

static void free_request(struct virtio_blk *b, struct blk_request *r)
{
    r->next = b->pool;
    b->pool = r;
}

// Gives the chain back with its status byte; `data` bytes of the in-part lie before it.
static void complete(struct blk_request *r, uint8_t status, uint64_t data)
{
    struct virtio_blk *b = r->blk;
    struct virtq_chain *c = &r->chain;
    virtq_chain_write(b->virtio.dev.vm, c, c->in_bytes - 1, &status, 1);
    virtio_push(&b->virtio, r->queue, c, data + 1);
    free_request(b, r);
}

// Cuts [offset, offset + length) out of `count` buffers.
static unsigned slice(struct disk_segment *seg, const struct virtq_buffer *b, unsigned count, uint64_t offset,
                      uint64_t length)
{
    unsigned n = 0;
    for (unsigned i = 0; i < count && length; i++) {
        if (offset >= b[i].len) {
            offset -= b[i].len;
            continue;
        }
        uint64_t len = b[i].len - offset;
        if (len > length)
            len = length;
        seg[n++] = (struct disk_segment){b[i].base + offset, len};
        length -= len;
        offset = 0;
    }
    return n;
}

static bool in_disk(const struct virtio_blk *b, uint64_t sector, uint64_t bytes)
{
    return sector <= b->disk->size / SECTOR && bytes <= b->disk->size - sector * SECTOR;
}

// Whether a write must be stable before it is completed (5.2.6.2).
static bool writes_through(const struct virtio_blk *b)
{
    if (virtio_has(&b->virtio, BLK_F_CONFIG_WCE))
        return !b->config.writeback;
    return !virtio_has(&b->virtio, BLK_F_FLUSH);
}

static int prepare_transfer(struct blk_request *r, const struct blk_header *h)
{
    struct virtio_blk *b = r->blk;
    const struct virtq_chain *c = &r->chain;
    bool write = h->type == T_OUT;
    uint64_t length = write ? c->out_bytes - sizeof *h : c->in_bytes - 1;
    if (length % SECTOR || length > LENGTH_MAX || !in_disk(b, h->sector, length) || (write && b->disk->readonly))
        return S_IOERR;
    r->disk.op = write ? DISK_WRITE : DISK_READ;
    r->disk.offset = h->sector * SECTOR;
    r->disk.length = length;
    r->disk.segs = write ? slice(r->seg, c->buffer, c->out, sizeof *h, length)
                         : slice(r->seg, c->buffer + c->out, c->in, 0, length);
    r->write_through = write && writes_through(b);
    return S_OK;
}

// Discard and write zeroes: one range, as we tell the driver (5.2.6.2).
static int prepare_range(struct blk_request *r, const struct blk_header *h)
{
    struct virtio_blk *b = r->blk;
    struct blk_range range;
    bool discard = h->type == T_DISCARD;
    if (!virtio_has(&b->virtio, discard ? BLK_F_DISCARD : BLK_F_WRITE_ZEROES))
        return S_UNSUPP;
    if (r->chain.out_bytes != sizeof *h + sizeof range)
        return S_IOERR;
    virtq_chain_read(&r->chain, sizeof *h, &range, sizeof range);
    if (range.flags & ~(discard ? 0 : RANGE_UNMAP))
        return S_UNSUPP;
    uint64_t length = (uint64_t)range.sectors * SECTOR;
    if (range.sectors > RANGE_SECTORS_MAX || !in_disk(b, range.sector, length) || b->disk->readonly)
        return S_IOERR;
    r->disk.op = discard ? DISK_DISCARD : DISK_WRITE_ZEROES;
    r->disk.offset = range.sector * SECTOR;
    r->disk.length = length;
    r->write_through = writes_through(b);
    return S_OK;
}

static void get_id(struct blk_request *r)
{
    // At most 20 bytes, not terminated if there are 20 (5.2.6.2).
    char id[ID_BYTES] = {0};
    size_t n = strnlen(r->blk->disk->serial, ID_BYTES);
    memcpy(id, r->blk->disk->serial, n);
    uint64_t room = r->chain.in_bytes - 1;
    n = virtq_chain_write(r->blk->virtio.dev.vm, &r->chain, 0, id, room < ID_BYTES ? room : ID_BYTES);
    complete(r, S_OK, n);
}

// Looks at a chain: true if the disk has work to do; otherwise it has been completed already.
static bool prepare(struct blk_request *r)
{
    struct virtio_blk *b = r->blk;
    struct blk_header h;
    r->disk = (struct disk_request){.seg = r->seg, .done = r->disk.done, .owner = r};
    r->write_through = false;
    if (virtq_chain_read(&r->chain, 0, &h, sizeof h) < sizeof h || !r->chain.in_bytes) {
        virtio_broken(&b->virtio, "request without header or status");
        virtio_push(&b->virtio, r->queue, &r->chain, 0);
        free_request(b, r);
        return false;
    }
    int status = S_UNSUPP;
    switch (h.type) {
    case T_IN:
    case T_OUT:
        status = prepare_transfer(r, &h);
        break;
    case T_DISCARD:
    case T_WRITE_ZEROES:
        status = prepare_range(r, &h);
        break;
    case T_FLUSH:
        r->disk.op = DISK_FLUSH;
        status = S_OK;
        break;
    case T_GET_ID:
        get_id(r);
        return false;
    }
    if (status == S_OK && (r->disk.op == DISK_FLUSH || r->disk.length))
        return true;
    complete(r, (uint8_t)status, 0);
    return false;
}

static void done(struct disk_request *disk, int result)
{
    struct blk_request *r = disk->owner;
    struct virtio_blk *b = r->blk;
    struct vm *vm = b->virtio.dev.vm;
    if (!result && r->write_through) {
        r->write_through = false;
        disk->op = DISK_FLUSH;
        b->disk->ops->submit(b->disk, disk);
        return;
    }
    uint64_t data = 0;
    if (disk->op == DISK_READ) {
        // Even a failed read may have written something.
        for (unsigned i = 0; i < r->chain.in; i++)
            vm_ram_written(vm, r->chain.buffer[r->chain.out + i].gpa, r->chain.buffer[r->chain.out + i].len);
        data = result ? 0 : disk->length;
    }
    vm_lock(&b->virtio.dev.lock);
    unsigned queue = r->queue;
    complete(r, result ? S_IOERR : S_OK, data);
    virtio_notify(&b->virtio, queue);
    uint32_t starved = b->starved;
    b->starved = 0;
    for (unsigned q = 0; q < b->virtio.queues; q++)
        if (starved >> q & 1)
            virtio_kick(&b->virtio, q);
    vm_unlock(&b->virtio.dev.lock);
}

static void count(struct virtio_blk *b, const struct disk_request *disk)
{
    b->bytes_read += disk->op == DISK_READ ? disk->length : 0;
    b->bytes_written += disk->op == DISK_WRITE ? disk->length : 0;
    b->flushes += disk->op == DISK_FLUSH;
}

// Takes up to BATCH chains from the ring; returns those that go to the disk, in order. *more: there may be others.
static struct blk_request *take_batch(struct virtio_blk *b, unsigned queue, bool *more)
{
    struct blk_request *first = NULL, **last = &first;
    *more = false;
    for (unsigned i = 0; i < BATCH; i++) {
        struct blk_request *r = take_request(b);
        if (!r) {
            b->starved |= 1u << queue;
            return first;
        }
        if (!virtio_pop(&b->virtio, queue, &r->chain)) {
            free_request(b, r);
            return first;
        }
        r->queue = queue;
        r->next = NULL;
        r->disk.done = done;
        if (prepare(r)) {
            count(b, &r->disk);
            *last = r;
            last = &r->next;
        }
    }
    *more = true;
    return first;
}

static void blk_kick(struct virtio_device *d, unsigned queue)
{
    struct virtio_blk *b = (struct virtio_blk *)d;
    bool more = true;
    while (more) {
        struct blk_request *r = take_batch(b, queue, &more);
        virtio_notify(d, queue); // for those that are completed already
        if (!r)
            continue;
        vm_unlock(&d->dev.lock);
        while (r) {
            struct blk_request *next = r->next; // once submitted, r is not ours
            b->disk->ops->submit(b->disk, &r->disk);
            r = next;
        }
        vm_lock(&d->dev.lock);
    }
}

// The cache can be switched between write-back and write-through (5.2.5).
static void blk_config_write(struct virtio_device *d, unsigned offset, unsigned size, uint32_t val)
{
    struct virtio_blk *b = (struct virtio_blk *)d;
    if (offset == offsetof(struct blk_config, writeback) && size == 1 && virtio_has(d, BLK_F_CONFIG_WCE))
        b->config.writeback = val & 1;
}

static void blk_reset(struct virtio_device *d)
{
    struct virtio_blk *b = (struct virtio_blk *)d;
    b->config.writeback = 1;
}

static void blk_drain(struct device *dev)
{
    struct virtio_blk *b = (struct virtio_blk *)dev;
    do // what is done may make room for chains that have been waiting
        b->disk->ops->drain(b->disk);
    while (virtio_has_in_flight(&b->virtio));
}

static int blk_loaded(struct device *dev)
{
    struct virtio_blk *b = (struct virtio_blk *)dev;
    b->config.writeback &= 1;
    return virtio_device_loaded(dev);
}

static void blk_stats(struct device *dev, void (*emit)(void *ctx, const char *name, uint64_t value), void *ctx)
{
    const struct virtio_blk *b = (const struct virtio_blk *)dev;
    virtio_device_stats(dev, emit, ctx);
    emit(ctx, "bytes_read", b->bytes_read);
    emit(ctx, "bytes_written", b->bytes_written);
    emit(ctx, "flushes", b->flushes);
    if (b->disk->ops->stats)
        b->disk->ops->stats(b->disk, emit, ctx);
}

static void blk_destroy(struct device *dev)
{
    struct virtio_blk *b = (struct virtio_blk *)dev;
    while (b->pool) {
        struct blk_request *r = b->pool;
        b->pool = r->next;
        vm_free(r);
    }
    vm_free(b);
}

static const struct state_field blk_fields[] = {VIRTIO_STATE(struct virtio_blk, virtio),
                                                STATE_U8(struct virtio_blk, config.writeback, 1), STATE_END};
static const struct state_table blk_state = {"virtio-blk", 1, blk_fields};

static const struct virtio_kind blk_kind = {
    .device = {.name = "virtio-blk",
               .reset = virtio_device_reset,
               .drain = blk_drain,
               .state = &blk_state,
               .loaded = blk_loaded,
               .stats = blk_stats,
               .destroy = blk_destroy},
    .id = 2,
    .pci_class = 0x010000,
    .kick = blk_kick,
    .config_write = blk_config_write,
    .reset = blk_reset,
};

// Fills the configuration space; returns the features that go with it.
static uint64_t describe(struct blk_config *c, const struct disk *disk, unsigned queues)
{
    uint64_t features = BLK_F_SIZE_MAX | BLK_F_SEG_MAX | BLK_F_BLK_SIZE | BLK_F_TOPOLOGY | BLK_F_FLUSH | BLK_F_MQ;
    *c = (struct blk_config){
        .capacity = disk->size / SECTOR,
        .size_max = SEGMENT_BYTES_MAX,
        .seg_max = SEGMENTS_MAX,
        .blk_size = SECTOR,
        .writeback = 1,
        .num_queues = (uint16_t)queues,
    };
    while (c->physical_block_exp < 15 && (uint32_t)SECTOR << (c->physical_block_exp + 1) <= disk->block_size)
        c->physical_block_exp++;
    if (disk->readonly)
        return features | BLK_F_RO;
    features |= BLK_F_CONFIG_WCE;
    if (!disk->discard)
        return features;
    c->max_discard_sectors = c->max_write_zeroes_sectors = RANGE_SECTORS_MAX;
    c->max_discard_seg = c->max_write_zeroes_seg = 1;
    c->discard_sector_alignment = 1u << c->physical_block_exp;
    c->write_zeroes_may_unmap = 1;
    return features | BLK_F_DISCARD | BLK_F_WRITE_ZEROES;
}

int virtio_blk_create(struct vm *vm, const char *name, struct disk *disk, unsigned queues, struct virtio_device **out,
                      struct error *err)
{
    if (!queues || queues > VIRTIO_QUEUES_MAX)
        return error_set(err, EINVAL, "%s: %u queues: there can be 1 to %d", name, queues, VIRTIO_QUEUES_MAX);
    struct virtio_blk *b = vm_alloc(sizeof *b);
    struct blk_request *first = b ? vm_alloc(sizeof *first) : NULL;
    if (!first) {
        vm_free(b);
        return error_set(err, ENOMEM, "%s: out of memory", name);
    }
    first->blk = b;
    b->pool = first;
    b->requests = 1;
    b->disk = disk;
    uint64_t features = describe(&b->config, disk, queues);
    virtio_init(&b->virtio, vm, &blk_kind, name, features, queues, QUEUE_SIZE, &b->config, sizeof b->config);
    *out = &b->virtio;
    return 0;
}
