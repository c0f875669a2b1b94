// The debug ports: see debug.h. They have no state.
//
// Example: a panic handler that must work before any driver does prints to port 0xe9.
#include "chip/debug.h"
#include "vm/alloc.h"
#include <errno.h>

struct debug_console {
    struct device dev;
    struct stream *stream;
};

static void exit_write(struct device *d, struct bus_access a, uint64_t val)
{
    (void)a;
    vm_debug_exit(d->vm, (int)((uint32_t)val << 1 | 1));
}

static uint64_t exit_read(struct device *d, struct bus_access a)
{
    (void)d;
    (void)a;
    return 0;
}

static void console_write(struct device *d, struct bus_access a, uint64_t val)
{
    struct debug_console *c = (struct debug_console *)d;
    (void)a;
    uint8_t byte = val;
    c->stream->ops->write(c->stream, &byte, 1);
}

static uint64_t console_read(struct device *d, struct bus_access a)
{
    (void)d;
    (void)a;
    return 0xe9;
}

static void destroy(struct device *d)
{
    vm_free(d);
}

static const struct device_ops exit_ops = {
    .name = "debug_exit", .read = exit_read, .write = exit_write, .destroy = destroy};

static const struct device_ops console_ops = {
    .name = "debug_console", .read = console_read, .write = console_write, .destroy = destroy};

int debug_exit_create(struct vm *vm, struct error *err)
{
    struct device *d = vm_alloc(sizeof *d);
    if (!d)
        return error_set(err, ENOMEM, "debug-exit port: out of memory");
    device_add(vm, d, &exit_ops, "debug_exit");
    return bus_add(&vm->ports, &(struct bus_range){.base = 0xf4, .size = 4, .dev = d, .min_size = 1, .max_size = 4},
                   err);
}

int debug_console_create(struct vm *vm, struct stream *stream, struct error *err)
{
    struct debug_console *c = vm_alloc(sizeof *c);
    if (!c)
        return error_set(err, ENOMEM, "debug console: out of memory");
    c->stream = stream;
    device_add(vm, &c->dev, &console_ops, "debug_console");
    return bus_add(&vm->ports,
                   &(struct bus_range){.base = 0xe9, .size = 1, .dev = &c->dev, .min_size = 1, .max_size = 1}, err);
}
