// Bundles are written. See bundle.h.
#include "bundle/bundle.h"
#include "bundle/tar.h"
#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>

enum { PIECE = 256 << 10, LEVEL = 3 };

struct out {
    int fd;
    ZSTD_CCtx *z;
    uint8_t *packed; // PIECE bytes
    uint8_t *piece;  // PIECE bytes
    struct error *err;
};

static ssize_t read_at(int fd, void *to, size_t length, uint64_t at)
{
    ssize_t n;
    while ((n = pread(fd, to, length, (off_t)at)) < 0 && errno == EINTR)
        ;
    return n;
}

int bundle_measure(int fd, struct bundle_member *member, struct error *err)
{
    unsigned char digest[EVP_MAX_MD_SIZE] = {0};
    unsigned length = 0;
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    void *piece = malloc(PIECE);
    ssize_t n = 0;
    int e = c && piece && EVP_DigestInit_ex(c, EVP_sha256(), NULL) ? 0 : -ENOMEM;
    for (member->size = 0; !e && (n = read_at(fd, piece, PIECE, member->size)) > 0; member->size += (uint64_t)n)
        e = EVP_DigestUpdate(c, piece, (size_t)n) ? 0 : -ENOMEM;
    if (n < 0)
        e = -errno;
    if (!e && !EVP_DigestFinal_ex(c, digest, &length))
        e = -ENOMEM;
    for (unsigned i = 0; i < 32; i++)
        snprintf(member->sha256 + 2 * i, 3, "%02x", digest[i]);
    EVP_MD_CTX_free(c);
    free(piece);
    return e ? error_set(err, -e, "%s: %s", member->name, strerror(-e)) : 0;
}

static int write_all(const struct out *o, size_t length)
{
    for (size_t done = 0; done < length;) {
        ssize_t n = write(o->fd, o->packed + done, length - done);
        if (n < 0 && errno != EINTR)
            return error_set(o->err, errno, "writing the bundle: %s", strerror(errno));
        done += n > 0 ? (size_t)n : 0;
    }
    return 0;
}

static int put(const struct out *o, const void *data, size_t length, ZSTD_EndDirective how)
{
    ZSTD_inBuffer in = {data, length, 0};
    size_t left;
    do {
        ZSTD_outBuffer to = {o->packed, PIECE, 0};
        left = ZSTD_compressStream2(o->z, &to, &in, how);
        if (ZSTD_isError(left))
            return error_set(o->err, ENOMEM, "compressing the bundle: %s", ZSTD_getErrorName(left));
        int e = write_all(o, to.pos);
        if (e)
            return e;
    } while (in.pos < in.size || (how == ZSTD_e_end && left));
    return 0;
}

static int put_header(const struct out *o, const char *name, uint64_t size)
{
    uint8_t block[TAR_BLOCK];
    tar_header(block, name, size);
    return put(o, block, sizeof block, ZSTD_e_continue);
}

// Up to a whole block.
static int put_rest(const struct out *o, uint64_t size)
{
    static const uint8_t zero[TAR_BLOCK];
    size_t rest = size % TAR_BLOCK;
    return rest ? put(o, zero, TAR_BLOCK - rest, ZSTD_e_continue) : 0;
}

static int put_member(const struct out *o, const struct bundle_member *member, int fd)
{
    int e = put_header(o, member->name, member->size);
    for (uint64_t at = 0; !e && at < member->size;) {
        uint64_t left = member->size - at;
        ssize_t n = read_at(fd, o->piece, left < PIECE ? (size_t)left : PIECE, at);
        if (n <= 0)
            return error_set(o->err, n ? errno : EIO, "%s: %s", member->name,
                             n ? strerror(errno) : "it became shorter meanwhile");
        e = put(o, o->piece, (size_t)n, ZSTD_e_continue);
        at += (uint64_t)n;
    }
    return e ? e : put_rest(o, member->size);
}

static int put_bundle(const struct out *o, const struct bundle_manifest *m, const int fd[])
{
    static const uint8_t end[2 * TAR_BLOCK];
    char *text = bundle_manifest_write(m);
    if (!text)
        return error_set(o->err, EINVAL, "the manifest: out of memory, or a text is no UTF-8");
    size_t length = strlen(text);
    int e = length > BUNDLE_MANIFEST ? error_set(o->err, E2BIG, "the manifest: too long") : 0;
    if (!e)
        e = put_header(o, "manifest.json", length);
    if (!e)
        e = put(o, text, length, ZSTD_e_continue);
    if (!e)
        e = put_rest(o, length);
    free(text);
    for (unsigned i = 0; !e && i < m->members; i++)
        e = put_member(o, &m->member[i], fd[i]);
    return e ? e : put(o, end, sizeof end, ZSTD_e_end);
}

int bundle_write(int out, const struct bundle_manifest *m, const int fd[], struct error *err)
{
    struct out o = {out, ZSTD_createCCtx(), malloc(PIECE), malloc(PIECE), err};
    int e = o.z && o.packed && o.piece ? 0 : error_set(err, ENOMEM, "out of memory");
    if (!e && (ZSTD_isError(ZSTD_CCtx_setParameter(o.z, ZSTD_c_compressionLevel, LEVEL)) ||
               ZSTD_isError(ZSTD_CCtx_setParameter(o.z, ZSTD_c_checksumFlag, 1))))
        e = error_set(err, EINVAL, "compressing the bundle: zstd does not take its parameters");
    if (!e)
        e = put_bundle(&o, m, fd);
    free(o.piece);
    free(o.packed);
    ZSTD_freeCCtx(o.z);
    return e;
}
