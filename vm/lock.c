// The lock of the models, on a futex: see lock.h.
//
// The word: 0 unlocked, 1 locked, 2 locked and somebody may sleep. Whoever has slept locks with 2, because there may be
// more sleepers; so unlocking makes a system call only after contention. (The three-state mutex of Drepper, "Futexes
// Are Tricky".) Locks are held for some hundred nanoseconds, so a short spin comes before the sleep.
#include "vm/lock.h"
#include "host/clock.h"
#include "host/thread.h"

enum { SPINS = 60 };

void vm_lock(struct vm_lock *l)
{
    uint32_t free = 0;
    if (atomic_compare_exchange_strong_explicit(&l->word, &free, 1, memory_order_acquire, memory_order_relaxed))
        return;
    for (unsigned i = 0; i < SPINS; i++) {
        free = 0;
        if (!atomic_load_explicit(&l->word, memory_order_relaxed) &&
            atomic_compare_exchange_weak_explicit(&l->word, &free, 1, memory_order_acquire, memory_order_relaxed))
            return;
        __builtin_ia32_pause();
    }
    while (atomic_exchange_explicit(&l->word, 2, memory_order_acquire))
        futex_wait(&l->word, 2, HOST_NEVER);
}

void vm_unlock(struct vm_lock *l)
{
    if (atomic_exchange_explicit(&l->word, 0, memory_order_release) == 2)
        futex_wake(&l->word, 1);
}
