// The models' lock under contention: nobody is let in twice, nobody sleeps for ever.
#include "vm/lock.h"
#include "host/thread.h"
#include "unit.h"
#include <time.h>

enum { THREADS = 4, ROUNDS = 50000 };

struct shared {
    struct vm_lock lock;
    uint64_t counter, inside;
    _Atomic uint32_t broken;
};

static void count(void *ctx)
{
    struct shared *s = ctx;
    for (int i = 0; i < ROUNDS; i++) {
        vm_lock(&s->lock);
        if (s->inside++)
            s->broken = 1;
        s->counter++;
        if (i % 5000 == 0) // be off the CPU with the lock held
            nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
        s->inside--;
        vm_unlock(&s->lock);
    }
}

static void excludes(void **state)
{
    (void)state;
    struct shared s = {.counter = 0};
    struct thread *t[THREADS];
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(thread_create(&t[i], "locker", count, &s, NULL), 0);
    for (int i = 0; i < THREADS; i++)
        thread_join(t[i]);
    assert_int_equal(s.counter, THREADS * ROUNDS);
    assert_int_equal(s.broken, 0);
    assert_int_equal(s.lock.word, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(excludes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
