// The 16550A's registers (National Semiconductor PC16550D data sheet).
//
// Interrupts, highest priority first, with what clears them:
//     line status: overrun (only in loopback can it happen)    reading LSR
//     received data: the FIFO holds as much as FCR's level      reading RBR below the level
//     timeout: fewer bytes than that lie for 4 character times  reading RBR
//     transmitter empty: THR was written and is empty again,    writing THR, or reading IIR while this is what it says
//         or the interrupt was just enabled
//     modem status: an input changed (only in loopback)         reading MSR
//
// Example: Linux sets IER 0x05 and FCR level 8: a typed key gives the timeout interrupt, pasted text the data one.
#include "chip/uart.h"
#include "vm/alloc.h"
#include <errno.h>

enum { RBR_THR, IER, IIR_FCR, LCR, MCR, LSR, MSR, SCR };

enum { IER_DATA = 1, IER_THRE = 2, IER_LINE = 4, IER_MODEM = 8 };
enum { IIR_NONE = 1, IIR_MODEM = 0, IIR_THRE = 2, IIR_DATA = 4, IIR_LINE = 6, IIR_TIMEOUT = 0xc, IIR_FIFO = 0xc0 };
enum { FCR_ENABLE = 1, FCR_CLEAR_RX = 2, FCR_CLEAR_TX = 4 };
enum { LCR_DLAB = 0x80 };
enum { MCR_DTR = 1, MCR_RTS = 2, MCR_OUT1 = 4, MCR_OUT2 = 8, MCR_LOOP = 0x10 };
enum { LSR_DATA = 1, LSR_OVERRUN = 2, LSR_THRE = 0x20, LSR_EMPTY = 0x40 };
enum { MSR_CTS = 0x10, MSR_DSR = 0x20, MSR_RI = 0x40, MSR_DCD = 0x80 };

static unsigned level(const struct uart *u)
{
    static const uint8_t levels[] = {1, 4, 8, 14};
    return u->fcr & FCR_ENABLE ? levels[u->fcr >> 6] : 1;
}

static unsigned capacity(const struct uart *u)
{
    return u->fcr & FCR_ENABLE ? UART_FIFO : 1;
}

// What IIR says.
static uint8_t reason(const struct uart *u)
{
    if ((u->ier & IER_LINE) && (u->lsr & LSR_OVERRUN))
        return IIR_LINE;
    if ((u->ier & IER_DATA) && u->fifo_count >= level(u))
        return IIR_DATA;
    if ((u->ier & IER_DATA) && u->timed_out)
        return IIR_TIMEOUT;
    if ((u->ier & IER_THRE) && u->thre)
        return IIR_THRE;
    if ((u->ier & IER_MODEM) && (u->msr & 0xf))
        return IIR_MODEM;
    return IIR_NONE;
}

static void update(struct uart *u)
{
    u->lsr = (u->lsr & ~LSR_DATA) | (u->fifo_count ? LSR_DATA : 0);
    // In loopback the chip's OUT2 pin, which lets interrupts through on a PC, is inactive.
    bool through = (u->mcr & MCR_OUT2) && !(u->mcr & MCR_LOOP);
    irq_set(&u->irq, through && reason(u) != IIR_NONE);
}

// The character timeout starts afresh with every byte that comes or goes.
static void start_timeout(struct uart *u)
{
    u->timed_out = 0;
    u->timeout_at = VM_TIMER_NEVER;
    if ((u->fcr & FCR_ENABLE) && u->fifo_count) {
        unsigned bits = 1 + 5 + (u->lcr & 3) + (u->lcr >> 3 & 1) + 1 + (u->lcr >> 2 & 1);
        uint64_t bit_ns = 16ull * (u->divisor ? u->divisor : 65536) * 1000000000 / 1843200;
        u->timeout_at = vm_clock_ns(&u->dev.vm->clock) + 4 * bits * bit_ns;
    }
    vm_timer_set(&u->timeout, u->timeout_at);
}

static void timeout(struct device *d, struct vm_timer *t)
{
    struct uart *u = (struct uart *)d;
    (void)t;
    if (vm_clock_ns(&d->vm->clock) < u->timeout_at)
        return; // started afresh meanwhile
    u->timeout_at = VM_TIMER_NEVER;
    u->timed_out = u->fifo_count != 0;
    update(u);
}

static void put(struct uart *u, uint8_t byte)
{
    if (u->fifo_count == capacity(u)) {
        u->lsr |= LSR_OVERRUN;
        if (!(u->fcr & FCR_ENABLE))
            u->fifo[u->fifo_start] = byte; // without FIFO the newer one overwrites
        return;
    }
    u->fifo[(u->fifo_start + u->fifo_count++) % UART_FIFO] = byte;
}

static uint8_t take(struct uart *u)
{
    if (!u->fifo_count)
        return u->fifo[(u->fifo_start + UART_FIFO - 1) % UART_FIFO];
    uint8_t byte = u->fifo[u->fifo_start];
    u->fifo_start = (u->fifo_start + 1) % UART_FIFO;
    u->fifo_count--;
    start_timeout(u);
    return byte;
}

static void empty(struct uart *u)
{
    u->fifo_start = u->fifo_count = 0;
    start_timeout(u);
}

static void ask_for_more(struct uart *u)
{
    if (!u->refused || u->fifo_count == capacity(u) || (u->mcr & MCR_LOOP))
        return;
    u->refused = false;
    u->stream->ops->ready(u->stream);
}

// Called on the event loop's thread.
static size_t receive(void *ctx, const uint8_t *data, size_t size)
{
    struct uart *u = ctx;
    size_t n = 0;
    vm_lock(&u->dev.lock);
    if (!(u->mcr & MCR_LOOP))
        while (n < size && u->fifo_count < capacity(u))
            put(u, data[n++]);
    if (n) {
        start_timeout(u);
        update(u);
    }
    u->refused = n < size;
    vm_unlock(&u->dev.lock);
    return n;
}

static void send(struct uart *u, uint8_t byte)
{
    if (u->mcr & MCR_LOOP) {
        put(u, byte);
        start_timeout(u);
    } else if (u->stream) {
        u->stream->ops->write(u->stream, &byte, 1);
    }
    u->thre = 1; // empty again already
}

// The modem inputs: of a connected peer that is always ready, or our own outputs in loopback.
static uint8_t modem_inputs(const struct uart *u)
{
    if (!(u->mcr & MCR_LOOP))
        return MSR_CTS | MSR_DSR | MSR_DCD;
    return (u->mcr & MCR_RTS ? MSR_CTS : 0) | (u->mcr & MCR_DTR ? MSR_DSR : 0) | (u->mcr & MCR_OUT1 ? MSR_RI : 0) |
           (u->mcr & MCR_OUT2 ? MSR_DCD : 0);
}

static void update_modem(struct uart *u)
{
    uint8_t now = modem_inputs(u), changed = (now ^ u->msr) & 0xf0;
    changed &= ~(now & MSR_RI); // of RI only the trailing edge counts
    u->msr = now | (u->msr & 0xf) | changed >> 4;
}

static void write_fcr(struct uart *u, uint8_t val)
{
    if ((val ^ u->fcr) & FCR_ENABLE)
        empty(u);
    if (!(val & FCR_ENABLE))
        val = 0; // the other bits are not programmed without this one
    if (val & FCR_CLEAR_RX)
        empty(u);
    u->fcr = val & 0xc1;
}

static void uart_write(struct device *d, struct bus_access a, uint64_t val)
{
    struct uart *u = (struct uart *)d;
    uint8_t v = val;
    switch (a.offset) {
    case RBR_THR:
        if (u->lcr & LCR_DLAB) {
            u->divisor = (u->divisor & 0xff00) | v;
        } else {
            u->thre = 0;
            update(u); // the line falls before it rises again, if nothing else holds it up
            send(u, v);
        }
        break;
    case IER:
        if (u->lcr & LCR_DLAB) {
            u->divisor = (u->divisor & 0xff) | v << 8;
        } else {
            if ((v & ~u->ier) & IER_THRE)
                u->thre = 1; // enabling it while THR is empty interrupts at once
            u->ier = v & 0xf;
        }
        break;
    case IIR_FCR:
        write_fcr(u, v);
        break;
    case LCR:
        u->lcr = v;
        break;
    case MCR:
        u->mcr = v & 0x1f;
        update_modem(u);
        break;
    case SCR:
        u->scratch = v;
        break;
    }
    update(u);
    if (a.offset == IIR_FCR || a.offset == MCR)
        ask_for_more(u);
}

static uint64_t uart_read(struct device *d, struct bus_access a)
{
    struct uart *u = (struct uart *)d;
    uint8_t v = 0;
    switch (a.offset) {
    case RBR_THR:
        if (u->lcr & LCR_DLAB)
            return u->divisor & 0xff;
        v = take(u);
        update(u);
        ask_for_more(u);
        return v;
    case IER:
        return u->lcr & LCR_DLAB ? u->divisor >> 8 : u->ier;
    case IIR_FCR:
        v = reason(u);
        if (v == IIR_THRE) {
            u->thre = 0;
            update(u);
        }
        return v | (u->fcr & FCR_ENABLE ? IIR_FIFO : 0);
    case LCR:
        return u->lcr;
    case MCR:
        return u->mcr;
    case LSR:
        v = u->lsr;
        u->lsr &= ~LSR_OVERRUN;
        update(u);
        return v;
    case MSR:
        v = u->msr;
        u->msr &= 0xf0;
        update(u);
        return v;
    }
    return u->scratch;
}

static void uart_reset(struct device *d)
{
    struct uart *u = (struct uart *)d;
    u->ier = u->lcr = u->mcr = u->fcr = u->scratch = u->thre = 0;
    u->lsr = LSR_THRE | LSR_EMPTY;
    u->msr = modem_inputs(u);
    u->divisor = 12; // 9600 baud, what firmware leaves
    empty(u);
    update(u);
    ask_for_more(u);
}

static int uart_loaded(struct device *d)
{
    struct uart *u = (struct uart *)d;
    u->ier &= 0xf;
    u->mcr &= 0x1f;
    u->fcr &= 0xc1;
    if (u->fifo_start >= UART_FIFO || u->fifo_count > capacity(u))
        return -EINVAL;
    vm_timer_set(&u->timeout, u->timeout_at);
    update(u);
    ask_for_more(u);
    return 0;
}

static void uart_destroy(struct device *d)
{
    struct uart *u = (struct uart *)d;
    if (u->stream)
        u->stream->receive = NULL;
    vm_free(u);
}

static const struct state_field fields[] = {
    STATE_U8(struct uart, ier, 1),        STATE_U8(struct uart, lcr, 1),         STATE_U8(struct uart, mcr, 1),
    STATE_U8(struct uart, lsr, 1),        STATE_U8(struct uart, msr, 1),         STATE_U8(struct uart, fcr, 1),
    STATE_U8(struct uart, scratch, 1),    STATE_U16(struct uart, divisor, 1),    STATE_U8(struct uart, thre, 1),
    STATE_U8(struct uart, timed_out, 1),  STATE_BYTES(struct uart, fifo, 1),     STATE_U8(struct uart, fifo_start, 1),
    STATE_U8(struct uart, fifo_count, 1), STATE_U64(struct uart, timeout_at, 1), STATE_END,
};

static const struct state_table state = {"uart", 1, fields};

static const struct device_ops ops = {
    .name = "uart",
    .reset = uart_reset,
    .read = uart_read,
    .write = uart_write,
    .state = &state,
    .loaded = uart_loaded,
    .destroy = uart_destroy,
};

int uart_create(struct vm *vm, uint16_t port, unsigned gsi, struct stream *stream, const char *name, struct uart **out,
                struct error *err)
{
    struct uart *u = vm_alloc(sizeof *u);
    if (!u)
        return error_set(err, ENOMEM, "%s: out of memory", name);
    u->stream = stream;
    device_add(vm, &u->dev, &ops, name);
    irq_line_init(&u->irq, vm, gsi);
    vm_timer_init(&u->timeout, &u->dev, timeout);
    uart_reset(&u->dev);
    if (stream) {
        stream->ctx = u;
        stream->receive = receive;
    }
    *out = u;
    return bus_add(&vm->ports,
                   &(struct bus_range){.base = port, .size = 8, .dev = &u->dev, .min_size = 1, .max_size = 1}, err);
}
