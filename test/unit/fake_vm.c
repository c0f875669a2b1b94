// A virtual machine for unit tests: see fake_vm.h.
//
// The engine's calls know only the engine VM; it lies in struct fake_engine_vm beside a pointer to the fake VM, which
// vm_create finds from the model that it was given.
#include "fake_vm.h"
#include "engine/engine.h"
#include "unit.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { GUARD = 4096 };

struct fake_engine_vm {
    struct engine_vm base;
    struct fake_vm *fake;
};

static int create_vm(const struct engine_vm_config *config, struct engine_vm **out, struct error *err);

static void destroy_vm(struct engine_vm *vm)
{
    free(vm);
}

static int map(struct engine_vm *vm, uint64_t gpa, uint64_t size, void *host, unsigned flags, struct error *err)
{
    (void)vm, (void)gpa, (void)size, (void)host, (void)flags, (void)err;
    return 0;
}

static int unmap(struct engine_vm *vm, uint64_t gpa, uint64_t size, struct error *err)
{
    (void)vm, (void)gpa, (void)size, (void)err;
    return 0;
}

static void invalidate(struct engine_vm *vm, uint64_t gpa, uint64_t size)
{
    struct fake_vm *f = ((struct fake_engine_vm *)vm)->fake;
    if (f->writes < FAKE_VM_RECORDS) {
        f->written[f->writes].gpa = gpa;
        f->written[f->writes].size = size;
    }
    f->writes++;
}

struct fake_engine_vcpu {
    struct engine_vcpu base;
    struct cpu_state state;
};

static int create_vcpu(struct engine_vm *vm, unsigned id, void *owner, struct engine_vcpu **out, struct error *err)
{
    size_t size = (sizeof(struct fake_engine_vcpu) + 63) & ~(size_t)63;
    struct fake_engine_vcpu *v = aligned_alloc(64, size);
    if (!v)
        return error_set(err, ENOMEM, "no memory");
    memset(v, 0, size);
    v->base.vm = vm;
    v->base.owner = owner;
    v->base.id = id;
    cpu_reset(&v->state, id == 0);
    *out = &v->base;
    return 0;
}

static void destroy_vcpu(struct engine_vcpu *v)
{
    free(v);
}

static int set_state(struct engine_vcpu *v, const struct cpu_state *s, unsigned groups, struct error *err)
{
    (void)groups, (void)err;
    ((struct fake_engine_vcpu *)v)->state = *s;
    return 0;
}

static void get_state(struct engine_vcpu *v, struct cpu_state *s, unsigned groups)
{
    (void)groups;
    *s = ((struct fake_engine_vcpu *)v)->state;
}

static int bell(struct engine_vm *vm, uint64_t gpa, unsigned size, uint32_t value, int fd, bool on)
{
    struct fake_vm *f = ((struct fake_engine_vm *)vm)->fake;
    for (unsigned n = 0; n < FAKE_VM_BELLS; n++) {
        struct fake_vm_bell *b = &f->bell[n];
        if (on ? !b->fd : b->gpa == gpa && b->size == size && b->value == value && b->fd == fd) {
            *b = on ? (struct fake_vm_bell){gpa, size, value, fd} : (struct fake_vm_bell){0};
            return 0;
        }
    }
    return on ? -ENOSPC : -ENOENT;
}

// --- local APICs of the engine's own

static struct fake_vm *of_vcpu(struct engine_vcpu *v)
{
    return ((struct fake_engine_vm *)v->vm)->fake;
}

static void get_apic(struct engine_vcpu *v, struct cpu_apic *a)
{
    of_vcpu(v)->apic_gets++;
    *a = of_vcpu(v)->apic[v->id];
}

static int set_apic(struct engine_vcpu *v, const struct cpu_apic *a, struct error *err)
{
    (void)err;
    of_vcpu(v)->apic[v->id] = *a;
    return 0;
}

static uint64_t *apic_msr(struct engine_vcpu *v, uint32_t msr)
{
    return msr == 0x4b564d03 ? &of_vcpu(v)->steal_msr[v->id] : &of_vcpu(v)->apic_msr[v->id];
}

static uint64_t get_apic_msr(struct engine_vcpu *v, uint32_t msr)
{
    return *apic_msr(v, msr);
}

static int set_apic_msr(struct engine_vcpu *v, uint32_t msr, uint64_t val)
{
    *apic_msr(v, msr) = val;
    return 0;
}

static void send(struct engine_vm *vm, const struct cpu_msi *m)
{
    struct fake_vm *f = ((struct fake_engine_vm *)vm)->fake;
    f->engine_msi = *m;
    f->engine_msis++;
}

static int set_routes(struct engine_vm *vm, const struct cpu_msi *m, unsigned count)
{
    struct fake_vm *f = ((struct fake_engine_vm *)vm)->fake;
    f->routings++;
    f->routes = count;
    memcpy(f->route, m, count * sizeof *m);
    return 0;
}

static const struct engine_apic_ops fake_apic = {.get = get_apic,
                                                 .set = set_apic,
                                                 .get_msr = get_apic_msr,
                                                 .set_msr = set_apic_msr,
                                                 .send = send,
                                                 .routes = set_routes};

void fake_vm_own_apic(struct fake_vm *f)
{
    f->vm.engine->own_apic = true;
    struct cpuid_regs *r = (struct cpuid_regs *)&f->model.leaf[f->model.count].r;
    f->model.leaf[f->model.count++] = (struct cpuid_leaf){.leaf = CPU_LEAF_PARAVIRT, .subleaf = CPUID_ANY};
    r->eax = 1u << CPU_PV_EOI | 1u << CPU_PV_STEAL_TIME;
}

static const struct engine_ops fake_engine = {
    .name = "fake",
    .apic = &fake_apic,
    .bell = bell,
    .vm_create = create_vm,
    .vm_destroy = destroy_vm,
    .map = map,
    .unmap = unmap,
    .invalidate = invalidate,
    .vcpu_create = create_vcpu,
    .vcpu_destroy = destroy_vcpu,
    .set_state = set_state,
    .get_state = get_state,
};

static int create_vm(const struct engine_vm_config *config, struct engine_vm **out, struct error *err)
{
    struct fake_engine_vm *vm = calloc(1, sizeof *vm);
    if (!vm)
        return error_set(err, ENOMEM, "no memory");
    vm->base.ops = &fake_engine;
    vm->base.config = *config;
    vm->fake = (struct fake_vm *)((char *)config->model - offsetof(struct fake_vm, model));
    *out = &vm->base;
    return 0;
}

static void on_line(void *ctx, unsigned gsi, bool level)
{
    struct fake_vm *f = ctx;
    f->line[gsi] = level;
    (level ? f->rises : f->falls)[gsi]++;
}

static void on_msi(void *ctx, uint64_t address, uint32_t data)
{
    struct fake_vm *f = ctx;
    if (f->msis < FAKE_VM_RECORDS) {
        f->msi[f->msis].address = address;
        f->msi[f->msis].data = data;
    }
    f->msis++;
}

static void on_log(void *ctx, const char *line)
{
    struct fake_vm *f = ctx;
    f->log_lines++;
    snprintf(f->last_log, sizeof f->last_log, "%s", line);
}

void fake_vm_init_bare(struct fake_vm *f, unsigned cpus)
{
    memset(f, 0, sizeof *f);
    f->log = (struct log){.level = LOG_WARN, .sink = on_log, .ctx = f, .guest_budget = 1000};
    snprintf(f->model.name, sizeof f->model.name, "fake");
    f->model.phys_bits = 40;
    f->model.config = (struct cpu_config){.cpus = cpus, .tsc_khz = 1000000};
    struct error err;
    if (vm_init(&f->vm, &(struct vm_config){.log = &f->log, .engine = &fake_engine, .model = &f->model}, &err) < 0 ||
        vm_add_cpus(&f->vm, cpus, &err) < 0)
        fail_msg("%s", err.text);
    f->vm.no_reboot = true;
    f->vm.irq.to = (struct irq_controllers){.ctx = f, .line = on_line, .msi = on_msi};
}

void fake_vm_init(struct fake_vm *f, unsigned cpus)
{
    struct error err;
    fake_vm_init_bare(f, cpus);
    // Pages come into being as they are touched, so a VM costs little; what lies on either side faults.
    void *map = mmap(NULL, FAKE_VM_RAM + 2 * GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(map != MAP_FAILED);
    f->ram = (uint8_t *)map + GUARD;
    assert_int_equal(mprotect(f->ram, FAKE_VM_RAM, PROT_READ | PROT_WRITE), 0);
    if (vm_memory_add(&f->vm, 0, FAKE_VM_RAM, f->ram, false, &err) < 0)
        fail_msg("%s", err.text);
}

void fake_vm_destroy(struct fake_vm *f)
{
    vm_destroy(&f->vm);
    if (f->ram)
        munmap(f->ram - GUARD, FAKE_VM_RAM + 2 * GUARD);
    f->ram = NULL;
}

void fake_vm_reset(struct fake_vm *f)
{
    device_drain_all(&f->vm);
    device_reset_all(&f->vm);
}

uint64_t fake_vm_in(struct fake_vm *f, uint16_t port, unsigned size)
{
    return bus_read(&f->vm.ports, 0, port, size);
}

void fake_vm_out(struct fake_vm *f, uint16_t port, unsigned size, uint64_t val)
{
    bus_write(&f->vm.ports, 0, port, size, val);
}

uint64_t fake_vm_read(struct fake_vm *f, uint64_t gpa, unsigned size)
{
    return bus_read(&f->vm.mmio, 0, gpa, size);
}

void fake_vm_write(struct fake_vm *f, uint64_t gpa, unsigned size, uint64_t val)
{
    bus_write(&f->vm.mmio, 0, gpa, size, val);
}

void fake_vm_advance(struct fake_vm *f, uint64_t ns)
{
    vm_clock_advance(&f->vm, ns);
}

unsigned fake_vm_signals(struct fake_vm *f, unsigned cpu)
{
    return atomic_exchange(&vm_engine_vcpu(&f->vm, cpu)->pending, 0);
}

uint8_t fake_vm_sipi_vector(struct fake_vm *f, unsigned cpu)
{
    return vm_engine_vcpu(&f->vm, cpu)->sipi_vector;
}

int fake_vm_copy_state(struct device *from, struct device *to)
{
    struct state_buffer b = {0};
    struct error err = {.text = ""};
    if (state_save(&b, from->ops->state, from, &err) < 0)
        fail_msg("%s", err.text);
    int e = state_load(&b, to->ops->state, to, &err);
    if (e < 0)
        fail_msg("%s", err.text);
    assert_int_equal(b.at, b.size);
    state_free(&b);
    return to->ops->loaded ? to->ops->loaded(to) : 0;
}
