// Guest-physical memory as KVM's slots. (What was written to it: dirty.c.)
//
// A mapping is one slot. Unmapping part of a mapping removes its slot and makes new ones for what remains: for that
// moment a vCPU that runs finds nothing there, and exits with an MMIO access to what is memory before and after. Such
// an access is done here (kvm_memory_read, kvm_memory_write) instead of going up to the devices.
//
// Source: api.rst [4.35] KVM_SET_USER_MEMORY_REGION.
#include "engine/kvm/kvm.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

// Tells the kernel what the slot is now.
int kvm_slot_commit(struct kvm_vm *vm, const struct kvm_slot *s, uint64_t size)
{
    struct kvm_userspace_memory_region r = {
        .slot = (uint32_t)(s - vm->slot),
        .flags = (s->readonly ? KVM_MEM_READONLY : 0) | (s->dirty ? KVM_MEM_LOG_DIRTY_PAGES : 0),
        .guest_phys_addr = s->gpa,
        .memory_size = size,
        .userspace_addr = (uint64_t)(uintptr_t)s->host,
    };
    return ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &r) < 0 ? -errno : 0;
}

static void drop(struct kvm_slot *s)
{
    free(s->dirty);
    *s = (struct kvm_slot){0};
}

static int add(struct kvm_vm *vm, uint64_t gpa, uint64_t size, uint8_t *host, bool readonly)
{
    struct kvm_slot *s = vm->slot;
    while (s < vm->slot + KVM_SLOTS && s->size)
        s++;
    if (s == vm->slot + KVM_SLOTS)
        return -ENOSPC;
    *s = (struct kvm_slot){.gpa = gpa, .size = size, .host = host, .readonly = readonly};
    if (vm->logging && !(s->dirty = calloc(1, kvm_bitmap_bytes(size)))) {
        drop(s);
        return -ENOMEM;
    }
    int e = kvm_slot_commit(vm, s, size);
    if (e)
        drop(s);
    return e;
}

static bool overlap(const struct kvm_slot *s, uint64_t gpa, uint64_t size)
{
    return s->size && gpa < s->gpa + s->size && s->gpa < gpa + size;
}

int kvm_map(struct engine_vm *e, uint64_t gpa, uint64_t size, void *host, unsigned flags, struct error *err)
{
    struct kvm_vm *vm = KVM_VM(e);
    pthread_mutex_lock(&vm->lock);
    int r = 0;
    for (unsigned n = 0; n < KVM_SLOTS && !r; n++)
        if (overlap(&vm->slot[n], gpa, size))
            r = -EEXIST;
    if (!r)
        r = add(vm, gpa, size, host, flags & ENGINE_MAP_READONLY);
    pthread_mutex_unlock(&vm->lock);
    return r ? error_set(err, -r, "guest memory 0x%" PRIx64 "+0x%" PRIx64 ": KVM: %s", gpa, size, strerror(-r)) : 0;
}

// Takes [gpa, gpa + size) out of a slot that overlaps it.
static int cut(struct kvm_vm *vm, struct kvm_slot *s, uint64_t gpa, uint64_t size)
{
    struct kvm_slot was = *s;
    kvm_log_collect(vm); // what is in the rings is of the slots as they were
    uint64_t end = was.gpa + was.size, cut_end = gpa + size;
    int e = kvm_slot_commit(vm, s, 0);
    if (e)
        return e;
    drop(s);
    if (was.gpa < gpa)
        e = add(vm, was.gpa, gpa - was.gpa, was.host, was.readonly);
    if (!e && end > cut_end)
        e = add(vm, cut_end, end - cut_end, was.host + (cut_end - was.gpa), was.readonly);
    return e;
}

int kvm_unmap(struct engine_vm *e, uint64_t gpa, uint64_t size, struct error *err)
{
    struct kvm_vm *vm = KVM_VM(e);
    int r = 0;
    pthread_mutex_lock(&vm->lock);
    for (unsigned n = 0; n < KVM_SLOTS && !r; n++)
        if (overlap(&vm->slot[n], gpa, size))
            r = cut(vm, &vm->slot[n], gpa, size);
    pthread_mutex_unlock(&vm->lock);
    return r ? error_set(err, -r, "guest memory 0x%" PRIx64 "+0x%" PRIx64 ": KVM: %s", gpa, size, strerror(-r)) : 0;
}

void kvm_memory_destroy(struct kvm_vm *vm)
{
    for (unsigned n = 0; n < KVM_SLOTS; n++)
        drop(&vm->slot[n]);
}

// --- access

// The slot that holds all of the range, or NULL. The lock is held.
struct kvm_slot *kvm_slot_find(struct kvm_vm *vm, uint64_t gpa, uint64_t size)
{
    for (struct kvm_slot *s = vm->slot; s < vm->slot + KVM_SLOTS; s++)
        if (s->size && gpa >= s->gpa && gpa - s->gpa < s->size && size <= s->size - (gpa - s->gpa))
            return s;
    return NULL;
}

bool kvm_memory_read(struct kvm_vm *vm, uint64_t gpa, void *buf, unsigned size)
{
    pthread_mutex_lock(&vm->lock);
    const struct kvm_slot *s = kvm_slot_find(vm, gpa, size);
    if (s)
        memcpy(buf, s->host + (gpa - s->gpa), size);
    pthread_mutex_unlock(&vm->lock);
    return s;
}

bool kvm_memory_write(struct kvm_vm *vm, uint64_t gpa, const void *buf, unsigned size)
{
    pthread_mutex_lock(&vm->lock);
    struct kvm_slot *s = kvm_slot_find(vm, gpa, size);
    bool good = s && !s->readonly;
    if (good) {
        memcpy(s->host + (gpa - s->gpa), buf, size);
        kvm_slot_note(s, gpa, size);
    }
    pthread_mutex_unlock(&vm->lock);
    return good;
}
