// The socket to a vhost-user back end: see channel.h.
#include "backend/vhost_user/channel.h"
#include "host/clock.h"
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

// Waits for an event until the deadline. 0 or -ETIMEDOUT.
static int wait_for(int fd, short events, uint64_t deadline)
{
    for (;;) {
        uint64_t now = host_monotonic_ns();
        if (now >= deadline)
            return -ETIMEDOUT;
        struct pollfd p = {.fd = fd, .events = events};
        if (poll(&p, 1, (int)((deadline - now) / 1000000) + 1) > 0)
            return 0;
    }
}

static int failed(const struct vhost_channel *c, int e, struct error *err)
{
    if (e == -ETIMEDOUT)
        return error_set(err, ETIMEDOUT, "%s does not answer", c->name);
    if (e == -EPIPE || e == -ECONNRESET)
        return error_set(err, EPIPE, "%s has ended", c->name);
    return error_set(err, -e, "%s: %s", c->name, strerror(-e));
}

static int send_all(struct vhost_channel *c, struct iovec *iov, unsigned count, const struct vhost_message *m,
                    uint64_t deadline)
{
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(VHOST_USER_FDS * sizeof(int))];
    } control;
    struct msghdr h = {.msg_iov = iov, .msg_iovlen = count};
    if (m->fds) {
        size_t bytes = m->fds * sizeof(int);
        memset(&control, 0, sizeof control);
        h.msg_control = &control;
        h.msg_controllen = CMSG_SPACE(bytes);
        struct cmsghdr *cm = CMSG_FIRSTHDR(&h);
        cm->cmsg_level = SOL_SOCKET;
        cm->cmsg_type = SCM_RIGHTS;
        cm->cmsg_len = CMSG_LEN(bytes);
        memcpy(CMSG_DATA(cm), m->fd, bytes);
    }
    while (h.msg_iovlen) {
        ssize_t n = sendmsg(c->fd, &h, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
            int e = wait_for(c->fd, POLLOUT, deadline);
            if (e)
                return e;
            continue;
        }
        if (n < 0)
            return -errno;
        h.msg_control = NULL; // the descriptors went with the first byte
        h.msg_controllen = 0;
        while (h.msg_iovlen && (size_t)n >= h.msg_iov->iov_len) {
            n -= (ssize_t)h.msg_iov->iov_len;
            h.msg_iov++;
            h.msg_iovlen--;
        }
        if (h.msg_iovlen) {
            h.msg_iov->iov_base = (char *)h.msg_iov->iov_base + n;
            h.msg_iov->iov_len -= (size_t)n;
        }
    }
    return 0;
}

// Descriptors that might come along are closed by the kernel, for there is no room for them.
static int receive_all(struct vhost_channel *c, void *buf, size_t size, uint64_t deadline)
{
    for (size_t at = 0; at < size;) {
        ssize_t n = recv(c->fd, (char *)buf + at, size - at, MSG_DONTWAIT);
        if (n == 0)
            return -EPIPE;
        if (n > 0) {
            at += (size_t)n;
            continue;
        }
        if (errno != EAGAIN && errno != EINTR)
            return -errno;
        int e = wait_for(c->fd, POLLIN, deadline);
        if (e)
            return e;
    }
    return 0;
}

static int exchange(struct vhost_channel *c, const struct vhost_message *m, uint32_t flags, void *answer, size_t size,
                    struct error *err)
{
    uint64_t deadline = host_monotonic_ns() + c->limit_ns;
    struct vhost_user_header h = {m->request, VHOST_USER_VERSION | flags, (uint32_t)m->size};
    struct iovec iov[2] = {{&h, sizeof h}, {(void *)m->payload, m->size}};
    int e = send_all(c, iov, m->size ? 2 : 1, m, deadline);
    if (e || !answer)
        return e ? failed(c, e, err) : 0;
    e = receive_all(c, &h, sizeof h, deadline);
    if (e)
        return failed(c, e, err);
    if (h.request != m->request || h.size != size ||
        (h.flags & (VHOST_USER_VERSION_MASK | VHOST_USER_REPLY)) != (VHOST_USER_VERSION | VHOST_USER_REPLY))
        return error_set(err, EPROTO, "%s breaks the vhost-user protocol: request %u was answered by %u, %u bytes",
                         c->name, m->request, h.request, h.size);
    e = receive_all(c, answer, size, deadline);
    return e ? failed(c, e, err) : 0;
}

int vhost_channel_tell(struct vhost_channel *c, const struct vhost_message *m, struct error *err)
{
    uint64_t result = 0;
    int e = exchange(c, m, c->acks ? VHOST_USER_NEED_REPLY : 0, c->acks ? &result : NULL, sizeof result, err);
    if (!e && result)
        e = error_set(err, EPROTO, "%s refuses vhost-user request %u", c->name, m->request);
    return e;
}

int vhost_channel_ask(struct vhost_channel *c, const struct vhost_message *m, void *answer, size_t size,
                      struct error *err)
{
    return exchange(c, m, 0, answer, size, err);
}
