// Split virtqueues: what a right driver may do works, and every breach of the rules is refused.
#include "virtio/queue.h"
#include "fake_vm.h"
#include "unit.h"
#include <errno.h>

enum { SIZE = 8, DESC = 0x1000, AVAIL = 0x2000, USED = 0x3000, INDIRECT = 0x4000, DATA = 0x10000, ROM = 0x800000 };
enum { NEXT = 1, WRITE = 2, IND = 4 };

struct bed {
    struct fake_vm f;
    struct virtq q;
    struct virtq_chain c;
    uint16_t avail_idx;
    uint8_t *rom;
};

static int setup(void **state)
{
    struct bed *b = test_calloc(1, sizeof *b);
    fake_vm_init(&b->f, 1);
    virtq_init(&b->q, &b->f.vm, 64);
    b->q.size = SIZE;
    b->q.desc = DESC;
    b->q.avail = AVAIL;
    b->q.used = USED;
    b->q.indirect = true;
    assert_int_equal(virtq_enable(&b->q), 0);
    *state = b;
    return 0;
}

static int teardown(void **state)
{
    struct bed *b = *state;
    fake_vm_destroy(&b->f);
    test_free(b);
    return 0;
}

static void put16(struct bed *b, uint64_t gpa, uint16_t val)
{
    memcpy(b->f.ram + gpa, &val, 2);
}

static uint16_t get16(struct bed *b, uint64_t gpa)
{
    uint16_t val;
    memcpy(&val, b->f.ram + gpa, 2);
    return val;
}

static void desc_at(struct bed *b, uint64_t table, unsigned i, uint64_t addr, uint32_t len, uint16_t flags,
                    uint16_t next)
{
    uint8_t *d = b->f.ram + table + 16 * i;
    memcpy(d, &addr, 8);
    memcpy(d + 8, &len, 4);
    memcpy(d + 12, &flags, 2);
    memcpy(d + 14, &next, 2);
}

static void desc(struct bed *b, unsigned i, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
    desc_at(b, DESC, i, addr, len, flags, next);
}

static void offer(struct bed *b, uint16_t head)
{
    put16(b, AVAIL + 4 + 2 * (b->avail_idx % SIZE), head);
    put16(b, AVAIL + 2, ++b->avail_idx);
}

static void refused(struct bed *b, const char *why)
{
    assert_int_equal(virtq_pop(&b->q, &b->c), -EPROTO);
    assert_string_equal(b->q.fault, why);
}

static void chains_are_taken_and_given_back(void **state)
{
    struct bed *b = *state;
    assert_int_equal(virtq_pop(&b->q, &b->c), 0);
    desc(b, 3, DATA, 16, NEXT, 5);
    desc(b, 5, DATA + 0x100, 0, NEXT, 1); // empty: allowed, and not worth a buffer
    desc(b, 1, DATA + 0x200, 32, NEXT | WRITE, 0);
    desc(b, 0, DATA + 0x300, 1, WRITE, 7777);
    offer(b, 3);
    assert_int_equal(virtq_pop(&b->q, &b->c), 1);
    assert_int_equal(b->c.head, 3);
    assert_int_equal(b->c.out, 1);
    assert_int_equal(b->c.in, 2);
    assert_int_equal(b->c.out_bytes, 16);
    assert_int_equal(b->c.in_bytes, 33);
    assert_ptr_equal(b->c.buffer[0].base, b->f.ram + DATA);
    assert_ptr_equal(b->c.buffer[2].base, b->f.ram + DATA + 0x300);
    assert_int_equal(virtq_pop(&b->q, &b->c), 0);

    desc(b, 1, 0, 0, 0, 0); // what the driver does to the descriptors now is of no consequence
    uint8_t text[33];
    for (unsigned i = 0; i < sizeof text; i++)
        text[i] = (uint8_t)(i + 1);
    memcpy(b->f.ram + DATA, "0123456789abcdef", 16);
    char got[20] = "";
    assert_int_equal(virtq_chain_read(&b->c, 4, got, sizeof got), 12);
    assert_memory_equal(got, "456789abcdef", 12);
    assert_int_equal(virtq_chain_read(&b->c, 16, got, 1), 0);
    unsigned writes = b->f.writes;
    assert_int_equal(virtq_chain_write(&b->f.vm, &b->c, 30, text, sizeof text), 3);
    assert_int_equal(b->f.writes, writes + 2); // the engine hears of both pieces
    assert_int_equal(b->f.written[writes].gpa, DATA + 0x200 + 30);
    assert_int_equal(b->f.written[writes].size, 2);
    assert_int_equal(b->f.ram[DATA + 0x200 + 31], 2);
    assert_int_equal(b->f.ram[DATA + 0x300], 3);

    virtq_push(&b->q, b->c.head, b->c.epoch, 33);
    assert_int_equal(get16(b, USED + 2), 1);
    assert_int_equal(get16(b, USED + 4), 3);
    assert_int_equal(get16(b, USED + 8), 33);
    bool told = false;
    for (unsigned i = 0; i < b->f.writes; i++)
        told |= b->f.written[i].gpa == USED + 2;
    assert_true(told);
}

static void indices_wrap(void **state)
{
    struct bed *b = *state;
    desc(b, 2, DATA, 4, WRITE, 0);
    for (unsigned i = 0; i < 3 * 65536 / 2; i++) {
        offer(b, 2);
        if (virtq_pop(&b->q, &b->c) != 1)
            fail_msg("chain %u", i);
        virtq_push(&b->q, 2, b->c.epoch, i);
        if (get16(b, USED + 2) != (uint16_t)(i + 1) || get16(b, USED + 8 + 8 * (i % SIZE)) != (uint16_t)i)
            fail_msg("used %u", i);
    }
}

static void indirect_tables(void **state)
{
    struct bed *b = *state;
    // Direct ones first, then a table that fills the queue's length together with them.
    desc(b, 0, DATA, 8, NEXT, 1);
    desc(b, 1, INDIRECT, 16 * (SIZE - 1), IND, 0);
    for (unsigned i = 0; i < SIZE - 1; i++)
        desc_at(b, INDIRECT, i, DATA + 16 * i, 16, (i < SIZE - 2 ? NEXT : 0) | WRITE, (uint16_t)(i + 1));
    offer(b, 0);
    assert_int_equal(virtq_pop(&b->q, &b->c), 1);
    assert_int_equal(b->c.out, 1);
    assert_int_equal(b->c.in, SIZE - 1);
    // One more is too long.
    desc(b, 0, DATA, 8, NEXT, 2);
    desc(b, 2, DATA, 8, NEXT, 1);
    offer(b, 0);
    refused(b, "chain longer than the queue");
}

static void bad_indirect_tables(void **state)
{
    struct bed *b = *state;
    offer(b, 0);
    desc_at(b, INDIRECT, 0, DATA, 16, 0, 0);
    static const uint32_t sizes[] = {0, 8, 17, 16 * (SIZE + 1), 0xfffffff0};
    for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        desc(b, 0, INDIRECT, sizes[i], IND, 0);
        refused(b, "indirect table of a wrong size");
    }
    desc(b, 0, INDIRECT, 16, IND | NEXT, 1);
    refused(b, "indirect descriptor where none may be");
    desc(b, 0, 0x10000000, 16, IND, 0);
    refused(b, "indirect table is not in RAM");
    desc(b, 0, FAKE_VM_RAM - 16, 32, IND, 0);
    refused(b, "indirect table is not in RAM");
    desc(b, 0, INDIRECT, 16, IND, 0);
    desc_at(b, INDIRECT, 0, INDIRECT, 16, IND, 0); // a table that names itself
    refused(b, "indirect descriptor where none may be");
    desc_at(b, INDIRECT, 0, DATA, 16, NEXT, 1); // out of its own table, though not out of the queue's
    refused(b, "descriptor outside of its table");
    desc_at(b, INDIRECT, 0, DATA, 16, 0, 0);
    b->q.indirect = false;
    refused(b, "indirect descriptor where none may be");
    b->q.indirect = true;
    assert_int_equal(virtq_pop(&b->q, &b->c), 1);
}

static void loops_and_strays(void **state)
{
    struct bed *b = *state;
    offer(b, 0);
    desc(b, 0, DATA, 16, NEXT, 0);
    refused(b, "chain longer than the queue");
    desc(b, 0, DATA, 0, NEXT, 0); // a loop without a byte in it
    refused(b, "chain longer than the queue");
    desc(b, 0, DATA, 16, NEXT, SIZE);
    refused(b, "descriptor outside of its table");
    desc(b, 0, DATA, 16, WRITE | NEXT, 1);
    desc(b, 1, DATA, 16, 0, 0);
    refused(b, "readable buffer after a writable one");
    put16(b, AVAIL + 4, SIZE);
    refused(b, "descriptor outside of its table");
    put16(b, AVAIL + 4, 0xffff);
    refused(b, "descriptor outside of its table");
    put16(b, AVAIL + 2, SIZE + 1);
    refused(b, "more chains available than the queue holds");
    put16(b, AVAIL + 2, 0xffff); // backwards
    refused(b, "more chains available than the queue holds");
}

static void buffers_lie_in_ram(void **state)
{
    struct bed *b = *state;
    struct error err;
    uint8_t *rom = test_malloc(2 * 4096);
    uint8_t *page = (uint8_t *)(((uintptr_t)rom + 4095) & ~(uintptr_t)4095);
    assert_int_equal(vm_memory_add(&b->f.vm, ROM, 4096, page, true, &err), 0);
    offer(b, 0);
    static const struct {
        uint64_t addr;
        uint32_t len;
        uint16_t flags;
    } bad[] = {
        {FAKE_VM_RAM, 1, 0}, {FAKE_VM_RAM - 1, 2, 0},     {FAKE_VM_RAM - 1, 2, WRITE},     {0, 0xffffffff, 0},
        {UINT64_MAX, 1, 0},  {UINT64_MAX - 7, 16, WRITE}, {UINT64_MAX - 0xfff, 0x2000, 0}, {ROM, 4, WRITE},
        {ROM + 4094, 4, 0},
    };
    for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        desc(b, 0, bad[i].addr, bad[i].len, bad[i].flags, 0);
        refused(b, "buffer is not in RAM");
    }
    desc(b, 0, ROM, 4096, NEXT, 1); // reading is allowed
    desc(b, 1, FAKE_VM_RAM - 1, 1, WRITE, 0);
    assert_int_equal(virtq_pop(&b->q, &b->c), 1);
    test_free(rom);
}

static void settings_are_checked(void **state)
{
    struct bed *b = *state;
    static const uint16_t sizes[] = {0, 3, 6, 128, 0xffff, 0x8000};
    struct virtq *q = &b->q;
    for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        q->size = sizes[i];
        assert_int_equal(virtq_enable(q), -EPROTO);
        assert_false(q->enabled);
        assert_int_equal(virtq_pop(q, &b->c), 0);
    }
    q->size = 1;
    assert_int_equal(virtq_enable(q), 0);
    q->size = SIZE;
    uint64_t *address[] = {&q->desc, &q->avail, &q->used};
    for (unsigned i = 0; i < 3; i++) {
        uint64_t good = *address[i];
        *address[i] = good + 1;
        assert_int_equal(virtq_enable(q), -EPROTO);
        assert_string_equal(q->fault, "ring address is not aligned");
        static const uint64_t bad[] = {FAKE_VM_RAM, FAKE_VM_RAM - 16, 1ull << 63, 0xfffffffffffffff0};
        for (unsigned k = 0; k < sizeof bad / sizeof bad[0]; k++) {
            *address[i] = bad[k];
            assert_int_equal(virtq_enable(q), -EPROTO);
            assert_string_equal(q->fault, "ring is not in RAM");
        }
        *address[i] = good;
    }
    assert_int_equal(virtq_enable(q), 0);
}

static void interrupts_on_request(void **state)
{
    struct bed *b = *state;
    assert_false(virtq_wants_interrupt(&b->q)); // nothing was given back
    virtq_push(&b->q, 0, b->q.epoch, 0);
    assert_true(virtq_wants_interrupt(&b->q));
    assert_false(virtq_wants_interrupt(&b->q));
    put16(b, AVAIL, 1); // VIRTQ_AVAIL_F_NO_INTERRUPT
    virtq_push(&b->q, 0, b->q.epoch, 0);
    assert_false(virtq_wants_interrupt(&b->q));
}

static void event_indices(void **state)
{
    struct bed *b = *state;
    enum { USED_EVENT = AVAIL + 4 + 2 * SIZE, AVAIL_EVENT = USED + 4 + 8 * SIZE };
    b->q.event_idx = true;
    put16(b, AVAIL, 1); // of no meaning with event indices
    put16(b, USED_EVENT, 0);
    virtq_push(&b->q, 0, b->q.epoch, 0);
    assert_true(virtq_wants_interrupt(&b->q)); // 0 -> 1
    put16(b, USED_EVENT, 3);
    virtq_push(&b->q, 0, b->q.epoch, 0);
    virtq_push(&b->q, 0, b->q.epoch, 0);
    assert_false(virtq_wants_interrupt(&b->q)); // 3
    virtq_push(&b->q, 0, b->q.epoch, 0);
    assert_true(virtq_wants_interrupt(&b->q)); // 3 -> 4
    virtq_push(&b->q, 0, b->q.epoch, 0);
    assert_false(virtq_wants_interrupt(&b->q));
    put16(b, USED_EVENT, 6);
    virtq_push(&b->q, 0, b->q.epoch, 0);
    virtq_push(&b->q, 0, b->q.epoch, 0);
    virtq_push(&b->q, 0, b->q.epoch, 0);
    assert_true(virtq_wants_interrupt(&b->q)); // 5 -> 8 passes it
    // The driver is asked to notify of the next chain once there is none left.
    desc(b, 0, DATA, 4, 0, 0);
    offer(b, 0);
    offer(b, 0);
    assert_int_equal(virtq_pop(&b->q, &b->c), 1);
    assert_int_equal(get16(b, AVAIL_EVENT), 0);
    assert_int_equal(virtq_pop(&b->q, &b->c), 1);
    assert_int_equal(virtq_pop(&b->q, &b->c), 0);
    assert_int_equal(get16(b, AVAIL_EVENT), 2);
}

static void an_old_epoch_touches_nothing(void **state)
{
    struct bed *b = *state;
    desc(b, 0, DATA, 4, WRITE, 0);
    offer(b, 0);
    assert_int_equal(virtq_pop(&b->q, &b->c), 1);
    virtq_reset(&b->q);
    assert_int_equal(b->q.size, 64);
    virtq_push(&b->q, b->c.head, b->c.epoch, 4); // disabled
    b->q.size = SIZE;
    b->q.desc = DESC;
    b->q.avail = AVAIL;
    b->q.used = USED;
    assert_int_equal(virtq_enable(&b->q), 0);
    virtq_push(&b->q, b->c.head, b->c.epoch, 4);
    assert_int_equal(get16(b, USED + 2), 0);
    assert_false(virtq_wants_interrupt(&b->q));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(chains_are_taken_and_given_back, setup, teardown),
        cmocka_unit_test_setup_teardown(indices_wrap, setup, teardown),
        cmocka_unit_test_setup_teardown(indirect_tables, setup, teardown),
        cmocka_unit_test_setup_teardown(bad_indirect_tables, setup, teardown),
        cmocka_unit_test_setup_teardown(loops_and_strays, setup, teardown),
        cmocka_unit_test_setup_teardown(buffers_lie_in_ram, setup, teardown),
        cmocka_unit_test_setup_teardown(settings_are_checked, setup, teardown),
        cmocka_unit_test_setup_teardown(interrupts_on_request, setup, teardown),
        cmocka_unit_test_setup_teardown(event_indices, setup, teardown),
        cmocka_unit_test_setup_teardown(an_old_epoch_touches_nothing, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
