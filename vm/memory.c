// The guest-physical memory map: see memory.h.
//
// Regions are few (low RAM, high RAM, firmware) and sorted, the busiest first, so a look-up is a short scan. Nothing
// changes once vCPUs run, so nothing is locked.
#include "vm/memory.h"
#include "engine/engine.h"
#include "host/memory.h"
#include "vm/vm.h"
#include <errno.h>
#include <inttypes.h>
#include <string.h>

enum { PAGE = 4096 };

int vm_memory_add(struct vm *vm, uint64_t gpa, uint64_t size, void *host, bool readonly, struct error *err)
{
    struct vm_memory *m = &vm->memory;
    if (!size || (gpa | size | (uintptr_t)host) % PAGE || gpa + size < gpa)
        return error_set(err, EINVAL, "guest memory 0x%" PRIx64 "+0x%" PRIx64 ": not whole pages", gpa, size);
    if (m->count == VM_REGIONS)
        return error_set(err, ENOSPC, "guest memory 0x%" PRIx64 "+0x%" PRIx64 ": more than %d regions", gpa, size,
                         VM_REGIONS);
    unsigned at = 0;
    while (at < m->count && m->region[at].gpa < gpa)
        at++;
    if ((at < m->count && m->region[at].gpa < gpa + size) ||
        (at && m->region[at - 1].gpa + m->region[at - 1].size > gpa))
        return error_set(err, EEXIST, "guest memory 0x%" PRIx64 "+0x%" PRIx64 ": overlaps other memory", gpa, size);
    int e = vm->engine_ops->map(vm->engine, gpa, size, host, readonly ? ENGINE_MAP_READONLY : 0, err);
    if (e < 0)
        return e;
    memmove(&m->region[at + 1], &m->region[at], (m->count - at) * sizeof m->region[0]);
    m->region[at] = (struct vm_region){.gpa = gpa, .size = size, .host = host, .readonly = readonly};
    m->count++;
    return 0;
}

void *vm_ram_span(const struct vm *vm, uint64_t gpa, uint64_t size, bool write, uint64_t *len)
{
    const struct vm_memory *m = &vm->memory;
    for (unsigned i = 0; i < m->count; i++) {
        const struct vm_region *r = &m->region[i];
        uint64_t offset = gpa - r->gpa;
        if (gpa < r->gpa || offset >= r->size)
            continue;
        if (write && r->readonly)
            return NULL;
        *len = size < r->size - offset ? size : r->size - offset;
        return r->host + offset;
    }
    return NULL;
}

void *vm_ram(const struct vm *vm, uint64_t gpa, uint64_t size, bool write)
{
    uint64_t len;
    void *p = vm_ram_span(vm, gpa, size, write, &len);
    return p && len == size ? p : NULL;
}

void vm_ram_written(struct vm *vm, uint64_t gpa, uint64_t size)
{
    if (size && vm->engine_ops->invalidate)
        vm->engine_ops->invalidate(vm->engine, gpa, size);
}

uint64_t vm_ram_discard(struct vm *vm, uint64_t gpa, uint64_t size, bool zero)
{
    const struct vm_memory *m = &vm->memory;
    uint64_t end = gpa + size < gpa ? UINT64_MAX : gpa + size, done = 0;
    for (unsigned i = 0; i < m->count; i++) {
        const struct vm_region *r = &m->region[i];
        uint64_t from = gpa > r->gpa ? gpa : r->gpa, to = end < r->gpa + r->size ? end : r->gpa + r->size;
        if (r->readonly || from >= to)
            continue;
        from = (from + PAGE - 1) & ~(uint64_t)(PAGE - 1);
        to &= ~(uint64_t)(PAGE - 1);
        if (from >= to || host_memory_discard(r->host + (from - r->gpa), to - from, zero))
            continue;
        if (vm->engine_ops->discarded)
            vm->engine_ops->discarded(vm->engine, from, to - from);
        else
            vm_ram_written(vm, from, to - from);
        done += to - from;
    }
    return done;
}

uint64_t vm_ram_size(const struct vm *vm)
{
    uint64_t size = 0;
    for (unsigned i = 0; i < vm->memory.count; i++)
        size += vm->memory.region[i].readonly ? 0 : vm->memory.region[i].size;
    return size;
}

// Is all of [gpa, gpa+size) RAM, maybe in several regions?
static bool all_ram(const struct vm *vm, uint64_t gpa, uint64_t size, bool write)
{
    while (size) {
        uint64_t len;
        if (!vm_ram_span(vm, gpa, size, write, &len))
            return false;
        gpa += len;
        size -= len;
    }
    return true;
}

bool vm_read(const struct vm *vm, uint64_t gpa, void *buf, size_t size)
{
    if (!all_ram(vm, gpa, size, false))
        return false;
    uint8_t *to = buf;
    while (size) {
        uint64_t len;
        const void *from = vm_ram_span(vm, gpa, size, false, &len);
        memcpy(to, from, len);
        to += len;
        gpa += len;
        size -= len;
    }
    return true;
}

bool vm_write(struct vm *vm, uint64_t gpa, const void *buf, size_t size)
{
    if (!all_ram(vm, gpa, size, true))
        return false;
    const uint8_t *from = buf;
    while (size) {
        uint64_t len;
        void *to = vm_ram_span(vm, gpa, size, true, &len);
        host_memory_populate(to, len);
        memcpy(to, from, len);
        vm_ram_written(vm, gpa, len);
        from += len;
        gpa += len;
        size -= len;
    }
    return true;
}
