// The guest's time stamp counter under KVM: the host's, scaled by hardware if need be, plus an offset per vCPU.
//
// The owner's clock is the truth (struct engine_vm_config, tsc_offset): it stands still while the machine is paused, so
// the offset is looked at whenever a vCPU goes in, and told to the kernel when it has changed, plus TSC_ADJUST. It
// changes only while all vCPUs are out.
//
// Where the owner's clock is something else (a virtual clock in tests, a host whose TSC is measured anew), the offset
// is made from what the clock shows now, once for all vCPUs, and again when the two have drifted apart by more than a
// millisecond: the same number on all vCPUs matters more than the last microsecond, since guests compare them.
//
// Source: Documentation/virt/kvm/devices/vcpu.rst, KVM_VCPU_TSC_CTRL; api.rst [4.55], [4.56].
#include "engine/kvm/kvm.h"
#include <errno.h>
#include <string.h>

// (Before Linux 5.18 only vCPUs could be asked.)
uint32_t kvm_tsc_khz(struct engine_host *e)
{
    int khz = ioctl(KVM_HOST(e)->vm, KVM_GET_TSC_KHZ, 0);
    return khz > 0 ? (uint32_t)khz : 0;
}

static int offset_attribute(struct kvm_vcpu *v, unsigned long request, uint64_t *offset)
{
    struct kvm_device_attr a = {
        .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uint64_t)(uintptr_t)offset};
    return ioctl(v->fd, request, &a);
}

int kvm_clock_prepare(struct kvm_vcpu *v, struct error *err)
{
    const struct engine_vm_config *config = &v->base.vm->config;
    int64_t wanted = config->model->config.tsc_khz, khz = ioctl(v->fd, KVM_GET_TSC_KHZ, 0);
    int64_t off = khz > wanted ? khz - wanted : wanted - khz;
    // Closer than 250 ppm the kernel takes it as the same.
    bool same = !wanted || khz <= 0 || off * 4000 <= wanted;
    bool can = ioctl(v->vm->fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_CONTROL) > 0;
    if (!same && (!can || ioctl(v->fd, KVM_SET_TSC_KHZ, (unsigned long)wanted) < 0) && config->tsc_offset)
        return error_set(err, ENOTSUP, "vCPU %u: the host's TSC runs at %d kHz and its CPU cannot scale it to %u kHz",
                         v->base.id, (int)khz, (unsigned)wanted);
    if (offset_attribute(v, KVM_GET_DEVICE_ATTR, &v->tsc_offset) < 0)
        return error_set(err, errno, "vCPU %u: KVM: TSC offset: %s", v->base.id, strerror(errno));
    return 0;
}

// The offset for a clock that is not the host's TSC.
static uint64_t made_up(struct kvm_vcpu *v)
{
    const uint64_t slack = v->base.vm->config.model->config.tsc_khz; // a millisecond
    _Atomic uint64_t *shared = &v->vm->tsc_offset;
    uint64_t guest = kvm_msr_read_kernel(v, MSR_TSC);
    uint64_t now = KVM_UP(v)->tsc(v->base.owner) - (guest - v->tsc_offset), old = *shared;
    if (old && now - old + slack <= 2 * slack)
        return old;
    now += !now; // zero: none yet
    return atomic_compare_exchange_strong(shared, &old, now) ? now : old;
}

void kvm_clock_sync(struct kvm_vcpu *v)
{
    const _Atomic uint64_t *clock = v->base.vm->config.tsc_offset;
    uint64_t offset = (clock ? *clock : made_up(v)) + v->s.msr.tsc_adjust;
    if (offset == v->tsc_offset)
        return;
    if (offset_attribute(v, KVM_SET_DEVICE_ATTR, &offset) == 0)
        v->tsc_offset = offset;
}
