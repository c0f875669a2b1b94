// Frames on a stream socket: see net_stream.h.
//
// Invariant: the batch is written only when nothing waits, so messages keep their order; put() empties a full batch.
#include "backend/net_stream.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { PREFIX = 4, HEADER = sizeof(struct net_header), MESSAGE_MAX = PREFIX + HEADER + NET_FRAME_MAX };
enum { IN_ROOM = 4 * MESSAGE_MAX };

void net_stream_init(struct net_stream *s, int fd, size_t backlog)
{
    memset(s, 0, sizeof *s);
    s->fd = fd;
    s->backlog = backlog;
}

void net_stream_free(struct net_stream *s)
{
    free(s->in);
    free(s->out);
    s->in = s->out = NULL;
    s->in_start = s->in_end = s->out_start = s->out_end = 0;
    s->batch = 0;
}

int net_stream_fill(struct net_stream *s)
{
    if (!s->in && !(s->in = malloc(IN_ROOM)))
        return -ENOMEM;
    s->in_end -= s->in_start;
    memmove(s->in, s->in + s->in_start, s->in_end);
    s->in_start = 0;
    // There is always room: less than one message is left.
    ssize_t n = recv(s->fd, s->in + s->in_end, IN_ROOM - s->in_end, MSG_DONTWAIT);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    s->in_end += (size_t)n;
    return n ? 1 : -EPIPE;
}

int net_stream_next(struct net_stream *s, struct net_message *m)
{
    static const size_t most[] = {[NET_MESSAGE_FRAME] = NET_FRAME_MAX,
                                  [NET_MESSAGE_HEADED] = NET_FRAME_MAX + HEADER,
                                  [NET_MESSAGE_CONTROL] = NET_CONTROL_MAX};
    size_t have = s->in_end - s->in_start;
    if (have < PREFIX)
        return 0;
    const uint8_t *p = s->in + s->in_start;
    unsigned kind = p[0];
    size_t size = (size_t)p[1] << 16 | (size_t)p[2] << 8 | p[3];
    size_t header = kind == NET_MESSAGE_HEADED ? HEADER : 0;
    if (kind > NET_MESSAGE_CONTROL || size > most[kind] || size < header)
        return -EPROTO;
    if (have - PREFIX < size)
        return 0;
    *m = (struct net_message){.kind = kind, .data = p + PREFIX + header, .size = size - header};
    memcpy(&m->header, p + PREFIX, header);
    s->in_start += PREFIX + size;
    return 1;
}

// Copies to the end of what waits. False if that is more than may wait; `must`: take it all the same.
static bool keep(struct net_stream *s, const struct iovec *v, unsigned n, bool must)
{
    size_t size = 0;
    for (unsigned i = 0; i < n; i++)
        size += v[i].iov_len;
    size_t waiting = s->out_end - s->out_start, room = s->backlog + MESSAGE_MAX;
    if ((waiting + size > s->backlog && !must) || waiting + size > room)
        return false;
    if (!s->out && !(s->out = malloc(room)))
        return false;
    if (s->out_end + size > room) {
        memmove(s->out, s->out + s->out_start, waiting);
        s->out_start = 0;
        s->out_end = waiting;
    }
    for (unsigned i = 0; i < n; i++) {
        memcpy(s->out + s->out_end, v[i].iov_base, v[i].iov_len);
        s->out_end += v[i].iov_len;
    }
    return true;
}

// Writes; returns how many bytes went, 0 if none can, or a negative errno.
static ssize_t write_some(struct net_stream *s, struct iovec *v, unsigned n)
{
    struct msghdr h = {.msg_iov = v, .msg_iovlen = n};
    ssize_t written;
    do {
        written = sendmsg(s->fd, &h, MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (written < 0 && errno == EINTR);
    return written >= 0 ? written : errno == EAGAIN ? 0 : -errno;
}

static int write_waiting(struct net_stream *s)
{
    while (net_stream_waits(s)) {
        struct iovec v = {s->out + s->out_start, s->out_end - s->out_start};
        ssize_t n = write_some(s, &v, 1);
        if (n <= 0)
            return (int)n;
        s->out_start += (size_t)n;
    }
    s->out_start = s->out_end = 0;
    return 0;
}

int net_stream_flush(struct net_stream *s)
{
    int e = write_waiting(s);
    unsigned batch = s->batch;
    s->batch = 0;
    if (e || !batch)
        return e;
    ssize_t written = net_stream_waits(s) ? 0 : write_some(s, s->iov, 2 * batch);
    if (written < 0)
        return (int)written;
    size_t gone = (size_t)written;
    for (unsigned i = 0; i < batch; i++) {
        struct iovec *v = &s->iov[2 * i];
        size_t size = v[0].iov_len + v[1].iov_len;
        if (gone >= size) {
            gone -= size;
            continue;
        }
        bool begun = gone; // its rest must follow; and the first one to wait always may
        for (unsigned k = 0; k < 2; k++) {
            size_t piece = gone < v[k].iov_len ? gone : v[k].iov_len;
            v[k].iov_base = (char *)v[k].iov_base + piece;
            v[k].iov_len -= piece;
            gone -= piece;
        }
        if (!keep(s, v, 2, begun || !net_stream_waits(s))) {
            if (begun)
                return -ENOMEM;
            s->dropped++;
        }
    }
    return 0;
}

bool net_stream_put(struct net_stream *s, unsigned kind, const struct net_header *h, const void *data, size_t size)
{
    if (s->batch == NET_BATCH && net_stream_flush(s))
        return false; // the next flush will say so, too
    unsigned i = s->batch;
    size_t header = kind == NET_MESSAGE_HEADED ? HEADER : 0, length = header + size;
    const uint8_t bytes[PREFIX] = {(uint8_t)kind, (uint8_t)(length >> 16), (uint8_t)(length >> 8), (uint8_t)length};
    memcpy(s->prefix[i].bytes, bytes, PREFIX);
    if (header)
        s->prefix[i].header = *h;
    struct iovec *v = &s->iov[2 * i];
    v[0] = (struct iovec){&s->prefix[i], PREFIX + header};
    v[1] = (struct iovec){(void *)data, size};
    if (!net_stream_waits(s)) {
        s->batch++;
        return true;
    }
    bool kept = keep(s, v, 2, false);
    s->dropped += !kept;
    return kept;
}
