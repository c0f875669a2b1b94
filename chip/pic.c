// The 8259A pair (Intel 8259A data sheet; ELCR: Intel 82371 data sheets).
//
// Each chip has eight lines with three bits each: request (IRR), mask (IMR), in service (ISR). The output INT is up
// while an unmasked request has a higher priority than everything in service. The acknowledge cycle moves the request
// to ISR (unless in automatic EOI mode) and gives the vector. The slave's INT is the master's line 2.
//
// Priority goes round from `lowest`: with lowest = 7 line 0 is first; after "rotate on EOI of 3", lowest = 3 and line 4
// is first.
//
// Example: ICW1 0x11, ICW2 0x20, ICW3 0x04, ICW4 0x01 to the master; then line 1 gives vector 0x21.
#include "chip/pic.h"
#include "vm/alloc.h"
#include <errno.h>

enum { MASTER, SLAVE, CASCADE = 2 };

enum { ICW1_NEED_ICW4 = 1, ICW1_SINGLE = 2, ICW1 = 0x10 }; // bit 3, level-triggered, is ELCR's business
enum { ICW4_AUTO_EOI = 2, ICW4_SPECIAL_NESTED = 0x10 };
enum { OCW3 = 8 };

// Regions given to the bus.
enum { REGION_MASTER, REGION_SLAVE, REGION_ELCR };

// Rank of the highest-priority line in the set, 0 (first) to 7, or 8 if the set is empty.
static unsigned rank(const struct pic_chip *c, uint8_t set)
{
    for (unsigned r = 0; r < 8; r++)
        if (set >> ((c->lowest + 1 + r) & 7) & 1)
            return r;
    return 8;
}

static unsigned line_of(const struct pic_chip *c, unsigned rank)
{
    return (c->lowest + 1 + rank) & 7;
}

// The line that asks for service now, or -1.
static int asks(const struct pic_chip *c, bool master)
{
    uint8_t service = c->isr;
    if (c->special)
        service &= ~c->imr; // special mask mode: a masked line in service holds up nobody
    unsigned r = rank(c, c->irr & ~c->imr), busy = rank(c, service);
    if (c->step || r == 8)
        return -1;
    unsigned line = line_of(c, r);
    // Special fully nested mode: the slave may ask again while its line is in service.
    bool again = master && line == CASCADE && r == busy && (c->icw4 & ICW4_SPECIAL_NESTED);
    return r < busy || again ? (int)line : -1;
}

// An edge stays latched when the line falls before it is acknowledged. (The data sheet then has a "default IR7"; every
// PC model latches, and sources that pulse rely on it.)

static void set_line(struct pic_chip *c, unsigned line, bool level)
{
    uint8_t bit = 1 << line;
    if (c->elcr & bit)
        c->irr = level ? c->irr | bit : c->irr & ~bit;
    else if (level && !(c->lines & bit))
        c->irr |= bit;
    c->lines = level ? c->lines | bit : c->lines & ~bit;
}

static void cascade(struct pic *p)
{
    uint8_t bit = asks(&p->chip[SLAVE], false) >= 0 ? 1 << CASCADE : 0;
    p->chip[MASTER].irr = (p->chip[MASTER].irr & ~(1 << CASCADE)) | bit;
}

static void update(struct pic *p)
{
    cascade(p);
    bool output = asks(&p->chip[MASTER], true) >= 0;
    if (output != p->output) {
        p->output = output;
        p->intr(p->ctx, output);
    }
}

void pic_set(struct pic *p, unsigned line, bool level)
{
    if (line > 15 || line == CASCADE)
        return;
    vm_lock(&p->dev.lock);
    set_line(&p->chip[line >> 3], line & 7, level);
    update(p);
    vm_unlock(&p->dev.lock);
}

// The second INTA pulse.
static void take(struct pic_chip *c, unsigned line)
{
    uint8_t bit = 1 << line;
    if (!(c->elcr & bit))
        c->irr &= ~bit;
    if (!(c->icw4 & ICW4_AUTO_EOI))
        c->isr |= bit;
    else if (c->auto_rotate)
        c->lowest = line;
}

// Acknowledges on one chip and on the one behind it; returns the vector.
static int acknowledge(struct pic *p)
{
    struct pic_chip *m = &p->chip[MASTER], *s = &p->chip[SLAVE];
    int line = asks(m, true);
    if (line < 0)
        return -1;
    take(m, line);
    if (line != CASCADE)
        return m->icw2 + line;
    int behind = asks(s, false);
    if (behind < 0)
        return s->icw2 + 7; // cannot be, for the cascade line follows asks(); the chip's answer would be this
    take(s, behind);
    return s->icw2 + behind;
}

int pic_ack(struct pic *p)
{
    vm_lock(&p->dev.lock);
    int vector = acknowledge(p);
    update(p);
    vm_unlock(&p->dev.lock);
    if (vector >= 0)
        log_trace(p->dev.vm->log, TRACE_INTERRUPTS, "pic: vector 0x%02x acknowledged", vector);
    return vector;
}

static void initialize(struct pic_chip *c, uint8_t icw1)
{
    uint8_t lines = c->lines, elcr = c->elcr;
    *c = (struct pic_chip){.icw1 = icw1, .lines = lines, .elcr = elcr, .irr = lines & elcr, .lowest = 7, .step = 2};
}

static void end(struct pic_chip *c, unsigned line, bool rotate)
{
    c->isr &= ~(1 << line);
    if (rotate)
        c->lowest = line;
}

static void write_ocw2(struct pic_chip *c, uint8_t val)
{
    unsigned line = val & 7;
    bool rotate = val & 0x80;
    switch (val >> 5) {
    case 0: // rotate in automatic EOI mode: off, on
    case 4:
        c->auto_rotate = rotate;
        break;
    case 1: // non-specific EOI: of the highest priority in service
    case 5: {
        uint8_t service = c->special ? c->isr & ~c->imr : c->isr;
        unsigned r = rank(c, service);
        if (r < 8)
            end(c, line_of(c, r), rotate);
        break;
    }
    case 3: // specific EOI
    case 7:
        end(c, line, rotate);
        break;
    case 6: // set priority
        c->lowest = line;
        break;
    }
}

static void write_ocw3(struct pic_chip *c, uint8_t val)
{
    if (val & 0x40)
        c->special = val >> 5 & 1;
    if (val & 4)
        c->poll = 1;
    else if (val & 2)
        c->read_isr = val & 1;
}

static void write_data(struct pic_chip *c, uint8_t val)
{
    switch (c->step) {
    case 0:
    case 1:
        c->imr = val;
        break;
    case 2:
        c->icw2 = val & 0xf8;
        c->step = c->icw1 & ICW1_SINGLE ? c->icw1 & ICW1_NEED_ICW4 ? 4 : 0 : 3;
        break;
    case 3: // which lines have slaves: known from the wiring
        c->step = c->icw1 & ICW1_NEED_ICW4 ? 4 : 0;
        break;
    case 4:
        c->icw4 = val;
        c->step = 0;
        break;
    }
}

static void pic_write(struct device *d, struct bus_access a, uint64_t val)
{
    struct pic *p = (struct pic *)d;
    if (a.region == REGION_ELCR) {
        // Lines 0, 1, 2, 8 and 13 are always edge-triggered.
        struct pic_chip *c = &p->chip[a.offset];
        c->elcr = val & (a.offset ? 0xde : 0xf8);
        c->irr = (c->irr & ~c->elcr) | (c->lines & c->elcr);
    } else {
        struct pic_chip *c = &p->chip[a.region];
        if (a.offset)
            write_data(c, val);
        else if (val & ICW1)
            initialize(c, val);
        else if (val & OCW3)
            write_ocw3(c, val);
        else
            write_ocw2(c, val);
    }
    update(p);
}

// A poll is an acknowledge cycle by the CPU's read: bit 7 says that there was a request, bits 0..2 which.
static uint64_t poll(struct pic *p, unsigned which)
{
    struct pic_chip *c = &p->chip[which];
    c->poll = 0;
    int line = asks(c, which == MASTER);
    if (line < 0)
        return 7;
    take(c, line);
    update(p);
    return 0x80 | line;
}

static uint64_t pic_read(struct device *d, struct bus_access a)
{
    struct pic *p = (struct pic *)d;
    if (a.region == REGION_ELCR)
        return p->chip[a.offset].elcr;
    struct pic_chip *c = &p->chip[a.region];
    if (c->poll)
        return poll(p, a.region);
    if (a.offset)
        return c->imr;
    return c->read_isr ? c->isr : c->irr;
}

static void pic_reset(struct device *d)
{
    struct pic *p = (struct pic *)d;
    for (unsigned i = 0; i < 2; i++) {
        initialize(&p->chip[i], 0);
        p->chip[i].step = 1;
        p->chip[i].elcr = p->chip[i].irr = 0;
    }
    update(p);
}

static int pic_loaded(struct device *d)
{
    struct pic *p = (struct pic *)d;
    for (unsigned i = 0; i < 2; i++) {
        struct pic_chip *c = &p->chip[i];
        if (c->lowest > 7 || c->step > 4)
            return -EINVAL;
    }
    cascade(p);
    p->output = asks(&p->chip[MASTER], true) >= 0;
    p->intr(p->ctx, p->output);
    return 0;
}

static void pic_destroy(struct device *d)
{
    vm_free(d);
}

static const struct state_field fields[] = {
    STATE_EACH(struct pic, chip, irr, 1),
    STATE_EACH(struct pic, chip, isr, 1),
    STATE_EACH(struct pic, chip, imr, 1),
    STATE_EACH(struct pic, chip, lines, 1),
    STATE_EACH(struct pic, chip, elcr, 1),
    STATE_EACH(struct pic, chip, icw1, 1),
    STATE_EACH(struct pic, chip, icw2, 1),
    STATE_EACH(struct pic, chip, icw4, 1),
    STATE_EACH(struct pic, chip, step, 1),
    STATE_EACH(struct pic, chip, lowest, 1),
    STATE_EACH(struct pic, chip, read_isr, 1),
    STATE_EACH(struct pic, chip, poll, 1),
    STATE_EACH(struct pic, chip, special, 1),
    STATE_EACH(struct pic, chip, auto_rotate, 1),
    STATE_END,
};

static const struct state_table state = {"pic", 1, fields};

static const struct device_ops ops = {
    .name = "pic",
    .reset = pic_reset,
    .read = pic_read,
    .write = pic_write,
    .state = &state,
    .loaded = pic_loaded,
    .destroy = pic_destroy,
};

int pic_create(struct vm *vm, void *ctx, void (*intr)(void *ctx, bool level), struct pic **out, struct error *err)
{
    struct pic *p = vm_alloc(sizeof *p);
    if (!p)
        return error_set(err, ENOMEM, "pic: out of memory");
    p->ctx = ctx;
    p->intr = intr;
    device_add(vm, &p->dev, &ops, "pic");
    pic_reset(&p->dev);
    static const struct {
        uint16_t port;
        uint8_t region;
    } ports[] = {{0x20, REGION_MASTER}, {0xa0, REGION_SLAVE}, {0x4d0, REGION_ELCR}};
    for (unsigned i = 0; i < sizeof ports / sizeof ports[0]; i++) {
        int r = bus_add(&vm->ports,
                        &(struct bus_range){.base = ports[i].port,
                                            .size = 2,
                                            .dev = &p->dev,
                                            .region = ports[i].region,
                                            .min_size = 1,
                                            .max_size = 1},
                        err);
        if (r)
            return r;
    }
    *out = p;
    return 0;
}
