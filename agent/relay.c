// Moves bytes between file descriptors and streams: see relay.h.
#include "agent/relay.h"
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

// What a descriptor that blocks is given at once: a pipe that can be written at all takes this much (PIPE_BUF).
enum { POLITE_PIECE = 4096, WINDOW_MOST = 1 << 30 };

void relay_init(struct relay *r, int fd)
{
    channel_init(&r->channel, fd);
    for (unsigned n = 0; n < AGENT_STREAMS; n++) {
        r->source[n] = (struct relay_source){.fd = -1, .window = AGENT_WINDOW};
        r->sink[n].fd = -1;
        r->sink[n].ended = false;
        r->sink[n].broken = 0;
        r->sink[n].handed_on = r->sink[n].start = r->sink[n].size = 0;
    }
    r->draining = false;
}

void relay_source(struct relay *r, unsigned stream, int fd)
{
    r->source[stream].fd = fd;
}

void relay_sink(struct relay *r, unsigned stream, int fd, bool polite)
{
    r->sink[stream].fd = fd;
    r->sink[stream].polite = polite;
}

bool relay_idle(const struct relay *r)
{
    for (unsigned n = 0; n < AGENT_STREAMS; n++)
        if (r->sink[n].size)
            return false;
    return true;
}

bool relay_sources_ended(const struct relay *r)
{
    for (unsigned n = 0; n < AGENT_STREAMS; n++)
        if (r->source[n].fd >= 0)
            return false;
    return true;
}

// ---- sources

static bool wanted(const struct relay *r, unsigned n)
{
    return r->source[n].fd >= 0 && r->source[n].window && channel_takes(&r->channel, AGENT_PAYLOAD);
}

static void read_source(struct relay *r, unsigned n)
{
    uint8_t data[AGENT_PAYLOAD];
    struct relay_source *s = &r->source[n];
    ssize_t size = read(s->fd, data, s->window < sizeof data ? s->window : sizeof data);
    if (size < 0 && (errno == EINTR || (errno == EAGAIN && !r->draining)))
        return;
    if (size > 0) {
        channel_put(&r->channel, AGENT_DATA, n, data, (size_t)size);
        s->window -= (uint32_t)size;
        return;
    }
    // The end, or an error: of a terminal whose programs are gone, say.
    s->fd = -1;
    channel_put(&r->channel, AGENT_EOF, n, NULL, 0);
}

// ---- sinks

static void end_sink(struct relay *r, unsigned n)
{
    struct relay_sink *s = &r->sink[n];
    if (!s->ended || s->size || s->fd < 0)
        return;
    if (r->end)
        r->end(r, n);
    else
        close(s->fd);
    s->fd = -1;
}

static void write_sink(struct relay *r, unsigned n)
{
    struct relay_sink *s = &r->sink[n];
    uint32_t size = s->start + s->size < AGENT_WINDOW ? s->size : AGENT_WINDOW - s->start;
    if (s->polite && size > POLITE_PIECE)
        size = POLITE_PIECE;
    ssize_t done = s->broken || s->fd < 0 ? (ssize_t)size : write(s->fd, s->buffer + s->start, size);
    if (done < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (done < 0) {
        s->broken = errno;
        done = (ssize_t)size;
    }
    s->start = (s->start + (uint32_t)done) % AGENT_WINDOW;
    s->size -= (uint32_t)done;
    s->handed_on += (uint32_t)done;
    end_sink(r, n);
}

static void grant(struct relay *r, unsigned n)
{
    struct relay_sink *s = &r->sink[n];
    uint8_t more[4];
    put_le(more, s->handed_on, 4);
    if (s->handed_on >= AGENT_WINDOW / 4 && !s->ended && channel_put(&r->channel, AGENT_WINDOW_MORE, n, more, 4))
        s->handed_on = 0;
}

static int take_data(struct relay *r, const struct channel_frame *f)
{
    struct relay_sink *s = &r->sink[f->stream];
    // What was handed on and not granted anew is no room yet.
    if (s->ended || f->size > AGENT_WINDOW - s->size - s->handed_on)
        return -EPROTO;
    uint32_t at = (s->start + s->size) % AGENT_WINDOW,
             first = AGENT_WINDOW - at < f->size ? AGENT_WINDOW - at : f->size;
    memcpy(s->buffer + at, f->data, first);
    memcpy(s->buffer, f->data + first, f->size - first);
    s->size += f->size;
    return 0;
}

static int take_frame(struct relay *r, const struct channel_frame *f)
{
    struct relay_source *s = &r->source[f->stream];
    switch (f->type) {
    case AGENT_DATA:
        return take_data(r, f);
    case AGENT_EOF:
        r->sink[f->stream].ended = true;
        end_sink(r, f->stream);
        return 0;
    case AGENT_WINDOW_MORE:
        if (f->size != 4 || get_le(f->data, 4) > WINDOW_MOST - s->window)
            return -EPROTO;
        s->window += get_le(f->data, 4);
        return 0;
    default:
        return r->frame ? r->frame(r, f) : -EPROTO;
    }
}

// ---- rounds

static int take_frames(struct relay *r)
{
    struct channel_frame f;
    for (;;) {
        int e = channel_next(&r->channel, &f);
        if (e > 0)
            e = take_frame(r, &f);
        else if (!e)
            return 0;
        if (e)
            return e;
    }
}

int relay_round(struct relay *r, int extra, bool *ready)
{
    enum { CHANNEL, EXTRA, SOURCES, SINKS = SOURCES + AGENT_STREAMS, FDS = SINKS + AGENT_STREAMS };
    struct pollfd p[FDS];
    bool hurry = false; // there is something that need not be waited for
    for (unsigned n = 0; n < AGENT_STREAMS; n++) {
        bool want = wanted(r, n), keeps = r->sink[n].size;
        p[SOURCES + n] = (struct pollfd){.fd = want ? r->source[n].fd : -1, .events = POLLIN};
        p[SINKS + n] = (struct pollfd){.fd = keeps ? r->sink[n].fd : -1, .events = POLLOUT};
        hurry |= (want && r->draining) || (keeps && (r->sink[n].broken || r->sink[n].fd < 0));
    }
    p[EXTRA] = (struct pollfd){.fd = extra, .events = POLLIN};
    p[CHANNEL] = (struct pollfd){.fd = r->channel.ended ? -1 : r->channel.fd,
                                 .events = (short)(POLLIN | (channel_waits(&r->channel) ? POLLOUT : 0))};
    if (r->channel.ended && relay_idle(r))
        return -ECONNRESET;
    if (poll(p, FDS, hurry ? 0 : -1) < 0 && errno == EINTR)
        return 0;
    if (ready)
        *ready = extra >= 0 && p[EXTRA].revents;
    if (!r->channel.ended && (p[CHANNEL].revents & ~POLLOUT))
        channel_fill(&r->channel);
    int e = take_frames(r);
    if (e)
        return e;
    for (unsigned n = 0; n < AGENT_STREAMS; n++) {
        if (wanted(r, n) && (p[SOURCES + n].revents || r->draining))
            read_source(r, n);
        struct relay_sink *s = &r->sink[n];
        if (s->size && (p[SINKS + n].revents || s->broken || s->fd < 0))
            write_sink(r, n);
        grant(r, n);
    }
    channel_flush(&r->channel);
    return 0;
}

void relay_finish(struct relay *r, int timeout_ms)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    int64_t until = (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000 + timeout_ms;
    while (!channel_flush(&r->channel) && channel_waits(&r->channel)) {
        clock_gettime(CLOCK_MONOTONIC, &t);
        int64_t left = until - ((int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000);
        struct pollfd p = {.fd = r->channel.fd, .events = POLLOUT};
        if (left <= 0 || (poll(&p, 1, (int)left) > 0 && (p.revents & (POLLERR | POLLHUP))))
            return;
    }
}
