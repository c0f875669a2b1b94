// Bundles are read. See bundle.h: nothing that is in one is trusted.
#include "bundle/bundle.h"
#include "bundle/tar.h"
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <zstd.h>

enum {
    PIECE = 256 << 10,
    WINDOW_LOG = 27,  // of zstd, at most: 128 MiB of memory
    PADDING = 1 << 20 // zeroes that may follow the end: tar fills up to its own blocks
};

struct in {
    int fd;
    ZSTD_DCtx *z;
    uint8_t *packed; // PIECE bytes
    uint8_t *piece;  // PIECE bytes
    ZSTD_inBuffer from;
    bool whole; // nothing is outstanding of a frame
    struct error *err;
};

// Bytes of the archive: as many as wanted, fewer only at its end. Negative: it is damaged.
static ssize_t take_some(struct in *in, void *to, size_t length)
{
    ZSTD_outBuffer out = {to, length, 0};
    while (out.pos < length) {
        size_t before = out.pos, used = in->from.pos;
        size_t hint = ZSTD_decompressStream(in->z, &out, &in->from);
        if (ZSTD_isError(hint))
            return error_set(in->err, EINVAL, "not a bundle, or damaged: %s", ZSTD_getErrorName(hint));
        if (out.pos != before || in->from.pos != used)
            in->whole = hint == 0;
        if (out.pos != before || in->from.pos < in->from.size)
            continue;
        ssize_t n;
        while ((n = read(in->fd, in->packed, PIECE)) < 0 && errno == EINTR)
            ;
        if (n < 0)
            return error_set(in->err, errno, "reading it: %s", strerror(errno));
        if (!n)
            break;
        in->from = (ZSTD_inBuffer){in->packed, (size_t)n, 0};
    }
    if (out.pos < length && !in->whole)
        return error_set(in->err, EINVAL, "it is cut off");
    return (ssize_t)out.pos;
}

static int take(struct in *in, void *to, size_t length)
{
    ssize_t n = take_some(in, to, length);
    return n < 0 ? (int)n : (size_t)n < length ? error_set(in->err, EINVAL, "it is cut off") : 0;
}

// A header must be this member's. size 0: any up to `most`.
static int take_header(struct in *in, const char *want, uint64_t size, uint64_t most, uint64_t *got)
{
    uint8_t block[TAR_BLOCK];
    char name[TAR_NAME + 1];
    int e = take(in, block, sizeof block);
    if (e)
        return e;
    e = tar_header_read(block, name, got);
    if (e < 0)
        return error_set(in->err, EINVAL, "not a bundle, or damaged: no tar header where %s should be", want);
    if (!e || strcmp(name, want))
        return error_set(in->err, EINVAL, "damaged: %s should be here", want);
    if (size ? *got != size : !*got || *got > most)
        return error_set(in->err, EINVAL, "damaged: %s has a wrong size", want);
    return 0;
}

static int take_rest(struct in *in, uint64_t size)
{
    uint8_t rest[TAR_BLOCK];
    return size % TAR_BLOCK ? take(in, rest, TAR_BLOCK - size % TAR_BLOCK) : 0;
}

static int take_manifest(struct in *in, struct bundle_manifest *m)
{
    uint64_t size;
    int e = take_header(in, "manifest.json", 0, BUNDLE_MANIFEST, &size);
    if (!e)
        e = take(in, in->piece, (size_t)size);
    if (!e)
        e = take_rest(in, size);
    return e ? e : bundle_manifest_read(m, (const char *)in->piece, (size_t)size, in->err);
}

static bool is_zero(const uint8_t *b, size_t n)
{
    return !b[0] && !memcmp(b, b + 1, n - 1);
}

// Zeroes become a hole.
static int put(int fd, const uint8_t *b, size_t length, uint64_t at)
{
    for (size_t done = 0; !is_zero(b, length) && done < length;) {
        ssize_t n = pwrite(fd, b + done, length - done, (off_t)(at + done));
        if (n < 0 && errno != EINTR)
            return -errno;
        done += n > 0 ? (size_t)n : 0;
    }
    return 0;
}

static int take_contents(struct in *in, const struct bundle_member *member, int fd, EVP_MD_CTX *c)
{
    unsigned char digest[EVP_MAX_MD_SIZE] = {0};
    unsigned length = 0;
    char hex[65];
    int e = c && EVP_DigestInit_ex(c, EVP_sha256(), NULL) ? 0 : error_set(in->err, ENOMEM, "out of memory");
    for (uint64_t at = 0, n; !e && at < member->size; at += n) {
        n = member->size - at < PIECE ? member->size - at : PIECE;
        e = take(in, in->piece, (size_t)n);
        if (!e && !EVP_DigestUpdate(c, in->piece, (size_t)n))
            e = error_set(in->err, ENOMEM, "out of memory");
        int failed = e ? 0 : put(fd, in->piece, (size_t)n, at);
        if (failed)
            e = error_set(in->err, -failed, "%s: %s", member->name, strerror(-failed));
    }
    if (!e && !EVP_DigestFinal_ex(c, digest, &length))
        e = error_set(in->err, ENOMEM, "out of memory");
    for (unsigned i = 0; i < 32; i++)
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    if (!e && strcmp(hex, member->sha256))
        e = error_set(in->err, EINVAL, "damaged: %s is not what the manifest says (SHA-256)", member->name);
    if (!e && (ftruncate(fd, (off_t)member->size) || fsync(fd)))
        e = error_set(in->err, errno, "%s: %s", member->name, strerror(errno));
    return e;
}

static int take_member(struct in *in, const struct bundle_member *member, int folder)
{
    uint64_t size;
    int e = take_header(in, member->name, member->size, 0, &size);
    if (e)
        return e;
    int fd = openat(folder, member->name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return error_set(in->err, errno, "%s: %s", member->name, strerror(errno));
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    e = take_contents(in, member, fd, c);
    EVP_MD_CTX_free(c);
    close(fd);
    return e ? e : take_rest(in, member->size);
}

// The archive ends with two blocks of zeroes; more of them may follow, and nothing else.
static int take_end(struct in *in)
{
    uint64_t zeroes = 0;
    ssize_t n;
    while ((n = take_some(in, in->piece, PIECE)) > 0) {
        zeroes += (uint64_t)n;
        if (!is_zero(in->piece, (size_t)n) || zeroes > PADDING)
            return error_set(in->err, EINVAL, "damaged: something follows its last member");
    }
    return n ? (int)n : zeroes < 2 * TAR_BLOCK ? error_set(in->err, EINVAL, "it is cut off") : 0;
}

static int check_room(int folder, const struct bundle_manifest *m, struct error *err)
{
    struct statvfs s;
    uint64_t want = 0; // no overflow: manifest.c limits each
    for (unsigned i = 0; i < m->members; i++)
        want += m->member[i].size;
    if (fstatvfs(folder, &s) == 0 && want / s.f_frsize >= s.f_bavail)
        return error_set(err, ENOSPC, "its members have %llu MiB, and there is not as much room",
                         (unsigned long long)(want >> 20));
    return 0;
}

int bundle_read(int fd, int folder, struct bundle_manifest *m, struct error *err)
{
    struct in in = {
        .fd = fd, .z = ZSTD_createDCtx(), .packed = malloc(PIECE), .piece = malloc(PIECE), .whole = true, .err = err};
    int e = in.z && in.packed && in.piece ? 0 : error_set(err, ENOMEM, "out of memory");
    if (!e && ZSTD_isError(ZSTD_DCtx_setParameter(in.z, ZSTD_d_windowLogMax, WINDOW_LOG)))
        e = error_set(err, EINVAL, "zstd does not take its parameters");
    if (!e)
        e = take_manifest(&in, m);
    if (!e)
        e = check_room(folder, m, err);
    for (unsigned i = 0; !e && i < m->members; i++)
        e = take_member(&in, &m->member[i], folder);
    if (!e)
        e = take_end(&in);
    free(in.piece);
    free(in.packed);
    ZSTD_freeDCtx(in.z);
    return e;
}
