// The 8254 timer (Intel 8254 data sheet).
//
// Nothing is counted. A channel remembers when its count was loaded; what a guest reads, and the output's level, follow
// from the time since then:
//     mode 0, interrupt on terminal count: low until the count is over, then high
//     mode 1, one-shot: low for `count` after GATE rises
//     mode 2, rate generator: low in the last of every `count` clocks
//     mode 3, square wave: high for the first half of every `count` clocks, low for the second
//     mode 4 and 5, strobe: low for one clock when the count is over; started by the write (4) or by GATE (5)
//
// Channel 0's output is an interrupt line that only its rising edges matter on, so only those are timer events: the
// line is let down and pulled up again at each. As the local APIC's timer does, edges closer than MIN_PERIOD are spread
// to it.
//
// Example: at mode 2 with count 1000, clock 2500 after the load reads as 500, and the next edge comes at 3000.
#include "chip/pit.h"
#include "vm/alloc.h"
#include <errno.h>

enum { MIN_PERIOD = 119 }; // clocks: 100 us
enum { REGION_CHANNELS, REGION_PORT_B };
enum { PORT_B_GATE = 1, PORT_B_REFRESH = 0x10, PORT_B_OUT = 0x20 };

#define NEVER UINT64_MAX

static uint64_t now_clocks(const struct pit *p)
{
    return (unsigned __int128)vm_clock_ns(&p->dev.vm->clock) * PIT_HZ / 1000000000;
}

static uint64_t clocks_to_ns(uint64_t clocks)
{
    return clocks == NEVER ? VM_TIMER_NEVER : (((unsigned __int128)clocks * 1000000000) + PIT_HZ - 1) / PIT_HZ;
}

static uint32_t high_half(uint32_t count)
{
    return (count + 1) / 2;
}

static bool periodic(const struct pit_channel *c)
{
    return c->mode == 2 || c->mode == 3;
}

static bool triggered_by_gate(const struct pit_channel *c)
{
    return c->mode == 1 || c->mode == 5;
}

// Modes 2 and 3: the waiting count takes over at the end of the period (mode 2) or half-period (mode 3).
static void settle(struct pit_channel *c, uint64_t now)
{
    if (!periodic(c) || !c->next || now < c->next_at)
        return;
    bool at_half = c->mode == 3 && c->next_at - c->start < c->count;
    c->start = at_half ? c->next_at - high_half(c->next) : c->next_at;
    c->count = c->next;
    c->next = 0;
}

// Clocks counted.
static uint64_t gone(const struct pit_channel *c, uint64_t now)
{
    if (c->mode == 0 || c->mode == 4)
        return c->held + (c->gate ? now - c->start : 0);
    return now - c->start;
}

static bool output(const struct pit_channel *c, uint64_t now)
{
    if (!c->loaded)
        return c->mode != 0;
    uint64_t d = gone(c, now);
    switch (c->mode) {
    case 0:
        return d >= c->count;
    case 1:
        return !c->triggered || d >= c->count;
    case 2:
        return !c->gate || d % c->count != c->count - 1;
    case 3:
        return !c->gate || d % c->count < high_half(c->count);
    case 5:
        if (!c->triggered)
            return true;
        // fall through
    default:
        return d != c->count;
    }
}

static uint16_t current(const struct pit_channel *c, uint64_t now)
{
    uint64_t d = gone(c, now);
    uint32_t v;
    if (!c->loaded || (triggered_by_gate(c) && !c->triggered)) {
        v = c->count;
    } else if (c->mode == 2) {
        v = c->count - d % c->count;
    } else if (c->mode == 3) {
        uint32_t p = d % c->count, half = high_half(c->count); // counts by two
        v = (c->count & ~1u) - 2 * (p < half ? p : p - half);
    } else {
        uint32_t wrap = c->bcd ? 10000 : 65536;
        v = c->count + wrap - d % wrap;
    }
    if (!c->bcd)
        return v;
    v %= 10000;
    return v / 1000 << 12 | v / 100 % 10 << 8 | v / 10 % 10 << 4 | v % 10;
}

// When the output next rises, after `now`.
static uint64_t next_edge(const struct pit_channel *c, uint64_t now)
{
    if (!c->loaded || !c->gate)
        return NEVER;
    uint64_t d = gone(c, now);
    switch (c->mode) {
    case 0:
        return d < c->count ? now + c->count - d : NEVER;
    case 4:
        return d <= c->count ? now + c->count + 1 - d : NEVER;
    case 2:
    case 3:
        if (c->next)
            return c->mode == 3 && c->next_at - c->start < c->count ? c->next_at + c->next / 2 : c->next_at;
        return now + c->count - d % c->count;
    }
    return NEVER; // 1 and 5: GATE of channel 0 is tied high and never rises
}

static void tell(struct pit *p, bool level)
{
    p->line = level;
    irq_set(&p->irq, level);
}

// After any change of channel 0.
static void update(struct pit *p, uint64_t now)
{
    struct pit_channel *c = &p->channel[0];
    settle(c, now);
    tell(p, output(c, now));
    p->edge = next_edge(c, now);
    vm_timer_set(&p->timer, clocks_to_ns(p->edge));
}

static void fire(struct device *d, struct vm_timer *t)
{
    struct pit *p = (struct pit *)d;
    struct pit_channel *c = &p->channel[0];
    uint64_t now = now_clocks(p);
    if (now < p->edge)
        return; // set anew meanwhile
    settle(c, now);
    tell(p, false);
    tell(p, true);
    p->edge = next_edge(c, now);
    if (periodic(c) && c->count < MIN_PERIOD)
        p->edge = now + MIN_PERIOD;
    vm_timer_set(t, clocks_to_ns(p->edge));
}

static void set_gate(struct pit_channel *c, bool gate, uint64_t now)
{
    if (gate == c->gate)
        return;
    settle(c, now);
    if (!gate && (c->mode == 0 || c->mode == 4))
        c->held += now - c->start;
    c->gate = gate;
    if (!gate)
        return;
    if (periodic(c) || (triggered_by_gate(c) && c->loaded)) {
        if (c->next)
            c->count = c->next;
        c->next = 0;
        c->triggered = 1;
    }
    c->start = now;
}

static void load(struct pit_channel *c, uint16_t val, uint64_t now)
{
    uint32_t n = val;
    if (c->bcd)
        n = (val >> 12) * 1000 + (val >> 8 & 15) * 100 + (val >> 4 & 15) * 10 + (val & 15);
    if (!n)
        n = c->bcd ? 10000 : 65536;
    if (triggered_by_gate(c)) {
        c->next = n;
    } else if (periodic(c) && c->loaded) {
        settle(c, now);
        uint64_t in_period = gone(c, now) % c->count;
        c->start = now - in_period;
        c->next = n;
        c->next_at = c->start + (c->mode == 3 && in_period < high_half(c->count) ? high_half(c->count) : c->count);
    } else {
        c->count = n;
        c->start = now;
        c->held = 0;
    }
    c->loaded = 1;
}

static void write_count(struct pit_channel *c, uint8_t val, uint64_t now)
{
    if (c->access == 1) {
        load(c, val, now);
    } else if (c->access == 2) {
        load(c, val << 8, now);
    } else if (!c->written) {
        c->low = val;
        c->written = 1;
        if (c->mode == 0)
            c->loaded = 0; // the first byte stops the counting
    } else {
        c->written = 0;
        load(c, val << 8 | c->low, now);
    }
}

static void latch_count(struct pit_channel *c, uint64_t now)
{
    if (c->latched)
        return; // the first one stays until it is read
    c->latch = current(c, now);
    c->latched = c->access;
}

static void latch_status(struct pit_channel *c, uint64_t now)
{
    if (c->status_latched)
        return;
    c->status = output(c, now) << 7 | (!c->loaded || c->next) << 6 | c->access << 4 | c->mode << 1 | c->bcd;
    c->status_latched = 1;
}

static uint8_t read_count(struct pit_channel *c, uint64_t now)
{
    if (c->status_latched) {
        c->status_latched = 0;
        return c->status;
    }
    if (c->latched) {
        bool low = c->latched & 1;
        c->latched &= low ? 2 : 0;
        return low ? c->latch : c->latch >> 8;
    }
    uint16_t v = current(c, now);
    bool high = c->access == 2 || (c->access == 3 && c->read_high);
    if (c->access == 3)
        c->read_high = !c->read_high;
    return high ? v >> 8 : v;
}

static void write_control(struct pit *p, uint8_t val, uint64_t now)
{
    unsigned which = val >> 6, access = val >> 4 & 3;
    if (which == 3) { // read-back: bits 1..3 choose channels
        for (unsigned i = 0; i < 3; i++) {
            struct pit_channel *c = &p->channel[i];
            if (!(val >> (i + 1) & 1))
                continue;
            settle(c, now);
            if (!(val & 0x20))
                latch_count(c, now);
            if (!(val & 0x10))
                latch_status(c, now);
        }
        return;
    }
    struct pit_channel *c = &p->channel[which];
    settle(c, now);
    if (!access) {
        latch_count(c, now);
        return;
    }
    unsigned mode = val >> 1 & 7;
    *c = (struct pit_channel){
        .mode = mode > 5 ? mode & 3 : mode, .access = access, .bcd = val & 1, .gate = c->gate, .count = c->count};
    if (which == 0)
        update(p, now);
}

static void pit_write(struct device *d, struct bus_access a, uint64_t val)
{
    struct pit *p = (struct pit *)d;
    uint64_t now = now_clocks(p);
    if (a.region == REGION_PORT_B) {
        p->control = val & 0xf;
        set_gate(&p->channel[2], val & PORT_B_GATE, now);
    } else if (a.offset == 3) {
        write_control(p, val, now);
    } else {
        settle(&p->channel[a.offset], now);
        write_count(&p->channel[a.offset], val, now);
        if (a.offset == 0)
            update(p, now);
    }
}

static uint64_t pit_read(struct device *d, struct bus_access a)
{
    struct pit *p = (struct pit *)d;
    uint64_t now = now_clocks(p);
    if (a.region == REGION_PORT_B) {
        settle(&p->channel[2], now);
        // Memory refresh toggles bit 4 every 15 us: some software waits by it.
        return p->control | (now / 18 & 1 ? PORT_B_REFRESH : 0) | (output(&p->channel[2], now) ? PORT_B_OUT : 0);
    }
    if (a.offset == 3)
        return 0xff; // write-only
    settle(&p->channel[a.offset], now);
    return read_count(&p->channel[a.offset], now);
}

static void pit_reset(struct device *d)
{
    struct pit *p = (struct pit *)d;
    p->control = 0;
    for (unsigned i = 0; i < 3; i++)
        p->channel[i] = (struct pit_channel){.mode = 3, .access = 3, .gate = i < 2, .count = 65536};
    update(p, now_clocks(p));
}

static int pit_loaded(struct device *d)
{
    struct pit *p = (struct pit *)d;
    for (unsigned i = 0; i < 3; i++) {
        struct pit_channel *c = &p->channel[i];
        if (c->mode > 5 || c->access < 1 || c->access > 3 || c->count < 1 || c->count > 65536 || c->next > 65536)
            return -EINVAL;
    }
    uint64_t now = now_clocks(p);
    p->line &= 1;
    irq_set(&p->irq, p->line);
    if (p->edge < now)
        p->edge = next_edge(&p->channel[0], now);
    vm_timer_set(&p->timer, clocks_to_ns(p->edge));
    return 0;
}

static void pit_destroy(struct device *d)
{
    vm_free(d);
}

#define CHANNEL(m) STATE_EACH(struct pit, channel, m, 1)

static const struct state_field fields[] = {
    STATE_U8(struct pit, control, 1),
    STATE_U8(struct pit, line, 1),
    STATE_U64(struct pit, edge, 1),
    CHANNEL(mode),
    CHANNEL(access),
    CHANNEL(bcd),
    CHANNEL(gate),
    CHANNEL(written),
    CHANNEL(low),
    CHANNEL(read_high),
    CHANNEL(latched),
    CHANNEL(status_latched),
    CHANNEL(status),
    CHANNEL(latch),
    CHANNEL(loaded),
    CHANNEL(triggered),
    CHANNEL(count),
    CHANNEL(next),
    CHANNEL(next_at),
    CHANNEL(start),
    CHANNEL(held),
    STATE_END,
};

static const struct state_table state = {"pit", 1, fields};

static const struct device_ops ops = {
    .name = "pit",
    .reset = pit_reset,
    .read = pit_read,
    .write = pit_write,
    .state = &state,
    .loaded = pit_loaded,
    .destroy = pit_destroy,
};

int pit_create(struct vm *vm, unsigned gsi, struct pit **out, struct error *err)
{
    struct pit *p = vm_alloc(sizeof *p);
    if (!p)
        return error_set(err, ENOMEM, "pit: out of memory");
    device_add(vm, &p->dev, &ops, "pit");
    irq_line_init(&p->irq, vm, gsi);
    vm_timer_init(&p->timer, &p->dev, fire);
    *out = p;
    int r =
        bus_add(&vm->ports,
                &(struct bus_range){
                    .base = 0x40, .size = 4, .dev = &p->dev, .region = REGION_CHANNELS, .min_size = 1, .max_size = 1},
                err);
    if (r)
        return r;
    return bus_add(&vm->ports,
                   &(struct bus_range){
                       .base = 0x61, .size = 1, .dev = &p->dev, .region = REGION_PORT_B, .min_size = 1, .max_size = 1},
                   err);
}
