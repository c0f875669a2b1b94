// The generation of a virtual machine: see generation.h.
#include "chip/generation.h"
#include "vm/alloc.h"
#include <errno.h>
#include <string.h>

void generation_publish(struct generation *g)
{
    vm_lock(&g->dev.lock);
    vm_write(g->dev.vm, g->address, g->id, sizeof g->id);
    vm_unlock(&g->dev.lock);
}

void generation_renew(struct generation *g)
{
    vm_lock(&g->dev.lock);
    vm_random(g->id, sizeof g->id);
    vm_write(g->dev.vm, g->address, g->id, sizeof g->id);
    irq_pulse(&g->irq);
    vm_unlock(&g->dev.lock);
}

static void destroy(struct device *d)
{
    vm_free(d);
}

static const struct state_field fields[] = {STATE_BYTES(struct generation, id, 1), STATE_END};

static const struct state_table state = {"generation", 1, fields};

// A reset keeps them: it is still the same machine.
static const struct device_ops ops = {.name = "generation", .state = &state, .destroy = destroy};

int generation_create(struct vm *vm, unsigned gsi, uint64_t address, struct generation **out, struct error *err)
{
    struct generation *g = vm_alloc(sizeof *g);
    if (!g)
        return error_set(err, ENOMEM, "generation: out of memory");
    device_add(vm, &g->dev, &ops, "generation");
    irq_line_init(&g->irq, vm, gsi);
    g->address = address;
    vm_random(g->id, sizeof g->id);
    *out = g;
    return 0;
}
