// Host signals that guest code causes: division by zero, misaligned SSE operands, unmasked floating-point exceptions.
//
// Translated code does such instructions on the host's CPU, and the host's kernel answers with a signal. The handler
// finds the guest instruction from the host address, saves the registers as leaving a block does, and makes the signal
// return into the dispatcher, which has the interpreter do the instruction again: it raises the guest's exception,
// exactly.
//
// RSP points into guest memory while translated code runs: handlers must run on an alternate stack, and no other signal
// may be delivered to a vCPU's thread.
#pragma once
#include "engine/dbt/dbt.h"
#include <signal.h>

// What a thread had before it ran guest code.
struct dbt_thread {
    sigset_t mask;
    stack_t stack;
    unsigned long gs;
    void *memory;
};

int dbt_thread_enter(struct dbt_vcpu *v, struct dbt_thread *t, struct error *err);
void dbt_thread_leave(struct dbt_thread *t);
// Installs the process's handlers, or does so again if somebody has replaced them. What was there before is called for
// signals that are not the guest's.
int dbt_signals_install(struct error *err);
