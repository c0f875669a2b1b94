// Addresses of migrations: see address.h.
#include "migrate/address.h"
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SLICE_MS = 50, CONNECT_MS = 10000 };

static int wrong(const char *text, const char *why, struct error *err)
{
    return error_set(err, EINVAL, "%.120s: %s; an address is unix:PATH or tcp:HOST:PORT", text, why);
}

int address_parse(struct address *a, const char *text, struct error *err)
{
    *a = (struct address){0};
    if (!strncmp(text, "unix:", 5)) {
        if (!text[5])
            return wrong(text, "no path", err);
        if (strlen(text + 5) >= sizeof a->path)
            return wrong(text, "the path is too long for a socket", err);
        strcpy(a->path, text + 5);
        return 0;
    }
    if (strncmp(text, "tcp:", 4) != 0)
        return wrong(text, "neither unix: nor tcp:", err);
    const char *host = text + 4, *colon = strrchr(host, ':');
    if (!colon || !colon[1] || strlen(colon + 1) >= sizeof a->port ||
        strspn(colon + 1, "0123456789") != strlen(colon + 1))
        return wrong(text, "no port", err);
    size_t n = (size_t)(colon - host);
    if (n >= 2 && host[0] == '[' && host[n - 1] == ']') {
        host++;
        n -= 2;
    }
    if (n >= sizeof a->host)
        return wrong(text, "the host's name is too long", err);
    a->tcp = true;
    memcpy(a->host, host, n);
    strcpy(a->port, colon + 1);
    return 0;
}

// For messages.
static const char *name_of(const struct address *a, char text[300])
{
    if (a->tcp)
        snprintf(text, 300, "tcp:%.250s:%s", a->host, a->port);
    else
        snprintf(text, 300, "unix:%s", a->path);
    return text;
}

static int failed(const struct address *a, const char *what, int code, struct error *err)
{
    char text[300];
    return error_set(err, code, "%.150s: %s%s", name_of(a, text), what, strerror(code));
}

static void local_address(const struct address *a, struct sockaddr_un *sun)
{
    *sun = (struct sockaddr_un){.sun_family = AF_UNIX};
    strcpy(sun->sun_path, a->path);
}

// --- connecting

// 0, or a positive errno.
static int wait_connected(int fd, const _Atomic bool *cancel)
{
    for (unsigned ms = 0; ms < CONNECT_MS; ms += SLICE_MS) {
        struct pollfd p = {.fd = fd, .events = POLLOUT};
        if (cancel && *cancel)
            return ECANCELED;
        if (poll(&p, 1, SLICE_MS) > 0) {
            int e = 0;
            socklen_t n = sizeof e;
            return getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &n) ? errno : e;
        }
    }
    return ETIMEDOUT;
}

static int connect_to(int family, const struct sockaddr *to, socklen_t size, const _Atomic bool *cancel)
{
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), one = 1;
    if (fd < 0)
        return -errno;
    int e = connect(fd, to, size) == 0 ? 0 : errno == EINPROGRESS ? wait_connected(fd, cancel) : errno;
    if (e) {
        close(fd);
        return -e;
    }
    if (family != AF_UNIX)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

static int resolve(const struct address *a, bool passive, struct addrinfo **out, struct error *err)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = passive ? AI_PASSIVE : 0};
    int e = getaddrinfo(a->host[0] ? a->host : NULL, a->port, &hints, out);
    char text[300];
    return e ? error_set(err, EHOSTUNREACH, "%.150s: %s", name_of(a, text), gai_strerror(e)) : 0;
}

int address_connect(const struct address *a, const _Atomic bool *cancel, struct error *err)
{
    if (!a->tcp) {
        struct sockaddr_un sun;
        local_address(a, &sun);
        int fd = connect_to(AF_UNIX, (const struct sockaddr *)&sun, sizeof sun, cancel);
        return fd >= 0 ? fd : failed(a, "", -fd, err);
    }
    struct addrinfo *all;
    int fd = resolve(a, false, &all, err);
    if (fd)
        return fd;
    fd = -EHOSTUNREACH;
    for (const struct addrinfo *i = all; i && fd < 0 && fd != -ECANCELED; i = i->ai_next)
        fd = connect_to(i->ai_family, i->ai_addr, i->ai_addrlen, cancel);
    freeaddrinfo(all);
    return fd >= 0 ? fd : failed(a, "", -fd, err);
}

// --- listening

static int listen_at(int family, const struct sockaddr *at, socklen_t size)
{
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), one = 1;
    if (fd < 0)
        return -errno;
    if (family != AF_UNIX)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, at, size) || listen(fd, 1)) {
        int e = -errno;
        close(fd);
        return e;
    }
    return fd;
}

static int listen_unix(const struct address *a)
{
    struct sockaddr_un sun;
    local_address(a, &sun);
    mode_t old = umask(0177);
    int fd = listen_at(AF_UNIX, (const struct sockaddr *)&sun, sizeof sun);
    if (fd == -EADDRINUSE) {
        int probe = connect_to(AF_UNIX, (const struct sockaddr *)&sun, sizeof sun, NULL);
        struct stat st;
        if (probe >= 0)
            close(probe);
        else if (probe == -ECONNREFUSED && lstat(a->path, &st) == 0 && S_ISSOCK(st.st_mode) && !unlink(a->path))
            fd = listen_at(AF_UNIX, (const struct sockaddr *)&sun, sizeof sun);
    }
    umask(old);
    return fd;
}

int address_listen(const struct address *a, struct error *err)
{
    if (!a->tcp) {
        int fd = listen_unix(a);
        return fd >= 0 ? fd : failed(a, "", -fd, err);
    }
    struct addrinfo *all;
    int fd = resolve(a, true, &all, err);
    if (fd)
        return fd;
    fd = -EADDRNOTAVAIL;
    for (const struct addrinfo *i = all; i && fd < 0; i = i->ai_next)
        fd = listen_at(i->ai_family, i->ai_addr, i->ai_addrlen);
    freeaddrinfo(all);
    return fd >= 0 ? fd : failed(a, "", -fd, err);
}

static bool welcome(int fd)
{
    struct ucred c;
    socklen_t n = sizeof c;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &c, &n) == 0 && (c.uid == getuid() || c.uid == 0);
}

int address_accept(const struct address *a, int listening, const _Atomic bool *cancel, struct error *err)
{
    for (;;) {
        struct pollfd p = {.fd = listening, .events = POLLIN};
        if (cancel && *cancel)
            return error_set(err, ECANCELED, "receiving: it was cancelled");
        if (poll(&p, 1, SLICE_MS) <= 0)
            continue;
        int fd = accept4(listening, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK), one = 1;
        if (fd < 0 && (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED))
            continue;
        if (fd < 0)
            return failed(a, "", errno, err);
        if (a->tcp)
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        else if (!welcome(fd)) {
            close(fd);
            continue;
        }
        return fd;
    }
}
