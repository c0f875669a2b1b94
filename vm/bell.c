// Doorbells: see bell.h. The thread comes with the first of them, so that a machine without drivers has none.
#include "vm/bell.h"
#include "engine/engine.h"
#include "host/bells.h"
#include "vm/vm.h"
#include <inttypes.h>

static void on_ring(void *ctx)
{
    struct vm_bell *b = ctx;
    b->rung(b->dev, b->arg);
}

static int make(struct vm *vm, struct vm_bell *b, struct error *err)
{
    vm_lock(&vm->bells_lock);
    int e = vm->bells ? 0 : bells_create(&vm->bells, "bells", err);
    vm_unlock(&vm->bells_lock);
    return e ? e : bells_add(vm->bells, on_ring, b, err);
}

void vm_bell_hang(struct vm_bell *b, const struct vm_bell_at *at, struct device *dev,
                  void (*rung)(struct device *dev, unsigned arg), unsigned arg)
{
    struct vm *vm = dev->vm;
    struct error err = {""};
    if (!vm->with_bells || !vm->engine_ops->bell)
        return;
    if (b->hung && b->at.gpa == at->gpa && b->at.size == at->size && b->at.value == at->value)
        return;
    vm_bell_take_down(b);
    if (b->fd <= 0) {
        *b = (struct vm_bell){.dev = dev, .rung = rung, .arg = arg};
        b->fd = make(vm, b, &err);
    }
    int e = b->fd <= 0 ? b->fd : vm->engine_ops->bell(vm->engine, at->gpa, at->size, at->value, b->fd, true);
    b->at = *at;
    b->hung = !e;
    if (e) // the way without it is open
        log_warn(vm->log, "%s: no doorbell at 0x%" PRIx64 ": %s", dev->name, at->gpa, err.text);
}

void vm_bell_take_down(struct vm_bell *b)
{
    if (!b->hung)
        return;
    struct vm *vm = b->dev->vm;
    b->hung = false;
    vm->engine_ops->bell(vm->engine, b->at.gpa, b->at.size, b->at.value, b->fd, false);
}
