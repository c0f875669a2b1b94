// The keyboard controller (IBM PS/2 technical reference, keyboard and auxiliary device controller).
//
// Answers of the controller and of the keyboard wait in one short queue, oldest first; while it isn't empty, status bit
// 0 is set, and IRQ 1 is up if the command byte enables it. A full queue drops what comes: the guest did not listen.
//
// Example: the keyboard's reset, 0xff to port 0x60, is answered 0xfa (acknowledged), 0xaa (self-test passed).
#include "chip/i8042.h"
#include "vm/alloc.h"
#include <errno.h>

enum { REGION_DATA, REGION_STATUS, REGION_PORT_92 };

enum { STATUS_OUTPUT_FULL = 1, STATUS_SYSTEM = 4, STATUS_COMMAND = 8, STATUS_UNLOCKED = 0x10 };
enum { CTR_KEYBOARD_IRQ = 1, CTR_SYSTEM = 4, CTR_KEYBOARD_OFF = 0x10, CTR_MOUSE_OFF = 0x20 };
enum { OUT_RESET = 1, OUT_A20 = 2 };
enum { ACK = 0xfa, RESEND = 0xfe };

static void update(struct i8042 *k)
{
    irq_set(&k->irq, k->queue_count && (k->command & CTR_KEYBOARD_IRQ));
}

static void answer(struct i8042 *k, uint8_t byte)
{
    if (k->queue_count < I8042_QUEUE)
        k->queue[(k->queue_start + k->queue_count++) % I8042_QUEUE] = byte;
}

static void set_outport(struct i8042 *k, uint8_t val)
{
    k->outport = val | OUT_RESET;
    if (!(val & OUT_RESET)) // the line is active low
        vm_request_reset(k->dev.vm);
}

static void controller_command(struct i8042 *k, uint8_t cmd)
{
    k->expects = 0;
    switch (cmd) {
    case 0x20:
        answer(k, k->command);
        break;
    case 0x60: // write the command byte
    case 0xd1: // write the output port
    case 0xd2: // as if the keyboard had sent it
    case 0xd3: // as if the mouse had sent it
    case 0xd4: // to the mouse
        k->expects = cmd;
        break;
    case 0xa7:
        k->command |= CTR_MOUSE_OFF;
        break;
    case 0xa8:
        k->command &= ~CTR_MOUSE_OFF;
        break;
    case 0xa9: // mouse port test: its clock line is stuck low
        answer(k, 0x01);
        break;
    case 0xaa:
        k->status |= STATUS_SYSTEM;
        answer(k, 0x55);
        break;
    case 0xab: // keyboard port test
        answer(k, 0x00);
        break;
    case 0xad:
        k->command |= CTR_KEYBOARD_OFF;
        break;
    case 0xae:
        k->command &= ~CTR_KEYBOARD_OFF;
        break;
    case 0xc0: // input port: keyboard not locked
        answer(k, 0x80);
        break;
    case 0xd0:
        answer(k, k->outport);
        break;
    case 0xf0 ... 0xff: // pulses the output port's lines whose bits are clear; only that of reset is wired
        if (!(cmd & OUT_RESET))
            vm_request_reset(k->dev.vm);
        break;
    }
}

static void controller_data(struct i8042 *k, uint8_t val)
{
    uint8_t cmd = k->expects;
    k->expects = 0;
    switch (cmd) {
    case 0x60:
        k->command = val & 0x7f;
        k->status = (k->status & ~STATUS_SYSTEM) | (val & CTR_SYSTEM);
        break;
    case 0xd1:
        set_outport(k, val);
        break;
    case 0xd2:
    case 0xd3: // comes back without the mouse's mark: this is how a driver sees that there is no mouse port
        answer(k, val);
        break;
    case 0xd4: // nobody there
        answer(k, RESEND);
        break;
    }
}

static void keyboard_defaults(struct i8042 *k)
{
    k->scan_set = 2;
    k->keyboard_expects = 0;
    k->scanning = 1;
}

static void send(struct i8042 *k, uint8_t byte)
{
    k->last = byte;
    answer(k, byte);
}

static void keyboard_argument(struct i8042 *k, uint8_t cmd, uint8_t val)
{
    send(k, ACK);
    if (cmd == 0xf0) {
        if (!val)
            send(k, k->scan_set);
        else if (val <= 3)
            k->scan_set = val;
    }
}

static void keyboard_write(struct i8042 *k, uint8_t val)
{
    uint8_t cmd = k->keyboard_expects;
    k->keyboard_expects = 0;
    if (cmd && val < 0xed) { // an argument; a command in its place is taken as one
        keyboard_argument(k, cmd, val);
        return;
    }
    switch (val) {
    case 0xed: // LEDs
    case 0xf0: // scan code set
    case 0xf3: // typematic rate
        k->keyboard_expects = val;
        send(k, ACK);
        break;
    case 0xee:
        send(k, 0xee);
        break;
    case 0xf2: // identify
        send(k, ACK);
        send(k, 0xab);
        send(k, 0x83);
        break;
    case 0xf4:
        k->scanning = 1;
        send(k, ACK);
        break;
    case 0xf5:
        keyboard_defaults(k);
        k->scanning = 0;
        send(k, ACK);
        break;
    case 0xf6:
        keyboard_defaults(k);
        send(k, ACK);
        break;
    case 0xfe:
        answer(k, k->last);
        break;
    case 0xff:
        keyboard_defaults(k);
        send(k, ACK);
        send(k, 0xaa);
        break;
    default:
        send(k, RESEND);
    }
}

static void i8042_write(struct device *d, struct bus_access a, uint64_t val)
{
    struct i8042 *k = (struct i8042 *)d;
    switch (a.region) {
    case REGION_PORT_92:
        set_outport(k, (k->outport & ~OUT_A20) | (val & OUT_A20));
        if (val & 1)
            vm_request_reset(d->vm);
        return;
    case REGION_STATUS:
        k->status |= STATUS_COMMAND;
        controller_command(k, val);
        break;
    case REGION_DATA:
        k->status &= ~STATUS_COMMAND;
        if (k->expects) {
            controller_data(k, val);
        } else {
            k->command &= ~CTR_KEYBOARD_OFF; // sending to the keyboard enables it
            keyboard_write(k, val);
        }
        break;
    }
    update(k);
}

static uint64_t i8042_read(struct device *d, struct bus_access a)
{
    struct i8042 *k = (struct i8042 *)d;
    if (a.region == REGION_PORT_92)
        return k->outport & OUT_A20;
    if (a.region == REGION_STATUS)
        return k->status | STATUS_UNLOCKED | (k->queue_count ? STATUS_OUTPUT_FULL : 0);
    if (!k->queue_count)
        return k->queue[(k->queue_start + I8042_QUEUE - 1) % I8042_QUEUE]; // the last byte again
    uint8_t v = k->queue[k->queue_start];
    k->queue_start = (k->queue_start + 1) % I8042_QUEUE;
    k->queue_count--;
    irq_set(&k->irq, false); // each byte is an edge
    update(k);
    return v;
}

static void i8042_reset(struct device *d)
{
    struct i8042 *k = (struct i8042 *)d;
    // As firmware leaves it: self-test done, keyboard on, A20 open.
    k->command = CTR_SYSTEM | CTR_MOUSE_OFF | 0x40;
    k->status = STATUS_SYSTEM;
    k->outport = OUT_RESET | OUT_A20;
    k->expects = k->last = 0;
    k->queue_start = k->queue_count = 0;
    keyboard_defaults(k);
    update(k);
}

static int i8042_loaded(struct device *d)
{
    struct i8042 *k = (struct i8042 *)d;
    if (k->queue_start >= I8042_QUEUE || k->queue_count > I8042_QUEUE)
        return -EINVAL;
    k->status &= STATUS_SYSTEM | STATUS_COMMAND;
    update(k);
    return 0;
}

static void i8042_destroy(struct device *d)
{
    vm_free(d);
}

static const struct state_field fields[] = {
    STATE_U8(struct i8042, command, 1),          STATE_U8(struct i8042, status, 1),
    STATE_U8(struct i8042, outport, 1),          STATE_U8(struct i8042, expects, 1),
    STATE_U8(struct i8042, keyboard_expects, 1), STATE_U8(struct i8042, scan_set, 1),
    STATE_U8(struct i8042, scanning, 1),         STATE_U8(struct i8042, last, 1),
    STATE_BYTES(struct i8042, queue, 1),         STATE_U8(struct i8042, queue_start, 1),
    STATE_U8(struct i8042, queue_count, 1),      STATE_END,
};

static const struct state_table state = {"i8042", 1, fields};

static const struct device_ops ops = {
    .name = "i8042",
    .reset = i8042_reset,
    .read = i8042_read,
    .write = i8042_write,
    .state = &state,
    .loaded = i8042_loaded,
    .destroy = i8042_destroy,
};

int i8042_create(struct vm *vm, unsigned gsi, struct i8042 **out, struct error *err)
{
    struct i8042 *k = vm_alloc(sizeof *k);
    if (!k)
        return error_set(err, ENOMEM, "i8042: out of memory");
    device_add(vm, &k->dev, &ops, "i8042");
    irq_line_init(&k->irq, vm, gsi);
    i8042_reset(&k->dev);
    *out = k;
    static const struct {
        uint16_t port;
        uint8_t region;
    } ports[] = {{0x60, REGION_DATA}, {0x64, REGION_STATUS}, {0x92, REGION_PORT_92}};
    for (unsigned i = 0; i < sizeof ports / sizeof ports[0]; i++) {
        int r = bus_add(&vm->ports,
                        &(struct bus_range){.base = ports[i].port,
                                            .size = 1,
                                            .dev = &k->dev,
                                            .region = ports[i].region,
                                            .min_size = 1,
                                            .max_size = 1},
                        err);
        if (r)
            return r;
    }
    return 0;
}
