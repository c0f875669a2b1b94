// A guest's socket device on unix sockets: see vsock.h.
//
// One thread polls the listening socket and every peer for what the device wants to hear of. Who connects must say
// where to before it becomes the device's; its line is read byte by byte, so that nothing that follows is taken from
// the stream. At most CALLERS may stand there without having said it: then the one that has been there longest must go.
//
// A peer may be closed by the device at any time while it is being told something. It is then only marked, and freed
// when the round is over.
#include "backend/unix_address.h"
#include "backend/vsock.h"
#include "host/thread.h"
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CALLERS = 64, PEERS = 1024, BACKLOG = 64, LINE = 20, PAUSE_MS = 100, WAKE = 0, LISTENER = 1, FIRST = 2 };

struct vsock_peer {
    struct vsock_peer *next;
    struct vsock_unix *u;
    int fd;                              // -1: closed
    struct vsock_connection *connection; // NULL: it has not said yet where to
    unsigned want;                       // VSOCK_READ, VSOCK_WRITE
    bool hung_up;                        // the device knows
    unsigned index;                      // in fds; 0: not polled in this round
    uint8_t said;
    char line[LINE];
};

struct vsock_unix {
    struct vsock vsock;
    struct thread *thread;
    int wake; // eventfd
    _Atomic bool woken, stopping;
    // The thread's from here on.
    int listener;
    bool pause; // no descriptors are left: not to be asked at once again
    struct unix_address address;
    struct vsock_peer *peers, **last; // in order of coming
    unsigned count, callers;
    struct pollfd fds[FIRST + PEERS];
    char path[];
};

static struct vsock_peer *add(struct vsock_unix *u, int fd)
{
    struct vsock_peer *p = u->count < PEERS ? calloc(1, sizeof *p) : NULL;
    if (!p)
        return NULL;
    p->u = u;
    p->fd = fd;
    *u->last = p;
    u->last = &p->next;
    u->count++;
    return p;
}

static void close_peer(struct vsock_peer *p)
{
    if (p->fd >= 0)
        close(p->fd);
    p->fd = -1;
}

// Frees those that were closed.
static void sweep(struct vsock_unix *u)
{
    struct vsock_peer **link = &u->peers;
    while (*link) {
        struct vsock_peer *p = *link;
        if (p->fd >= 0) {
            link = &p->next;
            continue;
        }
        *link = p->next;
        u->count--;
        free(p);
    }
    u->last = link;
}

// ---- who has not said yet where to

static void dismiss(struct vsock_peer *p)
{
    p->u->callers--;
    close_peer(p);
}

static void take_caller(struct vsock_unix *u)
{
    int fd = accept4(u->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
        u->pause = errno != EAGAIN && errno != ECONNABORTED && errno != EINTR;
        return;
    }
    struct vsock_peer *oldest = u->peers;
    while (oldest && (oldest->connection || oldest->fd < 0))
        oldest = oldest->next;
    if (u->callers == CALLERS)
        dismiss(oldest);
    if (add(u, fd))
        u->callers++;
    else
        close(fd);
}

// "CONNECT 5555", complete.
static bool port_of(const char *line, uint32_t *port)
{
    static const char word[] = "CONNECT ";
    if (strncmp(line, word, sizeof word - 1))
        return false;
    const char *digits = line + sizeof word - 1;
    size_t length = strlen(digits);
    if (!length || length > 10 || strspn(digits, "0123456789") != length)
        return false;
    unsigned long long n = strtoull(digits, NULL, 10);
    *port = (uint32_t)n;
    return n <= UINT32_MAX;
}

static void listen_to(struct vsock_peer *p)
{
    for (;;) {
        char c;
        ssize_t n = recv(p->fd, &c, 1, 0);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n <= 0 || (c != '\n' && p->said == LINE - 1)) {
            dismiss(p);
            return;
        }
        if (c == '\n')
            break;
        p->line[p->said++] = c;
    }
    struct vsock *v = &p->u->vsock;
    uint32_t port;
    p->connection = port_of(p->line, &port) ? v->call(v->ctx, port, p) : NULL;
    if (!p->connection)
        close_peer(p);
    p->u->callers--;
}

// ---- the device's

static struct vsock_peer *unix_connect(struct vsock *v, uint32_t port, struct vsock_connection *c)
{
    struct vsock_unix *u = (struct vsock_unix *)v;
    struct unix_address a;
    char path[PATH_MAX];
    if ((size_t)snprintf(path, sizeof path, "%s_%u", u->path, port) >= sizeof path || unix_address_open(&a, path, NULL))
        return NULL;
    int fd = unix_address_connect(&a, SOCK_NONBLOCK);
    unix_address_close(&a);
    struct vsock_peer *p = fd >= 0 ? add(u, fd) : NULL;
    if (p)
        p->connection = c;
    else if (fd >= 0)
        close(fd);
    return p;
}

static int64_t result(ssize_t n)
{
    return n >= 0 ? n : errno == EINTR ? -EAGAIN : -errno;
}

static int64_t unix_read(struct vsock_peer *p, void *data, size_t size)
{
    return result(recv(p->fd, data, size, 0));
}

static int64_t unix_write(struct vsock_peer *p, const void *data, size_t size)
{
    return result(send(p->fd, data, size, MSG_NOSIGNAL));
}

static void unix_opened(struct vsock_peer *p, uint32_t host_port)
{
    char line[LINE];
    int n = snprintf(line, sizeof line, "OK %u\n", host_port);
    // It is the first thing that is written there, so it fits, or the caller is gone: then poll will tell.
    unix_write(p, line, (size_t)n);
}

static void unix_shut(struct vsock_peer *p, unsigned ways)
{
    shutdown(p->fd, ways == VSOCK_WRITE ? SHUT_WR : ways == VSOCK_READ ? SHUT_RD : SHUT_RDWR);
}

static void unix_want(struct vsock_peer *p, unsigned ready)
{
    p->want = ready;
}

// ---- the thread

static void fill(struct vsock_unix *u)
{
    unsigned n = FIRST;
    u->fds[WAKE] = (struct pollfd){.fd = u->wake, .events = POLLIN};
    u->fds[LISTENER] = (struct pollfd){.fd = u->pause ? -1 : u->listener, .events = POLLIN};
    for (struct vsock_peer *p = u->peers; p; p = p->next) {
        short events =
            (short)((p->want & VSOCK_READ || !p->connection ? POLLIN : 0) | (p->want & VSOCK_WRITE ? POLLOUT : 0));
        p->index = 0;
        if (p->hung_up && !events)
            continue; // poll would report that again and again
        p->index = n;
        u->fds[n++] = (struct pollfd){.fd = p->fd, .events = events};
    }
    int e = poll(u->fds, n, u->pause ? PAUSE_MS : -1);
    if (e < 0)
        for (unsigned i = 0; i < n; i++)
            u->fds[i].revents = 0;
    u->pause = false;
}

static void tell(struct vsock_peer *p)
{
    short events = p->u->fds[p->index].revents;
    struct vsock *v = &p->u->vsock;
    if (!events)
        return;
    if (!p->connection) {
        listen_to(p);
        return;
    }
    unsigned ready = (events & POLLIN ? VSOCK_READ : 0u) | (events & POLLOUT ? VSOCK_WRITE : 0u);
    if (events & (POLLHUP | POLLERR)) {
        ready |= VSOCK_HANGUP;
        p->hung_up = true;
    }
    v->ready(v->ctx, p->connection, ready);
}

static void work(void *ctx)
{
    struct vsock_unix *u = ctx;
    while (!atomic_load(&u->stopping)) {
        fill(u);
        uint64_t n;
        if (u->fds[WAKE].revents && read(u->wake, &n, sizeof n) < 0)
            continue;
        // Taken back before looking: who sets it from here on wakes us again.
        atomic_store(&u->woken, false);
        for (struct vsock_peer *p = u->peers; p; p = p->next)
            if (p->fd >= 0 && p->index)
                tell(p);
        if (u->fds[LISTENER].revents)
            take_caller(u);
        u->vsock.work(u->vsock.ctx);
        sweep(u);
    }
}

static int unix_start(struct vsock *v, struct error *err)
{
    struct vsock_unix *u = (struct vsock_unix *)v;
    return thread_create(&u->thread, "vsock", work, u, err);
}

static void unix_wake(struct vsock *v)
{
    struct vsock_unix *u = (struct vsock_unix *)v;
    if (atomic_exchange(&u->woken, true))
        return;
    ssize_t r = write(u->wake, &(uint64_t){1}, sizeof(uint64_t));
    (void)r; // fails only if the counter is at its limit, and then the thread is awake anyway
}

static void unix_stop(struct vsock *v)
{
    struct vsock_unix *u = (struct vsock_unix *)v;
    if (!u->thread)
        return;
    atomic_store(&u->stopping, true);
    atomic_store(&u->woken, false);
    unix_wake(v);
    thread_join(u->thread);
    u->thread = NULL;
}

static void unix_close(struct vsock *v)
{
    struct vsock_unix *u = (struct vsock_unix *)v;
    unix_stop(v);
    for (struct vsock_peer *p = u->peers; p; p = p->next)
        close_peer(p);
    sweep(u);
    if (u->listener >= 0) {
        close(u->listener);
        unlink(u->address.sun.sun_path);
    }
    unix_address_close(&u->address);
    close(u->wake);
    free(u);
}

int vsock_unix_open(const char *path, struct vsock **out, struct error *err)
{
    static const struct vsock_ops ops = {.start = unix_start,
                                         .stop = unix_stop,
                                         .wake = unix_wake,
                                         .connect = unix_connect,
                                         .opened = unix_opened,
                                         .read = unix_read,
                                         .write = unix_write,
                                         .shut = unix_shut,
                                         .want = unix_want,
                                         .close_peer = close_peer,
                                         .close = unix_close};
    struct vsock_unix *u = calloc(1, sizeof *u + strlen(path) + 1);
    if (!u)
        return error_set(err, ENOMEM, "vsock: out of memory");
    u->vsock.ops = &ops;
    u->last = &u->peers;
    strcpy(u->path, path);
    int e = unix_address_open(&u->address, path, err);
    if (e) {
        free(u);
        return e;
    }
    u->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    u->listener = u->wake < 0 ? -errno : unix_address_listen(&u->address, BACKLOG);
    if (u->listener < 0) {
        e = u->listener;
        unix_address_close(&u->address);
        if (u->wake >= 0)
            close(u->wake);
        free(u);
        return error_set(err, -e, "vsock socket %.160s: %s", path,
                         e == -EADDRINUSE ? "another machine listens there"
                         : e == -EEXIST   ? "there is a file that is no socket"
                                          : strerror(-e));
    }
    *out = &u->vsock;
    return 0;
}
