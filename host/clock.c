// The host's clocks: see clock.h.
//
// How the TSC's frequency is learnt, best first. A guest is told this frequency once and trusts it for ever, so an
// error of e ppm makes the guest's clock run e ppm wrong against the host's, until its NTP notices.
//   1. The kernel's own calibration, from the page that perf_event_open maps: ns = cycles * time_mult >> time_shift.
//   This
//      is the factor that CLOCK_MONOTONIC_RAW itself is made with, so there is no drift against it but rounding (below
//      0.3 ppm). Missing where perf is forbidden or the kernel runs on a paravirtual clock.
//   2. CPUID 0x40000010, EAX in kHz, under a hypervisor that has the leaf; CPUID 0x15 where it gives the crystal's
//      frequency. Exact by definition, but both have been wrong on some machines.
//   3. Measured against CLOCK_MONOTONIC_RAW over 20 ms. Each end is the best of some readings of the clock bracketed by
//      two readings of the TSC; a bracket is about 50 cycles wide, so the ends are known to some 10 ns and the result
//      to about 1 ppm at worst.
// What is told (1, 2, or the caller's hint) must agree with a quick measurement of half a millisecond within 250 ppm,
// or it is not believed. 250 ppm is more than the quick measurement's error and less than what NTP can slew.
#include "host/clock.h"
#include "host/cpuid.h"
#include <fcntl.h>
#include <linux/perf_event.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

enum { QUICK_NS = 500000, FULL_NS = 20000000, READINGS = 24 };

static uint64_t read_ns(clockid_t id)
{
    struct timespec ts;
    clock_gettime(id, &ts);
    return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

uint64_t host_monotonic_ns(void)
{
    return read_ns(CLOCK_MONOTONIC);
}

void host_wall(int64_t *seconds, uint32_t *nanoseconds)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    *seconds = ts.tv_sec;
    *nanoseconds = (uint32_t)ts.tv_nsec;
}

uint64_t host_counter_read(const struct host_counter *c)
{
    if (!c->is_tsc)
        return host_monotonic_ns();
    // The fence keeps the reading behind earlier loads, so that time read after a message is never before the time that
    // its sender read (Intel SDM vol. 2, RDTSC).
    __asm__ volatile("lfence" ::: "memory");
    return __rdtsc();
}

// Is "tsc" among the clock sources that the kernel would use? It takes it off the list when it finds it unstable.
static int kernel_trusts_tsc(void)
{
    char list[256];
    int fd = open("/sys/devices/system/clocksource/clocksource0/available_clocksource", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 1; // cannot ask: the CPUID bit has to do
    ssize_t n = read(fd, list, sizeof list - 1);
    close(fd);
    list[n > 0 ? n : 0] = 0;
    char *save;
    for (char *word = strtok_r(list, " \n", &save); word; word = strtok_r(NULL, " \n", &save))
        if (!strcmp(word, "tsc"))
            return 1;
    return 0;
}

// The CPU says so (invariant TSC). Or it is the only CPU of a virtual machine that does not say: then there is no other
// that it could be out of step with, and what would change its rate, power management, is not the guest's.
static int keeps_its_rate(void)
{
    if (host_cpuid(0x80000000, 0).eax >= 0x80000007 && host_cpuid(0x80000007, 0).edx & 1u << 8)
        return 1;
    return host_cpuid(1, 0).ecx & 1u << 31 && sysconf(_SC_NPROCESSORS_CONF) == 1;
}

struct host_instant host_instant_now(void)
{
    struct host_instant best = {0};
    uint64_t width = UINT64_MAX;
    for (int i = 0; i < READINGS; i++) {
        uint64_t before = __rdtsc();
        uint64_t ns = read_ns(CLOCK_MONOTONIC_RAW);
        uint64_t after = __rdtsc();
        if (after - before < width) {
            width = after - before;
            best = (struct host_instant){before + width / 2, ns};
        }
    }
    return best;
}

// Over at least `ns`, of which some may have passed since the moment `a`.
static uint64_t measure_khz(struct host_instant a, uint64_t ns)
{
    uint64_t gone = read_ns(CLOCK_MONOTONIC_RAW) - a.ns;
    struct timespec ts = {.tv_nsec = gone < ns ? (long)(ns - gone) : 0};
    if (ts.tv_nsec)
        nanosleep(&ts, NULL);
    struct host_instant b = host_instant_now();
    uint64_t elapsed = b.ns - a.ns;
    return elapsed ? ((unsigned __int128)(b.tsc - a.tsc) * 1000000 + elapsed / 2) / elapsed : 0;
}

static uint64_t perf_khz(void)
{
    struct perf_event_attr attr = {
        .type = PERF_TYPE_SOFTWARE,
        .size = sizeof attr,
        .config = PERF_COUNT_SW_DUMMY,
        .exclude_kernel = 1,
        .exclude_hv = 1,
    };
    int fd = (int)syscall(SYS_perf_event_open, &attr, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
    if (fd < 0)
        return 0;
    uint64_t khz = 0;
    void *map = mmap(NULL, (size_t)sysconf(_SC_PAGESIZE), PROT_READ, MAP_SHARED, fd, 0);
    if (map != MAP_FAILED) {
        const volatile struct perf_event_mmap_page *p = map;
        if (p->cap_user_time && p->time_mult)
            khz = (((unsigned __int128)1000000 << p->time_shift) + p->time_mult / 2) / p->time_mult;
        munmap(map, (size_t)sysconf(_SC_PAGESIZE));
    }
    close(fd);
    return khz;
}

static uint64_t cpuid_khz(const char **source)
{
    if (host_cpuid(1, 0).ecx & 1u << 31 && host_cpuid(0x40000000, 0).eax >= 0x40000010) {
        uint32_t khz = host_cpuid(0x40000010, 0).eax;
        if (khz) {
            *source = "CPUID 0x40000010";
            return khz;
        }
    }
    if (host_cpuid(0, 0).eax >= 0x15) { // TSC = crystal Hz (ECX) * EBX / EAX (Intel SDM vol. 2, CPUID)
        struct cpuid_regs r = host_cpuid(0x15, 0);
        if (r.eax && r.ebx && r.ecx) {
            *source = "CPUID 0x15";
            return (uint64_t)r.ecx * r.ebx / r.eax / 1000;
        }
    }
    return 0;
}

static int agree(uint64_t a, uint64_t b)
{
    uint64_t difference = a > b ? a - b : b - a;
    return difference * 1000000 <= b * 250;
}

void host_counter_find(struct host_counter *c, uint32_t hint_khz, const struct host_instant *since)
{
    *c = (struct host_counter){.khz = 1000000, .source = "CLOCK_MONOTONIC"};
    if (!keeps_its_rate() || !kernel_trusts_tsc())
        return;
    const char *source = "an earlier look";
    uint64_t khz = hint_khz;
    if (!khz) {
        source = "the kernel";
        khz = perf_khz();
    }
    if (!khz)
        khz = cpuid_khz(&source);
    if (!khz || !agree(measure_khz(since ? *since : host_instant_now(), QUICK_NS), khz)) {
        source = "measurement";
        khz = measure_khz(host_instant_now(), FULL_NS);
    }
    if (khz < 1000 || khz > UINT32_MAX)
        return;
    *c = (struct host_counter){.khz = (uint32_t)khz, .is_tsc = 1, .source = source};
}
