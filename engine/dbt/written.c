// See written.h.
#include "engine/dbt/written.h"
#include "engine/dbt/cache.h"
#include "engine/interp/shared.h"

static void lock(struct dbt_vcpu *v)
{
    while (__atomic_exchange_n(&v->written.lock, 1, __ATOMIC_ACQUIRE))
        __builtin_ia32_pause();
}

static void unlock(struct dbt_vcpu *v)
{
    __atomic_store_n(&v->written.lock, 0, __ATOMIC_RELEASE);
}

static void post(struct dbt_vcpu *v, uint64_t gpa, unsigned size)
{
    lock(v);
    if (v->written.count < DBT_WRITTEN) {
        v->written.gpa[v->written.count] = gpa;
        v->written.size[v->written.count] = size;
    }
    if (v->written.count <= DBT_WRITTEN)
        __atomic_store_n(&v->written.count, v->written.count + 1, __ATOMIC_RELAXED);
    unlock(v);
    v->i.vm->mirror->prod(&v->i);
}

void dbt_code_written(struct interp_vm *vm, struct interp_vcpu *i, uint64_t gpa, unsigned size, bool all)
{
    if (all) {
        gpa &= ~(uint64_t)(PAGE_SIZE - 1);
        size = PAGE_SIZE;
    }
    if (i)
        dbt_invalidate((struct dbt_vcpu *)i, gpa, size);
    for (unsigned n = 0; n < vm->vcpus; n++)
        if (vm->vcpu[n] != i)
            post((struct dbt_vcpu *)vm->vcpu[n], gpa, size);
}

void dbt_take_written(struct dbt_vcpu *v)
{
    uint64_t gpa[DBT_WRITTEN];
    uint32_t size[DBT_WRITTEN];
    lock(v);
    unsigned count = v->written.count;
    memcpy(gpa, v->written.gpa, sizeof gpa);
    memcpy(size, v->written.size, sizeof size);
    v->written.count = 0;
    unlock(v);
    if (count > DBT_WRITTEN) {
        dbt_cache_flush(v);
        return;
    }
    for (unsigned n = 0; n < count; n++)
        dbt_invalidate(v, gpa[n], size[n]);
}
