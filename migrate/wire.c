// Messages over a socket: see wire.h.
#include "migrate/wire.h"
#include "host/clock.h"
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SLICE_MS = 50, PATIENCE_MS = 30000, SMALL = 64 * 1024 };

void wire_init(struct wire *c, int fd, const _Atomic bool *cancel)
{
    *c = (struct wire){.fd = fd, .cancel = cancel, .patience_ms = PATIENCE_MS};
}

void wire_close(struct wire *c)
{
    tls_close(c->tls);
    if (c->fd >= 0)
        close(c->fd);
    free(c->payload);
    *c = (struct wire){.fd = -1};
}

static int failed(int code, struct error *err)
{
    if (code == ECONNRESET || code == EPIPE)
        return error_set(err, ECONNRESET, "the other side has ended the connection");
    if (code == ETIMEDOUT)
        return error_set(err, ETIMEDOUT, "the other side does not answer");
    if (code == ECANCELED)
        return error_set(err, ECANCELED, "cancelled");
    return error_set(err, code, "connection: %s", strerror(code));
}

static bool late(const struct wire *c)
{
    return c->deadline_ns && host_monotonic_ns() > c->deadline_ns;
}

// Until the socket is ready for `want`. *waited: milliseconds so far.
static int wait_for(const struct wire *c, short want, unsigned *waited)
{
    for (;;) {
        struct pollfd p = {.fd = c->fd, .events = want};
        if (c->cancel && *c->cancel)
            return -ECANCELED;
        if (late(c)) // a peer that gives one byte now and then, too
            return -ETIMEDOUT;
        int n = poll(&p, 1, SLICE_MS);
        if (n > 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return -errno;
        *waited += SLICE_MS;
        if (*waited >= c->patience_ms)
            return -ETIMEDOUT;
    }
}

static long read_some(struct wire *c, void *data, size_t size, short *want)
{
    if (c->tls)
        return tls_read(c->tls, data, size, want);
    *want = POLLIN;
    ssize_t n = recv(c->fd, data, size, MSG_DONTWAIT);
    return n >= 0 ? n : errno == EINTR ? -EAGAIN : -errno;
}

static long write_some(struct wire *c, const void *data, size_t size, short *want)
{
    if (c->tls)
        return tls_write(c->tls, data, size, want);
    *want = POLLOUT;
    ssize_t n = send(c->fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    return n >= 0 ? n : errno == EINTR ? -EAGAIN : -errno;
}

static int read_all(struct wire *c, uint8_t *data, size_t size, size_t *have)
{
    unsigned waited = 0;
    while (*have < size) {
        short want = POLLIN;
        long n = read_some(c, data + *have, size - *have, &want);
        if (n == 0)
            return -ECONNRESET;
        if (n > 0) {
            *have += (size_t)n;
            waited = 0;
            continue;
        }
        int e = n == -EAGAIN ? wait_for(c, want, &waited) : (int)n;
        if (e)
            return e;
    }
    return 0;
}

static int write_all(struct wire *c, const uint8_t *data, size_t size)
{
    unsigned waited = 0;
    while (size) {
        short want = POLLOUT;
        long n = write_some(c, data, size, &want);
        if (n > 0) {
            data += n;
            size -= (size_t)n;
            waited = 0;
            continue;
        }
        int e = n == -EAGAIN ? wait_for(c, want, &waited) : (int)n;
        if (e)
            return e;
    }
    return 0;
}

int wire_secure(struct wire *c, const struct tls_options *o, const char *host, struct error *err)
{
    unsigned waited = 0;
    int e = tls_open(&c->tls, o, host, c->fd, err);
    if (e)
        return e;
    for (;;) {
        short want = POLLIN;
        e = tls_handshake(c->tls, &want, err);
        if (e != -EAGAIN)
            return e;
        e = wait_for(c, want, &waited);
        if (e)
            return failed(-e, err);
    }
}

int wire_send(struct wire *c, unsigned type, uint8_t *buffer, size_t size, struct error *err)
{
    frame_encode(buffer, type, c->sent, buffer + FRAME_HEADER, size);
    int e = write_all(c, buffer, FRAME_HEADER + size);
    if (e)
        return failed(-e, err);
    c->sent++;
    c->bytes += FRAME_HEADER + size;
    return 0;
}

int wire_send_small(struct wire *c, unsigned type, const void *payload, size_t size, struct error *err)
{
    if (size > SMALL)
        return error_set(err, EMSGSIZE, "migration: a message is too long");
    uint8_t *buffer = malloc(FRAME_HEADER + size);
    if (!buffer)
        return error_set(err, ENOMEM, "migration: out of memory");
    if (size)
        memcpy(buffer + FRAME_HEADER, payload, size);
    int e = wire_send(c, type, buffer, size, err);
    free(buffer);
    return e;
}

int wire_receive(struct wire *c, struct message *m, struct error *err)
{
    struct frame f;
    int e = read_all(c, c->head, FRAME_HEADER, &c->have);
    if (e)
        return failed(-e, err);
    e = frame_decode(&f, c->head, c->received, err);
    if (e)
        return e;
    c->have = 0;
    if (f.length > c->room) {
        uint8_t *p = realloc(c->payload, f.length);
        if (!p)
            return error_set(err, ENOMEM, "migration: out of memory");
        c->payload = p;
        c->room = f.length;
    }
    size_t have = 0;
    e = read_all(c, c->payload, f.length, &have);
    if (e)
        return failed(-e, err);
    e = frame_check(&f, c->payload, err);
    if (e)
        return e;
    c->received++;
    *m = (struct message){f.type, c->payload, f.length};
    return 0;
}

bool wire_readable(const struct wire *c)
{
    struct pollfd p = {.fd = c->fd, .events = POLLIN};
    return (c->tls && tls_pending(c->tls)) || poll(&p, 1, 0) > 0;
}
