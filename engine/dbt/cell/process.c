// Making a cell's process, and the two pipes to it (cell.h).
//
// It is forked without the C library's knowledge, because other threads may hold any of its locks: until the new
// process has left our memory behind it makes system calls only.
#include "engine/dbt/cell/cell.h"
#include "engine/interp/shared.h"
#include <asm/prctl.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/rseq.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const int caught[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGUSR1};
enum { CAUGHT = sizeof caught / sizeof *caught };

// --- in the new process

struct kernel_sigaction { // as the kernel sees it
    uint64_t handler, flags, restorer, mask;
};

static uint64_t in_cell(uint64_t base, const void *function)
{
    return base + CELL_CHILD + (uint64_t)((const uint8_t *)function - __start_cell_text);
}

static bool part(int fd, uint64_t base, uint64_t offset, uint64_t size, int prot)
{
    void *want = (void *)(uintptr_t)(base + offset); // NOLINT: the address is the point
    return mmap(want, size, prot, MAP_SHARED | MAP_FIXED_NOREPLACE, fd, (off_t)offset) == want;
}

static bool handle_signals(uint64_t base)
{
    enum { SA_RESTORER_FLAG = 0x04000000 };
    stack_t s = {.ss_sp = (void *)(uintptr_t)(base + CELL_SIGNAL_STACK), // NOLINT
                 .ss_size = CELL_SIGNAL_STACK_SIZE};
    uint64_t mask = ~0ull;
    for (unsigned k = 0; k < CAUGHT; k++) {
        struct kernel_sigaction a = {.handler = in_cell(base, (const void *)cell_signal),
                                     .flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART | SA_RESTORER_FLAG,
                                     .restorer = in_cell(base, (const void *)cell_return),
                                     .mask = 1ull << (SIGUSR1 - 1)};
        if (syscall(SYS_rt_sigaction, caught[k], &a, NULL, 8))
            return false;
        mask &= ~(1ull << (caught[k] - 1));
    }
    return !syscall(SYS_sigaltstack, &s, NULL) && !syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, 8);
}

static _Noreturn void become_cell(uint64_t base, int shared, int in, int out, int memory, int parent)
{
    int from[] = {in, out, memory};
    bool fine = prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == parent;
    fine = fine && part(shared, base, 0, CELL_DATA_SIZE, PROT_READ | PROT_WRITE) &&
           part(shared, base, CELL_IBL, CELL_IBL_ENTRIES * 8, PROT_READ) &&
           part(shared, base, CELL_CODE, CELL_SIZE - CELL_CODE, PROT_READ | PROT_EXEC) && handle_signals(base);
    for (unsigned k = 0; fine && k < 3; k++)
        fine = (from[k] = (int)syscall(SYS_fcntl, from[k], F_DUPFD, 64)) >= 0;
    for (unsigned k = 0; fine && k < 3; k++)
        fine = syscall(SYS_dup2, from[k], CELL_IN + (int)k) >= 0;
    fine = fine && !syscall(SYS_close_range, 0, CELL_IN - 1, 0) && !syscall(SYS_close_range, CELL_MEMORY + 1, ~0u, 0) &&
           !syscall(SYS_arch_prctl, ARCH_SET_GS, base);
    if (fine && __rseq_size) // the kernel would write to memory that goes away
        fine = !syscall(SYS_rseq, (uintptr_t)__builtin_thread_pointer() + (uintptr_t)__rseq_offset, 32,
                        RSEQ_FLAG_UNREGISTER, RSEQ_SIG);
    if (!fine)
        syscall(SYS_exit_group, 119);
    __asm__ volatile("mov %0, %%rsp\n\txor %%ebp, %%ebp\n\tjmp *%1"
                     :
                     : "r"(base + CELL_STACK_END - 8), "r"(in_cell(base, (const void *)cell_begin))
                     : "memory");
    __builtin_unreachable();
}

// --- here

// Where nobody would look for it, and no program be by chance.
static int draw_base(uint64_t *base)
{
    uint64_t lot;
    if (getrandom(&lot, sizeof lot, 0) != sizeof lot)
        return -errno;
    *base = CELL_BASE_MIN + lot % ((CELL_BASE_MAX - CELL_BASE_MIN) / CELL_ALIGN) * CELL_ALIGN;
    return 0;
}

// What a cell may ask of the kernel.
static void write_filter(struct cell_shared *s)
{
    static const int allowed[] = {SYS_read,         SYS_write,      SYS_mmap,      SYS_munmap,
                                  SYS_rt_sigreturn, SYS_arch_prctl, SYS_exit_group};
    enum { COUNT = sizeof allowed / sizeof *allowed };
    struct sock_filter f[COUNT + 6];
    unsigned n = 0;
    f[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
    f[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0);
    f[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    f[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (unsigned k = 0; k < COUNT; k++)
        f[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)allowed[k], (uint8_t)(COUNT - k), 0);
    f[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    f[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    memcpy(s->filter, f, n * sizeof *f);
    s->filter_size = n;
}

static bool wait_for(struct cell *c)
{
    char byte;
    ssize_t r;
    while ((r = read(c->out, &byte, 1)) < 0 && errno == EINTR)
        ;
    return r == 1;
}

static int start(struct cell *c, int shared)
{
    int to[2], from[2];
    if (pipe2(to, O_CLOEXEC))
        return -errno;
    if (pipe2(from, O_CLOEXEC)) {
        int e = -errno;
        close(to[0]);
        close(to[1]);
        return e;
    }
    c->in = to[1];
    c->out = from[0];
    int parent = getpid(), memory = c->v->i.vm->tuning.memory_fd;
    uint64_t base = c->base;
    long pid = syscall(SYS_clone, 0, NULL, NULL, NULL, NULL);
    if (pid == 0)
        become_cell(base, shared, to[0], from[1], memory, parent);
    int e = errno;
    close(to[0]);
    close(from[1]);
    if (pid < 0)
        return -e;
    c->pid = (int)pid;
    return wait_for(c) ? 0 : -ECHILD;
}

int cell_create(struct dbt_vcpu *v, struct cell **out, struct error *err)
{
    int e = 0, fd = memfd_create("trapeze-cell", MFD_CLOEXEC);
    struct cell *c = calloc(1, sizeof *c);
    if (c) {
        *c = (struct cell){.v = v, .in = -1, .out = -1, .code_stale = true};
        e = draw_base(&c->base);
        c->block = calloc(CELL_MAX_BLOCKS, sizeof *c->block);
        c->exit = calloc(CELL_MAX_EXITS, sizeof *c->exit);
        c->place = calloc(CELL_MAX_PLACES, sizeof *c->place);
        c->memory = MAP_FAILED;
        if (fd >= 0 && !ftruncate(fd, CELL_SIZE))
            c->memory = mmap(NULL, CELL_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (!c->block || !c->exit || !c->place || c->memory == MAP_FAILED || !cell_runtime_write(c))
            e = -ENOMEM;
    } else {
        e = -ENOMEM;
    }
    if (!e) {
        c->s = (struct cell_shared *)c->memory;
        write_filter(c->s);
        e = start(c, fd);
    }
    if (fd >= 0)
        close(fd);
    if (e) {
        cell_destroy(c);
        return error_set(err, -e, "a process for guest programs: %s", strerror(-e));
    }
    v->count.cells++;
    *out = c;
    return 0;
}

void cell_destroy(struct cell *c)
{
    if (!c)
        return;
    if (c->pid) {
        kill(c->pid, SIGKILL);
        waitpid(c->pid, NULL, __WALL);
    }
    if (c->in >= 0)
        close(c->in);
    if (c->out >= 0)
        close(c->out);
    if (c->memory && c->memory != MAP_FAILED)
        munmap(c->memory, CELL_SIZE);
    free(c->block);
    free(c->exit);
    free(c->place);
    free(c);
}

bool cell_visit(struct cell *c, bool brief)
{
    enum { BRIEF_NS = 50000 };
    char byte = 0;
    ssize_t r;
    c->s->commands = c->commands;
    c->commands = 0;
    while ((r = write(c->in, &byte, 1)) < 0 && errno == EINTR)
        ;
    if (r == 1 && brief &&
        !ppoll(&(struct pollfd){.fd = c->out, .events = POLLIN}, 1, &(struct timespec){.tv_nsec = BRIEF_NS}, NULL))
        cell_kick(c);
    if (r != 1 || !wait_for(c))
        c->dead = true;
    return !c->dead;
}

void cell_kick(struct cell *c)
{
    kill(c->pid, SIGUSR1);
}

uint64_t cell_time(struct cell *c)
{
    enum { CPUCLOCK_SCHED = 2 }; // how the kernel names the clock of a process
    struct timespec t;
    if (clock_gettime((clockid_t)(~(unsigned)c->pid << 3 | CPUCLOCK_SCHED), &t))
        return 0;
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}
