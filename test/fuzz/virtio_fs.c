// The file system device before an other side that answers in any order, says any length, and may be lost at any time.
#include "virtio.h"
#include "virtio/fs.h"
#include "virtio/vhost.h"

struct target {
    struct fuzz_virtio v;
    struct vhost vhost;
    bool lost;
    bool busy[2][VHOST_SLOTS];
    uint16_t slot[2 * VHOST_SLOTS], ring[2 * VHOST_SLOTS];
    unsigned count; // requests under way
};

static struct target *target_of(struct vhost *v)
{
    return (struct target *)((char *)v - offsetof(struct target, vhost));
}

static int start(struct vhost *v, const struct vhost_region *region, unsigned regions, unsigned rings,
                 struct error *err)
{
    (void)v, (void)region, (void)err;
    FUZZ_CHECK(regions == 1 && rings == 2);
    return 0;
}

static void submit(struct vhost *v, unsigned ring, uint16_t slot, const struct vhost_buffer *b, unsigned out,
                   unsigned in)
{
    struct target *t = target_of(v);
    FUZZ_CHECK(!t->lost && ring < 2 && slot < VHOST_SLOTS && !t->busy[ring][slot]);
    FUZZ_CHECK(out + in >= 1 && out + in <= VHOST_BUFFERS_MAX);
    for (unsigned i = 0; i < out + in; i++) // all of it is memory, and some
        FUZZ_CHECK(b[i].len && vm_ram(&t->v.g.f.vm, b[i].gpa, b[i].len, i >= out));
    t->busy[ring][slot] = true;
    t->ring[t->count] = (uint16_t)ring;
    t->slot[t->count++] = slot;
}

static void kick(struct vhost *v, unsigned ring)
{
    (void)v, (void)ring;
}

static void answer(struct target *t, unsigned which, uint32_t written)
{
    unsigned ring = t->ring[which];
    struct vhost_done d = {t->slot[which], written};
    t->count--;
    t->slot[which] = t->slot[t->count];
    t->ring[which] = t->ring[t->count];
    t->busy[ring][d.slot] = false;
    t->vhost.done(t->vhost.ctx, ring, &d, 1);
}

static void drain(struct vhost *v)
{
    struct target *t = target_of(v);
    while (t->count)
        answer(t, 0, 16);
}

static void stop(struct vhost *v)
{
    (void)v;
}

static const struct vhost_ops ops = {.start = start, .submit = submit, .kick = kick, .drain = drain, .stop = stop};

static void backend(struct fuzz_virtio *v)
{
    struct target *t = (struct target *)v;
    unsigned how = (unsigned)fuzz_take(&v->g, 1);
    if (how == 0xff && !t->lost) {
        t->lost = true;
        t->count = 0;
        t->vhost.lost(t->vhost.ctx, "gone");
        FUZZ_CHECK(v->dev->in_flight == 0);
    } else if (t->count) {
        answer(t, how % t->count, (uint32_t)fuzz_take(&v->g, 4));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct target t;
    t = (struct target){.vhost = {.ops = &ops}};
    fuzz_virtio_begin(&t.v, data, size);
    FUZZ_CHECK(virtio_fs_create(&t.v.g.f.vm, "virtio-fs0", "data", &t.vhost, &t.v.dev, NULL) == 0);
    t.v.backend = backend;
    fuzz_virtio_run(&t.v);
    fuzz_virtio_end(&t.v);
    return 0;
}
