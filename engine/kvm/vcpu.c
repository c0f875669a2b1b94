// A vCPU of KVM's: its file descriptor, the page it shares with us, and the state it starts with.
//
// RIP and the general registers are shared in that page at every exit (KVM_SYNC_X86_REGS), so that a trace or an error
// can say where the guest is without another system call.
#include "engine/kvm/kvm.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

void kvm_vcpu_destroy(struct engine_vcpu *e)
{
    struct kvm_vcpu *v = KVM_VCPU(e);
    kvm_ring_unmap(v);
    if (v->run)
        munmap(v->run, v->vm->run_size);
    if (v->fd >= 0)
        close(v->fd);
    free(v);
}

static int create(struct kvm_vcpu *v, struct error *err)
{
    v->fd = ioctl(v->vm->fd, KVM_CREATE_VCPU, (unsigned long)v->base.id);
    if (v->fd < 0)
        return error_set(err, errno, "vCPU %u: KVM: %s", v->base.id, strerror(errno));
    void *run = mmap(NULL, v->vm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
    if (run == MAP_FAILED)
        return error_set(err, errno, "vCPU %u: KVM's shared page: %s", v->base.id, strerror(errno));
    v->run = run;
    int e = kvm_ring_map(v, err);
    if (e)
        return e;
    v->run->kvm_valid_regs = KVM_SYNC_X86_REGS;
    // Hypercalls that the model's CPUID does not offer are refused.
    struct kvm_enable_cap enforce = {.cap = KVM_CAP_ENFORCE_PV_FEATURE_CPUID, .args = {1}};
    ioctl(v->fd, KVM_ENABLE_CAP, &enforce);
    e = kvm_cpuid_set(v, err);
    if (!e)
        e = kvm_clock_prepare(v, err);
    if (!e) {
        struct cpu_state *s = calloc(1, sizeof *s);
        if (!s)
            return error_set(err, ENOMEM, "vCPU %u: no memory", v->base.id);
        cpu_reset(s, v->base.id == 0);
        e = kvm_set_state(&v->base, s, CPU_GROUP_ALL, err);
        free(s);
    }
    return e;
}

int kvm_vcpu_create(struct engine_vm *e, unsigned id, void *owner, struct engine_vcpu **out, struct error *err)
{
    struct kvm_vcpu *v = aligned_alloc(64, (sizeof *v + 63) & ~(size_t)63);
    if (!v)
        return error_set(err, ENOMEM, "vCPU %u: no memory", id);
    memset(v, 0, sizeof *v);
    v->base = (struct engine_vcpu){.vm = e, .owner = owner, .id = id};
    v->vm = KVM_VM(e);
    v->fd = -1;
    int r = create(v, err);
    if (r) {
        kvm_vcpu_destroy(&v->base);
        return r;
    }
    *out = &v->base;
    return 0;
}
