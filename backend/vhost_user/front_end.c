// The front end of the vhost-user protocol: see front_end.h.
//
// Threads. Messages are sent while the device is made and when it is stopped. In between a thread of ours waits for the
// back end's notifications (one eventfd for all rings) and for the end of its socket. Requests are submitted on
// whatever thread holds the device's lock; `pending` counts them until the device has been told that they are done, and
// is what drain() sleeps on.
//
// The back end's rings lie where no guest memory can be, so that no address means two things to it.
#include "backend/vhost_user/front_end.h"
#include "backend/vhost_user/channel.h"
#include "backend/vhost_user/ring.h"
#include "host/clock.h"
#include "host/memory.h"
#include "host/thread.h"
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define F_INDIRECT_DESC (1ull << 28)
#define F_VERSION_1 (1ull << 32)
#define RINGS_GPA (1ull << 52)  // no x86 processor has so many address bits
#define LIMIT_NS 10000000000ull // for each message, and twice that for draining
#define STOP_NS 2000000000ull   // for a message when nobody has any use for the answer

enum { COLLECT = 64 };

struct vhost_user {
    struct vhost vhost;
    struct vhost_user_options o;
    char name[64];
    struct vhost_channel channel;
    uint64_t features; // that are used
    unsigned rings, rings_max;
    struct host_ram memory; // of the rings
    struct vhost_ring ring[VHOST_RINGS_MAX];
    int kick[VHOST_RINGS_MAX], call; // eventfds
    int wake;                        // for the thread
    struct thread *thread;
    _Atomic bool stopping, give_up;
    bool lost;                // the thread's; read by others when that has ended
    _Atomic uint32_t pending; // requests
};

// ---- setting up

static int tell(struct vhost_user *u, enum vhost_user_request request, const void *payload, size_t size,
                struct error *err)
{
    return vhost_channel_tell(&u->channel,
                              &(struct vhost_message){.request = request, .payload = payload, .size = size}, err);
}

static int tell_fd(struct vhost_user *u, enum vhost_user_request request, unsigned ring, int fd, struct error *err)
{
    uint64_t index = ring;
    return vhost_channel_tell(
        &u->channel,
        &(struct vhost_message){.request = request, .payload = &index, .size = sizeof index, .fd = &fd, .fds = 1}, err);
}

static int tell_ring(struct vhost_user *u, enum vhost_user_request request, unsigned ring, uint32_t num,
                     struct error *err)
{
    return tell(u, request, &(struct vhost_user_vring){ring, num}, sizeof(struct vhost_user_vring), err);
}

static int ask(struct vhost_user *u, enum vhost_user_request request, uint64_t *answer, struct error *err)
{
    return vhost_channel_ask(&u->channel, &(struct vhost_message){.request = request}, answer, sizeof *answer, err);
}

static int negotiate(struct vhost_user *u, struct error *err)
{
    uint64_t features, can = 0, rings;
    int e = tell(u, VHOST_USER_SET_OWNER, NULL, 0, err);
    if (!e)
        e = ask(u, VHOST_USER_GET_FEATURES, &features, err);
    if (e)
        return e;
    u->features = u->o.features | F_VERSION_1 | F_INDIRECT_DESC;
    if (u->features & ~features)
        return error_set(err, ENOTSUP, "%s lacks virtio features 0x%" PRIx64, u->name, u->features & ~features);
    if (!(features & VHOST_USER_F_PROTOCOL_FEATURES))
        return 0;
    u->features |= VHOST_USER_F_PROTOCOL_FEATURES;
    e = ask(u, VHOST_USER_GET_PROTOCOL_FEATURES, &can, err);
    can &= VHOST_USER_PROTOCOL_MQ | VHOST_USER_PROTOCOL_REPLY_ACK;
    if (!e)
        e = tell(u, VHOST_USER_SET_PROTOCOL_FEATURES, &can, sizeof can, err);
    u->channel.acks = can & VHOST_USER_PROTOCOL_REPLY_ACK;
    if (!e && (can & VHOST_USER_PROTOCOL_MQ)) {
        e = ask(u, VHOST_USER_GET_QUEUE_NUM, &rings, err);
        u->rings_max = !e && rings < VHOST_RINGS_MAX ? (unsigned)rings : VHOST_RINGS_MAX;
    }
    return e;
}

static int show_memory(struct vhost_user *u, const struct vhost_region *region, unsigned regions, struct error *err)
{
    struct vhost_user_memory m = {.regions = regions + 1};
    int fd[VHOST_USER_REGIONS];
    for (unsigned i = 0; i < regions; i++) {
        uint64_t offset = (uint64_t)((const uint8_t *)region[i].host - u->o.memory);
        if (offset > u->o.memory_size || region[i].size > u->o.memory_size - offset)
            return error_set(err, EINVAL, "%s: guest memory at 0x%" PRIx64 " cannot be shared", u->name, region[i].gpa);
        m.region[i] = (struct vhost_user_region){
            .gpa = region[i].gpa, .size = region[i].size, .user = (uintptr_t)region[i].host, .mmap_offset = offset};
        fd[i] = u->o.memory_fd;
    }
    m.region[regions] =
        (struct vhost_user_region){.gpa = RINGS_GPA, .size = u->memory.size, .user = (uintptr_t)u->memory.base};
    fd[regions] = u->memory.fd;
    const struct vhost_message message = {.request = VHOST_USER_SET_MEM_TABLE,
                                          .payload = &m,
                                          .size = offsetof(struct vhost_user_memory, region[regions + 1]),
                                          .fd = fd,
                                          .fds = regions + 1};
    return vhost_channel_tell(&u->channel, &message, err);
}

static int start_ring(struct vhost_user *u, unsigned n, struct error *err)
{
    uint8_t *base = u->memory.base + (size_t)n * VHOST_RING_SIZE;
    vhost_ring_init(&u->ring[n], base, RINGS_GPA + (uint64_t)n * VHOST_RING_SIZE);
    const struct vhost_user_address at = {.index = n,
                                          .desc = (uintptr_t)base + VHOST_RING_DESCRIPTORS,
                                          .avail = (uintptr_t)base + VHOST_RING_AVAILABLE,
                                          .used = (uintptr_t)base + VHOST_RING_USED};
    u->kick[n] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (u->kick[n] < 0)
        return error_set(err, errno, "%s: %s", u->name, strerror(errno));
    int e = tell_ring(u, VHOST_USER_SET_VRING_NUM, n, VHOST_SLOTS, err);
    if (!e)
        e = tell_ring(u, VHOST_USER_SET_VRING_BASE, n, 0, err);
    if (!e)
        e = tell(u, VHOST_USER_SET_VRING_ADDR, &at, sizeof at, err);
    if (!e)
        e = tell_fd(u, VHOST_USER_SET_VRING_CALL, n, u->call, err);
    if (!e)
        e = tell_fd(u, VHOST_USER_SET_VRING_KICK, n, u->kick[n], err);
    if (!e && (u->features & VHOST_USER_F_PROTOCOL_FEATURES)) // else it is enabled from the start
        e = tell_ring(u, VHOST_USER_SET_VRING_ENABLE, n, 1, err);
    return e;
}

// ---- the thread

static void told(struct vhost_user *u, unsigned requests)
{
    if (atomic_fetch_sub(&u->pending, requests) == requests)
        futex_wake(&u->pending, UINT32_MAX >> 1);
}

static void lose(struct vhost_user *u, const char *why)
{
    char text[128];
    snprintf(text, sizeof text, "%s %s", u->name, why);
    u->lost = true;
    if (u->o.end)
        u->o.end(u->o.ctx);
    shutdown(u->channel.fd, SHUT_RDWR);
    u->vhost.lost(u->vhost.ctx, text);
    told(u, atomic_load(&u->pending));
}

static void collect(struct vhost_user *u)
{
    struct vhost_done done[COLLECT];
    for (unsigned n = 0; n < u->rings && !u->lost; n++) {
        const char *why;
        int count;
        // At most as many as there are slots: the other rings wait, and the back end may answer as fast as we ask.
        unsigned left = VHOST_SLOTS;
        while (left && (count = vhost_ring_collect(&u->ring[n], done, left < COLLECT ? left : COLLECT, &why)) > 0) {
            u->vhost.done(u->vhost.ctx, n, done, (unsigned)count);
            told(u, (unsigned)count);
            left -= (unsigned)count;
        }
        if (left && count < 0) {
            char text[96];
            snprintf(text, sizeof text, "breaks the rules of the ring: %s", why);
            lose(u, text);
        }
        if (!left && eventfd_write(u->call, 1)) // come back
            lose(u, "cannot be listened to");
    }
}

// The socket is readable, though nothing was asked.
static const char *unasked(struct vhost_user *u)
{
    char byte;
    ssize_t n = recv(u->channel.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return NULL;
    return n > 0 ? "breaks the vhost-user protocol: it speaks without being asked" : "has ended";
}

static void serve(void *ctx)
{
    struct vhost_user *u = ctx;
    while (!u->lost && !atomic_load(&u->stopping)) {
        struct pollfd p[] = {{.fd = u->wake, .events = POLLIN},
                             {.fd = u->channel.fd, .events = POLLIN},
                             {.fd = u->call, .events = POLLIN}};
        eventfd_t count;
        if (poll(p, 3, -1) <= 0)
            continue;
        if (p[2].revents)
            eventfd_read(u->call, &count);
        if (p[0].revents)
            eventfd_read(u->wake, &count);
        collect(u); // also when it has ended: what it has done is done
        const char *why = !u->lost && p[1].revents ? unasked(u) : NULL;
        if (why)
            lose(u, why);
        if (!u->lost && atomic_load(&u->give_up))
            lose(u, "does not finish its requests");
    }
}

static void wake(struct vhost_user *u)
{
    // Fails only if the counter is at its limit, and then the thread is awake anyway.
    if (eventfd_write(u->wake, 1))
        return;
}

// ---- what the device calls

static int start(struct vhost *v, const struct vhost_region *region, unsigned regions, unsigned rings,
                 struct error *err)
{
    struct vhost_user *u = (struct vhost_user *)v;
    uint64_t features;
    if (rings > u->rings_max)
        return error_set(err, ENOTSUP, "%s has %u queues, not %u", u->name, u->rings_max, rings);
    if (regions > VHOST_REGIONS_MAX)
        return error_set(err, ENOSPC, "%s: guest memory is in %u pieces; at most %d can be shared", u->name, regions,
                         VHOST_REGIONS_MAX);
    u->rings = rings;
    int e = host_ram_create(&u->memory, "trapeze-rings", (uint64_t)rings * VHOST_RING_SIZE, true, err);
    if (!e)
        e = tell(u, VHOST_USER_SET_FEATURES, &u->features, sizeof u->features, err);
    if (!e)
        e = show_memory(u, region, regions, err);
    for (unsigned n = 0; n < rings && !e; n++)
        e = start_ring(u, n, err);
    if (!e) // when this is answered, all before it was done
        e = ask(u, VHOST_USER_GET_FEATURES, &features, err);
    return e ? e : thread_create(&u->thread, "vhost", serve, u, err);
}

static void submit(struct vhost *v, unsigned ring, uint16_t slot, const struct vhost_buffer *b, unsigned out,
                   unsigned in)
{
    struct vhost_user *u = (struct vhost_user *)v;
    atomic_fetch_add(&u->pending, 1);
    vhost_ring_submit(&u->ring[ring], slot, b, out, in);
}

static void kick(struct vhost *v, unsigned ring)
{
    struct vhost_user *u = (struct vhost_user *)v;
    // As with wake(): a full counter has been noticed, or will be.
    if (vhost_ring_wants_kick(&u->ring[ring]) && eventfd_write(u->kick[ring], 1))
        return;
}

static void drain(struct vhost *v)
{
    struct vhost_user *u = (struct vhost_user *)v;
    uint64_t deadline = host_monotonic_ns() + 2 * u->channel.limit_ns;
    uint32_t pending;
    while ((pending = atomic_load(&u->pending))) {
        bool late = host_monotonic_ns() >= deadline;
        if (late && !atomic_exchange(&u->give_up, true))
            wake(u);
        futex_wait(&u->pending, pending, late ? HOST_NEVER : deadline);
    }
}

// The rings stop in an orderly way, as far as the back end can: it finishes what it is at.
static void stop_rings(struct vhost_user *u)
{
    struct vhost_user_vring answer;
    if (u->channel.limit_ns > STOP_NS)
        u->channel.limit_ns = STOP_NS;
    for (unsigned n = 0; n < u->rings; n++) {
        const struct vhost_user_vring which = {.index = n};
        const struct vhost_message m = {.request = VHOST_USER_GET_VRING_BASE, .payload = &which, .size = sizeof which};
        if (vhost_channel_ask(&u->channel, &m, &answer, sizeof answer, NULL))
            return;
    }
}

static void stop(struct vhost *v)
{
    struct vhost_user *u = (struct vhost_user *)v;
    if (!u->thread)
        return;
    atomic_store(&u->stopping, true);
    wake(u);
    thread_join(u->thread);
    u->thread = NULL;
    if (!u->lost)
        stop_rings(u);
}

static void close_front_end(struct vhost *v)
{
    struct vhost_user *u = (struct vhost_user *)v;
    stop(v);
    close(u->o.socket);
    for (unsigned n = 0; n < VHOST_RINGS_MAX; n++)
        if (u->kick[n] >= 0)
            close(u->kick[n]);
    if (u->call >= 0)
        close(u->call);
    if (u->wake >= 0)
        close(u->wake);
    host_ram_destroy(&u->memory);
    free(u);
}

static const struct vhost_ops ops = {
    .start = start, .submit = submit, .kick = kick, .drain = drain, .stop = stop, .close = close_front_end};

int vhost_user_open(const struct vhost_user_options *o, struct vhost **out, struct error *err)
{
    struct vhost_user *u = calloc(1, sizeof *u);
    if (!u) {
        close(o->socket);
        return error_set(err, ENOMEM, "%s: out of memory", o->name);
    }
    u->vhost.ops = &ops;
    u->o = *o;
    snprintf(u->name, sizeof u->name, "%s", o->name);
    u->channel =
        (struct vhost_channel){.fd = o->socket, .name = u->name, .limit_ns = o->limit_ns ? o->limit_ns : LIMIT_NS};
    u->rings_max = VHOST_RINGS_MAX;
    u->memory.fd = -1;
    for (unsigned n = 0; n < VHOST_RINGS_MAX; n++)
        u->kick[n] = -1;
    u->call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    u->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int e = u->call < 0 || u->wake < 0 ? error_set(err, errno, "%s: %s", u->name, strerror(errno)) : 0;
    if (!e)
        e = negotiate(u, err);
    if (e) {
        close_front_end(&u->vhost);
        return e;
    }
    *out = &u->vhost;
    return 0;
}
