// The vhost-user front end before a back end made of bytes.
//
// What a back end says while it is set up lies in the socket before it is asked. The first byte tells which answers are
// spoiled; so most inputs come through, and then write what they like into the rings, while requests are under way.
#include "backend/vhost_user/front_end.h"
#include "backend/vhost_user/message.h"
#include "backend/vhost_user/ring.h"
#include "guest.h"
#include "host/memory.h"
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { RAM = 64 << 10, SLOTS = 8 };

#define PATIENCE_NS 20000000ull

struct target {
    const uint8_t *data;
    size_t left;
    pthread_mutex_t lock;
    bool busy[SLOTS], lost;
};

static unsigned take(struct target *t)
{
    if (!t->left)
        return 0;
    t->left--;
    return *t->data++;
}

static void done(void *ctx, unsigned ring, const struct vhost_done *d, unsigned count)
{
    struct target *t = ctx;
    pthread_mutex_lock(&t->lock);
    FUZZ_CHECK(!t->lost && ring == 0 && count >= 1);
    for (unsigned n = 0; n < count; n++) {
        FUZZ_CHECK(d[n].slot < SLOTS && t->busy[d[n].slot]);
        t->busy[d[n].slot] = false;
    }
    pthread_mutex_unlock(&t->lock);
}

static void lost(void *ctx, const char *why)
{
    struct target *t = ctx;
    pthread_mutex_lock(&t->lock);
    FUZZ_CHECK(!t->lost && *why);
    t->lost = true;
    memset(t->busy, 0, sizeof t->busy);
    pthread_mutex_unlock(&t->lock);
}

// The answers to everything that will be asked, in order. The socket must hold them all.
static void answer_in_advance(struct target *t, int fd)
{
    const uint64_t ring = 1ull << 32 | 1ull << 28;
    const struct {
        uint32_t request;
        uint64_t value;
    } answers[] = {{VHOST_USER_GET_FEATURES, ring | VHOST_USER_F_PROTOCOL_FEATURES},
                   {VHOST_USER_GET_PROTOCOL_FEATURES, 1 << 3},
                   {VHOST_USER_SET_FEATURES, 0},
                   {VHOST_USER_SET_MEM_TABLE, 0},
                   {VHOST_USER_SET_VRING_NUM, 0},
                   {VHOST_USER_SET_VRING_BASE, 0},
                   {VHOST_USER_SET_VRING_ADDR, 0},
                   {VHOST_USER_SET_VRING_CALL, 0},
                   {VHOST_USER_SET_VRING_KICK, 0},
                   {VHOST_USER_SET_VRING_ENABLE, 0},
                   {VHOST_USER_GET_FEATURES, ring}};
    unsigned spoiled = take(t); // one of them, or none
    for (unsigned n = 0; n < sizeof answers / sizeof *answers; n++) {
        struct {
            struct vhost_user_header h;
            uint8_t payload[8];
        } m = {{answers[n].request, VHOST_USER_VERSION | VHOST_USER_REPLY, 8}, {0}};
        memcpy(m.payload, &answers[n].value, 8);
        size_t size = sizeof m;
        if (n == spoiled % 64) {
            unsigned how = take(t);
            ((uint8_t *)&m)[how % sizeof m] ^= (uint8_t)(1 + take(t));
            size = how & 0x80 ? how % sizeof m : sizeof m;
        }
        FUZZ_CHECK(send(fd, &m, size, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)size);
        if (size < sizeof m)
            break;
    }
    if (spoiled >= 0xf0)
        shutdown(fd, SHUT_WR);
}

// Finds the memory of the rings and the eventfd for calls in what the front end has sent. 0 if they are not there.
static uint8_t *find_rings(int fd, int *call)
{
    uint8_t *rings = NULL;
    struct vhost_user_header h;
    for (;;) {
        union {
            struct cmsghdr align;
            char space[CMSG_SPACE(VHOST_USER_FDS * sizeof(int))];
        } control;
        struct iovec iov = {&h, sizeof h};
        struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
        uint8_t payload[512];
        if (recvmsg(fd, &m, MSG_DONTWAIT) != sizeof h)
            return rings;
        FUZZ_CHECK(h.size <= sizeof payload);
        FUZZ_CHECK(!h.size || recv(fd, payload, h.size, MSG_DONTWAIT) == (ssize_t)h.size);
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        int fds[VHOST_USER_FDS], count = c ? (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int)) : 0;
        if (count)
            memcpy(fds, CMSG_DATA(c), (size_t)count * sizeof(int));
        if (h.request == VHOST_USER_SET_MEM_TABLE)
            rings = mmap(NULL, VHOST_RING_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fds[count - 1], 0);
        if (h.request == VHOST_USER_SET_VRING_CALL)
            *call = dup(fds[0]);
        for (int n = 0; n < count; n++)
            close(fds[n]);
    }
}

static void play(struct target *t, struct vhost *v, uint8_t *rings, int call)
{
    _Atomic uint16_t *used = (_Atomic uint16_t *)(rings + VHOST_RING_USED);
    while (t->left) {
        unsigned how = take(t), slot = how % SLOTS;
        if (how < 0x60) {
            const struct vhost_buffer b[] = {{0, 16}, {4096, 100}};
            pthread_mutex_lock(&t->lock);
            if (!t->busy[slot] && !t->lost) {
                t->busy[slot] = true;
                v->ops->submit(v, 0, (uint16_t)slot, b, 1, 1);
            }
            pthread_mutex_unlock(&t->lock);
            v->ops->kick(v, 0);
        } else if (how < 0xe0) { // an answer, likely to what was asked
            uint32_t element[2] = {how < 0xd0 ? slot : take(t) << (how & 8), take(t)};
            uint16_t idx = used[1];
            memcpy(rings + VHOST_RING_USED + 4 + 8ul * (idx % VHOST_SLOTS), element, sizeof element);
            used[1] = (uint16_t)(idx + (how == 0xdf ? take(t) * 256 : 1));
            eventfd_write(call, 1);
        } else { // anything, anywhere in the rings
            unsigned at = (take(t) << 8 | take(t)) % VHOST_RING_TABLES;
            rings[at] = (uint8_t)take(t);
            eventfd_write(call, 1);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct target t = {.data = data, .left = size < 300 ? size : 300};
    struct host_ram ram;
    struct vhost *v = NULL;
    int pair[2], call = -1;
    pthread_mutex_init(&t.lock, NULL);
    FUZZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    FUZZ_CHECK(host_ram_create(&ram, "fuzz-ram", RAM, true, NULL) == 0);
    answer_in_advance(&t, pair[1]);
    const struct vhost_user_options o = {.socket = pair[0],
                                         .name = "back end",
                                         .memory = ram.base,
                                         .memory_size = RAM,
                                         .memory_fd = ram.fd,
                                         .limit_ns = PATIENCE_NS};
    struct error err;
    if (!vhost_user_open(&o, &v, &err)) {
        v->ctx = &t;
        v->done = done;
        v->lost = lost;
        if (!v->ops->start(v, &(struct vhost_region){0, RAM, ram.base}, 1, 1, &err)) {
            uint8_t *rings = find_rings(pair[1], &call);
            FUZZ_CHECK(rings && call >= 0);
            play(&t, v, rings, call);
            v->ops->drain(v);
            for (unsigned n = 0; n < SLOTS; n++)
                FUZZ_CHECK(!t.busy[n]);
            munmap(rings, VHOST_RING_SIZE);
            close(call);
        }
        shutdown(pair[1], SHUT_RDWR);
        v->ops->close(v);
    }
    close(pair[1]);
    host_ram_destroy(&ram);
    pthread_mutex_destroy(&t.lock);
    return 0;
}
