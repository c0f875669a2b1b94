// The program that test/bench/paravirt runs in guests: what several CPUs of one guest ask of each other.
//
//     smp [NAME...]         for each row (or those named): name, nanoseconds for one unit
//
// A row runs for a fixed time and counts the units done; the fastest of RUNS counts. Where a row needs threads that do
// something on the other CPUs, there is one for each, bound to it. What is measured is bound to CPU 0 then. In forks
// and messages it matters where the scheduler puts things, so nothing is bound there.
//
// Example: `row|ipi|5200.1`: one membarrier(), which interrupts every other CPU and waits for all of them, took 5.2 us.
#include <fcntl.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { RUNS = 3, CPUS_MAX = 64, RUN_NS = 200000000, PAGE = 4096, TABLE = 2 << 20, NAP_NS = 50000 };

static unsigned cpus;
static atomic_bool stop;
static atomic_uint ready;
static char *page; // what the threads on the other CPUs look at

static void need(int ok, const char *what)
{
    if (!ok) {
        perror(what);
        exit(1);
    }
}

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void bind_to(unsigned cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    need(!sched_setaffinity(0, sizeof set, &set), "sched_setaffinity");
}

static void unbind(void)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    for (unsigned i = 0; i < cpus; i++)
        CPU_SET(i, &set);
    need(!sched_setaffinity(0, sizeof set, &set), "sched_setaffinity");
}

// --- company on the other CPUs

static void *spinner(void *cpu) // runs, and has the page in its TLB
{
    bind_to((unsigned)(uintptr_t)cpu);
    atomic_fetch_add(&ready, 1);
    while (!atomic_load_explicit(&stop, memory_order_relaxed))
        *(volatile char *)page;
    return NULL;
}

static void *sleeper(void *cpu) // was there, and sleeps: its CPU is idle
{
    bind_to((unsigned)(uintptr_t)cpu);
    *(volatile char *)page;
    atomic_fetch_add(&ready, 1);
    while (!atomic_load_explicit(&stop, memory_order_relaxed))
        usleep(20000);
    return NULL;
}

struct company {
    pthread_t thread[CPUS_MAX];
    unsigned count;
};

static void company_begin(struct company *c, void *(*what)(void *), unsigned first, unsigned end)
{
    atomic_store(&stop, false);
    atomic_store(&ready, 0);
    c->count = 0;
    for (unsigned i = first; i < end; i++)
        need(!pthread_create(&c->thread[c->count++], NULL, what, (void *)(uintptr_t)i), "pthread_create");
    while (atomic_load(&ready) < c->count)
        usleep(100);
}

static void company_end(struct company *c)
{
    atomic_store(&stop, true);
    for (unsigned i = 0; i < c->count; i++)
        pthread_join(c->thread[i], NULL);
}

// --- rows: each returns nanoseconds for one unit

static double repeat(void (*unit)(void), unsigned batch)
{
    uint64_t begin = now(), end = begin, n = 0;
    for (; end - begin < RUN_NS; end = now(), n += batch)
        for (unsigned i = 0; i < batch; i++)
            unit();
    return (double)(end - begin) / (double)n;
}

static double among(void *(*what)(void *), void (*unit)(void))
{
    struct company c;
    bind_to(0);
    company_begin(&c, what, 1, cpus);
    double ns = repeat(unit, 10);
    company_end(&c);
    unbind();
    return ns;
}

static void read_clock(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
}

static double clock_read(void)
{
    return repeat(read_clock, 1000);
}

static void barrier(void)
{
    syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
}

static double ipi(void) // to all other CPUs, which run programs
{
    syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0);
    return among(spinner, barrier);
}

static void change_rights(void)
{
    need(!mprotect(page, PAGE, PROT_READ), "mprotect");
    need(!mprotect(page, PAGE, PROT_READ | PROT_WRITE), "mprotect");
    *(volatile char *)page = 1;
}

static double tlb_busy(void) // the other CPUs have the page, and run
{
    return among(spinner, change_rights);
}

static void drop_table(void) // an area of its own page table, which is freed
{
    char *area = mmap(NULL, 2 * TABLE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    need(area != MAP_FAILED, "mmap");
    *(volatile char *)(((uintptr_t)area + TABLE - 1) & ~(uintptr_t)(TABLE - 1)) = 1;
    need(!munmap(area, 2 * TABLE), "munmap");
}

static double tlb_idle(void) // the other CPUs are idle, but this was the last address space they had
{
    return among(sleeper, drop_table);
}

static atomic_ullong done;

static void *locker(void *cpu) // dup() and close() take one spin lock of the process
{
    bind_to((unsigned)(uintptr_t)cpu);
    atomic_fetch_add(&ready, 1);
    uint64_t n = 0;
    for (; !atomic_load_explicit(&stop, memory_order_relaxed); n++)
        close(dup(0));
    atomic_fetch_add(&done, n);
    return NULL;
}

static double lock(void)
{
    struct company c;
    atomic_store(&done, 0);
    uint64_t begin = now();
    company_begin(&c, locker, 0, cpus);
    usleep(RUN_NS / 1000);
    company_end(&c);
    return (double)(now() - begin) / (double)atomic_load(&done);
}

static int there[2], back[2];

static void *echo(void *cpu)
{
    char byte;
    bind_to((unsigned)(uintptr_t)cpu);
    while (read(there[0], &byte, 1) == 1 && write(back[1], &byte, 1) == 1)
        ;
    return NULL;
}

static void ask(void)
{
    char byte = 0;
    need(write(there[1], &byte, 1) == 1 && read(back[0], &byte, 1) == 1, "pipe");
}

static double wake(void) // another CPU, out of its idleness, and be woken by it
{
    pthread_t thread;
    need(!pipe(there) && !pipe(back), "pipe");
    need(!pthread_create(&thread, NULL, echo, (void *)1), "pthread_create");
    bind_to(0);
    double ns = repeat(ask, 10);
    close(there[1]);
    pthread_join(thread, NULL);
    close(there[0]), close(back[0]), close(back[1]);
    unbind();
    return ns;
}

static double forks(void) // one child after the other, on every CPU
{
    uint64_t begin = now(), total = 0;
    int fd[2];
    need(!pipe(fd), "pipe");
    for (unsigned i = 0; i < cpus; i++) {
        if (fork())
            continue;
        uint64_t n = 0;
        for (; now() - begin < RUN_NS; n++) {
            pid_t child = fork();
            if (!child)
                _exit(0);
            waitpid(child, NULL, 0);
        }
        _exit(write(fd[1], &n, sizeof n) != sizeof n);
    }
    for (unsigned i = 0; i < cpus; i++) {
        uint64_t n = 0;
        need(read(fd[0], &n, sizeof n) == sizeof n, "read");
        total += n;
    }
    while (wait(NULL) > 0)
        ;
    uint64_t end = now();
    close(fd[0]), close(fd[1]);
    return (double)(end - begin) / (double)total;
}

enum { MESSAGES = 2000, PAIRS = 4 };

static void answer(int from, int to)
{
    char text[100];
    for (unsigned k = 0; k < MESSAGES; k++)
        if (read(from, text, sizeof text) != sizeof text || write(to, text, sizeof text) != sizeof text)
            _exit(1);
    _exit(0);
}

static void converse(void)
{
    char text[100] = {0};
    need(!pipe(there) && !pipe(back), "pipe");
    if (!fork())
        answer(there[0], back[1]);
    for (unsigned k = 0; k < MESSAGES; k++)
        if (write(there[1], text, sizeof text) != sizeof text || read(back[0], text, sizeof text) != sizeof text)
            _exit(1);
    wait(NULL);
    _exit(0);
}

static double messages(void) // pairs of processes that talk through pipes, where the scheduler likes
{
    uint64_t begin = now();
    for (unsigned i = 0; i < PAIRS; i++)
        if (!fork())
            converse();
    while (wait(NULL) > 0)
        ;
    return (double)(now() - begin) / (PAIRS * MESSAGES);
}

static void nap(void)
{
    const struct timespec t = {.tv_nsec = NAP_NS};
    clock_nanosleep(CLOCK_MONOTONIC, 0, &t, NULL);
}

static double timer(void) // a timer is set, the CPU sleeps, is interrupted: all that is not the time asked for
{
    bind_to(0);
    double ns = repeat(nap, 10) - NAP_NS;
    unbind();
    return ns;
}

static int disk_fd;
static char *block;

static void read_block(void)
{
    need(pread(disk_fd, block, PAGE, 0) == PAGE, "/dev/vda");
}

static double disk(void) // a block, by a request of its own; without a disk there is no such row
{
    disk_fd = open("/dev/vda", O_RDONLY | O_DIRECT);
    if (disk_fd < 0)
        return 0;
    block = aligned_alloc(PAGE, PAGE);
    need(block != NULL, "memory");
    bind_to(0);
    double ns = repeat(read_block, 10);
    unbind();
    free(block);
    close(disk_fd);
    return ns;
}

static const struct row {
    const char *name;
    double (*run)(void);
} rows[] = {
    {"clock", clock_read}, {"ipi", ipi},     {"tlb busy", tlb_busy}, {"tlb idle", tlb_idle}, {"lock", lock},
    {"wake", wake},        {"forks", forks}, {"messages", messages}, {"timer", timer},       {"disk", disk},
};

static bool chosen(const char *name, int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], name))
            return true;
    return argc == 1;
}

int main(int argc, char **argv)
{
    cpus = (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
    need(cpus >= 2 && cpus <= CPUS_MAX, "number of CPUs");
    page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    need(page != MAP_FAILED, "mmap");
    for (unsigned i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (!chosen(rows[i].name, argc, argv))
            continue;
        double best = 0;
        for (unsigned run = 0; run < RUNS; run++) {
            double ns = rows[i].run();
            if (ns > 0 && (best == 0 || ns < best))
                best = ns;
        }
        if (best > 0)
            printf("row|%s|%.1f\n", rows[i].name, best);
        fflush(stdout);
    }
    return 0;
}
