// Stopping the world: a moment in which no vCPU executes guest code.
//
// A vCPU is "in the guest" while it may hold host pointers to guest memory or touch the VM's memory map; it is out of
// it during upcalls and outside of run(). Whoever needs the world still (unmapping memory, a LOCKed access that crosses
// a page, switching the dirty log on) calls world_stop: it waits until every vCPU is out, and none gets in again before
// world_start. vCPUs notice at the next block boundary, because WORLD_STOP is set in their pending word.
//
// Entering costs a store and a load and no fence: the one who stops issues a process-wide barrier (membarrier), so that
// either the vCPU sees `stopping` or the stopper sees `in_guest`.
//
// Example: world_stop(vm); change the map; for each vCPU: v->flush_wanted = true; world_start(vm);
#pragma once
#include "report/error.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct interp_vcpu;
struct interp_vm;

// An engine-internal bit of engine_vcpu.pending: leave the block and pass by world_pause().
#define WORLD_STOP (1u << 31)

struct interp_world {
    pthread_mutex_t stop_lock; // recursive; held while the world is stopped, guards the list of vCPUs
    unsigned depth;            // of stops by the owner; guarded by stop_lock
    _Atomic bool stopping;
    pthread_mutex_t left_lock; // with `left`: a vCPU has gone out while somebody waits for that
    pthread_cond_t left;
};

int world_init(struct interp_world *w, struct error *err);
void world_destroy(struct interp_world *w);

// Not from a vCPU that is in the guest; interp_bus_lock() is for those.
void world_stop(struct interp_vm *vm);
void world_start(struct interp_vm *vm);

// A vCPU goes into and out of the guest. Entering waits while the world is stopped, and then does what was asked for
// meanwhile (TLB flush).
void world_enter(struct interp_vcpu *v);
void world_leave(struct interp_vcpu *v);
void world_want(struct interp_vcpu *v);  // sets WORLD_STOP
void world_pause(struct interp_vcpu *v); // WORLD_STOP was seen: out and in again

// Every other thread of the process has passed a full memory barrier when this returns. Orders this thread's earlier
// stores before its later loads as seen by threads that do a store and then a load without a fence.
void world_barrier(void);
