// The header of an image: read with every field checked ("Header", "Header extensions" in qcow2.txt).
//
// What comes out of here can be calculated with: sizes, offsets and counts are within bounds that keep every product in
// 64 bits and every table in moderate memory. A version 2 header is filled up with what its absent fields mean.
#include "backend/qcow2/image.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { V2_BYTES = 72, V3_BYTES = 104, EXTENSION_BACKING_FORMAT = (int)0xe2792aca, EXTENSION_FEATURES = 0x6803f857 };
enum { FEATURE_BYTES = 48, FEATURE_NAME = 2 };

#define KNOWN_INCOMPATIBLE (INCOMPATIBLE_DIRTY | INCOMPATIBLE_CORRUPT | INCOMPATIBLE_COMPRESSION)

// The name that the image itself gives to an incompatible feature, or one that we know, or just the bit's number.
static void feature_name(const uint8_t *table, size_t bytes, unsigned bit, char *out, size_t room)
{
    for (size_t at = 0; at + FEATURE_BYTES <= bytes; at += FEATURE_BYTES)
        if (table[at] == 0 && table[at + 1] == bit && table[at + FEATURE_NAME]) {
            snprintf(out, room, "%.46s", (const char *)table + at + FEATURE_NAME);
            for (char *c = out; *c; c++)
                if (*c < ' ' || *c > '~')
                    *c = '?';
            return;
        }
    static const char *const known[] = {[2] = "external data file", [4] = "extended L2 entries"};
    if (bit < sizeof known / sizeof *known && known[bit])
        snprintf(out, room, "%s", known[bit]);
    else
        snprintf(out, room, "bit %u", bit);
}

struct extensions {
    const uint8_t *features;
    size_t features_bytes;
};

static int read_extensions(const uint8_t *b, size_t at, size_t end, const char *path, struct qcow2_header *h,
                           struct extensions *x, struct error *err)
{
    while (end - at >= 8) {
        uint32_t type = (uint32_t)load_be(b + at, 4);
        size_t length = load_be(b + at + 4, 4);
        at += 8;
        if (!type)
            return 0;
        if (length > end - at)
            return error_set(err, EINVAL, "disk %s: header extension 0x%" PRIx32 " is longer than the header", path,
                             type);
        if (type == (uint32_t)EXTENSION_BACKING_FORMAT) {
            if (length > FORMAT_NAME_MAX)
                return error_set(err, EINVAL, "disk %s: the name of its backing file's format is too long", path);
            memcpy(h->backing_format, b + at, length);
            h->backing_format[length] = 0;
        } else if (type == EXTENSION_FEATURES) {
            x->features = b + at;
            x->features_bytes = length;
        }
        size_t padded = (length + 7) & ~(size_t)7;
        at += padded < end - at ? padded : end - at;
    }
    return 0;
}

static int check_features(const char *path, const struct qcow2_header *h, const struct extensions *x, struct error *err)
{
    uint64_t unknown = h->incompatible & ~(uint64_t)KNOWN_INCOMPATIBLE;
    if (unknown) {
        char name[64];
        feature_name(x->features, x->features_bytes, (unsigned)__builtin_ctzll(unknown), name, sizeof name);
        return error_set(err, ENOTSUP, "disk %s: needs a feature of qcow2 that is not supported: %s", path, name);
    }
    if (h->compression > COMPRESSION_ZSTD)
        return error_set(err, ENOTSUP, "disk %s: compression type %" PRIu32 " is not supported", path, h->compression);
    if (h->compression && !(h->incompatible & INCOMPATIBLE_COMPRESSION))
        return error_set(err, EINVAL, "disk %s: compression type without its feature bit", path);
    return 0;
}

// A table must start at a cluster, lie behind the header's cluster and be where file offsets can be.
static bool table_fits(const struct qcow2_header *h, uint64_t offset, uint64_t bytes)
{
    uint64_t cluster = 1ull << h->cluster_bits;
    return offset % cluster == 0 && offset >= cluster && offset <= INT64_MAX - bytes;
}

static int check_tables(const char *path, const struct qcow2_header *h, struct error *err)
{
    uint64_t covered = 1ull << (2 * h->cluster_bits - 3); // guest bytes of an L1 entry
    uint64_t l1_bytes = (uint64_t)h->l1_entries * 8, reftable_bytes = (uint64_t)h->reftable_clusters << h->cluster_bits;
    if (h->size > INT64_MAX || h->size / covered + (h->size % covered != 0) > h->l1_entries)
        return error_set(err, EINVAL, "disk %s: its L1 table, %" PRIu32 " entries, is too short for %" PRIu64 " bytes",
                         path, h->l1_entries, h->size);
    if (l1_bytes > L1_BYTES_MAX)
        return error_set(err, EFBIG, "disk %s: its L1 table, %" PRIu64 " bytes, is too large", path, l1_bytes);
    if (l1_bytes && !table_fits(h, h->l1_offset, l1_bytes))
        return error_set(err, EINVAL, "disk %s: its L1 table cannot be at 0x%" PRIx64, path, h->l1_offset);
    if (!reftable_bytes || reftable_bytes > REFTABLE_BYTES_MAX)
        return error_set(err, EINVAL, "disk %s: its refcount table has %" PRIu32 " clusters", path,
                         h->reftable_clusters);
    if (!table_fits(h, h->reftable_offset, reftable_bytes))
        return error_set(err, EINVAL, "disk %s: its refcount table cannot be at 0x%" PRIx64, path, h->reftable_offset);
    if (h->snapshots > SNAPSHOTS_MAX || (h->snapshots && !table_fits(h, h->snapshots_offset, 0)))
        return error_set(err, EINVAL, "disk %s: its snapshot table is damaged", path);
    return 0;
}

// The fixed part. b has V3_BYTES + 8 bytes, zeroes where the file was shorter.
static int read_fields(const uint8_t *b, const char *path, struct qcow2_header *h, size_t *length, struct error *err)
{
    *h = (struct qcow2_header){.version = (uint32_t)load_be(b + 4, 4),
                               .cluster_bits = (uint32_t)load_be(b + 20, 4),
                               .size = load_be(b + 24, 8),
                               .l1_entries = (uint32_t)load_be(b + 36, 4),
                               .l1_offset = load_be(b + 40, 8),
                               .reftable_offset = load_be(b + 48, 8),
                               .reftable_clusters = (uint32_t)load_be(b + 56, 4),
                               .snapshots = (uint32_t)load_be(b + 60, 4),
                               .snapshots_offset = load_be(b + 64, 8),
                               .refcount_order = 4};
    *length = V2_BYTES;
    if (load_be(b, 4) != QCOW2_MAGIC)
        return error_set(err, EINVAL, "disk %s: not a qcow2 image", path);
    if (h->version != 2 && h->version != 3)
        return error_set(err, ENOTSUP, "disk %s: qcow2 version %" PRIu32 " is not supported", path, h->version);
    if (h->cluster_bits < CLUSTER_BITS_MIN || h->cluster_bits > CLUSTER_BITS_MAX)
        return error_set(err, EINVAL, "disk %s: clusters of 2^%" PRIu32 " bytes", path, h->cluster_bits);
    if (load_be(b + 32, 4))
        return error_set(err, ENOTSUP, "disk %s: it is encrypted, which is not supported", path);
    if (h->version == 2)
        return 0;
    h->incompatible = load_be(b + 72, 8);
    h->compatible = load_be(b + 80, 8);
    h->autoclear = load_be(b + 88, 8);
    h->refcount_order = (uint32_t)load_be(b + 96, 4);
    *length = load_be(b + 100, 4);
    if (*length < V3_BYTES || *length % 8 || *length > 1u << h->cluster_bits)
        return error_set(err, EINVAL, "disk %s: a header of %zu bytes", path, *length);
    if (*length > V3_BYTES)
        h->compression = b[104];
    if (h->refcount_order > 6)
        return error_set(err, EINVAL, "disk %s: refcounts of 2^%" PRIu32 " bits", path, h->refcount_order);
    return 0;
}

int header_read(int fd, const char *path, struct qcow2_header *h, struct error *err)
{
    // The header, its extensions and the backing file's name all lie in the first cluster.
    size_t room = 1 << CLUSTER_BITS_MAX, length;
    uint8_t *b = calloc(1, room);
    if (!b)
        return error_set(err, ENOMEM, "disk %s: out of memory", path);
    struct iovec v = {b, 4096};
    struct extensions x = {0};
    int e = file_readv(fd, &v, 1, 0);
    if (e) {
        error_set(err, -e, "disk %s: %s", path, strerror(-e));
        goto out;
    }
    e = read_fields(b, path, h, &length, err);
    if (e)
        goto out;
    size_t cluster = 1u << h->cluster_bits;
    v = (struct iovec){b, cluster};
    e = file_readv(fd, &v, 1, 0);
    if (e) {
        error_set(err, -e, "disk %s: %s", path, strerror(-e));
        goto out;
    }
    uint64_t name = load_be(b + 8, 8), name_bytes = load_be(b + 16, 4);
    if (name && (name < length || name > cluster || name_bytes > cluster - name || name_bytes > BACKING_NAME_MAX)) {
        e = error_set(err, EINVAL, "disk %s: its backing file's name is outside of the header", path);
        goto out;
    }
    e = read_extensions(b, length, name ? name : cluster, path, h, &x, err);
    if (!e && name) {
        memcpy(h->backing, b + name, name_bytes);
        h->backing[name_bytes] = 0;
    }
    if (!e)
        e = check_features(path, h, &x, err);
    if (!e)
        e = check_tables(path, h, err);
out:
    free(b);
    return e;
}

int header_set_incompatible(struct qcow2 *q, uint64_t bits)
{
    uint8_t be[8];
    if (q->h.version < 3 || q->h.incompatible == bits)
        return 0;
    store_be(be, 8, bits);
    int e = file_write(q->fd, be, sizeof be, 72);
    if (!e && fdatasync(q->fd))
        e = -errno;
    if (!e)
        q->h.incompatible = bits;
    return e;
}

int qcow2_backing(const char *path, char name[QCOW2_BACKING], struct error *err)
{
    struct qcow2_header *h = malloc(sizeof *h);
    if (!h)
        return error_set(err, ENOMEM, "disk %s: out of memory", path);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    int e = fd < 0 ? error_set(err, errno, "disk %s: %s", path, strerror(errno)) : header_read(fd, path, h, err);
    if (!e)
        strcpy(name, h->backing);
    if (fd >= 0)
        close(fd);
    free(h);
    return e;
}
