// Stopping the world; the rules are in world.h.
//
// Who waits for whom: a stopper holds stop_lock and waits for vCPUs to go out; a vCPU that wants in waits for stop_lock
// while it is out. A vCPU that wants to stop the world goes out first, so two of them cannot wait for each other. The
// lock is recursive because a device may unmap memory (a BAR moves) in the middle of a LOCKed access that had stopped
// the world already.
#include "engine/interp/shared.h"
#include "engine/interp/tlb.h"
#include <errno.h>
#include <linux/membarrier.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int world_init(struct interp_world *w, struct error *err)
{
    if (syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0))
        return error_set(err, errno, "engine interp: the kernel's membarrier: %s", strerror(errno));
    pthread_mutexattr_t recursive;
    pthread_mutexattr_init(&recursive);
    pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&w->stop_lock, &recursive);
    pthread_mutexattr_destroy(&recursive);
    pthread_mutex_init(&w->left_lock, NULL);
    pthread_cond_init(&w->left, NULL);
    return 0;
}

void world_destroy(struct interp_world *w)
{
    pthread_mutex_destroy(&w->stop_lock);
    pthread_mutex_destroy(&w->left_lock);
    pthread_cond_destroy(&w->left);
}

void world_barrier(void)
{
    syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0); // registered: cannot fail (membarrier(2))
}

void world_want(struct interp_vcpu *v)
{
    atomic_fetch_or(&v->base.pending, WORLD_STOP);
    if (v->vm->mirror)
        v->vm->mirror->prod(v);
}

static bool anyone_in(struct interp_vm *vm)
{
    for (unsigned n = 0; n < vm->vcpus; n++)
        if (vm->vcpu[n]->in_guest)
            return true;
    return false;
}

void world_stop(struct interp_vm *vm)
{
    struct interp_world *w = &vm->world;
    pthread_mutex_lock(&w->stop_lock);
    if (w->depth++)
        return;
    w->stopping = true;
    for (unsigned n = 0; n < vm->vcpus; n++)
        world_want(vm->vcpu[n]);
    world_barrier();
    pthread_mutex_lock(&w->left_lock);
    while (anyone_in(vm))
        pthread_cond_wait(&w->left, &w->left_lock);
    pthread_mutex_unlock(&w->left_lock);
}

void world_start(struct interp_vm *vm)
{
    struct interp_world *w = &vm->world;
    if (--w->depth == 0)
        w->stopping = false;
    pthread_mutex_unlock(&w->stop_lock);
}

void world_enter(struct interp_vcpu *v)
{
    struct interp_world *w = &v->vm->world;
    while (!v->bus_locks) { // the one who has stopped the world himself may go in
        atomic_store_explicit(&v->in_guest, true, memory_order_relaxed);
        atomic_signal_fence(memory_order_seq_cst); // pairs with the barrier in world_stop
        if (!atomic_load_explicit(&w->stopping, memory_order_acquire))
            break;
        world_leave(v);
        pthread_mutex_lock(&w->stop_lock);
        pthread_mutex_unlock(&w->stop_lock);
    }
    if (v->flush_wanted)
        interp_tlb_flush_all(v); // the decoded instructions follow at the end of the block: one of them may be running
}

void world_leave(struct interp_vcpu *v)
{
    struct interp_world *w = &v->vm->world;
    if (v->bus_locks)
        return;
    atomic_store_explicit(&v->in_guest, false, memory_order_release);
    atomic_signal_fence(memory_order_seq_cst);
    if (!atomic_load_explicit(&w->stopping, memory_order_relaxed))
        return;
    pthread_mutex_lock(&w->left_lock);
    pthread_cond_signal(&w->left);
    pthread_mutex_unlock(&w->left_lock);
}

void world_pause(struct interp_vcpu *v)
{
    atomic_fetch_and(&v->base.pending, ~WORLD_STOP);
    world_leave(v);
    world_enter(v);
}

void interp_bus_lock(struct interp_vcpu *v)
{
    if (v->bus_locks == 0) {
        interp_vectors_used(v);
        world_leave(v);
        world_stop(v->vm);
    }
    v->bus_locks++;
    if (v->flush_wanted)
        interp_tlb_flush_all(v);
}

void interp_bus_unlock(struct interp_vcpu *v)
{
    if (--v->bus_locks)
        return;
    world_start(v->vm);
    world_enter(v);
}
