// See process.h.
#include "host/process.h"
#include <dirent.h>
#include <stdio.h>
#include <sys/resource.h>
#include <time.h>

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec t;
    return clock_gettime(clock, &t) ? 0 : (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

// Of the children that one thread has made.
static uint64_t children_ns(const char *thread)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/task/%.16s/children", thread);
    FILE *f = fopen(path, "re");
    uint64_t ns = 0;
    int pid;
    while (f && fscanf(f, "%d", &pid) == 1) {
        clockid_t clock;
        if (clock_getcpuclockid(pid, &clock) == 0)
            ns += clock_ns(clock);
    }
    if (f)
        fclose(f);
    return ns;
}

uint64_t process_family_cpu_ns(void)
{
    struct rusage ended;
    uint64_t ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    if (getrusage(RUSAGE_CHILDREN, &ended) == 0)
        ns += ((uint64_t)ended.ru_utime.tv_sec + (uint64_t)ended.ru_stime.tv_sec) * 1000000000 +
              ((uint64_t)ended.ru_utime.tv_usec + (uint64_t)ended.ru_stime.tv_usec) * 1000;
    DIR *threads = opendir("/proc/self/task");
    if (!threads)
        return ns;
    for (struct dirent *e; (e = readdir(threads));)
        if (e->d_name[0] != '.')
            ns += children_ns(e->d_name);
    closedir(threads);
    return ns;
}
