// Guest memory: see memory.h.
//
// The address range is reserved first, larger than asked for, and the memory mapped into the middle of it at a multiple
// of 2 MiB. What is left over on both sides stays inaccessible, so that a stray access of ours next to guest memory
// faults instead of hitting something else. Pages come from the host when the guest touches them; a machine of 64 GiB
// starts as fast as one of 64 MiB. That is why it must be checked at the start whether the host could give that much:
// later the only answer would be the kernel's out-of-memory killer.
#include "host/memory.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define HUGE_PAGE (2ull << 20)

uint64_t host_memory_available(void)
{
    FILE *f = fopen("/proc/meminfo", "re");
    if (!f)
        return UINT64_MAX;
    char line[128];
    uint64_t kib, available = UINT64_MAX, swap = 0;
    while (fgets(line, sizeof line, f)) {
        if (sscanf(line, "MemAvailable: %" SCNu64, &kib) == 1)
            available = kib << 10;
        else if (sscanf(line, "SwapFree: %" SCNu64, &kib) == 1)
            swap = kib << 10;
    }
    fclose(f);
    return available == UINT64_MAX ? UINT64_MAX : available + swap;
}

static int open_shared(const char *name, uint64_t size, struct error *err)
{
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return error_set(err, errno, "guest memory: memfd: %s", strerror(errno));
    // Whoever gets the descriptor cannot cut the memory off under the guest.
    if (ftruncate(fd, (off_t)size) < 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
        int e = error_set(err, errno, "guest memory: %" PRIu64 " MiB: %s", size >> 20, strerror(errno));
        close(fd);
        return e;
    }
    return fd;
}

// Maps fd (-1: no file) into a reserved range; on failure nothing is left and fd is still the caller's.
static int map_reserved(struct host_ram *m, int fd, uint64_t size, bool shared, struct error *err)
{
    size_t reserved = size + 2 * HUGE_PAGE;
    uint8_t *start = mmap(NULL, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    void *p = MAP_FAILED;
    if (start != MAP_FAILED) {
        uint8_t *base = (uint8_t *)(((uintptr_t)start + HUGE_PAGE) & ~(uintptr_t)(HUGE_PAGE - 1));
        int flags = MAP_FIXED | MAP_NORESERVE | (shared ? MAP_SHARED : MAP_PRIVATE) | (fd < 0 ? MAP_ANONYMOUS : 0);
        p = mmap(base, size, PROT_READ | PROT_WRITE, flags, fd, 0);
    }
    if (p == MAP_FAILED) {
        int e = error_set(err, errno, "guest memory: %" PRIu64 " MiB: %s", size >> 20, strerror(errno));
        if (start != MAP_FAILED)
            munmap(start, reserved);
        return e;
    }
    // Both are wishes: nothing depends on them.
    madvise(p, size, MADV_HUGEPAGE);
    madvise(p, size, MADV_DONTDUMP);
    *m = (struct host_ram){.base = p, .size = size, .fd = -1, .reserved = start, .reserved_size = reserved};
    return 0;
}

static int check_size(uint64_t size, struct error *err)
{
    if (!size || size % (uint64_t)sysconf(_SC_PAGESIZE) || size > INT64_MAX - 2 * HUGE_PAGE)
        return error_set(err, EINVAL, "guest memory: %" PRIu64 " bytes are not whole pages", size);
    return 0;
}

int host_ram_create(struct host_ram *m, const char *name, uint64_t size, bool shared, struct error *err)
{
    *m = (struct host_ram){.fd = -1};
    int e = check_size(size, err);
    if (e)
        return e;
    uint64_t available = host_memory_available();
    if (size > available)
        return error_set(err, ENOMEM,
                         "guest memory: %" PRIu64 " MiB wanted, but the host has only %" PRIu64 " MiB free", size >> 20,
                         available >> 20);
    int fd = shared ? open_shared(name, size, err) : -1;
    if (shared && fd < 0)
        return fd;
    e = map_reserved(m, fd, size, shared, err);
    if (!e)
        m->fd = fd;
    else if (fd >= 0)
        close(fd);
    return e;
}

int host_ram_map(struct host_ram *m, int fd, uint64_t size, struct error *err)
{
    struct stat st;
    *m = (struct host_ram){.fd = -1};
    int e = check_size(size, err);
    if (e)
        return e;
    // Pages beyond the file's end would kill us when they are touched.
    if (fstat(fd, &st) < 0 || (uint64_t)st.st_size != size)
        return error_set(err, EINVAL, "guest memory: the file that it begins as is not of %" PRIu64 " MiB", size >> 20);
    return map_reserved(m, fd, size, false, err);
}

uint64_t host_ram_resident(const struct host_ram *m)
{
    struct stat st;
    if (m->fd >= 0) // a file's blocks, in 512 bytes (stat(2))
        return fstat(m->fd, &st) ? 0 : (uint64_t)st.st_blocks * 512;
    enum { STEP = 4096 };
    static const uint64_t page = 4096;
    uint64_t bytes = 0;
    unsigned char in[STEP];
    for (uint64_t at = 0; at < m->size; at += STEP * page) {
        uint64_t size = m->size - at < STEP * page ? m->size - at : STEP * page;
        if (mincore(m->base + at, size, in))
            return 0;
        for (uint64_t n = 0; n < size / page; n++)
            bytes += in[n] & 1 ? page : 0;
    }
    return bytes;
}

void host_ram_destroy(struct host_ram *m)
{
    if (m->base)
        munmap(m->reserved, m->reserved_size);
    if (m->fd >= 0)
        close(m->fd);
    *m = (struct host_ram){.fd = -1};
}

int host_memory_discard(void *at, uint64_t size, bool zero)
{
    // madvise(2), MADV_REMOVE: the file's blocks go, as by fallocate's PUNCH_HOLE, but named by address. On private
    // mappings it fails, so that no file of others loses anything.
    if (!madvise(at, size, MADV_REMOVE) || (!zero && !madvise(at, size, MADV_DONTNEED)))
        return 0;
    return -errno;
}

void host_memory_populate(void *at, uint64_t size)
{
    enum { PAGE = 4096, WORTH = 64 << 10 };
    uintptr_t begin = ((uintptr_t)at + PAGE - 1) & ~(uintptr_t)(PAGE - 1),
              end = ((uintptr_t)at + size) & ~(uintptr_t)(PAGE - 1);
    if (size >= WORTH)
        madvise((void *)begin, end - begin, MADV_POPULATE_WRITE); // NOLINT: an address
}
