// Making new images: version 3, nothing allocated yet.
//
//     cluster 0   header, its extensions, the backing file's name
//     then        the reftable, refcount blocks for all of this, the L1 table (zeroes)
//
// The backing file is opened as it will be when the image is used, so that an overlay that can't work is never made.
#include "backend/qcow2/image.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { HEADER_BYTES = 112, ORDER = 4, FEATURE_BYTES = 48, CLUSTER_DEFAULT = 1 << 16 };

struct layout {
    unsigned bits;
    uint64_t size, l1_entries, l1_clusters, blocks, reftable_clusters, total; // but for size: clusters or entries
};

static int plan(const struct qcow2_options *o, uint64_t size, struct layout *l, struct error *err)
{
    uint32_t cluster = o->cluster ? o->cluster : CLUSTER_DEFAULT;
    if ((cluster & (cluster - 1)) || cluster < 1u << CLUSTER_BITS_MIN || cluster > 1u << CLUSTER_BITS_MAX)
        return error_set(err, EINVAL, "disk %s: clusters of %" PRIu32 " bytes: a power of 2 from 512 to 2M is needed",
                         o->path, cluster);
    if (!size || size % 512)
        return error_set(err, EINVAL, "disk %s: its size, %" PRIu64 " bytes, must be a multiple of 512 and not 0",
                         o->path, size);
    *l = (struct layout){.bits = (unsigned)__builtin_ctz(cluster), .size = size};
    uint64_t covered = 1ull << (2 * l->bits - 3);
    l->l1_entries = size / covered + (size % covered != 0);
    if (size > INT64_MAX || l->l1_entries * 8 > L1_BYTES_MAX)
        return error_set(err, EFBIG, "disk %s: too large, %" PRIu64 " bytes, for clusters of %" PRIu32, o->path, size,
                         cluster);
    l->l1_clusters = (l->l1_entries * 8 + cluster - 1) / cluster;
    for (uint64_t before = 0; !l->total || before != l->total;) { // blocks and reftable need refcounts themselves
        before = l->total;
        l->total = 1 + l->reftable_clusters + l->blocks + l->l1_clusters;
        uint64_t per_block = (uint64_t)cluster * 8 >> ORDER;
        l->blocks = (l->total + per_block - 1) / per_block;
        l->reftable_clusters = (l->blocks * 8 + cluster - 1) / cluster;
    }
    return 0;
}

static size_t put_extension(uint8_t *b, size_t at, uint32_t type, const void *data, size_t length)
{
    store_be(b + at, 4, type);
    store_be(b + at + 4, 4, length);
    memcpy(b + at + 8, data, length);
    return at + 8 + ((length + 7) & ~(size_t)7);
}

static int make_header(const struct qcow2_options *o, const struct layout *l, uint8_t *b, struct error *err)
{
    uint64_t cluster = 1ull << l->bits;
    store_be(b, 4, QCOW2_MAGIC);
    store_be(b + 4, 4, 3);
    store_be(b + 20, 4, l->bits);
    store_be(b + 24, 8, l->size);
    store_be(b + 36, 4, l->l1_entries);
    store_be(b + 40, 8, (1 + l->reftable_clusters + l->blocks) << l->bits);
    store_be(b + 48, 8, cluster);
    store_be(b + 56, 4, l->reftable_clusters);
    store_be(b + 80, 8, o->lazy_refcounts ? COMPATIBLE_LAZY : 0);
    store_be(b + 96, 4, ORDER);
    store_be(b + 100, 4, HEADER_BYTES);
    size_t at = HEADER_BYTES, name = o->backing ? strlen(o->backing) : 0;
    if (o->backing)
        at = put_extension(b, at, 0xe2792aca, o->backing_format, strlen(o->backing_format));
    static const char features[3][FEATURE_BYTES] = {"\0\0dirty bit", "\0\1corrupt bit", "\1\0lazy refcounts"};
    if (at + 8 + sizeof features + 8 + name <= cluster) // a courtesy, where there is room
        at = put_extension(b, at, 0x6803f857, features, sizeof features);
    at += 8; // the end: type 0, length 0
    if (name > BACKING_NAME_MAX || at + name > cluster)
        return error_set(err, ENAMETOOLONG, "disk %s: the backing file's name is too long", o->path);
    if (name) {
        store_be(b + 8, 8, at);
        store_be(b + 16, 4, name);
        memcpy(b + at, o->backing, name);
    }
    return 0;
}

static int write_image(int fd, const struct layout *l, uint8_t *b)
{
    uint64_t cluster = 1ull << l->bits, first_block = 1 + l->reftable_clusters;
    int e = ftruncate(fd, (off_t)(l->total << l->bits)) ? -errno : 0; // also what is not written: zeroes
    if (!e)
        e = file_write(fd, b, cluster, 0);
    for (uint64_t n = 0; !e && n < l->reftable_clusters; n++) {
        memset(b, 0, cluster);
        for (uint64_t i = 0; i < cluster / 8 && n * cluster / 8 + i < l->blocks; i++)
            store_be(b + i * 8, 8, (first_block + n * cluster / 8 + i) << l->bits);
        e = file_write(fd, b, cluster, (1 + n) << l->bits);
    }
    uint64_t per_block = cluster * 8 >> ORDER;
    for (uint64_t n = 0; !e && n < l->blocks; n++) {
        memset(b, 0, cluster);
        for (uint64_t i = 0; i < per_block && n * per_block + i < l->total; i++)
            refcount_store(b, ORDER, i, 1);
        e = file_write(fd, b, cluster, (first_block + n) << l->bits);
    }
    if (!e && fdatasync(fd))
        e = -errno;
    return e;
}

static int backing_size(const struct qcow2_options *o, uint64_t *size, struct error *err)
{
    struct layer *below;
    if (!o->backing)
        return 0;
    int e = chain_open(o->path, o->backing, o->backing_format ? o->backing_format : "", NULL, &below, err);
    if (e)
        return e;
    if (!*size)
        *size = (below->size + 511) & ~511ull;
    below->close(below);
    return 0;
}

int qcow2_create(const struct qcow2_options *o, struct error *err)
{
    struct layout l = {0};
    uint64_t size = o->size;
    int e = backing_size(o, &size, err);
    if (!e)
        e = plan(o, size, &l, err);
    if (e)
        return e;
    uint8_t *b = calloc(1, 1ull << l.bits);
    if (!b)
        return error_set(err, ENOMEM, "disk %s: out of memory", o->path);
    e = make_header(o, &l, b, err);
    int fd = e ? -1 : open(o->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (!e && fd < 0)
        e = error_set(err, errno, "disk %s: %s", o->path, strerror(errno));
    if (!e && (e = write_image(fd, &l, b))) {
        error_set(err, -e, "disk %s: %s", o->path, strerror(-e));
        unlink(o->path);
    }
    if (fd >= 0)
        close(fd);
    free(b);
    return e;
}
