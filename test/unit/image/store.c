// The store of images: they appear at once or not at all, and what was interrupted is swept away.
#include "image/store.h"
#include "unit.h"
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

struct bed {
    char folder[64];
    struct store store;
};

static int setup(void **state)
{
    struct bed *b = calloc(1, sizeof *b);
    struct error e;
    strcpy(b->folder, "/tmp/trapeze-store-XXXXXX");
    if (!mkdtemp(b->folder) || setenv("XDG_DATA_HOME", b->folder, 1) || store_open(&b->store, &e))
        return -1;
    *state = b;
    return 0;
}

static int teardown(void **state)
{
    struct bed *b = *state;
    char command[100];
    store_close(&b->store);
    snprintf(command, sizeof command, "rm -rf %s", b->folder);
    int e = system(command);
    free(b);
    return e;
}

static void put_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void begin(struct bed *b, struct draft *d, bool replace, const char *contents)
{
    struct error e;
    char disk[PATH_MAX];
    if (store_begin(&b->store, "one", replace, d, &e))
        fail_msg("%s", e.text);
    store_draft_disk(d, DISK_RAW, disk);
    put_file(disk, contents);
}

static int commit(struct draft *d)
{
    struct error e;
    struct image_record r = {.format = DISK_RAW, .size = 512, .created = 1};
    return store_commit(d, &r, &e);
}

static unsigned entries(struct bed *b) // in the store's folder, hidden ones too
{
    char command[PATH_MAX + 32];
    unsigned n = 99;
    snprintf(command, sizeof command, "ls -A %s | wc -l", b->store.path);
    FILE *f = popen(command, "r"); // NOLINT: a path of ours
    assert_int_equal(fscanf(f, "%u", &n), 1);
    pclose(f);
    return n;
}

static void appears_at_once(void **state)
{
    struct bed *b = *state;
    struct draft d;
    struct image_record r;
    struct error e;
    begin(b, &d, false, "abc");
    assert_int_equal(store_get(&b->store, "one", &r, &e), -ENOENT);
    assert_int_equal(commit(&d), 0);
    assert_int_equal(store_get(&b->store, "one", &r, &e), 0);
    // FIPS 180-2, appendix B.1
    assert_string_equal(r.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_int_equal(entries(b), 1);
}

static void not_twice(void **state)
{
    struct bed *b = *state;
    struct draft d;
    struct error e;
    begin(b, &d, false, "abc");
    assert_int_equal(commit(&d), 0);
    assert_int_equal(store_begin(&b->store, "one", false, &d, &e), -EEXIST);
    begin(b, &d, true, "abcd");
    assert_int_equal(commit(&d), 0);
    assert_int_equal(entries(b), 1);
    struct image_record r;
    char path[PATH_MAX];
    struct stat st;
    assert_int_equal(store_get(&b->store, "one", &r, &e), 0);
    store_disk(&b->store, &r, path);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, 4);
}

// A process that dies while it makes an image leaves a folder, which the next one takes over or sweeps away.
static void interrupted(void **state)
{
    struct bed *b = *state;
    struct draft d;
    struct error e;
    pid_t pid = fork();
    if (!pid) {
        begin(b, &d, false, "half");
        char deep[PATH_MAX + 8];
        snprintf(deep, sizeof deep, "%s/root", d.path);
        mkdir(deep, 0777);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_int_equal(entries(b), 1);
    assert_int_equal(store_begin(&b->store, "other", false, &d, &e), 0);
    assert_int_equal(entries(b), 1); // "half" is gone, "other" is being made
    store_abort(&d);
    assert_int_equal(entries(b), 0);
}

static void not_swept_while_in_work(void **state)
{
    struct bed *b = *state;
    struct draft one, two;
    struct error e;
    begin(b, &one, false, "abc");
    assert_int_equal(store_begin(&b->store, "two", false, &two, &e), 0);
    assert_int_equal(entries(b), 2);
    store_abort(&two);
    assert_int_equal(commit(&one), 0);
}

// Two make the same image: the second waits, and then finds that it is there.
static void second_waits(void **state)
{
    struct bed *b = *state;
    struct draft d;
    begin(b, &d, false, "abc");
    pid_t pid = fork();
    if (!pid) {
        struct draft other;
        struct error e;
        // A lock belongs to the open file, which fork() has given to this process, too.
        close(d.fd);
        _exit(store_begin(&b->store, "one", false, &other, &e) == -EEXIST ? 0 : 1);
    }
    usleep(100000);
    assert_int_equal(commit(&d), 0);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void in_use(void **state)
{
    struct bed *b = *state;
    struct draft d;
    struct error e;
    struct image_record r;
    char path[PATH_MAX];
    begin(b, &d, false, "abc");
    assert_int_equal(commit(&d), 0);
    assert_int_equal(store_get(&b->store, "one", &r, &e), 0);
    store_disk(&b->store, &r, path);
    int fd = open(path, O_RDONLY);
    struct flock l = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
    assert_int_equal(fcntl(fd, F_OFD_SETLK, &l), 0);
    assert_int_equal(store_remove(&b->store, "one", &e), -EBUSY);
    close(fd);
    assert_int_equal(store_remove(&b->store, "one", &e), 0);
    assert_int_equal(store_remove(&b->store, "one", &e), -ENOENT);
    assert_int_equal(store_remove(&b->store, "../one", &e), -EINVAL);
    assert_int_equal(entries(b), 0);
}

static void count_bad(void *ctx, const struct error *e)
{
    assert_non_null(strstr(e->text, "image bad"));
    ++*(unsigned *)ctx;
}

static void listing(void **state)
{
    struct bed *b = *state;
    struct draft d;
    struct error e;
    char path[PATH_MAX + 32];
    begin(b, &d, false, "abc");
    assert_int_equal(commit(&d), 0);
    snprintf(path, sizeof path, "%s/bad", b->store.path);
    mkdir(path, 0777);
    strcat(path, "/image.json");
    put_file(path, "{}");
    struct image_record *all;
    unsigned count, bad = 0;
    assert_int_equal(store_list(&b->store, &all, &count, count_bad, &bad, &e), 0);
    assert_int_equal(count, 1);
    assert_int_equal(bad, 1);
    assert_string_equal(all[0].name, "one");
    free(all);
    assert_int_equal(store_remove(&b->store, "bad", &e), 0); // what is broken can be removed
}

// Without XDG_DATA_HOME and HOME there is the home of the user database; what is relative counts as unset.
static void where_it_is(void **state)
{
    (void)state;
    char path[PATH_MAX], home[PATH_MAX + 32];
    struct error e;
    struct passwd *p = getpwuid(getuid());
    setenv("XDG_DATA_HOME", "relative", 1);
    setenv("HOME", "/h", 1);
    assert_int_equal(store_folder("images", path, sizeof path, &e), 0);
    assert_string_equal(path, "/h/.local/share/trapeze/images");
    unsetenv("HOME");
    if (p) {
        snprintf(home, sizeof home, "%s/.local/share/trapeze/images", p->pw_dir);
        assert_int_equal(store_folder("images", path, sizeof path, &e), 0);
        assert_string_equal(path, home);
    }
    setenv("XDG_DATA_HOME", "/d", 1);
    assert_int_equal(store_folder("images", path, 10, &e), -ENAMETOOLONG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(appears_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(not_twice, setup, teardown),
        cmocka_unit_test_setup_teardown(interrupted, setup, teardown),
        cmocka_unit_test_setup_teardown(not_swept_while_in_work, setup, teardown),
        cmocka_unit_test_setup_teardown(second_waits, setup, teardown),
        cmocka_unit_test_setup_teardown(in_use, setup, teardown),
        cmocka_unit_test_setup_teardown(listing, setup, teardown),
        cmocka_unit_test_setup_teardown(where_it_is, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
