// The thread behind a network backend: see net_worker.h.
#include "backend/net_worker.h"
#include "host/thread.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { KEPT_MAX = 4 << 20 }; // bytes of frames kept for the card

struct kept_frame {
    struct kept_frame *next;
    struct net_header header;
    size_t size;
    uint8_t frame[];
};

// Offers what is kept, in order.
static void offer_kept(struct net_worker *w)
{
    while (w->kept && w->net.receive(w->net.ctx, &w->kept->header, w->kept->frame, w->kept->size)) {
        struct kept_frame *f = w->kept;
        w->kept = f->next;
        w->kept_bytes -= f->size;
        free(f);
    }
    if (!w->kept)
        w->last = &w->kept;
}

void net_worker_receive(struct net_worker *w, const struct net_header *h, const uint8_t *frame, size_t size)
{
    if (!w->kept && w->net.receive(w->net.ctx, h, frame, size))
        return;
    struct kept_frame *f = w->kept_bytes + size <= KEPT_MAX ? malloc(sizeof *f + size) : NULL;
    if (!f)
        return; // dropped, as by any switch whose buffers are full
    f->next = NULL;
    f->header = *h;
    f->size = size;
    memcpy(f->frame, frame, size);
    w->kept_bytes += size;
    *w->last = f;
    w->last = &f->next;
}

unsigned net_worker_poll(struct net_worker *w, int fd, short events)
{
    if (w->count == w->room) {
        unsigned room = w->room ? 2 * w->room : 16;
        struct pollfd *more = realloc(w->fds, room * sizeof *more);
        if (!more)
            return 0; // nobody waits for it in this round: the first one is always there
        w->fds = more;
        w->room = room;
    }
    w->fds[w->count] = (struct pollfd){.fd = fd, .events = events};
    return w->count++;
}

static void work(void *ctx)
{
    struct net_worker *w = ctx;
    while (!atomic_load(&w->stopping)) {
        int timeout_ms = -1;
        w->count = 0;
        net_worker_poll(w, w->wake, POLLIN);
        w->ops->fill(w, &timeout_ms);
        if (poll(w->fds, w->count, timeout_ms) < 0)
            for (unsigned i = 0; i < w->count; i++)
                w->fds[i].revents = 0;
        uint64_t n;
        if (w->fds[0].revents && read(w->wake, &n, sizeof n) < 0)
            continue;
        // Taken back before looking: who sets it from here on wakes us again.
        bool woken = atomic_exchange(&w->woken, false);
        offer_kept(w);
        w->ops->ready(w);
        if (woken || w->resume) {
            w->resume = false;
            w->net.transmit(w->net.ctx);
        }
    }
}

int net_worker_init(struct net_worker *w, const struct net_worker_ops *ops, const struct net_ops *net_ops,
                    struct error *err)
{
    w->net.ops = net_ops;
    w->ops = ops;
    w->last = &w->kept;
    w->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (w->wake < 0)
        return error_set(err, errno, "network: %s", strerror(errno));
    net_worker_poll(w, w->wake, POLLIN); // so that there is room for this one at least
    if (w->count)
        return 0;
    close(w->wake);
    return error_set(err, ENOMEM, "network: out of memory");
}

void net_worker_end(struct net_worker *w)
{
    while (w->kept) {
        struct kept_frame *f = w->kept;
        w->kept = f->next;
        free(f);
    }
    free(w->fds);
    close(w->wake);
}

int net_worker_start(struct net *n, struct error *err)
{
    struct net_worker *w = (struct net_worker *)n;
    return thread_create(&w->thread, "net", work, w, err);
}

void net_worker_wake(struct net *n)
{
    struct net_worker *w = (struct net_worker *)n;
    if (atomic_exchange(&w->woken, true))
        return;
    ssize_t r = write(w->wake, &(uint64_t){1}, sizeof(uint64_t));
    (void)r; // fails only if the counter is at its limit, and then the thread is awake anyway
}

void net_worker_stop(struct net *n)
{
    struct net_worker *w = (struct net_worker *)n;
    if (!w->thread)
        return;
    atomic_store(&w->stopping, true);
    atomic_store(&w->woken, false);
    net_worker_wake(n);
    thread_join(w->thread);
    w->thread = NULL;
}

void net_worker_close(struct net *n)
{
    struct net_worker *w = (struct net_worker *)n;
    net_worker_stop(n);
    w->ops->destroy(w);
}
