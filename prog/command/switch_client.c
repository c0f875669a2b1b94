// The switch from outside: see switch.h.
#include "backend/net_stream.h"
#include "backend/switch_messages.h"
#include "prog/command/switch.h"
#include "prog/state/state_dir.h"
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PATIENCE_MS = 5000, FIELDS = 10, IDLE_S = 30 };

extern char **environ;

int switch_default_socket(char path[SWITCH_PATH_MAX], struct error *err)
{
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    struct stat st;
    if (runtime && runtime[0] == '/' && !stat(runtime, &st)) {
        int n = snprintf(path, SWITCH_PATH_MAX, "%s/trapeze", runtime);
        if (n < 0 || n + 16 > SWITCH_PATH_MAX)
            return error_set(err, ENAMETOOLONG, "XDG_RUNTIME_DIR: the name is too long");
        if (mkdir(path, 0700) && errno != EEXIST)
            return error_set(err, errno, "%s: %s", path, strerror(errno));
        strcat(path, "/switch.sock");
        return 0;
    }
    char root[PATH_MAX];
    int e = state_dir_root(root, err);
    if (!e && snprintf(path, SWITCH_PATH_MAX, "%s/.switch.sock", root) >= SWITCH_PATH_MAX)
        e = error_set(err, ENAMETOOLONG, "state directory %.80s...: the name is too long", root);
    return e;
}

int switch_start(void *ctx, const char *socket)
{
    (void)ctx;
    char idle[16];
    snprintf(idle, sizeof idle, "%d", IDLE_S);
    char *const argv[] = {"trapeze", "switch", "--socket", (char *)socket, "--detach", "--idle", idle, NULL};
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attributes;
    sigset_t none;
    pid_t pid;
    int status, e;
    sigemptyset(&none); // the threads of a machine have all signals blocked
    if (posix_spawn_file_actions_init(&files))
        return -ENOMEM;
    if (posix_spawnattr_init(&attributes)) {
        posix_spawn_file_actions_destroy(&files);
        return -ENOMEM;
    }
    for (int fd = 0; fd <= 2; fd++)
        posix_spawn_file_actions_addopen(&files, fd, "/dev/null", O_RDWR, 0);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
    posix_spawnattr_setsigmask(&attributes, &none);
    e = posix_spawn(&pid, "/proc/self/exe", &files, &attributes, argv, environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&files);
    if (e)
        return -e;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return -errno;
    // Of two that start at once, one finds the socket taken: whoever asked finds out by connecting.
    return WIFEXITED(status) ? 0 : -ECHILD;
}

// ---- the list

struct list {
    json_t *networks, *network, *ports; // of the whole; the one being read; its ports
    json_t *top;
    bool json, failed;
};

static json_int_t number(const char *field)
{
    return field ? (json_int_t)strtoull(field, NULL, 10) : 0;
}

// One line, cut at its tabs.
static void take_line(struct list *l, char *text)
{
    char *field[FIELDS] = {NULL}, *rest = text;
    for (unsigned i = 0; i < FIELDS && rest; i++)
        field[i] = strsep(&rest, "\t");
    for (unsigned i = 0; i < FIELDS; i++)
        field[i] = field[i] ? field[i] : "";
    if (!strcmp(field[0], "switch")) {
        json_object_set_new(l->top, "pid", json_integer(number(field[1])));
        json_object_set_new(l->top, "socket", json_string(field[2]));
        json_object_set_new(l->top, "uptime_s", json_integer(number(field[3])));
    } else if (!strcmp(field[0], "network")) {
        l->ports = json_array();
        l->network = json_pack("{s:s, s:s, s:o}", "name", field[1], "uplink", field[2], "ports", l->ports);
        if (!l->network)
            l->failed = true;
        json_array_append_new(l->networks, l->network);
    } else if (!strcmp(field[0], "port") && l->network) {
        json_t *p =
            json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I}", "name", field[2], "mac", field[3], "rx_frames",
                      number(field[4]), "rx_bytes", number(field[5]), "tx_frames", number(field[6]), "tx_bytes",
                      number(field[7]), "dropped", number(field[8]), "refused", number(field[9]));
        l->failed |= !p;
        json_array_append_new(l->ports, p);
    }
}

static void print_table(const json_t *networks)
{
    size_t i, k;
    const json_t *n, *p;
    printf("%-16s %-8s %-16s %-17s %12s %12s %9s %9s\n", "NETWORK", "UPLINK", "NAME", "MAC", "SENT", "RECEIVED",
           "DROPPED", "REFUSED");
    json_array_foreach(networks, i, n)
    {
        const char *name = json_string_value(json_object_get(n, "name"));
        const char *uplink = json_string_value(json_object_get(n, "uplink"));
        json_array_foreach(json_object_get(n, "ports"), k, p)
        {
            printf("%-16s %-8s %-16s %-17s %12lld %12lld %9lld %9lld\n", name, uplink,
                   json_string_value(json_object_get(p, "name")), json_string_value(json_object_get(p, "mac")),
                   (long long)json_integer_value(json_object_get(p, "rx_bytes")),
                   (long long)json_integer_value(json_object_get(p, "tx_bytes")),
                   (long long)json_integer_value(json_object_get(p, "dropped")),
                   (long long)json_integer_value(json_object_get(p, "refused")));
        }
    }
}

// Reads lines up to the answer. 0 or negative errno.
static int read_list(struct list *l, struct net_stream *s)
{
    for (;;) {
        struct pollfd p = {s->fd, POLLIN, 0};
        if (poll(&p, 1, PATIENCE_MS) <= 0)
            return -ETIMEDOUT;
        int e = net_stream_fill(s);
        struct net_message m;
        while (e >= 0 && (e = net_stream_next(s, &m)) > 0) {
            if (m.kind != NET_MESSAGE_CONTROL || !m.size)
                return -EPROTO;
            if (m.data[0] == SWITCH_ANSWER)
                return m.size > 1 && m.data[1] ? -EPROTO : 0;
            char text[NET_CONTROL_MAX + 1];
            memcpy(text, m.data + 1, m.size - 1);
            text[m.size - 1] = 0;
            if (m.data[0] == SWITCH_LINE)
                take_line(l, text);
        }
        if (e < 0)
            return e;
    }
}

int switch_list(const char *path, bool json, struct error *err)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof a.sun_path)
        return error_set(err, EINVAL, "switch %.120s: the path is too long", path);
    strcpy(a.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a)) {
        int e = errno;
        if (fd >= 0)
            close(fd);
        return error_set(err, e, "no switch at %s: %s", path, strerror(e));
    }
    struct net_stream s;
    net_stream_init(&s, fd, 0);
    const struct switch_hello h = {
        .type = SWITCH_HELLO, .version = SWITCH_VERSION, .want = SWITCH_WANT_LIST, .magic = SWITCH_MAGIC};
    net_stream_put(&s, NET_MESSAGE_CONTROL, NULL, &h, sizeof h);
    struct list l = {.networks = json_array(), .top = json_object(), .json = json};
    json_object_set_new(l.top, "networks", l.networks);
    int e = net_stream_flush(&s);
    if (!e)
        e = read_list(&l, &s);
    if (!e && l.failed)
        e = -ENOMEM;
    net_stream_free(&s);
    close(fd);
    if (e)
        error_set(err, -e, "switch %s: %s", path, strerror(-e));
    else if (json)
        json_dumpf(l.top, stdout, JSON_INDENT(2)), putchar('\n');
    else
        print_table(l.networks);
    json_decref(l.top);
    return e;
}
