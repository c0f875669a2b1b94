// See fault.h.
//
// The only variables that are not part of a vCPU: signal handlers belong to the process, and a handler knows nothing
// but its thread.
#include "engine/dbt/fault.h"
#include "engine/dbt/cache.h"
#include "engine/dbt/runtime.h"
#include <asm/prctl.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

enum { ALT_STACK = 64 << 10 };

static const int caught[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
enum { CAUGHT = sizeof caught / sizeof *caught };

static __thread struct dbt_vcpu *running; // the vCPU of this thread
static struct sigaction before[CAUGHT];   // changes under install_lock
static pthread_mutex_t install_lock = PTHREAD_MUTEX_INITIALIZER;

static const int ucontext_register[CPU_GPR_COUNT] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                                     REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                                     REG_R12, REG_R13, REG_R14, REG_R15};

static bool guest_fault(ucontext_t *u)
{
    struct dbt_vcpu *v = running;
    greg_t *g = u->uc_mcontext.gregs;
    const struct dbt_map *insn;
    struct dbt_block *b = v ? dbt_block_at(v, (uint64_t)g[REG_RIP], &insn) : NULL;
    if (!b)
        return false;
    for (unsigned r = 0; r < CPU_GPR_COUNT; r++)
        v->save[r] = (uint64_t)g[ucontext_register[r]];
    v->host_flags = (uint64_t)g[REG_EFL];
    v->exit_arg = (uint64_t)(uintptr_t)b;
    if (insn) {
        v->exit_why = DBT_WHY_FAULT | (insn->flags_in_slot ? DBT_WHY_SLOT : 0);
        v->exit_address = b->rip + insn->rip;
        v->fault_done = (uint32_t)(insn - b->map);
    } else { // in the entry code, which does nothing of the guest's: as if it had been asked to leave there
        bool far = (uint64_t)g[REG_RIP] < (uint64_t)(uintptr_t)b->code + b->back;
        v->exit_why = DBT_WHY_POLL | (far ? DBT_WHY_SLOT : 0);
    }
    g[REG_RSP] = (greg_t)v->host_rsp;
    g[REG_RIP] = (greg_t)dbt_runtime(v)->return_address;
    return true;
}

static void on_signal(int number, siginfo_t *info, void *context)
{
    if (guest_fault(context))
        return;
    for (unsigned k = 0; k < CAUGHT; k++) {
        if (caught[k] != number)
            continue;
        if (before[k].sa_flags & SA_SIGINFO) {
            before[k].sa_sigaction(number, info, context);
            return;
        }
        if (before[k].sa_handler != SIG_DFL && before[k].sa_handler != SIG_IGN) {
            before[k].sa_handler(number);
            return;
        }
    }
    signal(number, SIG_DFL); // our own fault: the instruction runs again and ends the program with the right signal
}

int dbt_signals_install(struct error *err)
{
    int e = 0;
    pthread_mutex_lock(&install_lock);
    for (unsigned k = 0; k < CAUGHT && !e; k++) {
        struct sigaction a = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER}, now;
        sigemptyset(&a.sa_mask);
        if (sigaction(caught[k], NULL, &now) == 0 && now.sa_flags & SA_SIGINFO && now.sa_sigaction == on_signal)
            continue;
        before[k] = now;
        if (sigaction(caught[k], &a, NULL))
            e = error_set(err, errno, "engine dbt: signal %d cannot be handled: %s", caught[k], strerror(errno));
    }
    pthread_mutex_unlock(&install_lock);
    return e;
}

int dbt_thread_enter(struct dbt_vcpu *v, struct dbt_thread *t, struct error *err)
{
    sigset_t all;
    int installed = dbt_signals_install(err); // somebody may have taken them since
    if (installed)
        return installed;
    t->memory = malloc(ALT_STACK);
    if (!t->memory)
        return error_set(err, ENOMEM, "engine dbt: no memory for a signal stack");
    stack_t s = {.ss_sp = t->memory, .ss_size = ALT_STACK};
    sigfillset(&all);
    for (unsigned k = 0; k < CAUGHT; k++)
        sigdelset(&all, caught[k]);
    if (sigaltstack(&s, &t->stack) || syscall(SYS_arch_prctl, ARCH_GET_GS, &t->gs) ||
        syscall(SYS_arch_prctl, ARCH_SET_GS, v)) {
        int e = errno;
        free(t->memory);
        return error_set(err, e, "engine dbt: this thread cannot run guest code: %s", strerror(e));
    }
    pthread_sigmask(SIG_SETMASK, &all, &t->mask);
    running = v;
    return 0;
}

void dbt_thread_leave(struct dbt_thread *t)
{
    running = NULL;
    syscall(SYS_arch_prctl, ARCH_SET_GS, t->gs);
    sigaltstack(&t->stack, NULL);
    pthread_sigmask(SIG_SETMASK, &t->mask, NULL);
    free(t->memory);
}
