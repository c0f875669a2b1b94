// The file that says who runs the machine: who may take it when. The two sides are two processes, since the lock is a
// process's.
#include "migrate/owner.h"
#include "unit.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char folder[64], path[80];

// What a process of its own finds when it claims the machine: 0 or an errno.
static int claimed_by_other(const char *id)
{
    pid_t pid = fork();
    if (!pid) {
        struct owner o;
        _exit(owner_watch(&o, path, id, NULL) ? 255 : -owner_claim(&o));
    }
    int status;
    waitpid(pid, &status, 0);
    return WEXITSTATUS(status);
}

static void given_away(void **state)
{
    struct owner o;
    struct error err = {.text = ""};
    (void)state;
    assert_int_equal(owner_offer(&o, path, &err), 0);
    assert_int_equal(claimed_by_other(o.id), EBUSY); // the source has the lock
    owner_let_go(&o);
    assert_int_equal(owner_take_back(&o), 0); // nobody came
    owner_let_go(&o);
    assert_int_equal(claimed_by_other(o.id), 0);
    assert_int_equal(owner_take_back(&o), -ESTALE); // who had it has ended
    owner_close(&o);
}

static void kept(void **state)
{
    struct owner o;
    struct error err = {.text = ""};
    int go[2];
    (void)state;
    assert_int_equal(owner_offer(&o, path, &err), 0);
    assert_int_equal(pipe(go), 0);
    pid_t pid = fork();
    if (!pid) { // it watches while there is an offer, and claims when there is none any more
        struct owner mine;
        char byte;
        if (owner_watch(&mine, path, o.id, NULL) || write(go[1], "", 1) != 1)
            _exit(255);
        while (owner_claim(&mine) == -EBUSY)
            usleep(1000);
        byte = (char)-owner_claim(&mine);
        _exit(byte);
    }
    char byte;
    assert_int_equal(read(go[0], &byte, 1), 1);
    assert_int_equal(owner_keep(&o, &err), 0);
    owner_let_go(&o); // even so
    int status;
    waitpid(pid, &status, 0);
    assert_int_equal(WEXITSTATUS(status), ECANCELED);
    owner_close(&o);
    close(go[0]);
    close(go[1]);
}

static void killed(void **state)
{
    int tell[2];
    struct owner mine;
    struct error err = {.text = ""};
    (void)state;
    assert_int_equal(pipe(tell), 0);
    pid_t pid = fork();
    if (!pid) { // the source: killed while it has the lock
        struct owner o;
        if (owner_offer(&o, path, NULL) || write(tell[1], o.id, sizeof o.id) != sizeof o.id)
            _exit(1);
        pause();
    }
    char id[OWNER_ID + 1];
    assert_int_equal(read(tell[0], id, sizeof id), sizeof id);
    assert_int_equal(owner_watch(&mine, path, id, &err), 0);
    assert_int_equal(owner_claim(&mine), -EBUSY);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    assert_int_equal(owner_claim(&mine), 0);
    owner_close(&mine);
    close(tell[0]);
    close(tell[1]);
}

// The path comes from the stream.
static void strangers(void **state)
{
    struct owner o, mine;
    struct error err = {.text = ""};
    char other[100];
    (void)state;
    assert_int_equal(owner_offer(&o, path, &err), 0);
    assert_int_equal(claimed_by_other("00000000000000000000000000000000"), 255); // of another attempt
    assert_int_equal(claimed_by_other("../../etc"), 255);
    assert_int_equal(owner_watch(&mine, "/etc/passwd", o.id, &err), -ENOENT);
    assert_int_equal(owner_watch(&mine, "/nowhere/owner", o.id, &err), -ENOENT);
    snprintf(other, sizeof other, "%s/sub", folder);
    assert_int_equal(mkdir(other, 0700), 0);
    snprintf(other, sizeof other, "%s/sub/owner", folder);
    assert_int_equal(symlink(path, other), 0);
    assert_int_equal(owner_watch(&mine, other, o.id, &err), -ENOENT);
    unlink(other);
    snprintf(other, sizeof other, "%s/sub", folder);
    rmdir(other);
    owner_close(&o);
}

static int make_folder(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/trapeze-test-XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    snprintf(path, sizeof path, "%s/owner", folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(given_away),
        cmocka_unit_test(kept),
        cmocka_unit_test(killed),
        cmocka_unit_test(strangers),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
