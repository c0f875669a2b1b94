// A hostile qcow2 image: whatever is in it, opening, checking, reading and writing it end, within memory and without
// undefined behaviour.
//
// The input damages a good image (of small clusters, with data in it): pieces of position and bytes. Raw bytes would
// hardly get past the header. A start of 'Q' takes the input as the image itself, for those who have one.
#include "backend/qcow2/qcow2.h"
#include "backend/disk.h"
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { SIZE = 256 << 10, CLUSTER = 512, GOOD_MAX = 512 << 10, REQUESTS = 24 };

static void nothing(struct disk_request *r, int result)
{
    *(int *)r->owner = result;
}

static void request(struct disk *d, enum disk_op op, uint64_t at, uint64_t length, void *memory)
{
    int result = 1;
    struct disk_segment s = {memory, length};
    struct disk_request r = {
        .op = op, .offset = at, .length = length, .seg = &s, .segs = 1, .done = nothing, .owner = &result};
    d->ops->submit(d, &r);
    d->ops->drain(d);
    if (result > 0)
        __builtin_trap();
}

// Once: an image with several L2 tables, data and zero clusters. (Damage makes compressed ones of some.)
static size_t good_image(uint8_t *out)
{
    char path[] = "/tmp/trapeze-fuzz-XXXXXX";
    static uint8_t data[8192];
    struct error e;
    struct disk *d;
    int fd = mkstemp(path);
    if (fd < 0)
        abort();
    close(fd);
    unlink(path);
    struct qcow2_options o = {.path = path, .size = SIZE, .cluster = CLUSTER, .lazy_refcounts = true};
    if (qcow2_create(&o, &e) || disk_open(&(struct disk_options){.path = path, .format = DISK_QCOW2}, NULL, &d, &e))
        abort();
    memset(data, 0x5a, sizeof data);
    for (unsigned i = 0; i < 8; i++)
        request(d, DISK_WRITE, (uint64_t)i * 30000 / 512 * 512, sizeof data, data);
    request(d, DISK_WRITE_ZEROES, 4096, 2048, NULL);
    d->ops->close(d);
    fd = open(path, O_RDONLY);
    ssize_t n = read(fd, out, GOOD_MAX);
    close(fd);
    unlink(path);
    return n > 0 ? (size_t)n : 0;
}

static int image_of(const uint8_t *data, size_t size)
{
    static uint8_t good[GOOD_MAX], b[GOOD_MAX];
    static size_t good_size;
    int fd = memfd_create("image", MFD_CLOEXEC);
    if (size && data[0] == 'Q')
        return write(fd, data, size) == (ssize_t)size ? fd : (close(fd), -1);
    if (!good_size)
        good_size = good_image(good);
    memcpy(b, good, good_size);
    // Pieces: where (the first 2 KiB, which describe the image, more often), how many bytes, the bytes.
    for (size_t i = 0; i + 4 <= size && i < 400;) {
        size_t where =
            data[i] & 1 ? (data[i + 1] << 8 | data[i + 2]) % good_size : (data[i + 1] << 8 | data[i + 2]) % 2560u;
        size_t n = 1 + data[i + 3] % 8;
        for (i += 4; n && i < size; n--, i++, where++)
            b[where % good_size] = data[i];
    }
    return write(fd, b, good_size) == (ssize_t)good_size ? fd : (close(fd), -1);
}

static void use(const char *path, bool readonly, const uint8_t *data, size_t size)
{
    static uint8_t memory[16384];
    struct disk *d;
    struct error e;
    struct disk_options o = {.path = path, .readonly = readonly, .format = DISK_QCOW2};
    if (disk_open(&o, NULL, &d, &e))
        return;
    if (d->size == 0 || d->size % 512)
        __builtin_trap();
    for (unsigned i = 0; i < REQUESTS && size; i++) {
        uint64_t length = 512 * (1 + data[i % size] % 32u);
        uint64_t at = (uint64_t)(data[(i * 3 + 1) % size] << 8 | data[(i * 3 + 2) % size]) * 512 % d->size;
        if (i == REQUESTS / 2)
            at = d->size - 512;
        length = length < d->size - at ? length : d->size - at;
        request(d, (enum disk_op)(data[(i * 5) % size] % 5), at, length, memory);
    }
    d->ops->close(d);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[32];
    struct qcow2_check c;
    struct error e;
    int fd = image_of(data, size);
    if (fd < 0)
        return 0;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    qcow2_check(path, false, &c, &e);
    use(path, true, data, size);
    use(path, false, data, size);
    qcow2_check(path, true, &c, &e);
    close(fd);
    return 0;
}
