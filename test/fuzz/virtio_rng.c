// The virtio entropy device.
#include "virtio.h"
#include "virtio/rng.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_virtio v;
    fuzz_virtio_begin(&v, data, size);
    FUZZ_CHECK(virtio_rng_create(&v.g.f.vm, "virtio-rng0", &v.dev, NULL) == 0);
    fuzz_virtio_run(&v);
    fuzz_virtio_end(&v);
    return 0;
}
