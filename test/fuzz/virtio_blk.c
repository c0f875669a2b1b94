// The virtio block device before a small disk that does some requests at once and some later, in any order.
#include "virtio.h"
#include "virtio/blk.h"
#include <string.h>

enum { DISK_SIZE = 64 << 10, HELD = 64 };

struct fuzz_disk {
    struct disk disk;
    bool hold, fail;
    unsigned held;
    struct disk_request *request[HELD];
    uint8_t data[DISK_SIZE];
};

static void carry_out(struct fuzz_disk *f, struct disk_request *r)
{
    FUZZ_CHECK(r->op == DISK_FLUSH || (r->offset <= DISK_SIZE && r->length <= DISK_SIZE - r->offset));
    FUZZ_CHECK(r->op == DISK_FLUSH || (r->offset % 512 == 0 && r->length % 512 == 0 && r->length));
    FUZZ_CHECK(!f->disk.readonly || r->op == DISK_READ || r->op == DISK_FLUSH);
    uint8_t *at = f->data + r->offset;
    uint64_t sum = 0;
    for (unsigned i = 0; (r->op == DISK_READ || r->op == DISK_WRITE) && i < r->segs; i++) {
        FUZZ_CHECK(r->seg[i].len <= r->length - sum);
        if (r->op == DISK_READ)
            memcpy(r->seg[i].base, at + sum, r->seg[i].len);
        else
            memmove(at + sum, r->seg[i].base, r->seg[i].len);
        sum += r->seg[i].len;
    }
    FUZZ_CHECK((r->op != DISK_READ && r->op != DISK_WRITE) || sum == r->length);
    r->done(r, f->fail ? -5 : 0);
}

static void submit(struct disk *d, struct disk_request *r)
{
    struct fuzz_disk *f = (struct fuzz_disk *)d;
    if (f->hold && f->held < HELD)
        f->request[f->held++] = r;
    else
        carry_out(f, r);
}

static void release(struct fuzz_disk *f, unsigned i)
{
    struct disk_request *r = f->request[i];
    f->request[i] = f->request[--f->held];
    carry_out(f, r);
}

static void drain(struct disk *d)
{
    struct fuzz_disk *f = (struct fuzz_disk *)d;
    f->hold = false;
    while (f->held)
        release(f, 0);
}

static const struct disk_ops ops = {.submit = submit, .drain = drain};

struct target {
    struct fuzz_virtio v;
    struct fuzz_disk disk;
};

// A request that is right in most respects: header, up to two pieces of data, status.
static void request(struct fuzz_virtio *v, unsigned how)
{
    static const uint32_t types[] = {0, 1, 4, 8, 11, 13, 2, 0xffffffff};
    enum { HEADERS = 0x4000, SLOTS = 64, NEXT = 1, WRITE = 2 };
    struct fuzz_guest *g = &v->g;
    unsigned slot = (unsigned)fuzz_take(g, 1) % SLOTS, first = 4 * slot, n = 0;
    uint32_t type = types[how & 7];
    unsigned flags = (unsigned)fuzz_take(g, 1) & 3;
    uint64_t sector = fuzz_take(g, 1), at = HEADERS + 64 * slot, range[2] = {sector};
    uint8_t bend = (uint8_t)fuzz_take(g, 1);
    range[1] = (uint64_t)(flags & 1) << 32 | (flags & 2 ? fuzz_take(g, 4) : fuzz_take(g, 1));
    if (bend == 0xff)
        sector = fuzz_take(g, 8);
    memcpy(g->f.ram + at, &type, 4);
    memcpy(g->f.ram + at + 8, &sector, 8);
    memcpy(g->f.ram + at + 16, range, 16);
    struct fuzz_desc desc[4];
    desc[n++] = (struct fuzz_desc){at, 16, NEXT, 0};
    bool ranged = type == 11 || type == 13;
    if (ranged)
        desc[n++] = (struct fuzz_desc){at + 16, bend == 0xfe ? 8 : 16, NEXT, 0};
    for (unsigned i = 0; !ranged && i < (how >> 3 & 3) && n < 3; i++) {
        uint32_t len = 512 * (uint32_t)(fuzz_take(g, 1) & 31);
        if (bend >= 0xf0)
            len += bend & 0x0f;
        desc[n++] = (struct fuzz_desc){fuzz_address(g), len, (uint16_t)(NEXT | (type == 1 ? 0 : WRITE)), 0};
    }
    desc[n++] = (struct fuzz_desc){at + 32, 1, WRITE, 0};
    for (unsigned i = 0; i < n; i++)
        desc[i].next = (uint16_t)((first + i + 1) % 16);
    fuzz_virtio_offer(v, slot % v->dev->queues, first, desc, n);
}

static void backend(struct fuzz_virtio *v)
{
    struct fuzz_disk *f = &((struct target *)v)->disk;
    unsigned how = (unsigned)fuzz_take(&v->g, 1);
    if (how < 0xc0) {
        request(v, how);
        return;
    }
    f->hold = how & 1;
    f->fail = (how & 0xf0) == 0xf0;
    if ((how & 2) && f->held)
        release(f, how % f->held);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint32_t blocks[] = {512, 4096, 65536, 512};
    struct target t;
    fuzz_virtio_begin(&t.v, data, size);
    unsigned how = (unsigned)fuzz_take(&t.v.g, 1);
    memset(&t.disk, 0, sizeof t.disk);
    t.disk.disk = (struct disk){.ops = &ops,
                                .size = DISK_SIZE,
                                .block_size = blocks[how >> 4 & 3],
                                .readonly = how & 1,
                                .discard = !(how & 2),
                                .serial = "serial"};
    FUZZ_CHECK(virtio_blk_create(&t.v.g.f.vm, "virtio-blk0", &t.disk.disk, how & 8 ? 3 : 1, &t.v.dev, NULL) == 0);
    t.v.backend = backend;
    fuzz_virtio_run(&t.v);
    fuzz_virtio_end(&t.v);
    return 0;
}
