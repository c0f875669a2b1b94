// The 16550A serial port.
//
// Bytes go to and come from a stream (vm/stream.h). Sending takes no time, so the transmitter is always empty; what a
// guest can see of it (LSR, the THRE interrupt's set and clear conditions) is as on the chip. Received bytes wait in
// the stream until the FIFO has room, so none is lost.
//
// dev.lock guards everything. Interrupts need MCR's OUT2, as on every PC.
//
// Example: uart_create(vm, 0x3f8, 4, stream, "com1", &uart, err)
#pragma once
#include "vm/stream.h"
#include "vm/vm.h"

enum { UART_FIFO = 16 };

struct uart {
    struct device dev;
    struct stream *stream; // the caller's, outlives the VM
    uint8_t ier, lcr, mcr, lsr, msr, fcr, scratch;
    uint16_t divisor;
    uint8_t thre;      // the THRE interrupt waits to be seen
    uint8_t timed_out; // the character timeout interrupt: bytes lie in the FIFO untouched
    uint8_t fifo[UART_FIFO];
    uint8_t fifo_start, fifo_count;
    bool refused; // input that did not fit waits in the stream
    struct vm_timer timeout;
    uint64_t timeout_at; // guest ns, VM_TIMER_NEVER if not running
    struct irq_line irq;
};

int uart_create(struct vm *vm, uint16_t port, unsigned gsi, struct stream *stream, const char *name, struct uart **out,
                struct error *err);
