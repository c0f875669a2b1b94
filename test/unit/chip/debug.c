// The debug ports: status, output, and that they are not there unless asked for.
#include "chip/debug.h"
#include "fake_vm.h"
#include "unit.h"

static char sent[16];
static unsigned sent_count;

static void on_write(struct stream *s, const void *data, size_t size)
{
    (void)s;
    memcpy(sent + sent_count, data, size);
    sent_count += size;
}

static void exits(void **state)
{
    (void)state;
    struct fake_vm f;
    struct error err;
    fake_vm_init(&f, 1);
    fake_vm_out(&f, 0xf4, 1, 0);
    assert_int_equal(f.vm.end, VM_END_NONE);
    assert_int_equal(debug_exit_create(&f.vm, &err), 0);
    fake_vm_out(&f, 0xf4, 1, 0x10);
    assert_int_equal(f.vm.end, VM_END_DEBUG);
    assert_int_equal(f.vm.end_status, 33);
    fake_vm_destroy(&f);
    fake_vm_init(&f, 1);
    debug_exit_create(&f.vm, &err);
    fake_vm_out(&f, 0xf4, 4, 0);
    assert_int_equal(f.vm.end_status, 1);
    fake_vm_destroy(&f);
}

static void prints(void **state)
{
    (void)state;
    static const struct stream_ops ops = {.write = on_write};
    struct stream stream = {.ops = &ops};
    struct fake_vm f;
    struct error err;
    fake_vm_init(&f, 1);
    assert_int_equal(fake_vm_in(&f, 0xe9, 1), 0xff);
    assert_int_equal(debug_console_create(&f.vm, &stream, &err), 0);
    assert_int_equal(fake_vm_in(&f, 0xe9, 1), 0xe9);
    fake_vm_out(&f, 0xe9, 1, 'o');
    fake_vm_out(&f, 0xe9, 1, 'k');
    assert_int_equal(sent_count, 2);
    assert_memory_equal(sent, "ok", 2);
    fake_vm_destroy(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(exits), cmocka_unit_test(prints)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
