// The 16550A: sending, receiving with and without FIFO, every interrupt's set and clear condition, loopback, saving.
#include "chip/uart.h"
#include "fake_vm.h"
#include "unit.h"

enum { PORT = 0x3f8, GSI = 4 };

struct bench {
    struct stream stream; // first: the stream's functions find the bench by it
    struct fake_vm f;
    struct uart *uart;
    char sent[64];
    unsigned sent_count, readies;
};

static void on_write(struct stream *s, const void *data, size_t size)
{
    struct bench *b = (struct bench *)s;
    memcpy(b->sent + b->sent_count, data, size);
    b->sent_count += size;
}

static void on_ready(struct stream *s)
{
    ((struct bench *)s)->readies++;
}

static void bench_init(struct bench *b)
{
    static const struct stream_ops ops = {.write = on_write, .ready = on_ready};
    struct error err;
    memset(b, 0, sizeof *b);
    b->stream.ops = &ops;
    fake_vm_init(&b->f, 1);
    assert_int_equal(uart_create(&b->f.vm, PORT, GSI, &b->stream, "com1", &b->uart, &err), 0);
    fake_vm_reset(&b->f);
    b->readies = 0;
}

static void out(struct bench *b, unsigned reg, uint8_t v)
{
    fake_vm_out(&b->f, PORT + reg, 1, v);
}

static uint8_t in(struct bench *b, unsigned reg)
{
    return fake_vm_in(&b->f, PORT + reg, 1);
}

static size_t type(struct bench *b, const char *text)
{
    return b->stream.receive(b->stream.ctx, (const uint8_t *)text, strlen(text));
}

static void registers(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b);
    assert_int_equal(in(&b, 1), 0);
    assert_int_equal(in(&b, 2), 1);
    assert_int_equal(in(&b, 5), 0x60);
    assert_int_equal(in(&b, 6), 0xb0);
    out(&b, 7, 0xa5);
    assert_int_equal(in(&b, 7), 0xa5);
    out(&b, 3, 0x83); // DLAB
    assert_int_equal(in(&b, 0), 12);
    out(&b, 0, 1);
    out(&b, 1, 2);
    assert_int_equal(in(&b, 0), 1);
    assert_int_equal(in(&b, 1), 2);
    out(&b, 3, 0x03);
    assert_int_equal(in(&b, 1), 0); // IER untouched
    assert_int_equal(b.sent_count, 0);
    out(&b, 1, 0xff);
    assert_int_equal(in(&b, 1), 0x0f);
    out(&b, 4, 0xff);
    assert_int_equal(in(&b, 4), 0x1f);
    out(&b, 2, 0xc1);
    assert_int_equal(in(&b, 2) & 0xc0, 0xc0);
    out(&b, 2, 0xc0); // without the enable bit nothing is programmed
    assert_int_equal(in(&b, 2) & 0xc0, 0);
    fake_vm_destroy(&b.f);
}

static void sending(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b);
    out(&b, 4, 8);
    out(&b, 0, 'h');
    assert_false(b.f.line[GSI]);
    out(&b, 1, 2); // enabling THRE while empty interrupts at once
    assert_true(b.f.line[GSI]);
    assert_int_equal(in(&b, 2), 2);
    assert_false(b.f.line[GSI]); // reading IIR clears it
    assert_int_equal(in(&b, 2), 1);
    unsigned rises = b.f.rises[GSI];
    out(&b, 0, 'i');
    assert_int_equal(b.f.rises[GSI], rises + 1);
    out(&b, 0, '!'); // without IIR having been read: down and up again
    assert_int_equal(b.f.rises[GSI], rises + 2);
    assert_int_equal(in(&b, 5) & 0x60, 0x60);
    out(&b, 1, 0);
    assert_false(b.f.line[GSI]);
    out(&b, 1, 2); // off and on again
    assert_true(b.f.line[GSI]);
    out(&b, 4, 0); // OUT2 lets interrupts through
    assert_false(b.f.line[GSI]);
    assert_memory_equal(b.sent, "hi!", 3);
    assert_int_equal(b.sent_count, 3);
    fake_vm_destroy(&b.f);
}

static void receiving_without_fifo(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b);
    out(&b, 4, 8);
    out(&b, 1, 1);
    assert_int_equal(type(&b, "ab"), 1); // one place; the rest waits in the stream
    assert_true(b.f.line[GSI]);
    assert_int_equal(in(&b, 2), 4);
    assert_int_equal(in(&b, 5), 0x61);
    assert_int_equal(in(&b, 0), 'a');
    assert_int_equal(b.readies, 1);
    assert_false(b.f.line[GSI]);
    assert_int_equal(in(&b, 5), 0x60);
    assert_int_equal(type(&b, "b"), 1);
    assert_int_equal(in(&b, 0), 'b');
    assert_int_equal(in(&b, 0), 'b'); // nothing new: the old byte
    fake_vm_destroy(&b.f);
}

static void receiving_with_fifo(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b);
    out(&b, 4, 8);
    out(&b, 1, 1);
    out(&b, 2, 0x81); // 8 bytes
    assert_int_equal(type(&b, "1234567"), 7);
    assert_false(b.f.line[GSI]);
    assert_int_equal(type(&b, "8"), 1);
    assert_true(b.f.line[GSI]);
    assert_int_equal(in(&b, 2), 0xc4);
    assert_int_equal(in(&b, 0), '1');
    assert_false(b.f.line[GSI]);
    assert_int_equal(type(&b, "9abcdefghijk"), 9); // 16 in all
    assert_int_equal(type(&b, "x"), 0);
    for (const char *p = "23456789abcdefgh"; *p; p++)
        if (*p <= '9' || *p <= 'g')
            assert_int_equal(in(&b, 0), *p);
    assert_int_equal(b.readies, 1); // once there was room again for what had been refused
    assert_int_equal(type(&b, "z"), 1);
    out(&b, 2, 0x83); // cleared
    assert_int_equal(in(&b, 5) & 1, 0);
    fake_vm_destroy(&b.f);
}

static void timeout(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b);
    out(&b, 4, 8);
    out(&b, 1, 1);
    out(&b, 2, 0xc1);
    out(&b, 3, 0x03); // 8n1: 10 bits at 9600 baud are 1041664 ns
    type(&b, "a");
    fake_vm_advance(&b.f, 4 * 1041660 - 100);
    assert_false(b.f.line[GSI]);
    type(&b, "b"); // starts it afresh
    fake_vm_advance(&b.f, 4 * 1041660 - 100);
    assert_false(b.f.line[GSI]);
    fake_vm_advance(&b.f, 200);
    assert_true(b.f.line[GSI]);
    assert_int_equal(in(&b, 2), 0xcc);
    assert_int_equal(in(&b, 0), 'a'); // so does a read
    assert_false(b.f.line[GSI]);
    assert_int_equal(in(&b, 2), 0xc1);
    fake_vm_advance(&b.f, 5000000);
    assert_int_equal(in(&b, 2), 0xcc);
    assert_int_equal(in(&b, 0), 'b');
    fake_vm_advance(&b.f, 50000000);
    assert_false(b.f.line[GSI]);
    fake_vm_destroy(&b.f);
}

static void loopback(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b);
    in(&b, 6);
    out(&b, 4, 0x10 | 2 | 8); // RTS and OUT2 come back as CTS and DCD
    assert_int_equal(in(&b, 6) & 0xf0, 0x90);
    out(&b, 4, 0x10 | 4); // OUT1 is RI
    assert_int_equal(in(&b, 6), 0x40 | 0x9);
    out(&b, 4, 0x10);
    assert_int_equal(in(&b, 6), 0x04); // RI's trailing edge
    assert_int_equal(in(&b, 6), 0x00);
    out(&b, 1, 0x0f);
    in(&b, 2);
    out(&b, 0, 'x');
    assert_int_equal(b.sent_count, 0);
    assert_int_equal(type(&b, "stream"), 0);
    assert_int_equal(in(&b, 2), 4);
    assert_false(b.f.line[GSI]); // OUT2's pin is inactive in loopback
    out(&b, 0, 'y');
    assert_int_equal(in(&b, 2), 6); // overrun
    assert_int_equal(in(&b, 5) & 3, 3);
    assert_int_equal(in(&b, 5) & 3, 1);
    assert_int_equal(in(&b, 0), 'y');
    out(&b, 4, 0x11 | 8);
    assert_int_equal(in(&b, 2), 2);
    assert_int_equal(in(&b, 2), 0); // modem status
    in(&b, 6);
    assert_int_equal(in(&b, 2), 1);
    assert_int_equal(b.readies, 0);
    out(&b, 4, 8);
    assert_int_equal(b.readies, 1); // loopback had refused it
    assert_int_equal(type(&b, "s"), 1);
    fake_vm_destroy(&b.f);
}

static void saves_and_loads(void **state)
{
    (void)state;
    struct bench b, c;
    bench_init(&b);
    bench_init(&c);
    out(&b, 4, 8);
    out(&b, 2, 0x41);
    out(&b, 1, 1);
    type(&b, "abcdef");
    for (unsigned i = 0; i < 5; i++)
        in(&b, 0);
    assert_int_equal(fake_vm_copy_state(&b.uart->dev, &c.uart->dev), 0);
    assert_false(c.f.line[GSI]);
    fake_vm_advance(&c.f, 100000000);
    assert_true(c.f.line[GSI]); // the timeout went over, too
    assert_int_equal(in(&c, 0), 'f');
    b.uart->fifo_count = 17;
    assert_true(fake_vm_copy_state(&b.uart->dev, &c.uart->dev) < 0);
    fake_vm_destroy(&b.f);
    fake_vm_destroy(&c.f);
    assert_null(b.stream.receive); // nobody calls a UART that is gone
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(registers),       cmocka_unit_test(sending),  cmocka_unit_test(receiving_without_fifo),
        cmocka_unit_test(timeout),         cmocka_unit_test(loopback), cmocka_unit_test(receiving_with_fifo),
        cmocka_unit_test(saves_and_loads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
