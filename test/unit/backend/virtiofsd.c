// A guest that sends virtiofsd whatever FUSE requests it likes, to get out of the folder: by names, by links, by
// numbers, and by racing with somebody who exchanges a folder for a link. No kernel is in between that would keep to
// the rules.
//
// What must not be found lies beside the shared folder:
//     base/secret  base/outside/secret  base/shared/{file, dir/secret, link -> ../secret, absolute -> base/secret, up
//     -> ..}
#include "backend/virtiofsd.h"
#include "backend/vhost_user/front_end.h"
#include "host/memory.h"
#include "unit.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { RAM = 1 << 20, REQUEST = 0x1000, ANSWER = 0x10000, ROOM = 0x20000, RACES = 3000, EXCHANGE = 2 };

static const char secret[] = "this is a secret", harmless[] = "this is not";

struct bed {
    char base[64], shared[80];
    struct host_ram ram;
    struct virtiofsd *daemon;
    struct vhost *vhost;
    _Atomic unsigned answers, losses;
    uint64_t unique;
};

static char *path(const struct bed *b, const char *name)
{
    static char text[2][200];
    static unsigned turn;
    char *p = text[turn++ % 2];
    snprintf(p, sizeof text[0], "%s/%s", b->base, name);
    return p;
}

static void write_file(const char *name, const char *text)
{
    FILE *f = fopen(name, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void on_done(void *ctx, unsigned ring, const struct vhost_done *done, unsigned count)
{
    (void)ring, (void)done;
    atomic_fetch_add(&((struct bed *)ctx)->answers, count);
}

static void on_lost(void *ctx, const char *why)
{
    (void)why;
    atomic_fetch_add(&((struct bed *)ctx)->losses, 1);
}

// One request; returns the error of the answer (0 or negative), and where its payload lies.
static int ask(struct bed *b, uint32_t opcode, uint64_t node, const void *payload, size_t size, void **answer)
{
    struct fuse_in_header in = {
        .len = (uint32_t)(sizeof in + size), .opcode = opcode, .unique = ++b->unique, .nodeid = node};
    struct fuse_out_header out;
    memcpy(b->ram.base + REQUEST, &in, sizeof in);
    memcpy(b->ram.base + REQUEST + sizeof in, payload, size);
    memset(b->ram.base + ANSWER, 0, sizeof out);
    // In pieces, as Linux cuts it.
    const struct vhost_buffer buffer[] = {
        {REQUEST, sizeof in}, {REQUEST + sizeof in, (uint32_t)size}, {ANSWER, sizeof out}, {ANSWER + sizeof out, ROOM}};
    b->vhost->ops->submit(b->vhost, 1, 0, buffer, 2, 2);
    b->vhost->ops->kick(b->vhost, 1);
    b->vhost->ops->drain(b->vhost);
    assert_int_equal(b->losses, 0);
    memcpy(&out, b->ram.base + ANSWER, sizeof out);
    assert_int_equal(out.unique, b->unique);
    if (answer)
        *answer = b->ram.base + ANSWER + sizeof out;
    return out.error;
}

static int lookup(struct bed *b, uint64_t node, const char *name, struct fuse_entry_out *e)
{
    void *answer;
    int error = ask(b, FUSE_LOOKUP, node, name, strlen(name) + 1, &answer);
    memcpy(e, answer, sizeof *e);
    return error;
}

// Opens and reads the beginning; a text of length 0 if either fails.
static void read_node(struct bed *b, uint64_t node, char text[64])
{
    void *answer;
    struct fuse_open_in open = {.flags = O_RDONLY};
    struct fuse_open_out opened;
    text[0] = 0;
    if (ask(b, FUSE_OPEN, node, &open, sizeof open, &answer))
        return;
    memcpy(&opened, answer, sizeof opened);
    struct fuse_read_in read = {.fh = opened.fh, .size = 63};
    memset(b->ram.base + ANSWER + sizeof(struct fuse_out_header), 0, 64);
    if (!ask(b, FUSE_READ, node, &read, sizeof read, &answer))
        memcpy(text, answer, 63);
    text[63] = 0;
    struct fuse_release_in release = {.fh = opened.fh};
    ask(b, FUSE_RELEASE, node, &release, sizeof release, NULL);
}

static ino_t inode(const char *name)
{
    struct stat st;
    assert_int_equal(lstat(name, &st), 0);
    return st.st_ino;
}

static void begin_as(struct bed *b, bool readonly)
{
    struct error err;
    int socket;
    memset(b, 0, sizeof *b);
    strcpy(b->base, "/tmp/trapeze-test-XXXXXX");
    assert_non_null(mkdtemp(b->base));
    snprintf(b->shared, sizeof b->shared, "%s/shared", b->base);
    assert_int_equal(mkdir(b->shared, 0755), 0);
    assert_int_equal(mkdir(path(b, "outside"), 0755), 0);
    assert_int_equal(mkdir(path(b, "shared/dir"), 0755), 0);
    write_file(path(b, "secret"), secret);
    write_file(path(b, "outside/secret"), secret);
    write_file(path(b, "shared/file"), harmless);
    write_file(path(b, "shared/dir/secret"), harmless);
    assert_int_equal(symlink("../secret", path(b, "shared/link")), 0);
    assert_int_equal(symlink(path(b, "secret"), path(b, "shared/absolute")), 0);
    assert_int_equal(symlink("..", path(b, "shared/up")), 0);
    assert_int_equal(host_ram_create(&b->ram, "test-ram", RAM, true, NULL), 0);
    if (virtiofsd_start(&(struct virtiofsd_options){.folder = b->shared, .readonly = readonly}, &b->daemon, &socket,
                        &err))
        fail_msg("%s", err.text);
    if (vhost_user_open(&(struct vhost_user_options){.socket = socket,
                                                     .name = "virtiofsd",
                                                     .memory = b->ram.base,
                                                     .memory_size = RAM,
                                                     .memory_fd = b->ram.fd,
                                                     .end = virtiofsd_end,
                                                     .ctx = b->daemon},
                        &b->vhost, &err))
        fail_msg("%s", err.text);
    b->vhost->ctx = b;
    b->vhost->done = on_done;
    b->vhost->lost = on_lost;
    if (b->vhost->ops->start(b->vhost, &(struct vhost_region){0, RAM, b->ram.base}, 1, 2, &err))
        fail_msg("%s", err.text);
    struct fuse_init_in init = {.major = FUSE_KERNEL_VERSION, .minor = 31, .max_readahead = 65536};
    assert_int_equal(ask(b, FUSE_INIT, 0, &init, sizeof init, NULL), 0);
}

static void begin(struct bed *b)
{
    begin_as(b, false);
}

static void end(struct bed *b)
{
    char command[100];
    b->vhost->ops->close(b->vhost);
    virtiofsd_free(b->daemon);
    host_ram_destroy(&b->ram);
    snprintf(command, sizeof command, "rm -rf %s", b->base);
    assert_int_equal(system(command), 0);
}

static void what_is_in_there_is_found(void **state)
{
    (void)state;
    struct bed b;
    struct fuse_entry_out e;
    char text[64];
    begin(&b);
    assert_int_equal(lookup(&b, FUSE_ROOT_ID, "file", &e), 0);
    read_node(&b, e.nodeid, text);
    assert_string_equal(text, harmless);
    assert_int_equal(lookup(&b, FUSE_ROOT_ID, "nothing", &e), -ENOENT);
    end(&b);
}

static void names_do_not_lead_out(void **state)
{
    (void)state;
    struct bed b;
    struct fuse_entry_out e;
    begin(&b);
    ino_t base = inode(b.base), hidden = inode(path(&b, "secret")), root = inode(b.shared);
    static const char *const names[] = {
        "../secret", "dir/../../secret", "/etc/passwd", "./../secret", "link/", "up/secret", "up/", "../..", "..//",
        "/"};
    for (unsigned n = 0; n < sizeof names / sizeof *names; n++)
        assert_true(lookup(&b, FUSE_ROOT_ID, names[n], &e) < 0);
    // ".." is allowed (network file systems ask for it), but ends at the root.
    assert_int_equal(lookup(&b, FUSE_ROOT_ID, "dir", &e), 0);
    uint64_t node = e.nodeid;
    for (unsigned n = 0; n < 4 && !lookup(&b, node, "..", &e); n++) {
        assert_true(e.attr.ino == root && e.attr.ino != base && e.attr.ino != hidden);
        node = e.nodeid;
        struct fuse_entry_out s;
        assert_int_equal(lookup(&b, node, "secret", &s), -ENOENT);
    }
    end(&b);
}

static void links_are_only_read(void **state)
{
    (void)state;
    struct bed b;
    struct fuse_entry_out e;
    char text[64];
    static const char *const links[] = {"link", "absolute", "up"};
    begin(&b);
    for (unsigned n = 0; n < 3; n++) {
        struct fuse_entry_out s;
        assert_int_equal(lookup(&b, FUSE_ROOT_ID, links[n], &e), 0);
        assert_true(S_ISLNK(e.attr.mode)); // itself, not what it points to
        read_node(&b, e.nodeid, text);
        assert_string_equal(text, "");
        assert_true(lookup(&b, e.nodeid, "secret", &s) < 0);
        struct fuse_open_in open = {0};
        assert_true(ask(&b, FUSE_OPENDIR, e.nodeid, &open, sizeof open, NULL) < 0);
    }
    end(&b);
}

static void nothing_is_made_or_removed_outside(void **state)
{
    (void)state;
    struct bed b;
    char request[200];
    begin(&b);
#define WITH_NAMES(head, names)                                                                                        \
    (memcpy(request, &(head), sizeof(head)), memcpy(request + sizeof(head), names, sizeof(names)),                     \
     sizeof(head) + sizeof(names))
    struct fuse_create_in create = {.flags = O_CREAT | O_RDWR, .mode = S_IFREG | 0644};
    struct fuse_mkdir_in make = {.mode = 0755};
    struct fuse_mknod_in node = {.mode = S_IFREG | 0644};
    struct fuse_rename_in rename_to = {.newdir = FUSE_ROOT_ID};
    assert_true(ask(&b, FUSE_CREATE, FUSE_ROOT_ID, request, WITH_NAMES(create, "../new"), NULL) < 0);
    assert_true(ask(&b, FUSE_MKDIR, FUSE_ROOT_ID, request, WITH_NAMES(make, "../new"), NULL) < 0);
    assert_true(ask(&b, FUSE_MKNOD, FUSE_ROOT_ID, request, WITH_NAMES(node, "../new"), NULL) < 0);
    assert_true(ask(&b, FUSE_RENAME, FUSE_ROOT_ID, request, WITH_NAMES(rename_to, "file\0../new"), NULL) < 0);
    assert_true(ask(&b, FUSE_RENAME, FUSE_ROOT_ID, request, WITH_NAMES(rename_to, "../secret\0got"), NULL) < 0);
    assert_true(ask(&b, FUSE_SYMLINK, FUSE_ROOT_ID, "../new\0file", sizeof "../new\0file", NULL) < 0);
    assert_true(ask(&b, FUSE_UNLINK, FUSE_ROOT_ID, "../secret", sizeof "../secret", NULL) < 0);
    assert_true(ask(&b, FUSE_RMDIR, FUSE_ROOT_ID, "../outside", sizeof "../outside", NULL) < 0);
    // No device, by whatever name.
    struct fuse_mknod_in device = {.mode = S_IFBLK | 0666, .rdev = 7 << 8};
    assert_true(ask(&b, FUSE_MKNOD, FUSE_ROOT_ID, request, WITH_NAMES(device, "device"), NULL) < 0);
    assert_int_equal(access(path(&b, "new"), F_OK), -1);
    assert_int_equal(access(path(&b, "secret"), F_OK), 0);
    assert_int_equal(access(path(&b, "outside"), F_OK), 0);
    assert_int_equal(access(path(&b, "shared/device"), F_OK), -1);
    end(&b);
}

// Numbers of nodes and open files that it was never told.
static void invented_numbers_are_refused(void **state)
{
    (void)state;
    struct bed b;
    struct fuse_entry_out e;
    begin(&b);
    static const uint64_t numbers[] = {0, 2, 3, 1000, 1ull << 32, UINT64_MAX};
    for (unsigned n = 0; n < sizeof numbers / sizeof *numbers; n++) {
        struct fuse_open_in open = {0};
        struct fuse_read_in read = {.fh = numbers[n], .size = 100};
        assert_true(lookup(&b, numbers[n], "file", &e) < 0);
        assert_true(ask(&b, FUSE_OPEN, numbers[n], &open, sizeof open, NULL) < 0);
        assert_true(ask(&b, FUSE_READ, FUSE_ROOT_ID, &read, sizeof read, NULL) < 0);
    }
    assert_true(ask(&b, 9999, FUSE_ROOT_ID, "", 1, NULL) < 0);
    assert_int_equal(lookup(&b, FUSE_ROOT_ID, "file", &e), 0); // it lives
    end(&b);
}

static void exchange_for_ever(const struct bed *b)
{
    char dir[200], trap[200];
    snprintf(dir, sizeof dir, "%s", path(b, "shared/dir"));
    snprintf(trap, sizeof trap, "%s", path(b, "shared/trap"));
    for (;;)
        if (syscall(SYS_renameat2, AT_FDCWD, dir, AT_FDCWD, trap, EXCHANGE))
            _exit(1);
}

static void races_are_lost(void **state)
{
    (void)state;
    struct bed b;
    begin(&b);
    assert_int_equal(symlink("../outside", path(&b, "shared/trap")), 0);
    pid_t exchanger = fork();
    if (!exchanger)
        exchange_for_ever(&b);
    unsigned found = 0, links = 0;
    for (unsigned n = 0; n < RACES; n++) {
        struct fuse_entry_out d, s;
        char text[64];
        if (lookup(&b, FUSE_ROOT_ID, "dir", &d))
            continue;
        links += S_ISLNK(d.attr.mode);
        if (lookup(&b, d.nodeid, "secret", &s))
            continue;
        read_node(&b, s.nodeid, text);
        assert_string_not_equal(text, secret);
        found++;
    }
    kill(exchanger, SIGKILL);
    int status;
    waitpid(exchanger, &status, 0);
    assert_true(WIFSIGNALED(status));
    assert_true(found > 0 && links > 0); // both were seen
    end(&b);
}

static void read_only_is_the_kernels_word(void **state)
{
    (void)state;
    struct bed b;
    struct fuse_entry_out e;
    char request[200];
    begin_as(&b, true);
    struct fuse_create_in create = {.flags = O_CREAT | O_RDWR, .mode = S_IFREG | 0644};
    struct fuse_setattr_in mode = {.valid = FATTR_MODE, .mode = 0777};
    struct fuse_open_in open = {.flags = O_RDWR};
    assert_int_equal(ask(&b, FUSE_CREATE, FUSE_ROOT_ID, request, WITH_NAMES(create, "new"), NULL), -EROFS);
    assert_int_equal(lookup(&b, FUSE_ROOT_ID, "file", &e), 0);
    assert_int_equal(ask(&b, FUSE_UNLINK, FUSE_ROOT_ID, "file", sizeof "file", NULL), -EROFS);
    assert_int_equal(ask(&b, FUSE_SETATTR, e.nodeid, &mode, sizeof mode, NULL), -EROFS);
    assert_int_equal(ask(&b, FUSE_OPEN, e.nodeid, &open, sizeof open, NULL), -EROFS);
    end(&b);
}

static void what_cannot_be_shared_is_told(void **state)
{
    (void)state;
    struct bed b;
    struct virtiofsd *d;
    struct error err;
    int socket;
    begin(&b);
    const struct {
        struct virtiofsd_options o;
        int code;
    } cases[] = {{{.folder = path(&b, "nowhere")}, -ENOENT},
                 {{.folder = "/etc/passwd"}, -ENOTDIR},
                 {{.folder = "/tmp", .program = "/nowhere/virtiofsd"}, -ENOENT},
                 {{.folder = "/tmp", .program = "/etc/passwd"}, -EACCES}};
    for (unsigned n = 0; n < sizeof cases / sizeof *cases; n++)
        assert_int_equal(virtiofsd_start(&cases[n].o, &d, &socket, &err), cases[n].code);
    // It has the right to execute, but is no program.
    write_file(path(&b, "outside/program"), "nothing");
    assert_int_equal(chmod(path(&b, "outside/program"), 0755), 0);
    assert_int_equal(
        virtiofsd_start(&(struct virtiofsd_options){.folder = "/tmp", .program = path(&b, "outside/program")}, &d,
                        &socket, &err),
        -ENOEXEC);
    end(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_in_there_is_found),     cmocka_unit_test(names_do_not_lead_out),
        cmocka_unit_test(links_are_only_read),           cmocka_unit_test(nothing_is_made_or_removed_outside),
        cmocka_unit_test(invented_numbers_are_refused),  cmocka_unit_test(races_are_lost),
        cmocka_unit_test(read_only_is_the_kernels_word), cmocka_unit_test(what_cannot_be_shared_is_told),
    };
    if (access("/usr/lib/qemu/virtiofsd", X_OK)) {
        printf("virtiofsd is not installed (package qemu-system-common)\n");
        return 77;
    }
    struct virtiofsd *d;
    struct error err;
    int socket;
    if (geteuid() && virtiofsd_start(&(struct virtiofsd_options){.folder = "/tmp"}, &d, &socket, &err)) {
        printf("%s\n", err.text);
        return 77;
    }
    if (geteuid()) {
        close(socket);
        virtiofsd_free(d);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
