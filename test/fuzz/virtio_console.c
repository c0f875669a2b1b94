// The virtio console before a stream that offers input of any length at any time.
#include "virtio.h"
#include "virtio/console.h"
#include <string.h>

struct target {
    struct fuzz_virtio v;
    struct stream stream;
    uint64_t written;
};

static void write_stream(struct stream *s, const void *data, size_t size)
{
    struct target *t = (struct target *)((char *)s - offsetof(struct target, stream));
    const volatile uint8_t *p = data;
    for (size_t i = 0; i < size; i += 64)
        t->written += p[i];
    if (size)
        t->written += p[size - 1];
}

static void ready(struct stream *s)
{
    (void)s;
}

static const struct stream_ops ops = {.write = write_stream, .ready = ready};

static void backend(struct fuzz_virtio *v)
{
    struct target *t = (struct target *)v;
    static const uint8_t text[4096];
    size_t size = fuzz_take(&v->g, 2) % sizeof text;
    if (fuzz_take(&v->g, 1) & 1)
        FUZZ_CHECK(t->stream.receive(t->stream.ctx, text, size) <= size);
    else
        virtio_console_resize(v->dev, (uint16_t)size, 25);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct target t;
    fuzz_virtio_begin(&t.v, data, size);
    t.stream = (struct stream){.ops = &ops};
    t.written = 0;
    FUZZ_CHECK(virtio_console_create(&t.v.g.f.vm, "virtio-console0", &t.stream, &t.v.dev, NULL) == 0);
    t.v.backend = backend;
    fuzz_virtio_run(&t.v);
    fuzz_virtio_end(&t.v);
    return 0;
}
