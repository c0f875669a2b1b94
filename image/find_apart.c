// Looking into an image in a process of its own: libext2fs trusts what it reads more than a stranger's image deserves.
//
// The child opens the disk, then gives up what it could do harm with: system calls but a few that read what is open and
// write into the files it was given, memory beyond DATA_MAX, processor time beyond CPU_MAX. Whatever becomes of it, the
// parent waits no longer than WALL_MAX, and believes nothing of the answer that it has not checked: the answer is a
// struct of fixed size, whose texts must end and be printable. Kernel and RAM disk are as hostile as any guest's.
#include "image/filesystem.h"
#include "image/find.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { DATA_MAX = 512 << 20, CPU_MAX = 60, WALL_MAX = 120 }; // bytes, seconds, seconds

struct answer {
    int result;
    struct error err;
    struct boot_found found;
};

// Address sanitizers need memory without end.
#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

// --- the child

// The last line is for threads that are only just beginning.
static const unsigned allowed[] = {SYS_read,
                                   SYS_pread64,
                                   SYS_preadv,
                                   SYS_write,
                                   SYS_lseek,
                                   SYS_mmap,
                                   SYS_munmap,
                                   SYS_brk,
                                   SYS_mremap,
                                   SYS_mprotect,
                                   SYS_madvise,
                                   SYS_futex,
                                   SYS_fstat,
                                   SYS_newfstatat,
                                   SYS_close,
                                   SYS_exit,
                                   SYS_exit_group,
                                   SYS_rt_sigreturn,
                                   SYS_clock_gettime,
                                   SYS_gettimeofday,
                                   SYS_getrandom,
                                   SYS_getpid,
                                   SYS_gettid,
                                   SYS_membarrier,
                                   SYS_sched_yield,
                                   SYS_sigaltstack,
                                   SYS_rseq,
                                   SYS_prctl,
                                   SYS_rt_sigprocmask,
                                   SYS_set_robust_list,
                                   SYS_sched_getaffinity};

static bool filter(void)
{
    enum { COUNT = sizeof allowed / sizeof *allowed };
    struct sock_filter f[COUNT + 6];
    unsigned n = 0;
    f[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
    f[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0);
    f[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    f[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (unsigned k = 0; k < COUNT; k++)
        f[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, allowed[k], (uint8_t)(COUNT - k), 0);
    f[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM); // C libraries take a no
    f[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    const struct sock_fprog program = {(unsigned short)n, f};
    // The threads that read the disk are there already: for them, too.
    return !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) &&
           !syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program);
}

static bool limit(int what, rlim_t most)
{
    const struct rlimit l = {most, most};
    return !setrlimit(what, &l);
}

static bool confine(void)
{
    return limit(RLIMIT_CORE, 0) && limit(RLIMIT_CPU, CPU_MAX) && limit(RLIMIT_FSIZE, BOOT_INITRD_MAX) &&
           (SANITIZED || limit(RLIMIT_DATA, DATA_MAX)) && filter();
}

static void child(const char *path, enum disk_format format, int to, const struct boot_found *files)
{
    struct answer *a = calloc(1, sizeof *a);
    struct reader r;
    if (!a)
        _exit(1);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    filesystem_load();
    a->result = reader_open(&r, path, format, &a->err);
    if (!a->result) {
        if (!confine())
            a->result =
                error_set(&a->err, errno, "disk %.150s: no safe process to look into it: %s", path, strerror(errno));
        else if ((a->result = find_boot_in(&r, files->kernel_fd, files->initrd_fd, &a->found, &a->err)))
            error_prefix(&a->err, "disk %.150s", path);
    }
    _exit(write(to, a, sizeof *a) == sizeof *a ? 0 : 1);
}

// --- the parent

static bool is_text(const char *s, size_t size)
{
    size_t n = strnlen(s, size);
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)s[i] < ' ' || s[i] == 0x7f)
            return false;
    return n < size;
}

static bool good(const struct answer *a)
{
    if (a->result)
        return a->result < 0 && a->result > -4096 && is_text(a->err.text, sizeof a->err.text);
    const struct boot_found *b = &a->found;
    static const char id[] = "0123456789abcdefABCDEF-UIDPRT=/vd"; // of UUID=, PARTUUID= and /dev/vda
    return is_text(b->kernel, sizeof b->kernel) && is_text(b->initrd, sizeof b->initrd) &&
           is_text(b->root, sizeof b->root) && b->root[0] && strspn(b->root, id) == strlen(b->root);
}

// Whether the whole answer came in time.
static bool await(int from, struct answer *a, bool *late)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    time_t end = now.tv_sec + WALL_MAX;
    size_t got = 0;
    *late = false;
    while (got < sizeof *a) {
        struct pollfd p = {from, POLLIN, 0};
        clock_gettime(CLOCK_MONOTONIC, &now);
        *late = now.tv_sec >= end;
        if (*late)
            return false;
        if (poll(&p, 1, 1000) <= 0)
            continue;
        ssize_t n = read(from, (char *)a + got, sizeof *a - got);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        got += (size_t)n;
    }
    return true;
}

static int ask(const char *path, enum disk_format format, const struct boot_found *files, struct answer *a,
               struct error *err)
{
    int pipes[2];
    if (pipe2(pipes, O_CLOEXEC))
        return error_set(err, errno, "disk %s: %s", path, strerror(errno));
    pid_t pid = fork();
    if (!pid)
        child(path, format, pipes[1], files);
    int e = errno, status = 0;
    close(pipes[1]);
    bool late = false, whole = pid > 0 && await(pipes[0], a, &late);
    close(pipes[0]);
    if (pid < 0)
        return error_set(err, e, "disk %s: no process to look into it: %s", path, strerror(e));
    if (!whole)
        kill(pid, SIGKILL);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (late)
        return error_set(err, ETIMEDOUT, "disk %s: its file systems can't be read within %d seconds", path, WALL_MAX);
    if (!whole || !good(a))
        return error_set(err, EIO, "disk %s: a file system in it is so damaged that reading it failed", path);
    if (a->result)
        *err = a->err;
    return a->result;
}

int find_boot(const char *path, enum disk_format format, struct boot_found *out, struct error *err)
{
    struct boot_found files = {.kernel_fd = memfd_create("kernel", MFD_CLOEXEC),
                               .initrd_fd = memfd_create("initrd", MFD_CLOEXEC)};
    struct answer *a = calloc(1, sizeof *a);
    int e = a && files.kernel_fd >= 0 && files.initrd_fd >= 0 ? 0 : -ENOMEM;
    e = e ? error_set(err, ENOMEM, "disk %s: no memory to look into it", path) : ask(path, format, &files, a, err);
    if (!e) {
        *out = a->found;
        out->kernel_fd = files.kernel_fd;
        out->initrd_fd = files.initrd_fd;
        if (!out->initrd[0]) {
            close(out->initrd_fd);
            out->initrd_fd = -1;
        }
    } else {
        boot_found_close(&files);
    }
    free(a);
    return e;
}

void boot_found_close(struct boot_found *b)
{
    if (b->kernel_fd >= 0)
        close(b->kernel_fd);
    if (b->initrd_fd >= 0)
        close(b->initrd_fd);
    b->kernel_fd = b->initrd_fd = -1;
}
