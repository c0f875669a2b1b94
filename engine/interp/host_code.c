// Executable memory for stubs. No page is ever writable and executable at the same address: the memory is one file in
// RAM, mapped twice, once to be written and once to be executed.
#include "engine/interp/host.h"
#include <cpuid.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int host_code_create(struct host_code *c, size_t size, struct error *err)
{
    memset(c, 0, sizeof *c);
    int fd = memfd_create("trapeze-stubs", MFD_CLOEXEC);
    if (fd < 0)
        return error_set(err, errno, "memory for stubs: %s", strerror(errno));
    int code = 0;
    if (ftruncate(fd, (off_t)size))
        code = errno;
    void *w = code ? MAP_FAILED : mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    void *x = w == MAP_FAILED ? MAP_FAILED : mmap(NULL, size, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    if (x == MAP_FAILED && !code)
        code = errno;
    close(fd);
    if (code) {
        if (w != MAP_FAILED)
            munmap(w, size);
        return error_set(err, code, "executable memory: %s", strerror(code));
    }
    c->write = w;
    c->exec = x;
    c->size = size;
    return 0;
}

void host_code_destroy(struct host_code *c)
{
    if (!c->size)
        return;
    munmap(c->write, c->size);
    munmap(c->exec, c->size);
    memset(c, 0, sizeof *c);
}

void *host_code_put(struct host_code *c, const void *code, size_t len, void *at)
{
    size_t where = at ? (size_t)((uint8_t *)at - c->exec) : c->used;
    if (len > c->size || where > c->size - len)
        return NULL;
    memcpy(c->write + where, code, len);
    if (!at)
        c->used = (where + len + 15) & ~(size_t)15;
    // Code that was written at another linear address than it is executed at wants a serializing instruction
    // (Intel SDM vol. 3, 8.1.3).
    unsigned a, b, cx, d;
    __cpuid(0, a, b, cx, d);
    (void)(a + b + cx + d);
    return c->exec + where;
}
