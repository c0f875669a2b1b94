// The vhost-user front end before a back end that is the test: one that keeps to the protocol, and all sorts that
// don't.
//
// A thread answers messages; what comes after (kicks, answers in the rings, the end) the test does itself.
#include "backend/vhost_user/front_end.h"
#include "backend/vhost_user/message.h"
#include "backend/vhost_user/ring.h"
#include "host/clock.h"
#include "host/memory.h"
#include "unit.h"
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { RINGS = 2, RAM = 1 << 20, PATIENCE_MS = 5000 };

#define F_RING (1ull << 32 | 1ull << 28)
#define HASTE_NS 500000000ull // where the test waits until patience is at an end

enum manner { // of the back end
    GOOD,
    PLAIN, // without protocol features
    LACKS_INDIRECT,
    ANSWERS_ANOTHER,
    ANSWERS_SHORT,
    ANSWERS_LONG,
    WRONG_VERSION,
    SAYS_NOTHING,
    LEAVES,  // instead of answering
    REFUSES, // the memory table
    ONE_QUEUE,
    MANNERS
};

struct back_end {
    enum manner manner;
    int fd;
    pthread_t thread;
    uint64_t features, protocol;
    struct vhost_user_memory memory;
    uint8_t *map[VHOST_USER_REGIONS];
    struct vhost_user_address at[RINGS];
    int kick[RINGS], call[RINGS];
    uint32_t num[RINGS], enabled[RINGS], stopped;
};

struct bed {
    struct back_end back;
    struct host_ram ram;
    struct vhost *vhost;
    unsigned ended; // calls of `end`
    pthread_mutex_t lock;
    pthread_cond_t news;
    struct vhost_done done[64];
    unsigned ring[64], dones, losses;
    char why[160];
};

static uint64_t limit_ns; // of the front end; 0: its own

// ---- the back end

static void reply(struct back_end *b, uint32_t request, const void *payload, uint32_t size)
{
    struct vhost_user_header h = {request, VHOST_USER_VERSION | VHOST_USER_REPLY, size};
    uint8_t more[64] = {0};
    memcpy(more, payload, size);
    if (b->manner == ANSWERS_ANOTHER)
        h.request++;
    if (b->manner == ANSWERS_SHORT)
        h.size--;
    if (b->manner == ANSWERS_LONG)
        h.size += 8;
    if (b->manner == WRONG_VERSION)
        h.flags++;
    if (b->manner == LEAVES)
        shutdown(b->fd, SHUT_RDWR);
    if (b->manner == SAYS_NOTHING || b->manner == LEAVES)
        return;
    // The front end may have hung up when it saw the first of this.
    if (send(b->fd, &h, sizeof h, MSG_NOSIGNAL) == sizeof h && send(b->fd, more, h.size, MSG_NOSIGNAL) < 0)
        return;
}

static void take(struct back_end *b, const struct vhost_user_header *h, const void *payload, const int *fd,
                 unsigned fds)
{
    uint64_t number, result = 0;
    struct vhost_user_vring v;
    memcpy(&number, payload, sizeof number);
    memcpy(&v, payload, sizeof v);
    bool answered = true;
    switch (h->request) {
    case VHOST_USER_GET_FEATURES:
        result = F_RING | 1 << 5 | (b->manner == PLAIN ? 0 : VHOST_USER_F_PROTOCOL_FEATURES);
        result &= ~(b->manner == LACKS_INDIRECT ? 1ull << 28 : 0);
        reply(b, h->request, &result, sizeof result);
        break;
    case VHOST_USER_GET_PROTOCOL_FEATURES:
        result = UINT64_MAX;
        reply(b, h->request, &result, sizeof result);
        break;
    case VHOST_USER_GET_QUEUE_NUM:
        result = b->manner == ONE_QUEUE ? 1 : 8;
        reply(b, h->request, &result, sizeof result);
        break;
    case VHOST_USER_GET_VRING_BASE:
        b->stopped++;
        reply(b, h->request, &v, sizeof v);
        break;
    default:
        answered = false;
    }
    if (h->request == VHOST_USER_SET_FEATURES)
        b->features = number;
    if (h->request == VHOST_USER_SET_PROTOCOL_FEATURES)
        b->protocol = number;
    if (h->request == VHOST_USER_SET_VRING_NUM)
        b->num[v.index] = v.num;
    if (h->request == VHOST_USER_SET_VRING_ENABLE)
        b->enabled[v.index] = v.num;
    if (h->request == VHOST_USER_SET_VRING_ADDR)
        memcpy(&b->at[v.index], payload, sizeof b->at[0]);
    if (h->request == VHOST_USER_SET_VRING_KICK)
        b->kick[number] = fd[0];
    if (h->request == VHOST_USER_SET_VRING_CALL)
        b->call[number] = fd[0];
    if (h->request == VHOST_USER_SET_MEM_TABLE) {
        memcpy(&b->memory, payload, h->size);
        assert_int_equal(b->memory.regions, fds);
        for (unsigned i = 0; i < fds; i++) {
            const struct vhost_user_region *r = &b->memory.region[i];
            b->map[i] = mmap(NULL, r->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd[i], (off_t)r->mmap_offset);
            assert_true(b->map[i] != MAP_FAILED);
            close(fd[i]);
        }
    }
    if (!answered && (h->flags & VHOST_USER_NEED_REPLY)) {
        result = b->manner == REFUSES && h->request == VHOST_USER_SET_MEM_TABLE;
        reply(b, h->request, &result, sizeof result);
    }
}

static void *serve(void *ctx)
{
    struct back_end *b = ctx;
    struct vhost_user_header h;
    for (;;) {
        union {
            struct cmsghdr align;
            char space[CMSG_SPACE(VHOST_USER_FDS * sizeof(int))];
        } control;
        struct iovec iov = {&h, sizeof h};
        struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
        uint8_t payload[512] = {0};
        int fd[VHOST_USER_FDS];
        unsigned fds = 0;
        if (recvmsg(b->fd, &m, MSG_WAITALL) != sizeof h)
            return NULL;
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        if (c) {
            fds = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
            memcpy(fd, CMSG_DATA(c), fds * sizeof(int));
        }
        assert_true(h.size <= sizeof payload && (h.flags & VHOST_USER_VERSION_MASK) == VHOST_USER_VERSION);
        if (h.size && recv(b->fd, payload, h.size, MSG_WAITALL) != h.size)
            return NULL;
        take(b, &h, payload, fd, fds);
    }
}

// What an address in one of the tables means to the back end.
static void *at_gpa(struct back_end *b, uint64_t gpa)
{
    for (unsigned i = 0; i < b->memory.regions; i++)
        if (gpa - b->memory.region[i].gpa < b->memory.region[i].size)
            return b->map[i] + (gpa - b->memory.region[i].gpa);
    fail_msg("nothing is at 0x%lx", (unsigned long)gpa);
    return NULL;
}

static void *at_user(struct back_end *b, uint64_t user)
{
    for (unsigned i = 0; i < b->memory.regions; i++)
        if (user - b->memory.region[i].user < b->memory.region[i].size)
            return b->map[i] + (user - b->memory.region[i].user);
    fail_msg("nothing is at 0x%lx", (unsigned long)user);
    return NULL;
}

struct descriptor {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next;
};

static void put_used(struct back_end *b, unsigned ring, uint32_t id, uint32_t len)
{
    uint16_t *idx = (uint16_t *)at_user(b, b->at[ring].used) + 1;
    uint32_t *element = (uint32_t *)(idx + 1) + 2 * (*idx % VHOST_SLOTS);
    element[0] = id;
    element[1] = len;
    __atomic_store_n(idx, (uint16_t)(*idx + 1), __ATOMIC_RELEASE);
}

static void call(struct back_end *b, unsigned ring)
{
    assert_int_equal(eventfd_write(b->call[ring], 1), 0);
}

// ---- the bed

static void on_done(void *ctx, unsigned ring, const struct vhost_done *done, unsigned count)
{
    struct bed *b = ctx;
    pthread_mutex_lock(&b->lock);
    for (unsigned n = 0; n < count; n++) {
        b->ring[b->dones] = ring;
        b->done[b->dones++] = done[n];
    }
    pthread_cond_broadcast(&b->news);
    pthread_mutex_unlock(&b->lock);
}

static void on_lost(void *ctx, const char *why)
{
    struct bed *b = ctx;
    pthread_mutex_lock(&b->lock);
    assert_int_equal(b->ended, 1); // it was ended before
    b->losses++;
    snprintf(b->why, sizeof b->why, "%s", why);
    pthread_cond_broadcast(&b->news);
    pthread_mutex_unlock(&b->lock);
}

static void on_end(void *ctx)
{
    ((struct bed *)ctx)->ended++;
}

// Waits until so many answers or losses have come.
static void wait_for(struct bed *b, const unsigned *what, unsigned count)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += PATIENCE_MS / 1000;
    pthread_mutex_lock(&b->lock);
    while (*what < count)
        assert_int_equal(pthread_cond_timedwait(&b->news, &b->lock, &until), 0);
    pthread_mutex_unlock(&b->lock);
}

static int open_bed(struct bed *b, enum manner manner, struct error *err)
{
    int pair[2];
    memset(b, 0, sizeof *b);
    b->back.manner = manner;
    pthread_mutex_init(&b->lock, NULL);
    pthread_cond_init(&b->news, NULL);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    assert_int_equal(host_ram_create(&b->ram, "test-ram", RAM, true, NULL), 0);
    b->back.fd = pair[1];
    assert_int_equal(pthread_create(&b->back.thread, NULL, serve, &b->back), 0);
    return vhost_user_open(&(struct vhost_user_options){.socket = pair[0],
                                                        .name = "the back end",
                                                        .memory = b->ram.base,
                                                        .memory_size = RAM,
                                                        .memory_fd = b->ram.fd,
                                                        .end = on_end,
                                                        .ctx = b,
                                                        .limit_ns = limit_ns},
                           &b->vhost, err);
}

static int start_bed(struct bed *b, struct error *err)
{
    // In two pieces, as a PC's memory is.
    const struct vhost_region region[] = {{0, RAM / 2, b->ram.base}, {1ull << 32, RAM / 2, b->ram.base + RAM / 2}};
    b->vhost->ctx = b;
    b->vhost->done = on_done;
    b->vhost->lost = on_lost;
    return b->vhost->ops->start(b->vhost, region, 2, RINGS, err);
}

static void begin(struct bed *b, enum manner manner)
{
    struct error err;
    if (open_bed(b, manner, &err) || start_bed(b, &err))
        fail_msg("%s", err.text);
}

static void end(struct bed *b)
{
    if (b->vhost)
        b->vhost->ops->close(b->vhost);
    shutdown(b->back.fd, SHUT_RDWR);
    pthread_join(b->back.thread, NULL);
    close(b->back.fd);
    for (unsigned i = 0; i < b->back.memory.regions; i++)
        munmap(b->back.map[i], b->back.memory.region[i].size);
    for (unsigned i = 0; i < RINGS; i++) {
        if (b->back.kick[i])
            close(b->back.kick[i]);
        if (b->back.call[i])
            close(b->back.call[i]);
    }
    host_ram_destroy(&b->ram);
    pthread_mutex_destroy(&b->lock);
    pthread_cond_destroy(&b->news);
}

static void submit(struct bed *b, unsigned ring, uint16_t slot)
{
    const struct vhost_buffer buffer[] = {{0x1000, 40}, {(1ull << 32) + 0x2000, 100}, {0x5000, 7}};
    b->vhost->ops->submit(b->vhost, ring, slot, buffer, 1, 2);
    b->vhost->ops->kick(b->vhost, ring);
}

// ---- tests

static void rings_are_set_up(void **state)
{
    (void)state;
    for (enum manner manner = GOOD; manner <= PLAIN; manner++) {
        struct bed b;
        begin(&b, manner);
        bool plain = manner == PLAIN;
        assert_true(b.back.features == (F_RING | (plain ? 0 : VHOST_USER_F_PROTOCOL_FEATURES)));
        assert_int_equal(b.back.protocol, plain ? 0 : VHOST_USER_PROTOCOL_MQ | VHOST_USER_PROTOCOL_REPLY_ACK);
        assert_int_equal(b.back.memory.regions, 3);
        b.ram.base[RAM / 2 + 5] = 42;
        assert_int_equal(*(uint8_t *)at_gpa(&b.back, (1ull << 32) + 5), 42);
        for (unsigned ring = 0; ring < RINGS; ring++) {
            assert_int_equal(b.back.num[ring], VHOST_SLOTS);
            assert_int_equal(b.back.enabled[ring], !plain);
        }
        end(&b);
        assert_int_equal(b.back.stopped, RINGS); // in an orderly way
        assert_int_equal(b.ended, 0);
        assert_int_equal(b.losses, 0);
    }
}

static void requests_travel(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, GOOD);
    submit(&b, 1, 200);
    struct pollfd p = {.fd = b.back.kick[1], .events = POLLIN};
    assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
    const uint16_t *available = at_user(&b.back, b.back.at[1].avail);
    assert_int_equal(available[1], 1);
    assert_int_equal(available[2], 200);
    const struct descriptor *d = (struct descriptor *)at_user(&b.back, b.back.at[1].desc) + 200;
    assert_int_equal(d->flags, 4);
    assert_int_equal(d->len, 3 * 16);
    const struct descriptor *table = at_gpa(&b.back, d->addr);
    assert_true(table[0].addr == 0x1000 && table[0].len == 40 && table[0].flags == 1 && table[0].next == 1);
    assert_true(table[1].addr == (1ull << 32) + 0x2000 && table[1].len == 100 && table[1].flags == 3);
    assert_true(table[2].addr == 0x5000 && table[2].len == 7 && table[2].flags == 2);
    put_used(&b.back, 1, 200, 77);
    call(&b.back, 1);
    wait_for(&b, &b.dones, 1);
    assert_int_equal(b.ring[0], 1);
    assert_int_equal(b.done[0].slot, 200);
    assert_int_equal(b.done[0].written, 77);
    b.vhost->ops->drain(b.vhost);
    // A back end that looks by itself need not be told.
    *(uint16_t *)at_user(&b.back, b.back.at[0].used) = 1;
    submit(&b, 0, 3);
    p.fd = b.back.kick[0];
    assert_int_equal(poll(&p, 1, 50), 0);
    // In another order than they came, and round the ring more than once.
    b.dones = 0; // nobody adds to it before something is asked
    for (unsigned n = 0; n < 1000; n++) {
        uint16_t slot = (uint16_t)(n % 2 ? 3 : 4);
        submit(&b, 0, slot);
        put_used(&b.back, 0, slot ^ 7, n);
        call(&b.back, 0);
        wait_for(&b, &b.dones, 1);
        pthread_mutex_lock(&b.lock);
        assert_int_equal(b.done[b.dones - 1].slot, slot ^ 7);
        b.dones = 0;
        pthread_mutex_unlock(&b.lock);
    }
    put_used(&b.back, 0, 3, 1);
    call(&b.back, 0);
    b.vhost->ops->drain(b.vhost); // returns when it has come
    assert_int_equal(b.dones, 1);
    end(&b);
    assert_int_equal(b.losses, 0);
}

static void bad_manners_are_told(void **state)
{
    (void)state;
    static const struct {
        enum manner manner;
        int code;
        const char *why;
    } cases[] = {{LACKS_INDIRECT, -ENOTSUP, "the back end lacks virtio features 0x10000000"},
                 {ANSWERS_ANOTHER, -EPROTO, "the back end breaks the vhost-user protocol"},
                 {ANSWERS_SHORT, -EPROTO, "the back end breaks the vhost-user protocol"},
                 {ANSWERS_LONG, -EPROTO, "the back end breaks the vhost-user protocol"},
                 {WRONG_VERSION, -EPROTO, "the back end breaks the vhost-user protocol"},
                 {SAYS_NOTHING, -ETIMEDOUT, "the back end does not answer"},
                 {LEAVES, -EPIPE, "the back end has ended"},
                 {REFUSES, -EPROTO, "the back end refuses vhost-user request 5"},
                 {ONE_QUEUE, -ENOTSUP, "the back end has 1 queues, not 2"}};
    for (unsigned n = 0; n < sizeof cases / sizeof *cases; n++) {
        struct bed b;
        struct error err = {""};
        limit_ns = cases[n].manner == SAYS_NOTHING ? HASTE_NS : 0;
        int e = open_bed(&b, cases[n].manner, &err);
        if (!e)
            e = start_bed(&b, &err);
        else
            b.vhost = NULL;
        assert_int_equal(e, cases[n].code);
        assert_memory_equal(err.text, cases[n].why, strlen(cases[n].why));
        end(&b);
    }
}

static void answer_unknown(struct bed *b)
{
    put_used(&b->back, 0, 9, 0);
}

static void answer_beyond(struct bed *b)
{
    put_used(&b->back, 0, VHOST_SLOTS, 0);
}

static void answer_twice(struct bed *b)
{
    put_used(&b->back, 0, 5, 0);
    put_used(&b->back, 0, 5, 0);
}

static void jump(struct bed *b)
{
    ((uint16_t *)at_user(&b->back, b->back.at[0].used))[1] = VHOST_SLOTS + 1;
}

static void leave(struct bed *b)
{
    shutdown(b->back.fd, SHUT_RDWR);
}

static void speak(struct bed *b)
{
    assert_int_equal(write(b->back.fd, "hello", 5), 5);
}

static void those_that_go_wrong_are_lost(void **state)
{
    (void)state;
    static const struct {
        void (*act)(struct bed *b);
        const char *why;
    } cases[] = {
        {answer_unknown, "the back end breaks the rules of the ring: an answer to what was not asked"},
        {answer_beyond, "the back end breaks the rules of the ring: an answer to what was not asked"},
        {answer_twice, "the back end breaks the rules of the ring: an answer to what was not asked"},
        {jump, "the back end breaks the rules of the ring: more answers than there are slots"},
        {leave, "the back end has ended"},
        {speak, "the back end breaks the vhost-user protocol: it speaks without being asked"},
    };
    for (unsigned n = 0; n < sizeof cases / sizeof *cases; n++) {
        struct bed b;
        begin(&b, GOOD);
        submit(&b, 0, 5);
        cases[n].act(&b);
        call(&b.back, 0);
        wait_for(&b, &b.losses, 1);
        assert_string_equal(b.why, cases[n].why);
        b.vhost->ops->drain(b.vhost); // nothing is under way any more
        end(&b);
        assert_int_equal(b.losses, 1);
        assert_int_equal(b.ended, 1);
    }
}

static void what_does_not_finish_is_lost(void **state)
{
    (void)state;
    struct bed b;
    limit_ns = HASTE_NS;
    begin(&b, GOOD);
    limit_ns = 0;
    submit(&b, 0, 5);
    uint64_t from = host_monotonic_ns();
    b.vhost->ops->drain(b.vhost);
    assert_true(host_monotonic_ns() - from >= 2 * HASTE_NS);
    assert_int_equal(b.losses, 1);
    assert_string_equal(b.why, "the back end does not finish its requests");
    end(&b);
}

static void memory_that_is_not_shared_is_refused(void **state)
{
    (void)state;
    struct bed b;
    struct error err;
    static uint8_t elsewhere[4096];
    assert_int_equal(open_bed(&b, GOOD, &err), 0);
    const struct vhost_region region[VHOST_REGIONS_MAX + 1] = {{0, sizeof elsewhere, elsewhere}};
    assert_int_equal(b.vhost->ops->start(b.vhost, region, 1, RINGS, &err), -EINVAL);
    end(&b);
    assert_int_equal(open_bed(&b, GOOD, &err), 0);
    assert_int_equal(b.vhost->ops->start(b.vhost, region, VHOST_REGIONS_MAX + 1, RINGS, &err), -ENOSPC);
    end(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rings_are_set_up),
        cmocka_unit_test(requests_travel),
        cmocka_unit_test(bad_manners_are_told),
        cmocka_unit_test(those_that_go_wrong_are_lost),
        cmocka_unit_test(what_does_not_finish_is_lost),
        cmocka_unit_test(memory_that_is_not_shared_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
