// Reading compressed clusters ("Compressed Clusters Descriptor" in qcow2.txt): raw deflate or zstd.
//
// A cluster unpacks as a whole, but is read in pieces; so the last few are kept. They never become wrong: nothing that
// is compressed is ever written here, so what an L2 entry of that kind points to is the same as long as it exists.
//
// The packed bytes are what the image says, up to a whole cluster and a bit; they must unpack to exactly one cluster,
// or the read fails.
#include "backend/qcow2/image.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

static bool inflate_cluster(const uint8_t *from, size_t bytes, uint8_t *to, size_t room)
{
    z_stream z = {.next_in = (uint8_t *)(uintptr_t)from,
                  .avail_in = (unsigned)bytes,
                  .next_out = to,
                  .avail_out = (unsigned)room};
    if (inflateInit2(&z, -15) != Z_OK) // raw; the window of whoever packed is smaller or equal
        return false;
    int r = inflate(&z, Z_FINISH);
    bool full = z.avail_out == 0 && (r == Z_STREAM_END || r == Z_BUF_ERROR || r == Z_OK);
    inflateEnd(&z);
    return full;
}

// The packed bytes are rounded up to sectors, and rubbish may follow the frame; several frames may make a cluster.
static bool zstd_cluster(const uint8_t *from, size_t bytes, uint8_t *to, size_t room)
{
    ZSTD_DStream *z = ZSTD_createDStream();
    ZSTD_inBuffer in = {from, bytes, 0};
    ZSTD_outBuffer out = {to, room, 0};
    while (z && out.pos < out.size) {
        size_t in_before = in.pos, out_before = out.pos;
        size_t r = ZSTD_decompressStream(z, &out, &in);
        if (ZSTD_isError(r) || (in.pos == in_before && out.pos == out_before))
            break;
    }
    ZSTD_freeDStream(z);
    return out.pos == out.size;
}

static int unpack(struct qcow2 *q, uint64_t entry, uint8_t *to)
{
    uint64_t offset, bytes;
    map_compressed(q, entry, &offset, &bytes);
    uint8_t *packed = malloc(bytes);
    if (!packed)
        return -ENOMEM;
    struct iovec v = {packed, bytes};
    int e = file_readv(q->fd, &v, 1, offset); // the last one may be cut by the end of the file
    if (!e) {
        bool good = q->h.compression == COMPRESSION_ZSTD ? zstd_cluster(packed, bytes, to, q->cluster)
                                                         : inflate_cluster(packed, bytes, to, q->cluster);
        e = good ? 0 : -EIO;
    }
    free(packed);
    return e;
}

int compressed_read(struct qcow2 *q, uint64_t entry, uint64_t within, uint64_t length, struct cursor *to)
{
    pthread_mutex_lock(&q->unpacked_lock);
    for (unsigned i = 0; i < UNPACKED; i++)
        if (q->unpacked[i].data && q->unpacked[i].entry == entry) {
            cursor_put(to, q->unpacked[i].data + within, length);
            pthread_mutex_unlock(&q->unpacked_lock);
            return 0;
        }
    pthread_mutex_unlock(&q->unpacked_lock);
    uint8_t *data = malloc(q->cluster);
    if (!data)
        return -ENOMEM;
    int e = unpack(q, entry, data);
    if (e) {
        free(data);
        return e;
    }
    cursor_put(to, data + within, length);
    pthread_mutex_lock(&q->unpacked_lock);
    struct unpacked *u = &q->unpacked[q->unpacked_hand++ % UNPACKED];
    free(u->data);
    *u = (struct unpacked){entry, data};
    pthread_mutex_unlock(&q->unpacked_lock);
    return 0;
}
