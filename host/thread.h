// Threads, and the futex that every lock and sleep of ours is made of.
//
// Example:
//     struct thread *t;
//     if (thread_create(&t, "vcpu0", vcpu_main, vcpu, err)) return -1;
//     ... thread_join(t);
#pragma once
#include "report/error.h"
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct thread;

// The name is cut to 15 bytes. All signals are blocked in the new thread: they belong to the event loop
// (host/signal.h).
int thread_create(struct thread **out, const char *name, void (*fn)(void *ctx), void *ctx, struct error *err);
void thread_join(struct thread *t); // waits for its end and frees it

uint64_t thread_cpu_ns(void); // processor time that the calling thread has had
void thread_yield(void);      // lets others run on this CPU, if the kernel finds that any wait for it

// Sleeps while *word == expected, until a wake, a spurious return, or host monotonic time `until_ns` (HOST_NEVER: no
// limit). The caller looks at its condition again, whatever the reason for the return.
void futex_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t until_ns);
void futex_wake(_Atomic uint32_t *word, unsigned threads);
