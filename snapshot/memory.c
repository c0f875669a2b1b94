// Writing and checking memory files: see memory.h.
//
// Runs of pages are written with as few calls as possible. Looking for zeroes costs as much as reading, so what was
// never touched is left out beforehand where the kernel knows it (SEEK_DATA).
#include "snapshot/memory.h"
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

enum { PAGE = SNAPSHOT_PAGE, RUN_MAX = 1 << 20 };

static void put_digest(XXH3_state_t *x, char text[SNAPSHOT_DIGEST])
{
    XXH128_canonical_t c;
    XXH128_canonicalFromHash(&c, XXH3_128bits_digest(x));
    for (unsigned i = 0; i < sizeof c.digest; i++) {
        static const char digits[] = "0123456789abcdef";
        text[2 * i] = digits[c.digest[i] >> 4];
        text[2 * i + 1] = digits[c.digest[i] & 15];
    }
    text[SNAPSHOT_DIGEST - 1] = 0;
}

static bool is_zero(const uint8_t *page)
{
    // The page is compared with itself, moved by one word: fast, and nothing else is read.
    uint64_t first;
    memcpy(&first, page, sizeof first);
    return !first && !memcmp(page, page + sizeof first, PAGE - sizeof first);
}

// Pages, one after the other, into a digest and perhaps a file.
struct pages {
    XXH3_state_t *digest;
    int fd; // -1: they are only looked at
    uint64_t stored;
    const uint8_t *run; // not written yet
    uint64_t run_at, run_size;
};

static int flush(struct pages *p)
{
    while (p->run_size) {
        ssize_t n = pwrite(p->fd, p->run, p->run_size, (off_t)p->run_at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n ? -errno : -EIO;
        p->run += n;
        p->run_at += (uint64_t)n;
        p->run_size -= (uint64_t)n;
    }
    return 0;
}

static int add(struct pages *p, const uint8_t *page, uint64_t at)
{
    const uint64_t number = at / PAGE; // hosts are little-endian
    XXH3_128bits_update(p->digest, &number, sizeof number);
    XXH3_128bits_update(p->digest, page, PAGE);
    p->stored += PAGE;
    if (p->fd < 0)
        return 0;
    if (p->run_size && (p->run_at + p->run_size != at || p->run_size >= RUN_MAX)) {
        int e = flush(p);
        if (e)
            return e;
    }
    if (!p->run_size) {
        p->run = page;
        p->run_at = at;
    }
    p->run_size += PAGE;
    return 0;
}

// All pages of [base, base + size) that are not zero; holes of the file `sparse` (-1: unknown) are passed over.
static int each(struct pages *p, const uint8_t *base, uint64_t size, int sparse)
{
    uint64_t at = 0;
    while (at < size) {
        off_t data = sparse < 0 ? (off_t)at : lseek(sparse, (off_t)at, SEEK_DATA);
        if (data < 0 && errno == ENXIO)
            break; // nothing but a hole up to the end
        off_t hole = data < 0 || sparse < 0 ? -1 : lseek(sparse, data, SEEK_HOLE);
        at = data < 0 ? at : (uint64_t)data & ~(uint64_t)(PAGE - 1);
        uint64_t end = hole < 0 || (uint64_t)hole > size ? size : ((uint64_t)hole + PAGE - 1) & ~(uint64_t)(PAGE - 1);
        for (; at < end; at += PAGE) {
            int e = is_zero(base + at) ? 0 : add(p, base + at, at);
            if (e)
                return e;
        }
    }
    return p->fd < 0 ? 0 : flush(p);
}

static int run(struct pages *p, const uint8_t *base, uint64_t size, int sparse, struct snapshot_part *out)
{
    p->digest = XXH3_createState();
    if (!p->digest)
        return -ENOMEM;
    XXH3_128bits_reset(p->digest);
    int e = each(p, base, size, sparse);
    *out = (struct snapshot_part){.bytes = size, .stored = p->stored};
    put_digest(p->digest, out->xxh3);
    XXH3_freeState(p->digest);
    return e;
}

int snapshot_memory_write(int fd, const uint8_t *base, uint64_t size, int shared, struct snapshot_part *out,
                          struct error *err)
{
    struct pages p = {.fd = fd};
    int e = ftruncate(fd, (off_t)size) < 0 ? -errno : run(&p, base, size, shared, out);
    return e ? error_set(err, -e, "memory: %s", strerror(-e)) : 0;
}

int snapshot_memory_digest(int fd, struct snapshot_part *out, struct error *err)
{
    struct stat st;
    struct pages p = {.fd = -1};
    if (fstat(fd, &st) < 0)
        return error_set(err, errno, "memory: %s", strerror(errno));
    uint64_t size = (uint64_t)st.st_size;
    if (!size || size % PAGE)
        return error_set(err, EINVAL, "memory: %llu bytes are not whole pages", (unsigned long long)size);
    uint8_t *base = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED)
        return error_set(err, errno, "memory: %s", strerror(errno));
    madvise(base, size, MADV_SEQUENTIAL);
    int e = run(&p, base, size, fd, out);
    munmap(base, size);
    return e ? error_set(err, -e, "memory: %s", strerror(-e)) : 0;
}

int snapshot_file_digest(int fd, uint64_t limit, struct snapshot_part *out, struct error *err)
{
    enum { PIECE = 256 << 10 };
    uint8_t *buf = malloc(PIECE);
    XXH3_state_t *x = XXH3_createState();
    uint64_t at = 0;
    int e = buf && x ? 0 : -ENOMEM;
    if (!e)
        XXH3_128bits_reset(x);
    while (!e) {
        ssize_t n = pread(fd, buf, PIECE, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            e = -errno;
        if (n <= 0)
            break;
        XXH3_128bits_update(x, buf, (size_t)n);
        at += (uint64_t)n;
        if (at > limit)
            e = -EFBIG;
    }
    if (!e) {
        *out = (struct snapshot_part){.bytes = at, .stored = at};
        put_digest(x, out->xxh3);
    }
    XXH3_freeState(x);
    free(buf);
    return e ? error_set(err, -e, "%s", strerror(-e)) : 0;
}
