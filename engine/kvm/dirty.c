// The dirty log: which pages were written.
//
// KVM tells of its vCPUs' writes in one of two ways. With rings, each vCPU has a list of pages that it has written;
// whoever reads it gives the entries back, and a vCPU whose ring is full comes out for that. Without, KVM has one
// bitmap per slot, which it hands over whole and clears. Rings are taken where there are any: what they cost goes by
// what was written, not by how much memory there is.
//
// Whoever asks may ask for less than a slot, and devices write guest memory too, past KVM. So each slot has a bitmap
// here as well, into which the kernel's is merged, or what is in the rings, and devices' writes are noted.
//
// A processor may keep what it has written in a buffer of its own until its vCPU comes out (Intel's PML). With rings
// such pages are told late: all of them are certain only once the vCPUs stand still.
//
// Source: api.rst [4.8] KVM_GET_DIRTY_LOG, [8.29] KVM_CAP_DIRTY_LOG_RING.
#include "engine/kvm/kvm.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

size_t kvm_bitmap_bytes(uint64_t size)
{
    return (size / KVM_PAGE + 63) / 64 * 8;
}

void kvm_slot_note(struct kvm_slot *s, uint64_t gpa, uint64_t size)
{
    if (!s->dirty || !size)
        return;
    uint64_t last = (gpa + size - 1 - s->gpa) / KVM_PAGE;
    for (uint64_t n = (gpa - s->gpa) / KVM_PAGE; n <= last; n++)
        s->dirty[n / 64] |= 1ull << n % 64;
}

void kvm_invalidate(struct engine_vm *e, uint64_t gpa, uint64_t size)
{
    struct kvm_vm *vm = KVM_VM(e);
    if (!atomic_load_explicit(&vm->logging, memory_order_acquire))
        return; // KVM sees the memory itself, there is nothing to drop
    pthread_mutex_lock(&vm->lock);
    struct kvm_slot *s = kvm_slot_find(vm, gpa, size);
    if (s)
        kvm_slot_note(s, gpa, size);
    pthread_mutex_unlock(&vm->lock);
}

// --- rings

void kvm_rings_prepare(struct kvm_vm *vm, unsigned entries)
{
    struct kvm_enable_cap rings = {.cap = KVM_CAP_DIRTY_LOG_RING, .args = {entries * sizeof(struct kvm_dirty_gfn)}};
    if (ioctl(vm->fd, KVM_CHECK_EXTENSION, rings.cap) >= (int)rings.args[0] &&
        ioctl(vm->fd, KVM_ENABLE_CAP, &rings) == 0)
        vm->ring_entries = entries;
}

int kvm_ring_map(struct kvm_vcpu *v, struct error *err)
{
    struct kvm_vm *vm = v->vm;
    if (!vm->ring_entries)
        return 0;
    void *ring = mmap(NULL, vm->ring_entries * sizeof *v->ring, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd,
                      (off_t)KVM_DIRTY_LOG_PAGE_OFFSET * KVM_PAGE);
    if (ring == MAP_FAILED)
        return error_set(err, errno, "vCPU %u: KVM's dirty ring: %s", v->base.id, strerror(errno));
    pthread_mutex_lock(&vm->lock);
    v->ring = ring;
    v->next = vm->vcpus;
    vm->vcpus = v;
    pthread_mutex_unlock(&vm->lock);
    return 0;
}

void kvm_ring_unmap(struct kvm_vcpu *v)
{
    struct kvm_vm *vm = v->vm;
    if (!v->ring)
        return;
    pthread_mutex_lock(&vm->lock);
    for (struct kvm_vcpu **at = &vm->vcpus; *at; at = &(*at)->next)
        if (*at == v) {
            *at = v->next;
            break;
        }
    pthread_mutex_unlock(&vm->lock);
    munmap(v->ring, vm->ring_entries * sizeof *v->ring);
}

// The kernel fills in an entry and then sets its flag; we take it and then set the other one (x86 keeps the order of
// loads and of stores, the compiler is told to).
static unsigned read_ring(struct kvm_vm *vm, struct kvm_vcpu *v)
{
    unsigned count = 0;
    for (; count < vm->ring_entries; count++, v->ring_at++) {
        struct kvm_dirty_gfn *e = &v->ring[v->ring_at % vm->ring_entries];
        if (!(__atomic_load_n(&e->flags, __ATOMIC_ACQUIRE) & KVM_DIRTY_GFN_F_DIRTY))
            break;
        unsigned number = e->slot & 0xffff;
        struct kvm_slot *s = number < KVM_SLOTS ? &vm->slot[number] : NULL;
        if (s && s->dirty && e->offset < s->size / KVM_PAGE)
            s->dirty[e->offset / 64] |= 1ull << e->offset % 64;
        __atomic_store_n(&e->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
    }
    return count;
}

void kvm_log_collect(struct kvm_vm *vm)
{
    unsigned count = 0;
    for (struct kvm_vcpu *v = vm->vcpus; v; v = v->next)
        count += read_ring(vm, v);
    if (count)
        ioctl(vm->fd, KVM_RESET_DIRTY_RINGS, 0); // from here on they are told again
}

void kvm_ring_full(struct kvm_vcpu *v)
{
    pthread_mutex_lock(&v->vm->lock);
    kvm_log_collect(v->vm);
    pthread_mutex_unlock(&v->vm->lock);
}

// --- the log

static void log_end(struct kvm_vm *vm)
{
    vm->logging = false;
    for (struct kvm_slot *s = vm->slot; s < vm->slot + KVM_SLOTS; s++) {
        if (!s->dirty)
            continue;
        free(s->dirty);
        s->dirty = NULL;
        kvm_slot_commit(vm, s, s->size);
    }
    kvm_log_collect(vm); // nobody wants them
}

int kvm_log_start(struct engine_vm *e, struct error *err)
{
    struct kvm_vm *vm = KVM_VM(e);
    int r = 0;
    pthread_mutex_lock(&vm->lock);
    vm->logging = true; // first: what a device writes from here on is noted
    for (struct kvm_slot *s = vm->slot; s < vm->slot + KVM_SLOTS && !r; s++) {
        if (!s->size || s->dirty)
            continue;
        s->dirty = calloc(1, kvm_bitmap_bytes(s->size));
        r = s->dirty ? kvm_slot_commit(vm, s, s->size) : -ENOMEM;
    }
    if (r)
        log_end(vm);
    pthread_mutex_unlock(&vm->lock);
    return r ? error_set(err, -r, "dirty log: KVM: %s", strerror(-r)) : 0;
}

void kvm_log_stop(struct engine_vm *e)
{
    struct kvm_vm *vm = KVM_VM(e);
    pthread_mutex_lock(&vm->lock);
    log_end(vm);
    pthread_mutex_unlock(&vm->lock);
}

// What vCPUs have written goes from the kernel's bitmap into ours.
static int merge(struct kvm_vm *vm, struct kvm_slot *s)
{
    uint64_t *fresh = calloc(1, kvm_bitmap_bytes(s->size));
    if (!fresh)
        return -ENOMEM;
    struct kvm_dirty_log log = {.slot = (uint32_t)(s - vm->slot), .dirty_bitmap = fresh};
    int e = ioctl(vm->fd, KVM_GET_DIRTY_LOG, &log) < 0 ? -errno : 0;
    for (size_t n = 0; !e && n < kvm_bitmap_bytes(s->size) / 8; n++)
        s->dirty[n] |= fresh[n];
    free(fresh);
    return e;
}

// Moves `pages` bits that begin at bit `first` of the slot's.
static void take_bits(struct kvm_slot *s, uint64_t first, uint64_t pages, uint64_t *bitmap)
{
    for (uint64_t n = 0; n < pages;) {
        uint64_t p = first + n, bits = 64 - p % 64;
        if (n % 64 == 0)
            bitmap[n / 64] = 0;
        if (bits > 64 - n % 64)
            bits = 64 - n % 64;
        if (bits > pages - n)
            bits = pages - n;
        uint64_t mask = (bits == 64 ? ~0ull : (1ull << bits) - 1) << p % 64;
        bitmap[n / 64] |= (s->dirty[p / 64] & mask) >> p % 64 << n % 64;
        s->dirty[p / 64] &= ~mask;
        n += bits;
    }
}

int kvm_log_fetch(struct engine_vm *e, uint64_t gpa, uint64_t size, uint64_t *bitmap)
{
    struct kvm_vm *vm = KVM_VM(e);
    int r = 0;
    pthread_mutex_lock(&vm->lock);
    struct kvm_slot *s = kvm_slot_find(vm, gpa, size);
    if (!s || !s->dirty)
        r = -EINVAL;
    else if (vm->ring_entries)
        kvm_log_collect(vm);
    else
        r = merge(vm, s);
    if (!r)
        take_bits(s, (gpa - s->gpa) / KVM_PAGE, size / KVM_PAGE, bitmap);
    pthread_mutex_unlock(&vm->lock);
    return r;
}
