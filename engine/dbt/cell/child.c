// The program that runs in a cell (cell.h). It is copied into the cell's code, so nothing here may refer to anything
// outside of this file: no library, no data, no constant in memory.
//
// Compiled for general registers only: the guest's vector registers are live while it runs.
#include "engine/dbt/cell/shared.h"
#include <asm/prctl.h>
#include <asm/unistd.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <ucontext.h>

#ifdef __clang__ // a fuzzer's build would count here, in memory that the cell does not have
#define UNCOUNTED , no_sanitize("coverage")
#else
#define UNCOUNTED
#endif
#define CELL_TEXT __attribute__((section("cell_text"), used, noinline, no_stack_protector UNCOUNTED))
#define SHARED ((volatile struct cell_shared *)base())
#define USER_END 0x7ffffffff000ull

// This code is in the cell's part, too.
static inline __attribute__((always_inline)) uint64_t base(void)
{
    uint64_t here;
    __asm__("lea 0(%%rip), %0" : "=r"(here));
    return here & ~(uint64_t)(CELL_ALIGN - 1);
}

static inline __attribute__((always_inline)) long call(long number, uint64_t a, uint64_t b, uint64_t c, uint64_t d,
                                                       uint64_t e, uint64_t f)
{
    register uint64_t r10 __asm__("r10") = d;
    register uint64_t r8 __asm__("r8") = e;
    register uint64_t r9 __asm__("r9") = f;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

static inline __attribute__((always_inline, noreturn)) void end(int status)
{
    for (;;)
        call(__NR_exit_group, (uint64_t)status, 0, 0, 0, 0, 0);
}

CELL_TEXT void cell_begin(void)
{
    struct {
        uint16_t count;
        uint64_t filter;
    } program = {(uint16_t)SHARED->filter_size, base() + __builtin_offsetof(struct cell_shared, filter)};
    if (call(__NR_munmap, 0, base(), 0, 0, 0, 0) ||
        call(__NR_munmap, base() + CELL_SIZE, USER_END - base() - CELL_SIZE, 0, 0, 0, 0))
        end(120);
    // A host without seccomp loses a second lock on a door that is shut: guest code cannot make system calls.
    call(__NR_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0);
    call(__NR_prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, (uint64_t)&program, 0, 0, 0);
    cell_loop();
}

static inline __attribute__((always_inline)) long obey(const volatile struct cell_command *c)
{
    if (c->op == CELL_MAP)
        return call(__NR_mmap, c->address, c->size, c->prot, MAP_SHARED | MAP_FIXED | MAP_POPULATE, CELL_MEMORY,
                    c->offset);
    if (c->op == CELL_UNMAP)
        return call(__NR_munmap, c->address, c->size, 0, 0, 0, 0);
    return call(__NR_arch_prctl, ARCH_SET_FS, c->address, 0, 0, 0, 0);
}

CELL_TEXT void cell_loop(void)
{
    char byte = 0;
    if (call(__NR_write, CELL_OUT, (uint64_t)&byte, 1, 0, 0, 0) != 1 ||
        call(__NR_read, CELL_IN, (uint64_t)&byte, 1, 0, 0, 0) != 1)
        end(0); // our vCPU is gone
    uint32_t count = SHARED->commands;
    for (uint32_t n = 0; n < count && n < CELL_COMMANDS; n++) {
        long r = obey(&SHARED->command[n]);
        if (r < 0 && r > -4096)
            SHARED->failed = (uint32_t)-r;
    }
    SHARED->commands = 0;
    __asm__ volatile("jmp *%0" : : "r"(base() + CELL_ENTER) : "memory");
    __builtin_unreachable();
}

CELL_TEXT void cell_signal(int number, void *info, void *context)
{
    (void)info;
    greg_t *g = ((ucontext_t *)context)->uc_mcontext.gregs;
    uint64_t at = (uint64_t)g[REG_RIP] - base();
    if (at >= CELL_BLOCKS && at < CELL_SIZE) {
        SHARED->why = CELL_WHY_SIGNAL;
        SHARED->signal = (uint32_t)number;
        SHARED->host_rip = (uint64_t)g[REG_RIP];
        SHARED->rsp = (uint64_t)g[REG_RSP];
        SHARED->fault_address = (uint64_t)g[REG_CR2];
        SHARED->fault_error = (uint64_t)g[REG_ERR];
        SHARED->trap = (uint64_t)g[REG_TRAPNO];
        g[REG_RIP] = (greg_t)(base() + CELL_LEAVE);
        g[REG_RSP] = (greg_t)(base() + CELL_STACK_END - 8); // the guest's may be no address to return to
        return;
    }
    bool entering = at >= CELL_ENTER && at < CELL_ENTER_END;
    if (number == SIGUSR1)
        SHARED->kicked = 1;
    else if (!entering)
        end(121);
    if (entering) { // it may have looked already; or an interrupt found no address in RSP
        g[REG_RIP] = (greg_t)(base() + CELL_NOTHING);
        g[REG_RSP] = (greg_t)(base() + CELL_STACK_END - 8);
    }
}

CELL_TEXT __attribute__((naked)) void cell_return(void)
{
    __asm__ volatile("mov %0, %%eax\n\tsyscall" : : "i"(__NR_rt_sigreturn));
}
