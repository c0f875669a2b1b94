// Signals as events of the loop, instead of handlers that interrupt anything anywhere.
//
// Example: signals = signal_watch(loop, (int[]){SIGINT, SIGTERM}, 2, on_signal, vm, err);
#pragma once
#include "host/loop.h"

struct signal_watch;

// From now on the signals are blocked in the calling thread and in those that it creates, and fn is called with each
// one that comes, on the loop's thread. Call it before threads are created by other means than thread_create (which
// blocks all signals anyway). NULL on failure.
struct signal_watch *signal_watch(struct loop *l, const int *signals, unsigned count, void (*fn)(void *ctx, int signal),
                                  void *ctx, struct error *err);
// Ends it and restores the signal mask of before. Same thread.
void signal_unwatch(struct signal_watch *w);
