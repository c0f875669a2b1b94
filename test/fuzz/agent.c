// What host and guest say to each other about commands and copies, said by somebody hostile: frames to a relay, or an
// archive to be unpacked. Whatever comes, it ends, within memory, and nothing is put outside of the place that was
// named.
#include "agent/archive.h"
#include "agent/relay.h"
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            __builtin_trap();                                                                                          \
    } while (0)

static unsigned things;

static int drop(const char *path, const struct stat *st, int kind, struct FTW *where)
{
    (void)kind, (void)where;
    CHECK(!(st->st_mode & 07000) || S_ISLNK(st->st_mode));
    things++;
    return remove(path);
}

static int open_more(const char *path, const struct stat *st, int kind, struct FTW *where)
{
    (void)kind, (void)where;
    return S_ISDIR(st->st_mode) ? chmod(path, 0700) : 0;
}

static void unpack(const uint8_t *data, size_t size)
{
    static char folder[64], in[80];
    struct error err;
    if (!*folder) {
        strcpy(folder, "/tmp/trapeze-fuzz-XXXXXX");
        CHECK(mkdtemp(folder));
        snprintf(in, sizeof in, "%s/in", folder);
        CHECK(!chdir(folder));
    }
    CHECK(!mkdir(folder, 0700) || !access(folder, X_OK)); // it goes with what was in it
    bool into = size && data[0] & 1;
    CHECK(!into || !mkdir(in, 0700));
    int fd = memfd_create("archive", MFD_CLOEXEC);
    CHECK(fd >= 0 && write(fd, ARCHIVE_MAGIC, sizeof ARCHIVE_MAGIC - 1) > 0);
    CHECK(write(fd, data, size) == (ssize_t)size);
    lseek(fd, 0, SEEK_SET);
    archive_unpack(fd, in, &err);
    close(fd);
    things = 0;
    nftw(folder, open_more, 16, FTW_PHYS);
    char above[80];
    snprintf(above, sizeof above, "%s/in", folder);
    nftw(above, drop, 16, FTW_DEPTH | FTW_PHYS);
    CHECK(!rmdir(folder)); // nothing but `in` was in it
}

static int on_frame(struct relay *r, const struct channel_frame *f)
{
    (void)r;
    size_t at = 0, size;
    enum agent_item tag;
    const uint8_t *data;
    uint64_t sum = 0;
    while (request_next(f, &at, &tag, &data, &size) > 0)
        for (size_t i = 0; i < size; i++)
            sum += data[i];
    channel_check_hello(f);
    return (int)(sum & 0); // read for the sanitizer's sake
}

// Frames with heads that make sense, around pieces of the input: raw bytes would hardly get past the first head.
static size_t dress(const uint8_t *data, size_t size, uint8_t *out, size_t room)
{
    static const uint8_t types[] = {AGENT_DATA, AGENT_DATA,  AGENT_EOF,  AGENT_WINDOW_MORE,
                                    AGENT_EXEC, AGENT_HELLO, AGENT_EXIT, AGENT_SIGNAL};
    size_t at = 0, made = 0;
    while (size - at >= 3) {
        size_t wanted = (size_t)data[at + 1] << (data[at] >> 4),
               length = wanted < size - at - 3 ? wanted : size - at - 3;
        size_t padded = wanted <= AGENT_PAYLOAD ? wanted : AGENT_PAYLOAD;
        if (made + AGENT_HEAD + padded > room)
            break;
        uint8_t head[AGENT_HEAD] = {types[data[at] & 7], (uint8_t)(data[at + 2] % 3), 0, 0};
        put_le(head + 4, (uint32_t)padded, 4);
        memcpy(out + made, head, AGENT_HEAD);
        memset(out + made + AGENT_HEAD, 0, padded);
        memcpy(out + made + AGENT_HEAD, data + at + 3, length < padded ? length : padded);
        made += AGENT_HEAD + padded;
        at += 3 + (length < 16 ? length : 16);
    }
    return made;
}

static void frames(const uint8_t *data, size_t size)
{
    static struct relay r;
    int fds[2], source = open("/dev/zero", O_RDONLY | O_CLOEXEC), sink = open("/dev/null", O_WRONLY | O_CLOEXEC);
    CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) && source >= 0 && sink >= 0);
    relay_init(&r, fds[0]);
    r.frame = on_frame;
    relay_source(&r, 1, source);
    relay_sink(&r, 0, sink, size & 1);
    size_t done = 0;
    // Pieces, so that frames are cut; a bounded number of rounds is enough for them.
    for (unsigned rounds = 0; rounds < 1000; rounds++) {
        size_t piece = size - done < 7000 ? size - done : 7000;
        ssize_t n = piece ? write(fds[1], data + done, piece) : 0;
        done += n > 0 ? (size_t)n : 0;
        char away[65536];
        while (read(fds[1], away, sizeof away) > 0)
            continue;
        if (!piece)
            shutdown(fds[1], SHUT_WR);
        if (relay_round(&r, source, NULL))
            break;
    }
    close(fds[0]);
    close(fds[1]);
    close(source);
    if (r.sink[0].fd >= 0)
        close(sink);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t dressed[1 << 20];
    if (size && data[0] & 0x80 && data[0] & 1)
        frames(dressed, dress(data + 1, size - 1, dressed, sizeof dressed));
    else if (size && data[0] & 0x80)
        frames(data + 1, size - 1);
    else if (size)
        unpack(data + 1, size - 1);
    return 0;
}
