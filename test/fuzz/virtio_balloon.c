// The memory balloon, with memory that it can really give away, and a host that changes its mind about the size.
#include "host/memory.h"
#include "virtio.h"
#include "virtio/balloon.h"

enum { SIZE = 16 * 4096 };

static void ignore(void *ctx, const char *name, uint64_t value)
{
    (void)ctx, (void)name, (void)value;
}

static void backend(struct fuzz_virtio *v)
{
    struct virtio_balloon_state s;
    unsigned how = (unsigned)fuzz_take(&v->g, 1);
    if (how & 1)
        virtio_balloon_resize(v->dev, fuzz_take(&v->g, 4));
    else
        v->dev->kind->device.stats(&v->dev->dev, ignore, NULL);
    virtio_balloon_state(v->dev, &s);
    FUZZ_CHECK(s.target <= s.memory && s.current <= s.memory);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_virtio v;
    struct host_ram ram;
    fuzz_virtio_begin(&v, data, size);
    FUZZ_CHECK(host_ram_create(&ram, "fuzz-ram", SIZE, true, NULL) == 0);
    FUZZ_CHECK(vm_memory_add(&v.g.f.vm, FAKE_VM_RAM, SIZE, ram.base, false, NULL) == 0);
    FUZZ_CHECK(virtio_balloon_create(&v.g.f.vm, "virtio-balloon0", &v.dev, NULL) == 0);
    v.backend = backend;
    fuzz_virtio_run(&v);
    fuzz_virtio_end(&v);
    host_ram_destroy(&ram);
    return 0;
}
