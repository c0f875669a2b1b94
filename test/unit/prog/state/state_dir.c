// The directories of machines: names, locks that end with their process, removing, sockets at the end of long paths.
#include "prog/state/state_dir.h"
#include "unit.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char home[64];
static struct error err;

static int fresh_home(void **state)
{
    (void)state;
    strcpy(home, "/tmp/trapeze-state-XXXXXX");
    assert_non_null(mkdtemp(home));
    return setenv("XDG_STATE_HOME", home, 1);
}

static int remove_home(void **state)
{
    (void)state;
    char command[100];
    snprintf(command, sizeof command, "rm -rf %.60s", home);
    return system(command);
}

// A process that has a machine of this name, until it is killed. Returns when it has it.
static pid_t machine(const char *name, bool temporary)
{
    int ready[2];
    assert_int_equal(pipe(ready), 0);
    pid_t pid = fork();
    if (!pid) {
        struct state_dir d;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (state_dir_create(&d, name, temporary, &err))
            _exit(1);
        if (write(ready[1], "", 1) == 1)
            for (;;)
                pause();
        _exit(2);
    }
    char byte;
    close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    return pid;
}

static void end(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

static unsigned count_all(void)
{
    char **names;
    unsigned n = 0;
    assert_int_equal(state_dir_list(&names, &err), 0);
    while (names[n])
        n++;
    free(names);
    return n;
}

static void names(void **state)
{
    (void)state;
    assert_true(state_name_valid("a") && state_name_valid("web-1.x_Y") && state_name_valid("7"));
    assert_true(state_name_valid("12345678901234567890123456789012"));
    assert_false(state_name_valid("123456789012345678901234567890123"));
    assert_false(state_name_valid("") || state_name_valid(".") || state_name_valid("..") || state_name_valid(".a"));
    assert_false(state_name_valid("-a") || state_name_valid("a/b") || state_name_valid("a b") ||
                 state_name_valid("\xc3"));
    struct state_dir d;
    assert_int_equal(state_dir_create(&d, "../x", false, &err), -EINVAL);
    assert_int_equal(state_dir_open(&d, "../x", &err), -ENOENT);
    assert_int_equal(state_dir_open(&d, "none", &err), -ENOENT);
    assert_string_equal(err.text, "none: there is no machine of this name (trapeze ps -a lists all)");
}

static void nothing_yet(void **state)
{
    (void)state;
    assert_int_equal(count_all(), 0);
    struct stat st;
    char path[100];
    snprintf(path, sizeof path, "%s/trapeze", home);
    assert_int_equal(stat(path, &st), -1); // looking makes nothing
}

static void a_life(void **state)
{
    (void)state;
    struct state_dir d, other;
    pid_t pid = machine("web", false);
    assert_int_equal(state_dir_open(&d, "web", &err), 0);
    assert_int_equal(state_dir_owner(&d), pid);
    assert_int_equal(state_dir_lock(&d, &err), -EBUSY);
    assert_int_equal(state_dir_remove(&d, &err), -EBUSY);
    assert_string_equal(err.text, "web: the machine is running");
    assert_int_equal(state_dir_create(&other, "web", false, &err), -EEXIST);
    assert_string_equal(err.text, "web: a machine of this name is running");
    end(pid);
    assert_int_equal(state_dir_owner(&d), 0);
    assert_int_equal(state_dir_create(&other, "web", false, &err), -EEXIST);
    assert_non_null(strstr(err.text, "trapeze start"));
    assert_int_equal(state_dir_lock(&d, &err), 0);
    assert_int_equal(state_dir_remove(&d, &err), 0);
    state_dir_close(&d);
    assert_int_equal(count_all(), 0);
}

// A child of the machine's process, as one that runs guest programs, keeps nothing locked when the machine is killed.
static void children_do_not_pass_for_it(void **state)
{
    (void)state;
    int ready[2];
    assert_int_equal(pipe(ready), 0);
    pid_t pid = fork();
    if (!pid) {
        struct state_dir d;
        if (state_dir_create(&d, "parent", false, &err))
            _exit(1);
        pid_t child = fork();
        if (!child)
            for (;;)
                pause();
        if (write(ready[1], &child, sizeof child) < 0)
            _exit(1);
        for (;;)
            pause();
    }
    pid_t child;
    assert_int_equal(read(ready[0], &child, sizeof child), sizeof child);
    close(ready[0]);
    close(ready[1]);
    struct state_dir d;
    assert_int_equal(state_dir_open(&d, "parent", &err), 0);
    assert_int_equal(state_dir_owner(&d), pid);
    end(pid);
    assert_int_equal(kill(child, 0), 0);
    assert_int_equal(state_dir_owner(&d), 0);
    kill(child, SIGKILL);
    state_dir_close(&d);
}

static void names_are_chosen(void **state)
{
    (void)state;
    pid_t one = machine(NULL, true), two = machine(NULL, true);
    char **names;
    assert_int_equal(state_dir_list(&names, &err), 0);
    assert_string_equal(names[0], "vm1");
    assert_string_equal(names[1], "vm2");
    assert_null(names[2]);
    free(names);
    end(one);
    end(two);
}

static void temporary_ones_are_swept(void **state)
{
    (void)state;
    pid_t dead = machine("passing", true), kept = machine("kept", false), alive = machine("alive", true);
    end(dead);
    end(kept);
    assert_int_equal(count_all(), 3);
    pid_t next = machine("next", false);
    char **names;
    assert_int_equal(state_dir_list(&names, &err), 0);
    assert_string_equal(names[0], "alive");
    assert_string_equal(names[1], "kept");
    assert_string_equal(names[2], "next");
    assert_null(names[3]);
    free(names);
    end(alive);
    end(next);
}

// What was opened before it was removed and made anew is not what has the name now.
static void removed_under_our_hands(void **state)
{
    (void)state;
    struct state_dir old;
    end(machine("web", false));
    assert_int_equal(state_dir_open(&old, "web", &err), 0);
    struct state_dir d;
    assert_int_equal(state_dir_open(&d, "web", &err), 0);
    assert_int_equal(state_dir_remove(&d, &err), 0);
    state_dir_close(&d);
    end(machine("web", false));
    assert_int_equal(state_dir_lock(&old, &err), -ENOENT);
    state_dir_close(&old);
    assert_int_equal(count_all(), 1);
}

static void links_are_not_followed(void **state)
{
    (void)state;
    char victim[100], path[200];
    snprintf(victim, sizeof victim, "%s/victim", home);
    assert_int_equal(mkdir(victim, 0700), 0);
    snprintf(path, sizeof path, "%s/file", victim);
    close(open(path, O_CREAT | O_WRONLY, 0600));
    end(machine("web", false));
    struct state_dir d;
    assert_int_equal(state_dir_open(&d, "web", &err), 0);
    assert_int_equal(symlinkat(victim, d.fd, "folder"), 0);
    assert_int_equal(mkdirat(d.fd, "deep", 0700), 0);
    assert_int_equal(symlinkat(victim, d.fd, "deep/folder"), 0);
    assert_int_equal(state_dir_remove(&d, &err), 0);
    state_dir_close(&d);
    assert_int_equal(access(path, F_OK), 0);
    assert_int_equal(count_all(), 0);
    snprintf(path, sizeof path, "%s/trapeze/link", home);
    assert_int_equal(symlink(victim, path), 0);
    assert_int_equal(state_dir_open(&d, "link", &err), -ENOENT);
}

static void files(void **state)
{
    (void)state;
    struct state_dir d;
    assert_int_equal(state_dir_create(&d, "web", false, &err), 0);
    assert_null(state_dir_read(&d, "config.json"));
    assert_int_equal(state_dir_write(&d, "config.json", "one", &err), 0);
    assert_int_equal(state_dir_write(&d, "config.json", "twofold", &err), 0);
    char *text = state_dir_read(&d, "config.json");
    assert_string_equal(text, "twofold");
    free(text);
    assert_int_equal(symlinkat("config.json", d.fd, "link"), 0);
    assert_null(state_dir_read(&d, "link"));
    struct stat st;
    assert_int_equal(fstatat(d.fd, "config.json", &st, 0), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(fstat(d.fd, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    assert_int_equal(state_dir_remove(&d, &err), 0);
    state_dir_close(&d);
}

static void sockets_at_the_end_of_long_paths(void **state)
{
    (void)state;
    char deep[200];
    snprintf(deep, sizeof deep, "%s/%0120d", home, 7);
    setenv("XDG_STATE_HOME", deep, 1);
    struct state_dir d, again;
    assert_int_equal(mkdir(deep, 0700), 0);
    end(machine("web", false));
    assert_int_equal(state_dir_open(&d, "web", &err), 0);
    struct sockaddr_un a;
    state_dir_socket(&d, "control.sock", &a);
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0),
        peer = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(listener, 1), 0);
    assert_int_equal(state_dir_open(&again, "web", &err), 0);
    state_dir_socket(&again, "control.sock", &a);
    assert_int_equal(connect(peer, (struct sockaddr *)&a, sizeof a), 0);
    close(peer);
    close(listener);
    state_dir_close(&d);
    state_dir_close(&again);
}

// One that is filled first is no machine before it has its name; a name that is taken leaves it a draft.
static void drafts(void **state)
{
    (void)state;
    struct state_dir d, taken;
    char path[128];
    assert_int_equal(state_dir_create(&taken, "web", false, &err), 0);
    assert_int_equal(state_dir_draft(&d, false, &err), 0);
    assert_int_equal(state_dir_write(&d, "config.json", "{}", &err), 0);
    assert_int_equal(count_all(), 1);
    assert_int_equal(state_dir_publish(&d, "web", &err), -EEXIST);
    assert_non_null(strstr(err.text, "web: there is a machine of this name"));
    assert_int_equal(state_dir_publish(&d, "../web", &err), -EINVAL);
    assert_int_equal(count_all(), 1);
    assert_int_equal(state_dir_publish(&d, "other", &err), 0);
    assert_int_equal(count_all(), 2);
    assert_string_equal(d.name, "other");
    snprintf(path, sizeof path, "%s/trapeze/other/config.json", home);
    assert_int_equal(access(path, F_OK), 0);
    state_dir_close(&d);
    // Given up: nothing is left.
    assert_int_equal(state_dir_draft(&d, false, &err), 0);
    snprintf(path, sizeof path, "%s", d.path);
    assert_int_equal(access(path, F_OK), 0);
    assert_int_equal(state_dir_remove(&d, &err), 0);
    assert_int_not_equal(access(path, F_OK), 0);
    state_dir_close(&d);
    state_dir_close(&taken);
}

int main(void)
{
#define HOME_TEST(fn) cmocka_unit_test_setup_teardown(fn, fresh_home, remove_home)
    const struct CMUnitTest tests[] = {
        HOME_TEST(names),
        HOME_TEST(nothing_yet),
        HOME_TEST(a_life),
        HOME_TEST(children_do_not_pass_for_it),
        HOME_TEST(drafts),
        HOME_TEST(names_are_chosen),
        HOME_TEST(temporary_ones_are_swept),
        HOME_TEST(removed_under_our_hands),
        HOME_TEST(links_are_not_followed),
        HOME_TEST(files),
        HOME_TEST(sockets_at_the_end_of_long_paths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
