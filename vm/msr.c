// MSRs that belong to devices: the local APICs', the paravirtual clock's. Those of the CPU itself never get here (see
// cpu/msr.h). The list is fixed once vCPUs run, so looking at it needs no lock.
#include "vm/vm.h"
#include <errno.h>
#include <stddef.h>

int vm_msr_add(struct vm *vm, uint32_t first, uint32_t last, struct device *dev)
{
    for (unsigned i = 0; i < vm->msrs; i++)
        if (first <= vm->msr[i].last && last >= vm->msr[i].first)
            return -EEXIST;
    if (last < first)
        return -EINVAL;
    if (vm->msrs == VM_MSR_RANGES)
        return -ENOSPC;
    vm->msr[vm->msrs++] = (struct vm_msr_range){.first = first, .last = last, .dev = dev};
    return 0;
}

static struct device *owner(const struct vm *vm, uint32_t msr)
{
    for (unsigned i = 0; i < vm->msrs; i++)
        if (msr >= vm->msr[i].first && msr <= vm->msr[i].last)
            return vm->msr[i].dev;
    return NULL;
}

int vm_msr_read(struct vm *vm, unsigned cpu, uint32_t msr, uint64_t *val)
{
    struct device *d = owner(vm, msr);
    if (!d || !d->ops->msr_read)
        return -1;
    if (!d->ops->unlocked)
        vm_lock(&d->lock);
    int e = d->ops->msr_read(d, cpu, msr, val);
    if (!d->ops->unlocked)
        vm_unlock(&d->lock);
    return e < 0 ? -1 : 0;
}

int vm_msr_write(struct vm *vm, unsigned cpu, uint32_t msr, uint64_t val)
{
    struct device *d = owner(vm, msr);
    if (!d || !d->ops->msr_write)
        return -1;
    if (!d->ops->unlocked)
        vm_lock(&d->lock);
    int e = d->ops->msr_write(d, cpu, msr, val);
    if (!d->ops->unlocked)
        vm_unlock(&d->lock);
    return e < 0 ? -1 : 0;
}
