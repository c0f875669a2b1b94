// Processor time of a process and its children, while they live and after.
#include "host/process.h"
#include "unit.h"
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MS 1000000ull

static uint64_t own_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000 * MS + (uint64_t)t.tv_nsec;
}

static void work(uint64_t ns)
{
    for (uint64_t until = own_ns() + ns; own_ns() < until;)
        ;
}

static void counts_children(void **state)
{
    (void)state;
    uint64_t before = process_family_cpu_ns();
    work(20 * MS);
    uint64_t after = process_family_cpu_ns();
    assert_true(after - before >= 20 * MS);
    int ready[2];
    char byte;
    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    if (!child) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        work(100 * MS);
        if (write(ready[1], "", 1) == 1)
            pause();
        _exit(0);
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    uint64_t living = process_family_cpu_ns() - after;
    if (access("/proc/self/task", F_OK) == 0)
        assert_true(living >= 90 * MS);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    assert_true(process_family_cpu_ns() - after >= 90 * MS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(counts_children)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
