// Runs inside of a guest: two threads, each bound to a CPU of its own, count up one number in turns. They spin while
// they wait, so that it goes fast only if both run at the same time, and each turn takes one message in each direction
// between the CPUs. Each says where it really ran.
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>

enum { TURNS = 1000 };

static atomic_int turn;
static int cpu_of[2];

static void *play(void *arg)
{
    int me = (int)(long)arg;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(me, &set);
    if (sched_setaffinity(0, sizeof set, &set))
        return "sched_setaffinity failed";
    for (;;) {
        int now = atomic_load(&turn);
        if (now >= TURNS)
            break;
        if (now % 2 == me)
            atomic_store(&turn, now + 1);
        cpu_of[me] = sched_getcpu();
    }
    return NULL;
}

int main(void)
{
    pthread_t thread[2];
    for (long i = 0; i < 2; i++)
        if (pthread_create(&thread[i], NULL, play, (void *)i))
            return 1;
    for (int i = 0; i < 2; i++) {
        void *problem;
        pthread_join(thread[i], &problem);
        if (problem) {
            printf("thread %d: %s\n", i, (char *)problem);
            return 1;
        }
    }
    printf("turns: %d, thread 0 on CPU %d, thread 1 on CPU %d\n", atomic_load(&turn), cpu_of[0], cpu_of[1]);
    return 0;
}
