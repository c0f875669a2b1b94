// See websocket.h. Fragments need no care: the payload of continuations (opcode 0) is data, too.
#include "control/websocket.h"
#include "control/client.h"
#include "host/random.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static int send_all(int fd, const void *data, size_t size)
{
    const char *from = data;
    while (size) {
        ssize_t n = send(fd, from, size, MSG_NOSIGNAL);
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n > 0) {
            from += n;
            size -= (size_t)n;
        }
    }
    return 0;
}

int websocket_send(int fd, unsigned opcode, const void *data, size_t size)
{
    uint8_t frame[14 + 4096], *at = frame;
    const uint8_t *from = data;
    static const uint8_t mask[4] = {0}; // it hides data from proxies; between two ends of a unix socket there are none
    do {
        size_t part = size < 4096 ? size : 4096;
        at = frame;
        *at++ = (uint8_t)(0x80 | opcode);
        if (part < 126) {
            *at++ = (uint8_t)(0x80 | part);
        } else {
            *at++ = 0x80 | 126;
            *at++ = (uint8_t)(part >> 8);
            *at++ = (uint8_t)part;
        }
        memcpy(at, mask, 4);
        if (part)
            memcpy(at + 4, from, part);
        int e = send_all(fd, frame, (size_t)(at + 4 - frame) + part);
        if (e)
            return e;
        from = part ? from + part : from;
        size -= part;
    } while (size);
    return 0;
}

// How long the frame's head is, from its first two bytes.
static unsigned head_size(const uint8_t *head)
{
    unsigned length = head[1] & 0x7f;
    return 2 + (length == 126 ? 2 : length == 127 ? 8 : 0);
}

static int begin_frame(struct websocket *w)
{
    w->opcode = w->head[0] & 15;
    w->left = w->head[1] & 0x7f;
    if (w->left >= 126) {
        unsigned bytes = w->left == 126 ? 2 : 8;
        w->left = 0;
        for (unsigned i = 0; i < bytes; i++)
            w->left = w->left << 8 | w->head[2 + i];
    }
    bool control = w->opcode >= WEBSOCKET_CLOSE;
    // No extension is in use, servers don't mask, and control frames are short and whole (RFC 6455, 5.1, 5.2, 5.5).
    if (w->head[0] & 0x70 || w->head[1] & 0x80 || w->left >> 63 ||
        (control && (w->left > sizeof w->control || !(w->head[0] & 0x80))) || (w->opcode > 2 && w->opcode < 8) ||
        w->opcode > WEBSOCKET_PONG)
        return -EPROTO;
    if (control)
        w->control_size = 0;
    w->in_payload = true;
    return 0;
}

int websocket_feed(struct websocket *w, const void *data, size_t size,
                   void (*fn)(void *ctx, const void *data, size_t size), void *ctx)
{
    const uint8_t *at = data, *end = at + size;
    for (;;) {
        if (!w->in_payload) {
            while (at < end && (w->have < 2 || w->have < head_size(w->head)))
                w->head[w->have++] = *at++;
            if (w->have < 2 || w->have < head_size(w->head))
                return 0;
            int e = begin_frame(w);
            if (e)
                return e;
        }
        size_t n = (size_t)(end - at) < w->left ? (size_t)(end - at) : (size_t)w->left;
        if (w->opcode < WEBSOCKET_CLOSE && n) {
            fn(ctx, at, n);
        } else if (n) {
            memcpy(w->control + w->control_size, at, n);
            w->control_size += (unsigned)n;
        }
        at += n;
        w->left -= n;
        if (w->left)
            return 0;
        w->closed |= w->opcode == WEBSOCKET_CLOSE;
        w->pinged |= w->opcode == WEBSOCKET_PING;
        w->in_payload = false;
        w->have = 0;
    }
}

static void make_key(char key[25])
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint8_t random[16];
    host_random(random, sizeof random);
    for (unsigned i = 0; i < 21; i++)
        key[i] = digits[random[i % 16] >> (i / 16) & 63];
    key[21] = 'A'; // sixteen bytes in base 64 end like this
    memcpy(key + 22, "==", 3);
}

// Reads the answer's head; what comes behind it is kept.
static int change_over(int fd, const char *path, struct websocket *w, struct error *err)
{
    char head[CONTROL_HEAD_MAX];
    size_t have = 0;
    struct control_head h;
    int size = 0;
    while (!size && have < sizeof head) {
        ssize_t n = recv(fd, head + have, sizeof head - have, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return error_set(err, n ? errno : ECONNRESET, "%s: the machine does not answer", path);
        have += (size_t)n;
        size = control_head_parse(head, have, &h);
    }
    if (size <= 0)
        return error_set(err, EPROTO, "%s: the machine's answer makes no sense", path);
    if (!h.upgraded)
        return error_set(err, ENOENT, "%s: this machine has none", path);
    w->rest_size = have - (size_t)size;
    if (w->rest_size > sizeof w->rest)
        return error_set(err, EPROTO, "%s: the machine's answer makes no sense", path);
    memcpy(w->rest, head + size, w->rest_size);
    return 0;
}

int websocket_open(const struct sockaddr_un *a, const char *path, struct websocket *w, struct error *err)
{
    char key[25], request[512];
    memset(w, 0, sizeof *w);
    make_key(key);
    int size = snprintf(request, sizeof request,
                        "GET %s HTTP/1.1\r\nHost: trapeze\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        "Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n\r\n",
                        path, key);
    int fd = size < (int)sizeof request ? control_connect(a, CONTROL_PATIENCE_MS, err)
                                        : error_set(err, ENAMETOOLONG, "%.80s...: too long", path);
    if (fd < 0)
        return fd;
    int e = send_all(fd, request, (size_t)size);
    if (e)
        error_set(err, -e, "%s: %s", path, strerror(-e));
    else
        e = change_over(fd, path, w, err);
    if (e) {
        close(fd);
        return e;
    }
    static const struct timeval never = {0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &never, sizeof never);
    return fd;
}
