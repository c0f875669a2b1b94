// Frames over a connection: see channel.h.
#include "agent/channel.h"
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

void channel_init(struct channel *c, int fd)
{
    *c = (struct channel){.fd = fd};
}

int channel_fill(struct channel *c)
{
    if (c->in_start) {
        memmove(c->in, c->in + c->in_start, c->in_end - c->in_start);
        c->in_end -= c->in_start;
        c->in_start = 0;
    }
    if (c->in_end == sizeof c->in)
        return 0;
    ssize_t n = recv(c->fd, c->in + c->in_end, sizeof c->in - c->in_end, MSG_DONTWAIT);
    if (n > 0) {
        c->in_end += (size_t)n;
        return (int)n;
    }
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    c->ended = true;
    return -ECONNRESET;
}

int channel_next(struct channel *c, struct channel_frame *f)
{
    const uint8_t *head = c->in + c->in_start;
    size_t there = c->in_end - c->in_start;
    if (there < AGENT_HEAD)
        return 0;
    *f = (struct channel_frame){
        .type = head[0], .stream = head[1], .size = get_le(head + 4, 4), .data = head + AGENT_HEAD};
    if (f->size > AGENT_PAYLOAD || f->stream >= AGENT_STREAMS || get_le(head + 2, 2))
        return -EPROTO;
    if (there - AGENT_HEAD < f->size)
        return 0;
    c->in_start += AGENT_HEAD + f->size;
    return 1;
}

static size_t room(const struct channel *c)
{
    return sizeof c->out - (c->out_end - c->out_start);
}

bool channel_takes(const struct channel *c, size_t size)
{
    return room(c) >= CHANNEL_RESERVE + AGENT_HEAD + size;
}

bool channel_put(struct channel *c, enum agent_frame type, unsigned stream, const void *data, size_t size)
{
    if (size > AGENT_PAYLOAD || room(c) < AGENT_HEAD + size)
        return false;
    if (sizeof c->out - c->out_end < AGENT_HEAD + size) {
        memmove(c->out, c->out + c->out_start, c->out_end - c->out_start);
        c->out_end -= c->out_start;
        c->out_start = 0;
    }
    uint8_t *p = c->out + c->out_end;
    p[0] = (uint8_t)type;
    p[1] = (uint8_t)stream;
    put_le(p + 2, 0, 2);
    put_le(p + 4, (uint32_t)size, 4);
    if (size)
        memcpy(p + AGENT_HEAD, data, size);
    c->out_end += AGENT_HEAD + size;
    return true;
}

int channel_flush(struct channel *c)
{
    while (channel_waits(c)) {
        ssize_t n = send(c->fd, c->out + c->out_start, c->out_end - c->out_start, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN)
            return 0;
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            // What the other side has sent before it went may still be read.
            c->out_start = c->out_end = 0;
            return -ECONNRESET;
        }
        c->out_start += (size_t)n;
    }
    c->out_start = c->out_end = 0;
    return 0;
}

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

int channel_await(struct channel *c, struct channel_frame *f, int timeout_ms)
{
    int64_t until = now_ms() + timeout_ms;
    for (;;) {
        int e = channel_next(c, f);
        if (e)
            return e;
        channel_flush(c);
        int64_t left = until - now_ms();
        if (left <= 0)
            return -ETIMEDOUT;
        struct pollfd p = {.fd = c->fd, .events = (short)(POLLIN | (channel_waits(c) ? POLLOUT : 0))};
        if (poll(&p, 1, (int)left) > 0 && (p.revents & ~POLLOUT) && channel_fill(c) < 0)
            return -ECONNRESET;
    }
}

bool channel_hello(struct channel *c)
{
    uint8_t hello[6];
    memcpy(hello, AGENT_MAGIC, 4);
    put_le(hello + 4, AGENT_VERSION, 2);
    return channel_put(c, AGENT_HELLO, 0, hello, sizeof hello);
}

int channel_check_hello(const struct channel_frame *f)
{
    if (f->type != AGENT_HELLO || f->size < 6 || memcmp(f->data, AGENT_MAGIC, 4))
        return -EPROTO;
    return get_le(f->data + 4, 2) == AGENT_VERSION ? 0 : -ENOTSUP;
}

bool request_add(struct channel_request *r, enum agent_item tag, const void *data, size_t size)
{
    if (size > sizeof r->data || sizeof r->data - r->size < 5 + size)
        return false;
    uint8_t *p = r->data + r->size;
    p[0] = (uint8_t)tag;
    put_le(p + 1, (uint32_t)size, 4);
    memcpy(p + 5, data, size);
    r->size += 5 + size;
    return true;
}

bool request_add_text(struct channel_request *r, enum agent_item tag, const char *text)
{
    return request_add(r, tag, text, strlen(text));
}

int request_next(const struct channel_frame *f, size_t *at, enum agent_item *tag, const uint8_t **data, size_t *size)
{
    size_t left = f->size - *at;
    const uint8_t *p = f->data + *at;
    if (!left)
        return 0;
    if (left < 5 || left - 5 < get_le(p + 1, 4))
        return -EPROTO;
    *tag = (enum agent_item)p[0];
    *size = get_le(p + 1, 4);
    *data = p + 5;
    *at += 5 + *size;
    return 1;
}
