// Snapshot directories: there complete or not at all, opened and verified, and what is wrong with one is said.
#include "snapshot/directory.h"
#include "unit.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[64], path[96];

static int setup(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/trapeze-test-XXXXXX");
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/web", folder);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    struct error err;
    snapshot_remove(path, &err);
    return rmdir(folder);
}

static unsigned entries(void)
{
    unsigned n = 0;
    DIR *d = opendir(folder);
    while (readdir(d))
        n++;
    closedir(d);
    return n - 2;
}

// A small one: 3 pages of memory, of which one is written, and a disk.
static char *fill(struct snapshot_writer *w)
{
    static char *words[] = {NULL};
    static uint8_t ram[3 * SNAPSHOT_PAGE];
    struct error err = {.text = ""};
    ram[SNAPSHOT_PAGE] = 1;
    struct snapshot_manifest m = {.name = "web",
                                  .created = "now",
                                  .program = "0",
                                  .engine = "interp",
                                  .append = "",
                                  .directory = "/",
                                  .options = words,
                                  .memory = sizeof ram,
                                  .model = {.name = "m", .count = 1, .phys_bits = 40, .config = {1, 1000000}},
                                  .disks = 1,
                                  .disk = {{.path = "disk0", .copied = true, .format = "raw", .size = 512}}};
    int fd = snapshot_add(w, "memory", &err);
    assert_true(fd >= 0);
    assert_int_equal(snapshot_memory_write(fd, ram, sizeof ram, -1, &m.ram, &err), 0);
    fd = snapshot_add(w, "state", &err);
    assert_int_equal(write(fd, "state", 5), 5);
    assert_int_equal(snapshot_file_digest(fd, 100, &m.state, &err), 0);
    fd = snapshot_add(w, "disk0", &err);
    assert_int_equal(ftruncate(fd, 512), 0);
    assert_int_equal(snapshot_file_digest(fd, 1000, &m.disk[0].part, &err), 0);
    assert_int_equal(snapshot_add(w, "disk0", &err), -EEXIST);
    return snapshot_manifest_write(&m);
}

static void make(void)
{
    struct snapshot_writer w;
    struct error err = {.text = ""};
    if (snapshot_begin(&w, path, &err))
        fail_msg("%s", err.text);
    char *text = fill(&w);
    assert_int_equal(access(path, F_OK), -1); // not before it is complete
    if (snapshot_commit(&w, text, &err))
        fail_msg("%s", err.text);
    free(text);
}

static void whole(void **state)
{
    (void)state;
    struct snapshot s;
    struct error err = {.text = ""};
    size_t size;
    make();
    assert_int_equal(entries(), 1);
    if (snapshot_open(&s, path, &err) || snapshot_verify(&s, &err))
        fail_msg("%s", err.text);
    uint8_t *data = snapshot_state(&s, &size, &err);
    assert_int_equal(size, 5);
    assert_memory_equal(data, "state", 5);
    free(data);
    snapshot_close(&s);
    struct snapshot_writer w;
    assert_int_equal(snapshot_begin(&w, path, &err), -EEXIST);
    assert_int_equal(entries(), 1);
}

static void abandoned(void **state)
{
    (void)state;
    struct snapshot_writer w;
    struct error err = {.text = ""};
    assert_int_equal(snapshot_begin(&w, path, &err), 0);
    free(fill(&w));
    snapshot_abandon(&w);
    assert_int_equal(entries(), 0);
    // Somebody else takes the name meanwhile.
    assert_int_equal(snapshot_begin(&w, path, &err), 0);
    char *text = fill(&w);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(snapshot_commit(&w, text, &err), -EEXIST);
    free(text);
    assert_int_equal(entries(), 1);
    assert_int_equal(rmdir(path), 0);
}

static void spoil(const char *name, long at, const char *with)
{
    char file[128];
    snprintf(file, sizeof file, "%s/%s", path, name);
    chmod(file, 0644);
    int fd = open(file, O_WRONLY);
    assert_true(fd >= 0);
    if (with)
        assert_int_equal(pwrite(fd, with, 1, at), 1);
    else
        assert_int_equal(ftruncate(fd, at), 0);
    close(fd);
}

static void spoiled(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        long at;
        const char *with; // NULL: it is cut there
        bool opens, verifies;
    } cases[] = {
        {"memory", 5000, "x", true, false},      {"memory", 8192, NULL, true, false},
        {"state", 0, "x", true, false},          {"state", 4, NULL, true, false},
        {"disk0", 100, "x", true, false},        {"snapshot.json", 60, NULL, false, false},
        {"snapshot.json", 0, "x", false, false},
    };
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct snapshot s;
        struct error err = {.text = ""};
        size_t size;
        make();
        spoil(cases[i].name, cases[i].at, cases[i].with);
        int e = snapshot_open(&s, path, &err);
        assert_int_equal(!e, cases[i].opens);
        if (!e) {
            assert_int_equal(snapshot_verify(&s, &err), -EINVAL);
            assert_non_null(strstr(err.text, cases[i].name));
            uint8_t *data = snapshot_state(&s, &size, &err);
            assert_int_equal(!data, !strcmp(cases[i].name, "state"));
            free(data);
            snapshot_close(&s);
            assert_int_equal(snapshot_remove(path, &err), 0);
        } else {
            char command[128];
            snprintf(command, sizeof command, "rm -r %s", path);
            assert_int_equal(system(command), 0);
        }
    }
}

// Nothing is removed but a snapshot, and not what somebody has put beside its files.
static void only_snapshots_go(void **state)
{
    (void)state;
    struct error err;
    char file[128];
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(snapshot_remove(path, &err), -EINVAL);
    assert_int_equal(rmdir(path), 0);
    make();
    snprintf(file, sizeof file, "%s/letters", path);
    int fd = open(file, O_CREAT | O_WRONLY, 0600);
    close(fd);
    assert_int_equal(snapshot_remove(path, &err), -ENOTEMPTY);
    assert_int_equal(access(file, F_OK), 0);
    assert_int_equal(unlink(file), 0);
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", path);
    assert_int_equal(system(command), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(whole), cmocka_unit_test(abandoned), cmocka_unit_test(spoiled),
                                       cmocka_unit_test(only_snapshots_go)};
    for (unsigned i = 0; i < sizeof tests / sizeof tests[0]; i++) {
        struct CMUnitTest one[] = {tests[i]};
        one[0].setup_func = setup;
        one[0].teardown_func = teardown;
        if (_cmocka_run_group_tests(tests[i].name, one, 1, NULL, NULL))
            return 1;
    }
    return 0;
}
