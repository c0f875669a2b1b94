// A hostile source: what a receiver of migrations makes of any sequence of messages. The first byte says whether the
// rest is the stream itself or a description of well-formed messages (type, length, payload), which get behind the
// checksums. Memory outside of the machine's stays as it was, and everything ends.
#include "migrate/receive.h"
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { PAGES = 16, AROUND = 4096 };

static int take_file(void *ctx, unsigned index, uint64_t at, const void *data, size_t size, struct error *err)
{
    const struct receiving *r = ctx;
    (void)data;
    (void)err;
    if (index >= r->hello.files || at + size > r->hello.file[index].bytes)
        __builtin_trap();
    return 0;
}

// A hello that is good, so that what follows is looked at.
static void greet(struct wire *w)
{
    static char owner[] = "/nowhere/owner", machine[] = "{}";
    const struct hello h = {.id = "0123456789abcdef0123456789abcdef",
                            .owner = owner,
                            .memory = PAGES * PAGE_BYTES,
                            .machine = machine,
                            .files = 1,
                            .file = {{"kernel", 100}}};
    size_t size;
    uint8_t *m = hello_write(&h, &size);
    if (m)
        wire_send(w, MESSAGE_HELLO, m, size, NULL);
    free(m);
}

static void send_described(struct wire *w, const uint8_t *data, size_t size)
{
    if (!size || data[0] & 1)
        greet(w);
    for (size_t at = 1; at + 3 <= size;) {
        size_t length = data[at + 1] | (size_t)data[at + 2] << 8;
        if (length > size - at - 3)
            length = size - at - 3;
        if (wire_send_small(w, data[at], data + at + 3, length, NULL))
            return;
        at += 3 + length;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int fd[2];
    struct wire w;
    struct receiving r;
    struct error err;
    if (!size || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd))
        return 0;
    wire_init(&w, fd[0], NULL);
    w.patience_ms = 1;
    if (data[0] & 2)
        send_described(&w, data, size);
    else if (send(fd[0], data + 1, size - 1, MSG_NOSIGNAL) < 0)
        w.patience_ms = 1;
    shutdown(fd[0], SHUT_WR);
    uint8_t *ram = malloc(2 * AROUND + PAGES * PAGE_BYTES);
    receive_init(&r, fd[1], NULL);
    struct receive_sink sink = {
        .ram = {.base = ram + AROUND, .size = PAGES * PAGE_BYTES}, .ctx = &r, .file = take_file};
    memset(ram, 0x5a, 2 * AROUND + PAGES * PAGE_BYTES);
    if (!receive_hello(&r, &err) && !receive_welcome(&r, &err) && !receive_contents(&r, &sink, &err) &&
        !receive_take_over(&r, &err))
        receive_started(&r);
    for (unsigned i = 0; i < AROUND; i++)
        if (ram[i] != 0x5a || ram[AROUND + PAGES * PAGE_BYTES + i] != 0x5a)
            __builtin_trap();
    receive_close(&r);
    wire_close(&w);
    free(ram);
    return 0;
}
