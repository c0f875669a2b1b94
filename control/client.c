// See client.h. The other side is a machine's process; what it sends is bounded all the same.
#include "control/client.h"
#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

// --- the head of a response: RFC 9112, 4 and 6

// The value of a header line if that is its name (with the colon); NULL if not.
static const char *header(const char *line, size_t size, const char *name)
{
    size_t n = strlen(name);
    if (size < n || strncasecmp(line, name, n))
        return NULL;
    for (line += n; *line == ' ' || *line == '\t'; line++)
        ;
    return line;
}

int control_head_parse(const char *data, size_t size, struct control_head *h)
{
    static const char end[] = "\r\n\r\n";
    const char *stop = memmem(data, size, end, 4);
    if (!stop)
        return size >= CONTROL_HEAD_MAX ? -EPROTO : 0;
    *h = (struct control_head){.length = -1};
    if (stop - data < 12 || strncmp(data, "HTTP/1.", 7) || data[8] != ' ')
        return -EPROTO;
    for (unsigned i = 9; i < 12; i++) {
        if (!isdigit((unsigned char)data[i]))
            return -EPROTO;
        h->status = 10 * h->status + (data[i] - '0');
    }
    for (const char *line = memmem(data, size, "\r\n", 2); line < stop;) {
        line += 2;
        const char *next = memmem(line, (size_t)(stop + 2 - line), "\r\n", 2);
        const char *value = header(line, (size_t)(next - line), "content-length:");
        if (value) {
            h->length = 0;
            if (!isdigit((unsigned char)*value))
                return -EPROTO;
            for (; isdigit((unsigned char)*value) && h->length <= CONTROL_REPLY_MAX; value++)
                h->length = 10 * h->length + (*value - '0');
        }
        value = header(line, (size_t)(next - line), "upgrade:");
        h->upgraded |= value && h->status == 101 && !strncasecmp(value, "websocket", 9);
        line = next;
    }
    return (int)(stop + 4 - data);
}

// --- the exchange

int control_connect(const struct sockaddr_un *a, int timeout_ms, struct error *err)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return error_set(err, errno, "control socket: %s", strerror(errno));
    struct timeval t = {timeout_ms / 1000, timeout_ms % 1000 * 1000};
    if (timeout_ms >= 0) {
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t);
    }
    if (connect(fd, (const struct sockaddr *)a, sizeof *a)) {
        int e = errno == EAGAIN ? ETIMEDOUT : errno;
        close(fd);
        return error_set(err, e, "control socket %s: %s", a->sun_path, strerror(e));
    }
    return fd;
}

static int send_all(int fd, const char *data, size_t size, struct error *err)
{
    while (size) {
        ssize_t n = send(fd, data, size, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return error_set(err, errno == EAGAIN ? ETIMEDOUT : errno, "the machine does not take the request: %s",
                             strerror(errno == EAGAIN ? ETIMEDOUT : errno));
        data += n;
        size -= (size_t)n;
    }
    return 0;
}

struct response {
    char *data;
    size_t size, room;
};

// More of it: 1, or 0 at the end of what comes.
static int receive(int fd, struct response *r, struct error *err)
{
    if (r->size == r->room) {
        size_t room = r->room ? 2 * r->room : 4096;
        char *more = room > 2 * CONTROL_REPLY_MAX ? NULL : realloc(r->data, room);
        if (!more)
            return error_set(err, ENOMEM, "the machine's answer is too large");
        r->data = more;
        r->room = room;
    }
    ssize_t n;
    do
        n = recv(fd, r->data + r->size, r->room - r->size, 0);
    while (n < 0 && errno == EINTR);
    if (n < 0) {
        int e = errno == EAGAIN ? ETIMEDOUT : errno;
        return error_set(err, e, "the machine does not answer: %s", strerror(e));
    }
    r->size += (size_t)n;
    return n > 0;
}

static int receive_all(int fd, struct response *r, struct control_head *h, json_t **reply, struct error *err)
{
    int head = 0, more = 1;
    while (!head && (more = receive(fd, r, err)) > 0)
        head = control_head_parse(r->data, r->size, h);
    if (more < 0)
        return more;
    if (head <= 0 || h->length > CONTROL_REPLY_MAX)
        return error_set(err, more ? EPROTO : ECONNRESET,
                         more ? "the machine's answer makes no sense" : "the machine has ended meanwhile");
    while ((h->length < 0 || r->size < (size_t)head + (size_t)h->length) && (more = receive(fd, r, err)) > 0)
        ;
    if (more < 0)
        return more;
    size_t size = r->size - (size_t)head;
    if (h->length >= 0 && size < (size_t)h->length)
        return error_set(err, ECONNRESET, "the machine has ended meanwhile");
    if (h->length >= 0)
        size = (size_t)h->length;
    json_error_t why;
    *reply = json_loadb(r->data + head, size, JSON_DECODE_ANY, &why);
    return *reply ? 0 : error_set(err, EPROTO, "the machine's answer is no JSON: %s", why.text);
}

static int refusal(int status, json_t **reply, struct error *err)
{
    const char *text = json_string_value(json_object_get(*reply, "error"));
    int e = status == 400 ? EINVAL : status == 404 ? ENOENT : status == 409 ? EBUSY : status == 503 ? EAGAIN : EIO;
    error_set(err, e, "%.240s", text ? text : "the machine refuses");
    json_decref(*reply);
    *reply = NULL;
    return -e;
}

int control_ask(const struct sockaddr_un *a, const char *method, const char *path, const json_t *body, int timeout_ms,
                json_t **reply, struct error *err)
{
    char *text = body ? json_dumps(body, JSON_COMPACT) : strdup(""), *request = NULL;
    *reply = NULL;
    int size = text ? asprintf(&request,
                               "%s %s HTTP/1.1\r\nHost: trapeze\r\nConnection: close\r\n"
                               "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                               method, path, strlen(text), text)
                    : -1;
    free(text);
    if (size < 0)
        return error_set(err, ENOMEM, "out of memory");
    struct response r = {0};
    struct control_head h = {0};
    int fd = control_connect(a, timeout_ms, err);
    int e = fd < 0 ? fd : send_all(fd, request, (size_t)size, err);
    if (!e)
        e = receive_all(fd, &r, &h, reply, err);
    if (!e && h.status >= 300)
        e = refusal(h.status, reply, err);
    free(request);
    free(r.data);
    if (fd >= 0)
        close(fd);
    return e;
}
