// The thread behind a network backend, for backends alone: it polls, lets the card transmit, and keeps the frames that
// the card had no room for.
//
// Each round: fill() says what to wait for, poll, ready() handles what came (it calls net_worker_receive for each frame
// that came in), then the card transmits if somebody woke us or `resume` is set. While frames are kept (`kept`), a
// backend should not read more of them; beyond KEPT_MAX bytes they are dropped.
//
// Everything in here belongs to the thread once it runs, but `woken` and `stopping`.
#pragma once
#include "vm/net.h"
#include <poll.h>
#include <stdatomic.h>

struct thread;
struct net_worker;
struct kept_frame;

struct net_worker_ops {
    // Calls net_worker_poll for every descriptor; may lower *timeout_ms (-1: none).
    void (*fill)(struct net_worker *w, int *timeout_ms);
    void (*ready)(struct net_worker *w);
    void (*destroy)(struct net_worker *w); // frees what is the backend's and the backend itself
};

struct net_worker {
    struct net net;
    const struct net_worker_ops *ops;
    struct thread *thread;
    int wake; // eventfd
    _Atomic bool woken, stopping;
    bool resume; // the card shall transmit in this round: send() had refused a frame and can take it now
    struct pollfd *fds;
    unsigned count, room;
    struct kept_frame *kept, **last;
    size_t kept_bytes;
};

// w is zeroed. On failure there is nothing to undo.
int net_worker_init(struct net_worker *w, const struct net_worker_ops *ops, const struct net_ops *net_ops,
                    struct error *err);
void net_worker_end(struct net_worker *w); // the thread is stopped; frees what net_worker_init and the thread made

// The functions of struct net_ops that are the same for all.
int net_worker_start(struct net *n, struct error *err);
void net_worker_stop(struct net *n);
void net_worker_wake(struct net *n);
void net_worker_close(struct net *n);

unsigned net_worker_poll(struct net_worker *w, int fd, short events); // in fill(); returns the index in w->fds
void net_worker_receive(struct net_worker *w, const struct net_header *h, const uint8_t *frame, size_t size);
