// Archives of files: what goes in comes out, and what a hostile one says stays where it was put.
#include "agent/archive.h"
#include "unit.h"
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[64];
static unsigned told;

static int drop(const char *path, const struct stat *st, int kind, struct FTW *where)
{
    (void)st, (void)kind, (void)where;
    return remove(path);
}

static int begin(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/trapeze-archive-XXXXXX");
    assert_non_null(mkdtemp(folder));
    assert_int_equal(chdir(folder), 0);
    told = 0;
    return 0;
}

static int end(void **state)
{
    (void)state;
    return chdir("/") || nftw(folder, drop, 16, FTW_DEPTH | FTW_PHYS);
}

static void tell(const char *line)
{
    assert_non_null(strstr(line, "left out"));
    told++;
}

static void make(const char *path, const char *text, mode_t mode)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    assert_int_equal(fchmod(fd, mode), 0);
    const struct timespec times[2] = {{1, 0}, {1000000000, 123456789}};
    assert_int_equal(futimens(fd, times), 0);
    close(fd);
}

static void holds(const char *path, const char *text)
{
    char got[256] = "";
    int fd = open(path, O_RDONLY);
    if (fd < 0)
        fail_msg("%s is not there", path);
    assert_true(read(fd, got, sizeof got - 1) >= 0);
    close(fd);
    assert_string_equal(got, text);
}

static int memory(void)
{
    int fd = memfd_create("archive", MFD_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static void trees(void **state)
{
    (void)state;
    struct error err;
    assert_int_equal(mkdir("tree", 0750), 0);
    assert_int_equal(mkdir("tree/sub", 0700), 0);
    make("tree/file", "text", 0640);
    make("tree/sub/odd \n name", "odd", 04755);
    make("tree/empty", "", 0444);
    assert_int_equal(symlink("/etc/passwd", "tree/link"), 0);
    assert_int_equal(mkfifo("tree/pipe", 0600), 0);
    assert_int_equal(chmod("tree/sub", 0500), 0);
    int fd = memory();
    assert_int_equal(archive_pack(fd, "tree/", tell, &err), -EIO); // for what was left out
    assert_int_equal(told, 1);
    lseek(fd, 0, SEEK_SET);
    assert_int_equal(archive_unpack(fd, "copy", &err), 0);
    holds("copy/file", "text");
    holds("copy/sub/odd \n name", "odd");
    holds("copy/empty", "");
    struct stat st;
    assert_int_equal(stat("copy/file", &st), 0);
    assert_int_equal(st.st_mode & 07777, 0640);
    assert_int_equal(st.st_mtim.tv_sec, 1000000000);
    assert_int_equal(st.st_mtim.tv_nsec, 123456789);
    assert_int_equal(stat("copy/sub/odd \n name", &st), 0);
    assert_int_equal(st.st_mode & 07777, 0755);
    assert_int_equal(stat("copy/sub", &st), 0);
    assert_int_equal(st.st_mode & 07777, 0500);
    assert_int_equal(lstat("copy/link", &st), 0);
    assert_true(S_ISLNK(st.st_mode));
    assert_int_equal(access("copy/pipe", F_OK), -1);
    // Once more, into what is there: under its own name, beside it, and over it.
    for (unsigned i = 0; i < 2; i++) {
        lseek(fd, 0, SEEK_SET);
        assert_int_equal(archive_unpack(fd, "copy", &err), 0);
        holds("copy/tree/file", "text");
    }
    assert_int_equal(chmod("copy/sub", 0700) | chmod("copy/tree/sub", 0700) | chmod("tree/sub", 0700), 0);
    close(fd);
}

static void single_files(void **state)
{
    (void)state;
    struct error err;
    make("one", "1", 0600);
    assert_int_equal(symlink("one", "to-one"), 0);
    int fd = memory();
    assert_int_equal(archive_pack(fd, "to-one", tell, &err), 0); // the link that is named is followed
    lseek(fd, 0, SEEK_SET);
    assert_int_equal(archive_unpack(fd, "two", &err), 0);
    struct stat st;
    assert_int_equal(lstat("two", &st), 0);
    assert_true(S_ISREG(st.st_mode));
    lseek(fd, 0, SEEK_SET);
    assert_int_equal(archive_unpack(fd, "no/where", &err), -ENOENT);
    assert_non_null(strstr(err.text, "no/where: No such file"));
    // A full device says so, and half a file is no success.
    lseek(fd, 0, SEEK_SET);
    assert_int_equal(archive_unpack(fd, "/dev/full", &err), -ENOSPC);
    close(fd);
    assert_int_equal(archive_pack(1, "nothing", tell, &err), -ENOENT);
    assert_non_null(strstr(err.text, "nothing: No such file"));
}

// ---- hostile ones

struct maker {
    uint8_t data[4096];
    size_t size;
};

static void add(struct maker *m, const void *data, size_t size)
{
    memcpy(m->data + m->size, data, size);
    m->size += size;
}

static void add_number(struct maker *m, uint64_t n, unsigned bytes)
{
    add(m, &n, bytes); // little-endian, as we are
}

static void add_text(struct maker *m, const char *text)
{
    add_number(m, strlen(text), 2);
    add(m, text, strlen(text));
}

static void add_entry(struct maker *m, char kind, const char *name)
{
    add(m, &kind, 1);
    if (kind != 'L')
        add_number(m, 0644 | (kind == 'D' ? 0111 : 0), 4);
    add_number(m, 1000, 8);
    add_number(m, 0, 4);
    add_text(m, name);
}

static void add_file(struct maker *m, const char *name, const char *text)
{
    add_entry(m, 'F', name);
    add_number(m, strlen(text), 4);
    add(m, text, strlen(text));
    add_number(m, 0, 4);
}

static void add_link(struct maker *m, const char *name, const char *target)
{
    add_entry(m, 'L', name);
    add_text(m, target);
}

static int unpack(const struct maker *m, const char *path, struct error *err)
{
    int fd = memory();
    assert_int_equal(write(fd, ARCHIVE_MAGIC, sizeof ARCHIVE_MAGIC - 1), sizeof ARCHIVE_MAGIC - 1);
    assert_int_equal(write(fd, m->data, m->size), m->size);
    lseek(fd, 0, SEEK_SET);
    int e = archive_unpack(fd, path, err);
    close(fd);
    return e;
}

static void names_stay_in_place(void **state)
{
    (void)state;
    static const char *const wrong[] = {"..", ".", "", "a/b", "/etc/x", "../x"};
    struct error err;
    assert_int_equal(mkdir("in", 0700), 0);
    for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++)
        for (unsigned deep = 0; deep < 2; deep++) {
            struct maker m = {.size = 0};
            if (deep)
                add_entry(&m, 'D', "d");
            add_file(&m, wrong[i], "x");
            assert_int_equal(unpack(&m, "in", &err), -EPROTO);
        }
    // A name that says two things at once.
    struct maker m = {.size = 0};
    add_file(&m, "abc", "x");
    m.data[1 + 4 + 8 + 4 + 2 + 1] = 0;
    assert_int_equal(unpack(&m, "in", &err), -EPROTO);
    assert_int_equal(access("x", F_OK), -1);
}

static void links_are_not_followed(void **state)
{
    (void)state;
    struct error err;
    assert_int_equal(mkdir("in", 0700) | mkdir("out", 0700), 0);
    make("victim", "safe", 0600);
    struct maker m = {.size = 0};
    add_entry(&m, 'D', "d");
    add_link(&m, "door", "../../out");
    add_entry(&m, 'D', "door");
    add_file(&m, "x", "x");
    add(&m, "UUE", 3);
    assert_int_equal(unpack(&m, "in", &err), -ENOTDIR); // what is there is a link
    assert_int_equal(access("out/x", F_OK), -1);
    m.size = 0;
    add_entry(&m, 'D', "d");
    add_link(&m, "f", "../../victim");
    add_file(&m, "f", "changed"); // replaces the link
    add(&m, "UE", 2);
    assert_int_equal(unpack(&m, "in", &err), 0);
    holds("victim", "safe");
    holds("in/d/f", "changed");
}

static void shapes(void **state)
{
    (void)state;
    struct error err;
    struct maker m = {.size = 0};
    add(&m, "E", 1);
    assert_int_equal(unpack(&m, "x", &err), -EPROTO); // nothing
    m.size = 0;
    add(&m, "U", 1);
    assert_int_equal(unpack(&m, "x", &err), -EPROTO); // up from nowhere
    assert_int_equal(mkdir("in", 0700), 0);
    assert_int_equal(unpack(&m, "in", &err), -EPROTO);
    m.size = 0;
    add_file(&m, "a", "1");
    add_file(&m, "b", "2"); // two things
    assert_int_equal(unpack(&m, "in", &err), -EPROTO);
    assert_int_equal(access("in/b", F_OK), -1);
    m.size = 0;
    add_file(&m, "a", "1");
    for (; m.size; m.size--) // cut anywhere
        assert_int_equal(unpack(&m, "in", &err), -EPIPE);
    for (unsigned i = 0; i <= ARCHIVE_DEPTH; i++)
        if (m.size < sizeof m.data - 64)
            add_entry(&m, 'D', "d");
    struct error first;
    assert_int_equal(unpack(&m, "in", &first), m.size / 20 > ARCHIVE_DEPTH ? -ELOOP : -EPIPE);
    // To standard output only a file goes.
    m.size = 0;
    add_entry(&m, 'D', "d");
    assert_int_equal(unpack(&m, "-", &err), -EISDIR);
    m.size = 0;
    add_link(&m, "l", "t");
    assert_int_equal(unpack(&m, "-", &err), -EISDIR);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(trees, begin, end),
        cmocka_unit_test_setup_teardown(single_files, begin, end),
        cmocka_unit_test_setup_teardown(names_stay_in_place, begin, end),
        cmocka_unit_test_setup_teardown(links_are_not_followed, begin, end),
        cmocka_unit_test_setup_teardown(shapes, begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
