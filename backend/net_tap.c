// A TAP device of the host: see net.h. Frames go through /dev/net/tun with virtio's header before them, so the kernel
// does the offloads (Linux, Documentation/networking/tuntap.rst; TUNSETOFFLOAD for the other direction).
//
// A NAME that exists is used (its owner may be told by `ip tuntap add ... user`), one that does not is made, which
// needs CAP_NET_ADMIN, and goes when we end. Addresses, bridges and routes are the host's administrator's affair.
#include "backend/net.h"
#include "backend/net_worker.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum { FRAMES_PER_ROUND = 64 }; // received before the card may transmit again

struct net_tap {
    struct net_worker worker;
    int fd;
    unsigned fd_index; // in worker.fds; 0: not polled
    bool gone;         // somebody deleted the device
    bool blocked;      // send() waits for room
    uint8_t buffer[NET_FRAME_MAX];
};

static void tap_fill(struct net_worker *w, int *timeout_ms)
{
    struct net_tap *t = (struct net_tap *)w;
    (void)timeout_ms;
    if (t->gone) {
        t->fd_index = 0;
        return;
    }
    short events = (short)((w->kept ? 0 : POLLIN) | (t->blocked ? POLLOUT : 0));
    t->fd_index = events ? net_worker_poll(w, t->fd, events) : 0;
}

static void tap_ready(struct net_worker *w)
{
    struct net_tap *t = (struct net_tap *)w;
    short events = t->fd_index ? w->fds[t->fd_index].revents : 0;
    if (events & (POLLERR | POLLHUP)) {
        t->gone = true;
        w->net.link(w->net.ctx, false);
    }
    if (events & (POLLOUT | POLLERR)) {
        t->blocked = false;
        w->resume = true;
    }
    for (unsigned i = 0; (events & POLLIN) && !w->kept && i < FRAMES_PER_ROUND; i++) {
        struct net_header h;
        struct iovec v[2] = {{&h, sizeof h}, {t->buffer, sizeof t->buffer}};
        ssize_t n = readv(t->fd, v, 2);
        if (n < (ssize_t)sizeof h)
            return;
        net_worker_receive(w, &h, t->buffer, (size_t)n - sizeof h);
    }
}

static bool tap_send(struct net *n, const struct net_header *h, const uint8_t *frame, size_t size)
{
    struct net_tap *t = (struct net_tap *)n;
    const struct iovec v[2] = {{(void *)h, sizeof *h}, {(void *)frame, size}};
    if (writev(t->fd, v, 2) >= 0 || errno != EAGAIN)
        return true; // or the kernel does not like the frame: dropped
    t->blocked = true;
    return false;
}

static void tap_accept(struct net *n, unsigned offloads)
{
    unsigned long tun = (offloads & NET_CSUM ? TUN_F_CSUM : 0u) | (offloads & NET_TSO4 ? TUN_F_TSO4 : 0u) |
                        (offloads & NET_TSO6 ? TUN_F_TSO6 : 0u);
    ioctl(((struct net_tap *)n)->fd, TUNSETOFFLOAD, tun); // where it fails, the card drops what the driver can't take
}

static void tap_destroy(struct net_worker *w)
{
    struct net_tap *t = (struct net_tap *)w;
    close(t->fd);
    net_worker_end(w);
    free(t);
}

// The device's MTU; 0 if it can't be had. Also brings up a device that we made, where we may.
static uint16_t look_at(const char *name)
{
    struct ifreq r = {0};
    strcpy(r.ifr_name, name);
    int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int mtu = s >= 0 && !ioctl(s, SIOCGIFMTU, &r) ? r.ifr_mtu : 0;
    if (s >= 0 && !ioctl(s, SIOCGIFFLAGS, &r) && !(r.ifr_flags & IFF_UP)) {
        r.ifr_flags |= IFF_UP;
        ioctl(s, SIOCSIFFLAGS, &r);
    }
    if (s >= 0)
        close(s);
    return mtu >= NET_MTU_MIN && mtu <= NET_MTU_MAX ? (uint16_t)mtu : 0;
}

static int attach(const char *name, char *found, struct error *err)
{
    struct ifreq r = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    if (strlen(name) >= sizeof r.ifr_name)
        return error_set(err, EINVAL, "--net tap:%.40s: a device's name has at most %zu characters", name,
                         sizeof r.ifr_name - 1);
    strcpy(r.ifr_name, name);
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return error_set(err, errno, "--net tap: /dev/net/tun: %s", strerror(errno));
    int size = sizeof(struct net_header);
    if (ioctl(fd, TUNSETIFF, &r) || ioctl(fd, TUNSETVNETHDRSZ, &size) || ioctl(fd, TUNSETOFFLOAD, 0ul)) {
        int e = error_set(err, errno, "--net tap%s%s: %s", *name ? ":" : "", name, strerror(errno));
        close(fd);
        return e;
    }
    memcpy(found, r.ifr_name, sizeof r.ifr_name);
    return fd;
}

int net_tap_open(const char *name, uint16_t mtu, char *found, struct net **out, struct error *err)
{
    static const struct net_worker_ops worker_ops = {tap_fill, tap_ready, tap_destroy};
    static const struct net_ops net_ops = {.start = net_worker_start,
                                           .stop = net_worker_stop,
                                           .wake = net_worker_wake,
                                           .send = tap_send,
                                           .accept = tap_accept,
                                           .close = net_worker_close};
    int fd = attach(name ? name : "", found, err);
    if (fd < 0)
        return fd;
    struct net_tap *t = calloc(1, sizeof *t);
    int e = t ? net_worker_init(&t->worker, &worker_ops, &net_ops, err)
              : error_set(err, ENOMEM, "network tap: out of memory");
    if (e) {
        close(fd);
        free(t);
        return e;
    }
    t->fd = fd;
    t->worker.net.takes = t->worker.net.gives = NET_CSUM | NET_TSO4 | NET_TSO6;
    uint16_t own = look_at(found);
    t->worker.net.mtu = mtu ? mtu : own;
    *out = &t->worker.net;
    return 0;
}
