// The program that test/bench/programs runs natively and in guests: a row for each kind of thing that programs do.
//
//     rows [NAME...]        for each row: name, class, nanoseconds for one unit, a check
//
// Each row does a fixed amount of work, found so that it takes some tens of milliseconds; the fastest of RUNS counts.
// The check is a number that depends on all results: it must be the same everywhere (0 where there is nothing to
// compare).
#include <immintrin.h>
#include <signal.h>
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

enum { RUNS = 3, KIB = 1 << 10, MIB = 1 << 20 };

static uint64_t next(uint64_t *x) // xorshift64
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    return *x ^= *x << 17;
}

// --- integer

static uint64_t mix(long n)
{
    uint64_t a = 1, b = 2;
    for (long k = 0; k < n; k++) {
        a = a * 0x9e3779b97f4a7c15 + (b >> 7);
        b ^= a << 11 | a >> 53;
    }
    return a ^ b;
}

static __attribute__((noinline)) unsigned ackermann(unsigned m, unsigned n)
{
    return !m ? n + 1 : !n ? ackermann(m - 1, 1) : ackermann(m - 1, ackermann(m, n - 1));
}

static uint64_t calls(long n)
{
    uint64_t sum = 0;
    for (long k = 0; k < n; k++)
        sum += ackermann(2, 40 + (unsigned)(k & 1));
    return sum;
}

static uint64_t add(uint64_t a, uint64_t b)
{
    return a + b;
}

static uint64_t subtract(uint64_t a, uint64_t b)
{
    return a - b;
}

static uint64_t exclude(uint64_t a, uint64_t b)
{
    return a ^ b;
}

static uint64_t rotate(uint64_t a, uint64_t b)
{
    return a << (b & 63) | a >> (-b & 63);
}

static uint64_t pointers(long n)
{
    static uint64_t (*volatile const table[])(uint64_t, uint64_t) = {add, subtract, exclude, rotate};
    uint64_t a = 3, x = 7;
    for (long k = 0; k < n; k++)
        a = table[next(&x) & 3](a, x);
    return a;
}

static uint64_t machine(long n) // an interpreter of a little language: jumps by table, hard to foresee
{
    static const uint8_t program[] = {0, 3, 1, 5, 2, 0, 4, 3, 1, 2, 5, 6};
    uint64_t a = 1, b = 1;
    unsigned at = 0;
    for (long k = 0; k < n; k++) {
        switch (program[at]) {
        case 0:
            a += b;
            break;
        case 1:
            b ^= a >> 3;
            break;
        case 2:
            a = a * 5 + 1;
            break;
        case 3:
            b += 7;
            break;
        case 4:
            at += b & 1;
            break;
        case 5:
            a ^= b << 1;
            break;
        default:
            at = (unsigned)(a % 3);
            continue;
        }
        at++;
    }
    return a ^ b;
}

// --- integer and memory

static int ascending(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static uint64_t sort(long n)
{
    enum { COUNT = 20000 };
    static uint32_t v[COUNT];
    uint64_t x = 1, sum = 0;
    while (n--) {
        for (unsigned k = 0; k < COUNT; k++)
            v[k] = (uint32_t)next(&x);
        qsort(v, COUNT, sizeof *v, ascending);
        sum = sum * 31 + v[COUNT / 3];
    }
    return sum;
}

static uint64_t primes(long n)
{
    enum { COUNT = 100000 };
    static uint8_t sieve[COUNT];
    uint64_t found = 0;
    while (n--) {
        memset(sieve, 1, sizeof sieve);
        for (unsigned k = 2; k < COUNT; k++) {
            found += sieve[k];
            for (unsigned j = 2 * k; sieve[k] && j < COUNT; j += k)
                sieve[j] = 0;
        }
    }
    return found;
}

static uint64_t text(long n)
{
    static char buffer[8 * KIB];
    uint64_t sum = 0;
    while (n--) {
        char *p = buffer;
        for (unsigned k = 0; k < 200; k++)
            p += sprintf(p, "%u:%x,", k * 7919, k);
        for (char *word = buffer; *word; word = strchr(word, ',') + 1)
            sum += strtoul(word, NULL, 10) + strlen(word);
    }
    return sum;
}

// --- memory

static uint64_t chase(long n, size_t bytes)
{
    static void **ring;
    static size_t made;
    if (made != bytes) {
        size_t count = bytes / 64;
        free(ring);
        ring = aligned_alloc(64, bytes);
        uint32_t *order = malloc(count * sizeof *order);
        uint64_t x = 5;
        for (size_t k = 0; k < count; k++)
            order[k] = (uint32_t)k;
        for (size_t k = count - 1; k; k--) {
            size_t j = next(&x) % (k + 1);
            uint32_t t = order[k];
            order[k] = order[j];
            order[j] = t;
        }
        for (size_t k = 0; k < count; k++)
            ring[order[k] * 8] = &ring[order[(k + 1) % count] * 8];
        free(order);
        made = bytes;
    }
    void **p = ring;
    while (n--)
        p = *p;
    return (uint64_t)(p - ring);
}

static uint64_t chase_16k(long n)
{
    return chase(n, 16 * KIB);
}

static uint64_t chase_32m(long n)
{
    return chase(n, 32 * MIB);
}

static uint64_t copy(long n, size_t bytes)
{
    static uint8_t *a, *b;
    if (!a) {
        a = aligned_alloc(4096, MIB);
        b = aligned_alloc(4096, MIB);
        memset(a, 7, MIB);
        memset(b, 8, MIB);
    }
    while (n--) {
        memcpy(b, a, bytes);
        a[n & 1023]++;
    }
    return b[5];
}

static uint64_t copy_4k(long n)
{
    return copy(n, 4 * KIB);
}

static uint64_t copy_1m(long n)
{
    return copy(n, MIB);
}

static uint64_t atomics(long n)
{
    static _Atomic uint64_t v;
    uint64_t sum = 0;
    while (n--)
        sum += __atomic_fetch_add((uint64_t *)&v, 3, __ATOMIC_SEQ_CST) & 1;
    return sum;
}

// --- floating point

static uint64_t bits(double d)
{
    uint64_t v;
    memcpy(&v, &d, sizeof v);
    return v;
}

static uint64_t scalar(long n)
{
    double x = 0.5, y = 0.25;
    while (n--) {
        x = x * 1.0000001 + y * y;
        y = (x - y) / (1.5 + x * x);
    }
    return bits(x + y);
}

static uint64_t vectors(long n)
{
    __m128d a = _mm_set_pd(1.5, 2.5), b = _mm_set_pd(0.25, 0.75), c = _mm_setzero_pd();
    while (n--) {
        c = _mm_add_pd(_mm_mul_pd(a, b), c);
        a = _mm_sub_pd(_mm_sqrt_pd(_mm_add_pd(c, b)), a);
    }
    double out[2];
    _mm_storeu_pd(out, c);
    return bits(out[0] + out[1]);
}

static __attribute__((target("avx2"))) uint64_t wide(long n)
{
    __m256i a = _mm256_set1_epi32(12345), b = _mm256_setr_epi32(1, 2, 3, 4, 5, 6, 7, 8), s = _mm256_setzero_si256();
    while (n--) {
        s = _mm256_add_epi32(s, _mm256_mullo_epi32(a, b));
        a = _mm256_xor_si256(_mm256_slli_epi32(s, 3), _mm256_shuffle_epi32(a, 0x39));
        b = _mm256_max_epi32(b, _mm256_srai_epi32(a, 9));
    }
    uint32_t out[8], sum = 0;
    _mm256_storeu_si256((__m256i *)out, s);
    for (unsigned k = 0; k < 8; k++)
        sum = sum * 31 + out[k];
    return sum;
}

static uint64_t extended(long n)
{
    long double x = 0.1L, y = 3.0L;
    while (n--) {
        x = x * y - (x + 0.001L);
        y = 3.0L - x * 0.125L;
    }
    return bits((double)x);
}

// --- the system

static uint64_t system_call(long n)
{
    while (n--)
        syscall(SYS_getppid);
    return 0;
}

static uint64_t read_file(long n)
{
    static char b[4 * KIB];
    int fd = memfd_create("bench", 0);
    if (fd < 0 || write(fd, b, sizeof b) != sizeof b)
        exit(1);
    while (n--)
        if (pread(fd, b, sizeof b, 0) != sizeof b)
            exit(1);
    close(fd);
    return 0;
}

static uint64_t faults(long n)
{
    enum { PAGES = 256 };
    while (n > 0) {
        char *p = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        for (unsigned k = 0; k < PAGES; k++)
            p[k * 4096] = 1;
        munmap(p, PAGES * 4096);
        n -= PAGES;
    }
    return 0;
}

static uint64_t forks(long n)
{
    while (n--) {
        pid_t pid = fork();
        if (!pid)
            _exit(0);
        waitpid(pid, NULL, 0);
    }
    return 0;
}

static uint64_t pipes(long n)
{
    int to[2], from[2];
    char c = 0;
    if (pipe(to) || pipe(from))
        exit(1);
    pid_t pid = fork();
    if (!pid) {
        close(to[1]);
        while (read(to[0], &c, 1) == 1 && write(from[1], &c, 1) == 1)
            ;
        _exit(0);
    }
    while (n--)
        if (write(to[1], &c, 1) != 1 || read(from[0], &c, 1) != 1)
            exit(1);
    close(to[1]);
    waitpid(pid, NULL, 0);
    close(to[0]);
    close(from[0]);
    close(from[1]);
    return 0;
}

static void on_signal(int number)
{
    (void)number;
}

static uint64_t signals(long n)
{
    signal(SIGUSR1, on_signal);
    while (n--)
        raise(SIGUSR1);
    return 0;
}

static const struct row {
    const char *name, *class;
    uint64_t (*run)(long n);
    long units;
} rows[] = {
    {"mix", "integer", mix, 8000000},
    {"calls", "integer", calls, 4000},
    {"pointers", "integer", pointers, 4000000},
    {"machine", "integer", machine, 6000000},
    {"sort", "integer", sort, 12},
    {"primes", "integer", primes, 100},
    {"text", "integer", text, 1000},
    {"chase 16K", "memory", chase_16k, 20000000},
    {"chase 32M", "memory", chase_32m, 300000},
    {"copy 4K", "memory", copy_4k, 500000},
    {"copy 1M", "memory", copy_1m, 400},
    {"atomics", "atomic", atomics, 3000000},
    {"scalar", "float", scalar, 4000000},
    {"vectors", "float", vectors, 2000000},
    {"wide", "float", wide, 8000000},
    {"extended", "float", extended, 4000000},
    {"system call", "system", system_call, 100000},
    {"read 4K", "system", read_file, 40000},
    {"page fault", "system", faults, 10240},
    {"fork", "system", forks, 100},
    {"pipe", "system", pipes, 3000},
    {"signal", "system", signals, 10000},
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

int main(int argc, char **argv)
{
    for (unsigned k = 0; k < sizeof rows / sizeof *rows; k++) {
        const struct row *r = &rows[k];
        bool wanted = argc < 2;
        for (int a = 1; a < argc; a++)
            wanted |= !strcmp(argv[a], r->name);
        if (!wanted || (r->run == wide && !__builtin_cpu_supports("avx2")))
            continue;
        double best = 0;
        uint64_t check = 0;
        for (unsigned n = 0; n < RUNS; n++) {
            double begin = now();
            uint64_t result = r->run(r->units);
            double took = now() - begin;
            best = n && best < took ? best : took;
            check ^= result + n;
        }
        bool comparable = r->class[0] == 'i' || r->class[0] == 'f';
        printf("row|%s|%s|%.2f|%llx\n", r->name, r->class, best / (double)r->units,
               comparable ? (unsigned long long)check : 0);
        fflush(stdout);
    }
    return 0;
}
