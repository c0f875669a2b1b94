// A program that does its worst: everything that could lead out of the process that a guest's program may run in (a
// "cell", engine/dbt/cell), or break it. Each try is a child that first computes for a moment, so that it has such a
// place. It may end as it likes; afterwards an honest child must compute the right sum.
//
// Prints a line for each try and, at the end, how many there were.
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

// The cell's own part (engine/dbt/cell/shared.h): how large it is, and what may be written of it. Where it lies is a
// secret, which a line on standard input gives away.
enum { CELL_SIZE = 3 << 20, CELL_DATA = 0x40000, PAGE = 4096 };
static uint64_t cell;

static sigjmp_buf back;

static void on_fault(int number)
{
    siglongjmp(back, number);
}

static void catch_faults(void)
{
    static uint8_t stack[64 << 10];
    static const int numbers[] = {SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE};
    struct sigaction a = {.sa_handler = on_fault, .sa_flags = SA_ONSTACK | SA_NODEFER};
    sigaltstack(&(stack_t){.ss_sp = stack, .ss_size = sizeof stack}, NULL);
    for (unsigned k = 0; k < sizeof numbers / sizeof *numbers; k++)
        sigaction(numbers[k], &a, NULL);
}

static uint64_t compute(void)
{
    uint64_t x = 88172645463325252ull, sum = 0;
    for (unsigned k = 0; k < 20000000; k++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        sum += x;
        __asm__ volatile("" : "+r"(sum)); // each time anew
    }
    return sum;
}

// --- tries

static void write_everywhere(void)
{
    for (volatile unsigned round = 0; round < 20; round++)
        for (volatile uint64_t a = cell; a < cell + CELL_SIZE; a += 256)
            if (!sigsetjmp(back, 1))
                memset((void *)a, (int)round * 37, 256);
}

static void write_and_call(void)
{
    for (volatile unsigned round = 0; round < 300; round++) {
        if (!sigsetjmp(back, 1))
            for (uint64_t a = cell + 8 * (round % 40); a < cell + CELL_DATA; a += 320)
                *(volatile uint64_t *)a = round & 1 ? cell + a : ~0ull;
        getppid();
    }
}

static void read_everywhere(void)
{
    const uint64_t places[] = {0,
                               cell,
                               cell + CELL_SIZE,
                               0x7fffffffe000,
                               0x7ffffffff000,
                               0x800000000000,
                               0xffff800000000000,
                               0xffffffff81000000,
                               0xfffffffffffff000};
    for (volatile unsigned k = 0; k < sizeof places / sizeof *places; k++)
        for (volatile unsigned n = 0; n < 64; n++)
            if (!sigsetjmp(back, 1))
                (void)*(volatile uint8_t *)(places[k] + n * PAGE);
}

static void jump_into_it(void)
{
    for (volatile uint64_t a = cell; a < cell + CELL_SIZE; a += a < cell + 0x110000 ? 1021 : 40961)
        if (!sigsetjmp(back, 1))
            ((void (*)(void))a)();
}

static void stack_in_it(void)
{
    for (volatile uint64_t a = cell + 0x800; a < cell + CELL_DATA; a += 0x3000)
        if (!sigsetjmp(back, 1))
            __asm__ volatile(
                "mov %%rsp, %%rbx\n\tmov %0, %%rsp\n\tpush $5\n\tmov $39, %%eax\n\tsyscall\n\tpop %%rax\n\t"
                "mov %%rbx, %%rsp"
                :
                : "r"(a)
                : "rbx", "rax", "rcx", "r11", "memory");
}

static void segments(void)
{
    for (volatile unsigned round = 0; round < 100; round++)
        if (!sigsetjmp(back, 1))
            __asm__ volatile("mov %0, %%gs\n\tmov %%gs:0, %%rax\n\tmov %%rax, %%gs:8" : : "r"(round) : "rax", "memory");
}

static void sensitive(void)
{
#define TRY(text)                                                                                                      \
    if (!sigsetjmp(back, 1))                                                                                           \
    __asm__ volatile(text : : : "rax", "rbx", "rcx", "rdx", "memory")
    TRY("hlt");
    TRY("cli");
    TRY("int $0x80");
    TRY("int3");
    TRY("sysenter");
    TRY("in $0x60, %%al");
    TRY("out %%al, $0x64");
    TRY("rdmsr");
    TRY("wrmsr");
    TRY("mov %%cr3, %%rax");
    TRY("mov %%rax, %%dr7");
    TRY("swapgs");
    TRY("vmcall");
    TRY("vmmcall");
    TRY("invlpg (%%rsp)");
    TRY("wrgsbase %%rax");
    TRY("lgdt (%%rsp)");
    TRY("ud2");
    TRY(".byte 0xcd, 0x03");
    TRY(".byte 0x0f, 0x05, 0x0f, 0x05");
    TRY("xor %%eax, %%eax; cpuid");
}

static void own_pages_there(void)
{
    uint8_t *p = mmap((void *)cell, CELL_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (p == MAP_FAILED)
        _exit(20);
    for (unsigned k = 0; k < CELL_SIZE; k += PAGE) {
        memset(p + k, 0xc3, PAGE); // ret
        ((void (*)(void))(p + k))();
    }
    compute();
    for (unsigned k = 0; k < CELL_SIZE; k++)
        if (p[k] != 0xc3)
            _exit(21);
}

static void *scribble(void *stop)
{
    sigset_t none;
    sigemptyset(&none);
    while (!__atomic_load_n((int *)stop, __ATOMIC_RELAXED))
        if (!sigsetjmp(back, 0))
            for (uint64_t a = cell; a < cell + CELL_DATA; a += 64)
                *(volatile uint64_t *)a = a * 0x9e3779b97f4a7c15;
    return NULL;
}

static void with_a_thread(void)
{
    int stop = 0;
    pthread_t t;
    pthread_create(&t, NULL, scribble, &stop);
    compute();
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    pthread_join(t, NULL);
}

static const struct {
    const char *name;
    void (*act)(void);
} tries[] = {
    {"write everywhere", write_everywhere}, {"write and call", write_and_call},   {"read everywhere", read_everywhere},
    {"jump into it", jump_into_it},         {"stack in it", stack_in_it},         {"segments", segments},
    {"sensitive instructions", sensitive},  {"own pages there", own_pages_there}, {"with a thread", with_a_thread},
};

static int child(void (*act)(void), uint64_t want)
{
    pid_t pid = fork();
    if (!pid) {
        alarm(10); // pages of its own at the cell's place are not what it sees: it may go round in circles
        catch_faults();
        uint64_t sum = compute();
        if (act)
            act();
        _exit(sum == want ? 0 : 22);
    }
    int status;
    waitpid(pid, &status, 0);
    return status;
}

int main(void)
{
    uint64_t want = 0;
    for (unsigned k = 0; k < 8; k++) // for long enough to be seen
        want = compute();
    unsigned done = 0;
    printf("hostile: computed\n");
    fflush(stdout);
    if (scanf("%lx", &cell) != 1)
        return 1;
    for (unsigned k = 0; k < sizeof tries / sizeof *tries; k++) {
        int status = child(tries[k].act, want), honest = child(NULL, want);
        bool wrong = WIFEXITED(status) && WEXITSTATUS(status); // it says itself that something was wrong
        printf("hostile: %s: ended with %#x, honest one with %#x\n", tries[k].name, (unsigned)status, (unsigned)honest);
        fflush(stdout);
        done += !wrong && !honest;
    }
    printf("hostile: %u of %zu tries did no harm\n", done, sizeof tries / sizeof *tries);
    return 0;
}
