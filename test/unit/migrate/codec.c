// What migrations write can be read again, and what was damaged, reordered or made up is refused.
#include "migrate/frame.h"
#include "migrate/hello.h"
#include "migrate/pages.h"
#include "unit.h"
#include <errno.h>
#include <stdlib.h>

enum { PAGES = 600, RAM = PAGES * PAGE_BYTES };

static void frames(void **state)
{
    uint8_t header[FRAME_HEADER], payload[100] = {1, 2, 3};
    struct frame f;
    struct error err = {.text = ""};
    (void)state;
    frame_encode(header, MESSAGE_STATE, 7, payload, sizeof payload);
    assert_int_equal(frame_decode(&f, header, 7, &err), 0);
    assert_int_equal(f.type, MESSAGE_STATE);
    assert_int_equal(f.length, sizeof payload);
    assert_int_equal(frame_check(&f, payload, &err), 0);
    assert_int_equal(frame_decode(&f, header, 8, &err), -EPROTO); // out of order
    assert_non_null(strstr(err.text, "7 comes where 8"));
    for (unsigned at = 0; at < FRAME_HEADER; at++) {
        header[at] ^= 0x10;
        int e = frame_decode(&f, header, 7, &err);
        assert_true(e == -EPROTO || f.length != sizeof payload || frame_check(&f, payload, &err) == -EPROTO);
        header[at] ^= 0x10;
    }
    assert_int_equal(frame_decode(&f, header, 7, &err), 0);
    payload[50] ^= 1;
    assert_int_equal(frame_check(&f, payload, &err), -EPROTO);
    frame_encode(header, MESSAGE_READY, 0, payload, 1); // longer than its type may be
    assert_int_equal(frame_decode(&f, header, 0, &err), -EPROTO);
    frame_encode(header, 1000, 0, payload, 1);
    assert_int_equal(frame_decode(&f, header, 0, &err), -EPROTO);
}

static void pages(bool compress)
{
    static uint8_t from[RAM], to[RAM];
    struct pages_batch b;
    struct pages_ram ram = {.base = to, .size = RAM};
    struct error err = {.text = ""};
    uint64_t count, total = 0;
    memset(to, 0, sizeof to);
    for (unsigned i = 0; i < RAM; i += 7)
        from[i] = (uint8_t)(i / 1000);
    assert_int_equal(pages_batch_init(&b), 0);
    for (unsigned n = 0; n < PAGES; n++) {
        pages_add(&b, n, from + (size_t)n * PAGE_BYTES);
        if (b.count == PAGES_BATCH || n == PAGES - 1) {
            size_t size = pages_finish(&b, compress);
            assert_int_equal(pages_apply(b.data + FRAME_HEADER, size, &ram, &count, &err), 0);
            total += count;
            assert_int_equal(pages_apply(b.data + FRAME_HEADER, size - 1, &ram, &count, &err), -EPROTO);
        }
    }
    assert_int_equal(total, PAGES);
    assert_memory_equal(from, to, RAM);
    pages_add(&b, PAGES, from); // outside
    size_t size = pages_finish(&b, compress);
    assert_int_equal(pages_apply(b.data + FRAME_HEADER, size, &ram, &count, &err), -EPROTO);
    assert_non_null(strstr(err.text, "outside"));
    pages_batch_free(&b);
    pages_ram_free(&ram);
}

static void plain_pages(void **state)
{
    (void)state;
    pages(false);
}

static void compressed_pages(void **state)
{
    (void)state;
    pages(true);
}

static void zeros(void **state)
{
    static uint8_t to[RAM];
    struct zeros_batch z;
    struct pages_ram ram = {.base = to, .size = RAM};
    struct error err = {.text = ""};
    uint64_t count;
    (void)state;
    memset(to, 1, sizeof to);
    assert_int_equal(zeros_batch_init(&z), 0);
    for (unsigned n = 10; n < 20; n++)
        assert_true(zeros_add(&z, n));
    assert_true(zeros_add(&z, PAGES - 1));
    size_t size = zeros_finish(&z);
    assert_int_equal(size, 32); // two ranges
    assert_int_equal(zeros_apply(z.data + FRAME_HEADER, size, &ram, &count, &err), 0);
    assert_int_equal(count, 11);
    for (unsigned n = 0; n < PAGES; n++)
        assert_int_equal(page_is_zero(to + (size_t)n * PAGE_BYTES), (n >= 10 && n < 20) || n == PAGES - 1);
    assert_int_equal(zeros_finish(&z), 0);
    // Ranges that reach out of memory, wrap around, or together are more than there is.
    static const uint64_t bad[][4] = {{PAGES - 1, 2, 0, 1}, {1, UINT64_MAX, 0, 1}, {0, 0, 0, 1}, {0, PAGES, 0, PAGES}};
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
        uint8_t payload[32];
        for (unsigned k = 0; k < 4; k++)
            put_u64(payload + (size_t)8 * k, bad[i][k]);
        assert_int_equal(zeros_apply(payload, sizeof payload, &ram, &count, &err), -EPROTO);
    }
    for (unsigned n = 0; n < 2 * ZEROS_BATCH; n += 2)
        assert_true(zeros_add(&z, n));
    assert_false(zeros_add(&z, 2 * ZEROS_BATCH)); // full, and what is in it stays
    assert_int_equal(zeros_finish(&z), ZEROS_PAYLOAD);
    zeros_batch_free(&z);
}

static void hellos(void **state)
{
    struct hello h = {.id = "0123456789abcdef0123456789abcdef",
                      .owner = "/somewhere/owner",
                      .memory = 1 << 20,
                      .paused = true,
                      .writable = 5,
                      .machine = "{\"a\": \"\\\"\"}",
                      .files = 1,
                      .file = {{"kernel", 12345}},
                      .disks = 1,
                      .disk = {{3, 1ull << 40}}};
    struct hello back;
    struct error err = {.text = ""};
    size_t size;
    (void)state;
    uint8_t *m = hello_write(&h, &size);
    assert_non_null(m);
    assert_int_equal(hello_read(&back, m + FRAME_HEADER, size, &err), 0);
    assert_string_equal(back.id, h.id);
    assert_string_equal(back.machine, h.machine);
    assert_string_equal(back.owner, h.owner);
    assert_true(back.paused);
    assert_int_equal(back.writable, 5);
    assert_string_equal(back.file[0].name, "kernel");
    assert_int_equal(back.file[0].bytes, 12345);
    assert_int_equal(back.disk[0].index, 3);
    assert_int_equal(back.disk[0].bytes, 1ull << 40);
    hello_free(&back);
    for (size_t n = 0; n < size; n++) // a part of it is nothing
        assert_int_equal(hello_read(&back, m + FRAME_HEADER, n, &err), -EPROTO);
    put_u32(m + FRAME_HEADER + 16, HELLO_VERSION + 1);
    assert_int_equal(hello_read(&back, m + FRAME_HEADER, size, &err), -ENOTSUP);
    free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames), cmocka_unit_test(plain_pages), cmocka_unit_test(compressed_pages),
        cmocka_unit_test(zeros),  cmocka_unit_test(hellos),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
