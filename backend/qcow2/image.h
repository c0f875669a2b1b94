// What the parts of the qcow2 backend share: an open image, and what each part does to it. Nobody outside includes
// this.
//
// The format, in QEMU's docs/interop/qcow2.txt, is two maps over a file that is cut into clusters:
//
//     guest offset --L1--> L2 table --> entry: where the cluster's bytes are       (map.c)
//     cluster of the file --reftable--> refcount block --> how many refer to it    (refcount.c)
//
// All calls block and are made by worker threads (disk.c). Who may touch what:
//
//   - `lock` guards everything that describes the image: L1, reftable, caches, what is to be freed. It may be held over
//     reads and writes of tables, never over those of guest data.
//   - a range lock (range.c) covers the guest clusters that a request works on, so that nobody moves a cluster while
//     somebody else reads or writes it. It is always taken before and kept beyond the other.
//
// Order in which things reach the file (commit.c): refcounts up, data, L2 tables, L1, refcounts down. Whenever the
// process is killed, the file is at worst one with clusters that nobody refers to (a leak), never one in which
// something refers to a cluster that is free. Between these steps there is an fdatasync, so that a power failure does
// no worse.
//
// Functions return 0 or a negative errno; -EIO also means that the image contradicts itself.
#pragma once
#include "backend/qcow2/qcow2.h"
#include "vm/disk.h"
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

enum { QCOW2_MAGIC = 0x514649fb, CLUSTER_BITS_MIN = 9, CLUSTER_BITS_MAX = 21 };
enum { L1_BYTES_MAX = 32 << 20, REFTABLE_BYTES_MAX = 8 << 20, SNAPSHOTS_MAX = 65536, CHAIN_MAX = 64 };
enum { BACKING_NAME_MAX = 1023, FORMAT_NAME_MAX = 15, IOVS = 256 };

// Bits of L1 and L2 entries ("Cluster mapping").
#define ENTRY_COPIED (1ull << 63)     // the cluster's refcount is exactly 1: it may be written where it is
#define ENTRY_COMPRESSED (1ull << 62) // L2
#define ENTRY_ZERO (1ull << 0)        // L2, version 3
#define ENTRY_OFFSET 0x00fffffffffffe00ull
#define ENTRY_RESERVED (~(ENTRY_COPIED | ENTRY_COMPRESSED | ENTRY_OFFSET | ENTRY_ZERO))
#define REFTABLE_OFFSET 0xfffffffffffffe00ull

enum { INCOMPATIBLE_DIRTY = 1, INCOMPATIBLE_CORRUPT = 2, INCOMPATIBLE_DATA_FILE = 4, INCOMPATIBLE_COMPRESSION = 8 };
enum { COMPATIBLE_LAZY = 1 };
enum { COMPRESSION_ZLIB = 0, COMPRESSION_ZSTD = 1 };

// --- the file, in exact amounts (file.c)

int file_read(int fd, void *to, size_t length, uint64_t offset); // -EIO if the file ends before
int file_write(int fd, const void *from, size_t length, uint64_t offset);
int file_readv(int fd, struct iovec *iov, unsigned n, uint64_t offset); // iov is used up; zeroes past the end
int file_writev(int fd, struct iovec *iov, unsigned n, uint64_t offset);
uint64_t file_size(int fd); // of a regular file or block device; 0 if it can't be told
// A table of 64-bit entries, in the host's byte order; the caller frees it.
int file_read_table(int fd, uint64_t offset, uint64_t entries, uint64_t **out);
uint64_t load_be(const void *at, unsigned bytes);
void store_be(void *at, unsigned bytes, uint64_t value);

// --- where in a request's memory we are (cursor.c)

struct cursor {
    const struct disk_segment *seg;
    unsigned segs;
    size_t skip; // bytes of seg[0] that are used up
};

// Takes up to `length` bytes off the front as an iovec of up to `max` pieces; returns how many bytes.
uint64_t cursor_take(struct cursor *c, uint64_t length, struct iovec *iov, unsigned max, unsigned *n);
void cursor_zero(struct cursor *c, uint64_t length);
void cursor_put(struct cursor *c, const void *from, uint64_t length);
// Between the file's [offset, offset + length) and the memory. -EINVAL if there is less memory.
int cursor_read(struct cursor *to, int fd, uint64_t offset, uint64_t length);
int cursor_write(struct cursor *from, int fd, uint64_t offset, uint64_t length);

// --- something that can be read: the image itself or what lies below it (chain.c)

struct layer {
    int (*read)(struct layer *l, uint64_t offset, uint64_t length, struct cursor *to); // within size
    void (*close)(struct layer *l);
    uint64_t size; // bytes
};

// Reads from a layer that may be shorter: zeroes behind its end.
int layer_read(struct layer *l, uint64_t offset, uint64_t length, struct cursor *to);

// The files of a chain from its top on, to tell a loop.
struct chain {
    const struct chain *above;
    dev_t dev;
    ino_t ino;
};

// Opens the file that `image` names as its backing file; a relative name starts from the image's folder.
int chain_open(const char *image, const char *name, const char *format, const struct chain *above, struct layer **out,
               struct error *err);

// --- tables of a cluster each, as they are in the file: a bounded cache (cache.c)

struct qcow2;

struct table {
    uint64_t offset;           // in the file; 0: the slot is empty
    uint8_t *data;             // one cluster, big-endian as in the file
    struct table *next;        // with the same hash
    uint32_t dirty, dirty_end; // the bytes that differ from the file; empty if equal
    bool used;                 // since the clock's hand came by
};

struct table_cache {
    struct table *slot;
    struct table **bucket;
    unsigned slots, hand; // buckets: as many as slots
    uint32_t size;        // bytes of a table
    unsigned dirty;       // how many tables are
    // Called when a dirty table has to make room; must leave it clean.
    int (*clean)(struct qcow2 *q, struct table *t);
};

int cache_init(struct table_cache *c, uint32_t table_size, int (*clean)(struct qcow2 *q, struct table *t));
void cache_free(struct table_cache *c);
// The table at that offset, valid until the next call for the same cache. fresh: all zeroes and dirty, not read.
int cache_get(struct qcow2 *q, struct table_cache *c, uint64_t offset, bool fresh, struct table **out);
void cache_dirty(struct table_cache *c, struct table *t, uint32_t at, uint32_t bytes);
int cache_write(struct qcow2 *q, struct table_cache *c, struct table *t);
int cache_write_all(struct qcow2 *q, struct table_cache *c);
void cache_drop(struct table_cache *c, uint64_t offset); // forgets a table that is no more

// --- the header (header.c)

struct qcow2_header {
    uint32_t version, cluster_bits, l1_entries, reftable_clusters, snapshots, refcount_order, compression;
    uint64_t size, l1_offset, reftable_offset, snapshots_offset;
    uint64_t incompatible, compatible, autoclear;
    char backing[BACKING_NAME_MAX + 1]; // empty: none
    char backing_format[FORMAT_NAME_MAX + 1];
};

int header_read(int fd, const char *path, struct qcow2_header *h, struct error *err);
// Sets the incompatible feature bits in memory and in the file, and makes them stable. Version 2 has none: nothing.
int header_set_incompatible(struct qcow2 *q, uint64_t bits);

// --- the image (image.c)

struct freed {
    uint64_t first, count; // clusters of the file
};

struct range {
    struct range *next;
    uint64_t first, last; // guest clusters, inclusive
    bool exclusive;
};

enum { UNPACKED = 4 };

struct unpacked { // a cluster that was compressed: reads of its parts come one after another
    uint64_t entry;
    uint8_t *data;
};

struct dirty_entries { // of L1 or reftable, by index; empty if from == to
    uint32_t from, to;
};

static inline void dirty_entries_add(struct dirty_entries *d, uint32_t i)
{
    if (d->from == d->to)
        *d = (struct dirty_entries){i, i + 1};
    d->from = i < d->from ? i : d->from;
    d->to = i >= d->to ? i + 1 : d->to;
}

struct qcow2 {
    struct layer layer;
    int fd;
    char *path;
    bool readonly, device;
    struct qcow2_header h;
    uint64_t cluster;          // bytes
    unsigned l2_bits, rb_bits; // log2 of entries per table
    struct layer *backing;     // or NULL

    pthread_mutex_t lock; // guards all of the following
    uint64_t *l1, *reftable;
    uint32_t reftable_entries;
    struct dirty_entries l1_dirty, reftable_dirty;
    struct table_cache l2, rb;
    uint64_t hint; // no free cluster is before this one
    uint64_t top;  // no cluster from this one on is or has been in use
    struct freed *freed;
    unsigned freed_count, freed_room;
    bool broken; // a contradiction was met: nothing is written any more
    struct range *ranges, **ranges_end;
    pthread_cond_t ranges_moved;

    pthread_mutex_t unpacked_lock; // guards unpacked and its hand
    struct unpacked unpacked[UNPACKED];
    unsigned unpacked_hand;
};

// fd is taken over, also on failure.
int image_open(int fd, const char *path, bool readonly, bool top, const struct chain *above, struct qcow2 **out,
               struct error *err);
int image_settle(struct qcow2 *q); // writes what is to be written: the file is as if it had been closed
int image_close(struct qcow2 *q);  // writes what is to be written; frees it whatever happens
// With the lock held: the image contradicts itself. Notes it in the header; returns -EIO.
int image_broken(struct qcow2 *q);

// --- L1 and L2 (map.c); with the lock held

enum extent_kind { EXTENT_ABSENT, EXTENT_ZERO, EXTENT_DATA, EXTENT_COMPRESSED };

struct extent { // a run of guest bytes that are found in one place
    enum extent_kind kind;
    bool copied;     // DATA: may be written in place
    uint64_t length; // bytes
    uint64_t host;   // DATA: byte offset in the file; COMPRESSED: the L2 entry
};

int map_find(struct qcow2 *q, uint64_t offset, uint64_t length, struct extent *out);
// Lets `count` guest clusters from `offset` on point to clusters of the file from `host` on, or all have the same
// entry (0 or ENTRY_ZERO). What they pointed to is freed at the next commit. *done: how many were changed.
int map_set(struct qcow2 *q, uint64_t offset, uint64_t count, uint64_t entry, uint64_t *done);
void map_compressed(const struct qcow2 *q, uint64_t entry, uint64_t *offset, uint64_t *bytes);

// --- refcounts (refcount.c); with the lock held

uint64_t refcount_load(const uint8_t *block, unsigned order, uint64_t index);
void refcount_store(uint8_t *block, unsigned order, uint64_t index, uint64_t value);
int refcount_get(struct qcow2 *q, uint64_t cluster, uint64_t *value);
int refcount_put(struct qcow2 *q, uint64_t cluster, uint64_t value); // makes the block where there is none
int refcount_alloc(struct qcow2 *q, uint64_t want, uint64_t *first, uint64_t *got); // contiguous, 1 <= got <= want
int refcount_drop(struct qcow2 *q, uint64_t first, uint64_t count);                 // at once: nothing referred to it
int refcount_free(struct qcow2 *q, uint64_t first, uint64_t count);                 // at the next commit
int refcount_free_pending(struct qcow2 *q);

// --- order of writing (commit.c)

int commit(struct qcow2 *q);      // with the lock held
int commit_last(struct qcow2 *q); // the same, then lazy refcounts and what was freed too
int commit_flush(struct qcow2 *q);

// --- data (read.c, write.c, compressed.c); without the lock

int image_read(struct qcow2 *q, uint64_t offset, uint64_t length, struct cursor *to); // the range is locked
int image_write(struct qcow2 *q, uint64_t offset, uint64_t length, const struct cursor *from);
int image_zero(struct qcow2 *q, uint64_t offset, uint64_t length);
int image_discard(struct qcow2 *q, uint64_t offset, uint64_t length);
int compressed_read(struct qcow2 *q, uint64_t entry, uint64_t within, uint64_t length, struct cursor *to);

// --- range locks (range.c); with the lock held

void range_lock(struct qcow2 *q, struct range *r, uint64_t offset, uint64_t length, bool exclusive);
void range_unlock(struct qcow2 *q, struct range *r);

// --- consistency (check.c)

// Before or after use, not during it. repair: refcounts become what they should be.
int image_check(struct qcow2 *q, bool repair, struct qcow2_check *out, struct error *err);

static inline uint64_t cluster_of(const struct qcow2 *q, uint64_t offset)
{
    return offset >> q->h.cluster_bits;
}

static inline uint64_t clusters_for(const struct qcow2 *q, uint64_t bytes)
{
    return bytes / q->cluster + (bytes % q->cluster != 0);
}
