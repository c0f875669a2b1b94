// The real-time clock's registers.
//
// The clock has no tick. Reading a time register works it out from the wall clock. The flags in register C work the
// same way: settle() sets those whose events lie between the last look and now. A timer runs only while an interrupt is
// enabled that is not up already.
//
// The clock stands still while SET (register B) or the divider's reset (register A) is on; then the registers are
// plain memory, and what they hold becomes the time when it goes on: half a second before the next update after a
// divider reset, as on the chip.
//
// Example: registers 0x59 0x59 0x23 (seconds, minutes, hours) in the default mode, BCD and 24 hours, are 23:59:59.
#include "chip/rtc.h"
#include "vm/alloc.h"
#include <errno.h>

enum { SECONDS = 0, SECONDS_ALARM, MINUTES, MINUTES_ALARM, HOURS, HOURS_ALARM, WEEKDAY, DAY, MONTH, YEAR, A, B, C, D };

enum { A_UIP = 0x80, A_DIVIDER = 0x70, A_DIVIDER_RESET = 0x60, A_RATE = 0x0f };
enum { B_SET = 0x80, B_24H = 0x02, B_BINARY = 0x04 };
enum { UPDATE = 0x10, ALARM = 0x20, PERIODIC = 0x40, IRQF = 0x80 }; // enabled in B, flagged in C
enum { PM = 0x80 };
enum { NS = 1000000000, UIP_NS = 244000 };

struct date {
    int year;
    unsigned month, day, hour, minute, second, weekday; // from 1, 1, 0, 0, 0; weekday: Sunday is 1
};

static bool stopped(const struct rtc *r)
{
    return (r->ram[B] & B_SET) || (r->ram[A] & A_DIVIDER_RESET) == A_DIVIDER_RESET;
}

static void now(const struct rtc *r, int64_t *second, uint32_t *ns)
{
    vm_clock_wall(&r->dev.vm->clock, second, ns);
    *second += r->offset_seconds;
    *ns += r->offset_ns;
    if (*ns >= NS) {
        *ns -= NS;
        ++*second;
    }
}

// Days since 1970-01-01 of a day in the proleptic Gregorian calendar. Years are counted from March, so that the leap
// day is the last of a year.
static int64_t days_of(int year, unsigned month, unsigned day)
{
    int64_t y = month < 3 ? year - 1 : year, m = month < 3 ? month + 9 : month - 3;
    int64_t era = (y >= 0 ? y : y - 399) / 400, yoe = y - era * 400;
    return era * 146097 + yoe * 365 + yoe / 4 - yoe / 100 + (153 * m + 2) / 5 + day - 1 - 719468;
}

static struct date date_of(int64_t second)
{
    int64_t days = second / 86400, rest = second % 86400;
    if (rest < 0) {
        rest += 86400;
        days--;
    }
    struct date d = {.hour = rest / 3600, .minute = rest / 60 % 60, .second = rest % 60};
    d.weekday = ((days + 4) % 7 + 7) % 7 + 1;
    int64_t z = days + 719468, era = (z >= 0 ? z : z - 146096) / 146097, doe = z - era * 146097;
    int64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    int64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100), m = (5 * doy + 2) / 153;
    d.day = doy - (153 * m + 2) / 5 + 1;
    d.month = m < 10 ? m + 3 : m - 9;
    d.year = yoe + era * 400 + (d.month < 3);
    return d;
}

static uint8_t encode(const struct rtc *r, unsigned v)
{
    return r->ram[B] & B_BINARY ? v : (v / 10 % 10) << 4 | v % 10;
}

static unsigned decode(const struct rtc *r, uint8_t v)
{
    return r->ram[B] & B_BINARY ? v : (v >> 4) * 10 + (v & 15);
}

static uint8_t encode_hour(const struct rtc *r, unsigned h)
{
    if (r->ram[B] & B_24H)
        return encode(r, h);
    return encode(r, h % 12 ? h % 12 : 12) | (h >= 12 ? PM : 0);
}

static unsigned decode_hour(const struct rtc *r, uint8_t v)
{
    if (r->ram[B] & B_24H)
        return decode(r, v);
    return decode(r, v & ~PM) % 12 + (v & PM ? 12 : 0);
}

// Puts the time into the registers.
static void fill(struct rtc *r)
{
    int64_t second;
    uint32_t ns;
    now(r, &second, &ns);
    struct date d = date_of(second);
    unsigned year = d.year < 0 ? 0 : d.year % 10000;
    r->ram[SECONDS] = encode(r, d.second);
    r->ram[MINUTES] = encode(r, d.minute);
    r->ram[HOURS] = encode_hour(r, d.hour);
    r->ram[WEEKDAY] = encode(r, d.weekday);
    r->ram[DAY] = encode(r, d.day);
    r->ram[MONTH] = encode(r, d.month);
    r->ram[YEAR] = encode(r, year % 100);
    r->ram[RTC_CENTURY] = encode(r, year / 100);
}

// Takes the time from the registers; `fraction` is how far into the second it is. Impossible dates run over into
// possible ones: February 30 is March 1 or 2.
static void set_time(struct rtc *r, uint32_t fraction)
{
    unsigned month = decode(r, r->ram[MONTH]);
    int year = decode(r, r->ram[RTC_CENTURY]) * 100 + decode(r, r->ram[YEAR]);
    int64_t second = days_of(year, month < 1 || month > 12 ? 1 : month, 1) * 86400;
    second += ((int64_t)decode(r, r->ram[DAY]) - 1) * 86400 + decode_hour(r, r->ram[HOURS]) * 3600 +
              decode(r, r->ram[MINUTES]) * 60 + decode(r, r->ram[SECONDS]);
    int64_t wall;
    uint32_t wall_ns;
    vm_clock_wall(&r->dev.vm->clock, &wall, &wall_ns);
    r->offset_seconds = second - wall - (fraction < wall_ns);
    r->offset_ns = fraction < wall_ns ? NS + fraction - wall_ns : fraction - wall_ns;
    r->seen_second = second;
}

// Nanoseconds between periodic events, 0 if there are none.
static uint64_t period(const struct rtc *r)
{
    unsigned rate = r->ram[A] & A_RATE;
    if (!rate)
        return 0;
    if (rate < 3)
        rate += 7;
    return (1ull << (rate - 1)) * NS / 32768;
}

// True if a field of an alarm can match, and then how: *v is its value, or -1 if any value will do.
static bool alarm_field(const struct rtc *r, unsigned reg, unsigned limit, int *v)
{
    uint8_t raw = r->ram[reg];
    *v = raw >= 0xc0 ? -1 : (int)(reg == HOURS_ALARM ? decode_hour(r, raw) : decode(r, raw));
    return *v < (int)limit;
}

// The first alarm after `t`; INT64_MAX if none will ever be.
static int64_t next_alarm(const struct rtc *r, int64_t t)
{
    int hour, minute, second;
    if (!alarm_field(r, HOURS_ALARM, 24, &hour) || !alarm_field(r, MINUTES_ALARM, 60, &minute) ||
        !alarm_field(r, SECONDS_ALARM, 60, &second))
        return INT64_MAX;
    // Seconds until each field fits, the largest first; a field that has to wait starts the smaller ones at zero.
    int64_t from = t + 1, day = from / 86400 - (from % 86400 < 0), s = from - day * 86400;
    for (int i = 0; i < 26; i++) {
        int h = s / 3600;
        if (s < 86400 && (hour < 0 || h == hour)) {
            for (int m = s / 60 % 60, at = s % 60; m < 60; m++, at = 0) {
                if (minute >= 0 && m != minute)
                    continue;
                if (second < 0 || second >= at)
                    return day * 86400 + h * 3600 + m * 60 + (second < 0 ? at : second);
            }
        }
        s = (int64_t)(h + 1) * 3600;
        if (s >= 86400) {
            s = 0;
            day++;
        }
    }
    return INT64_MAX; // not reached: within a day and an hour every time of day comes
}

// Sets the flags of what has happened since the last look, and the line.
static void settle(struct rtc *r)
{
    uint64_t ns = vm_clock_ns(&r->dev.vm->clock), p = period(r);
    if (!stopped(r)) {
        int64_t second;
        uint32_t fraction;
        now(r, &second, &fraction);
        if (second != r->seen_second)
            r->ram[C] |= UPDATE;
        if (second > r->seen_second && next_alarm(r, r->seen_second) <= second)
            r->ram[C] |= ALARM;
        r->seen_second = second;
    }
    if (p && ns / p != r->seen_ns / p && (r->ram[A] & A_DIVIDER_RESET) != A_DIVIDER_RESET)
        r->ram[C] |= PERIODIC;
    r->seen_ns = ns;
    r->ram[C] &= ~IRQF;
    if (r->ram[C] & r->ram[B] & (UPDATE | ALARM | PERIODIC))
        r->ram[C] |= IRQF;
    irq_set(&r->irq, r->ram[C] & IRQF);
}

// Arms the timer for the first event after the last look that would raise the line; it may be over already.
static void arm(struct rtc *r)
{
    uint64_t ns = vm_clock_ns(&r->dev.vm->clock), next = VM_TIMER_NEVER, p = period(r);
    uint8_t wanted = r->ram[B] & (UPDATE | ALARM | PERIODIC);
    if ((wanted & PERIODIC) && p)
        next = (r->seen_ns / p + 1) * p;
    if ((wanted & (UPDATE | ALARM)) && !stopped(r)) {
        int64_t second;
        uint32_t fraction;
        now(r, &second, &fraction);
        int64_t at = wanted & UPDATE ? r->seen_second + 1 : next_alarm(r, r->seen_second);
        // An alarm is at most a day and an hour away.
        uint64_t when = at == INT64_MAX ? VM_TIMER_NEVER
                        : at <= second  ? ns
                                        : ns + (uint64_t)(at - second) * NS - fraction;
        next = when < next ? when : next;
    }
    vm_timer_set(&r->timer, r->ram[C] & IRQF ? VM_TIMER_NEVER : next);
}

static void fire(struct device *d, struct vm_timer *t)
{
    struct rtc *r = (struct rtc *)d;
    (void)t;
    settle(r);
    arm(r);
}

static bool is_time(unsigned reg)
{
    return reg == RTC_CENTURY || (reg <= YEAR && reg != SECONDS_ALARM && reg != MINUTES_ALARM && reg != HOURS_ALARM);
}

static void write_register(struct rtc *r, unsigned reg, uint8_t val)
{
    settle(r);
    bool stood = stopped(r), divider = (r->ram[A] & A_DIVIDER_RESET) == A_DIVIDER_RESET;
    int64_t second;
    uint32_t fraction;
    now(r, &second, &fraction);
    switch (reg) {
    case A:
        val &= ~A_UIP;
        break;
    case C:
    case D:
        return;
    default:
        if (is_time(reg) && !stood)
            fill(r);
    }
    if ((reg == A || reg == B) && !stood)
        fill(r); // in case it stops now
    if (reg == B && (val & B_SET))
        val &= ~UPDATE; // SET clears it
    r->ram[reg] = val;
    if (is_time(reg) ? !stood : (reg == A || reg == B) && stood && !stopped(r))
        set_time(r, divider ? NS / 2 : fraction);
    settle(r);
    arm(r);
}

static uint8_t read_register(struct rtc *r, unsigned reg)
{
    int64_t second;
    uint32_t fraction;
    uint8_t v;
    switch (reg) {
    case A:
        now(r, &second, &fraction);
        return r->ram[A] | (!stopped(r) && fraction >= NS - UIP_NS ? A_UIP : 0);
    case C:
        settle(r);
        v = r->ram[C];
        r->ram[C] = 0;
        // Always, even if the next event has come in the meantime: interrupt controllers wait for the edge.
        irq_set(&r->irq, false);
        arm(r);
        return v;
    case D:
        return 0x80; // the battery is good
    }
    if (is_time(reg) && !stopped(r))
        fill(r);
    return r->ram[reg];
}

static void rtc_write(struct device *d, struct bus_access a, uint64_t val)
{
    struct rtc *r = (struct rtc *)d;
    if (a.offset == 0)
        r->index = val & 0x7f;
    else
        write_register(r, r->index, val);
}

static uint64_t rtc_read(struct device *d, struct bus_access a)
{
    struct rtc *r = (struct rtc *)d;
    return a.offset == 0 ? 0xff : read_register(r, r->index);
}

// The RESET pin: the time and the RAM stay.
static void rtc_reset(struct device *d)
{
    struct rtc *r = (struct rtc *)d;
    r->index = 0;
    r->ram[B] &= ~(UPDATE | ALARM | PERIODIC);
    r->ram[C] = 0;
    settle(r);
    r->ram[C] = 0;
    arm(r);
}

static int rtc_loaded(struct device *d)
{
    struct rtc *r = (struct rtc *)d;
    const int64_t limit = (int64_t)1 << 40; // seconds; more than any date that fits into the registers
    if (r->offset_seconds > limit || r->offset_seconds < -limit || r->offset_ns >= NS || r->seen_second > 2 * limit ||
        r->seen_second < -2 * limit)
        return -EINVAL;
    r->index &= 0x7f;
    settle(r);
    arm(r);
    return 0;
}

static void rtc_destroy(struct device *d)
{
    vm_free(d);
}

static const struct state_field fields[] = {
    STATE_U8(struct rtc, index, 1),
    STATE_BYTES(struct rtc, ram, 1),
    STATE_U64(struct rtc, offset_seconds, 1),
    STATE_U32(struct rtc, offset_ns, 1),
    STATE_U64(struct rtc, seen_second, 1),
    STATE_U64(struct rtc, seen_ns, 1),
    STATE_END,
};

static const struct state_table state = {"rtc", 1, fields};

static const struct device_ops ops = {
    .name = "rtc",
    .reset = rtc_reset,
    .read = rtc_read,
    .write = rtc_write,
    .state = &state,
    .loaded = rtc_loaded,
    .destroy = rtc_destroy,
};

int rtc_create(struct vm *vm, unsigned gsi, struct rtc **out, struct error *err)
{
    struct rtc *r = vm_alloc(sizeof *r);
    if (!r)
        return error_set(err, ENOMEM, "rtc: out of memory");
    device_add(vm, &r->dev, &ops, "rtc");
    irq_line_init(&r->irq, vm, gsi);
    vm_timer_init(&r->timer, &r->dev, fire);
    r->ram[A] = 0x26; // the usual divider, 1024 Hz
    r->ram[B] = B_24H;
    uint32_t fraction;
    now(r, &r->seen_second, &fraction);
    *out = r;
    return bus_add(&vm->ports,
                   &(struct bus_range){.base = 0x70, .size = 2, .dev = &r->dev, .min_size = 1, .max_size = 1}, err);
}
