// Doorbells on epoll: see bells.h.
//
// Bells are never taken away one by one, so the thread may use what epoll says without asking whether it is still
// there.
#include "host/bells.h"
#include "host/thread.h"
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { BATCH = 16 };

struct bell {
    int fd;
    void (*fn)(void *ctx); // NULL: the thread ends
    void *ctx;
    struct bell *next;
};

struct bells {
    int epoll;
    struct thread *thread;
    pthread_mutex_t lock; // guards the list
    struct bell *first;
};

static void serve(void *ctx)
{
    struct bells *b = ctx;
    struct epoll_event ready[BATCH];
    for (;;) {
        int count = epoll_wait(b->epoll, ready, BATCH, -1);
        for (int n = 0; n < count; n++) {
            struct bell *bell = ready[n].data.ptr;
            uint64_t rings;
            if (!bell->fn)
                return;
            if (read(bell->fd, &rings, sizeof rings) == sizeof rings)
                bell->fn(bell->ctx);
        }
    }
}

static int add(struct bells *b, void (*fn)(void *ctx), void *ctx, struct error *err)
{
    struct bell *bell = calloc(1, sizeof *bell);
    if (!bell)
        return error_set(err, ENOMEM, "doorbell: no memory");
    *bell = (struct bell){.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .fn = fn, .ctx = ctx};
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = bell};
    if (bell->fd < 0 || epoll_ctl(b->epoll, EPOLL_CTL_ADD, bell->fd, &e) < 0) {
        int r = error_set(err, errno, "doorbell: %s", strerror(errno));
        if (bell->fd >= 0)
            close(bell->fd);
        free(bell);
        return r;
    }
    pthread_mutex_lock(&b->lock);
    bell->next = b->first;
    b->first = bell;
    pthread_mutex_unlock(&b->lock);
    return bell->fd;
}

int bells_add(struct bells *b, void (*fn)(void *ctx), void *ctx, struct error *err)
{
    return add(b, fn, ctx, err);
}

int bells_create(struct bells **out, const char *name, struct error *err)
{
    struct bells *b = calloc(1, sizeof *b);
    if (!b)
        return error_set(err, ENOMEM, "doorbells: no memory");
    pthread_mutex_init(&b->lock, NULL);
    b->epoll = epoll_create1(EPOLL_CLOEXEC);
    int e = b->epoll < 0 ? error_set(err, errno, "doorbells: %s", strerror(errno)) : add(b, NULL, NULL, err);
    if (e >= 0)
        e = thread_create(&b->thread, name, serve, b, err);
    if (e < 0) {
        bells_destroy(b);
        return e;
    }
    *out = b;
    return 0;
}

void bells_destroy(struct bells *b)
{
    if (!b)
        return;
    if (b->thread) {
        uint64_t one = 1;
        for (struct bell *bell = b->first; bell; bell = bell->next)
            if (!bell->fn)
                while (write(bell->fd, &one, sizeof one) < 0 && errno == EINTR)
                    ;
        thread_join(b->thread);
    }
    while (b->first) {
        struct bell *bell = b->first;
        b->first = bell->next;
        close(bell->fd);
        free(bell);
    }
    if (b->epoll >= 0)
        close(b->epoll);
    pthread_mutex_destroy(&b->lock);
    free(b);
}
