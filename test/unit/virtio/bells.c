// Doorbells of virtio devices: where the engine can ring them, they hang where the driver writes, for as long as it
// may.
#include "driver.h"
#include "unit.h"
#include "vm/alloc.h"
#include <stdatomic.h>
#include <unistd.h>

enum { QUEUES = 3, NEW_BAR = 0xc0800000 };

struct probe {
    struct virtio_device virtio;
    atomic_uint kicks[QUEUES];
};

static void probe_kick(struct virtio_device *d, unsigned queue)
{
    atomic_fetch_add(&((struct probe *)d)->kicks[queue], 1);
}

static void probe_destroy(struct device *d)
{
    vm_free(d);
}

static const struct state_field probe_fields[] = {VIRTIO_STATE(struct probe, virtio), STATE_END};
static const struct state_table probe_state = {"probe", 1, probe_fields};
static const struct virtio_kind probe_kind = {.device = {.name = "probe",
                                                         .reset = virtio_device_reset,
                                                         .state = &probe_state,
                                                         .loaded = virtio_device_loaded,
                                                         .destroy = probe_destroy},
                                              .id = 42,
                                              .pci_class = 0xff0000,
                                              .kick = probe_kick};

static struct probe *begin(struct bed *b, void **state, bool bells)
{
    bed_init(b);
    b->f.vm.with_bells = bells;
    struct probe *p = vm_alloc(sizeof *p);
    virtio_init(&p->virtio, &b->f.vm, &probe_kind, "probe0", 0, QUEUES, 64, NULL, 0);
    bed_attach(b, &p->virtio, *state != NULL);
    return p;
}

static uint64_t notify_address(const struct bed *b, unsigned q)
{
    return b->d.is_pci ? b->d.notify + b->d.notify_multiplier * q : BED_MMIO + 0x50;
}

static const struct fake_vm_bell *hangs(const struct bed *b, unsigned q)
{
    for (unsigned n = 0; n < FAKE_VM_BELLS; n++) {
        const struct fake_vm_bell *bell = &b->f.bell[n];
        if (bell->fd && bell->gpa == notify_address(b, q) && (bell->size ? bell->size == 4 && bell->value == q : true))
            return bell;
    }
    return NULL;
}

static unsigned hanging(const struct bed *b)
{
    unsigned count = 0;
    for (unsigned n = 0; n < FAKE_VM_BELLS; n++)
        count += b->f.bell[n].fd != 0;
    return count;
}

static void wait_for(atomic_uint *count, unsigned least)
{
    for (unsigned n = 0; n < 10000 && atomic_load(count) < least; n++)
        usleep(1000);
    assert_true(atomic_load(count) >= least);
}

static void they_hang_while_the_driver_works(void **state)
{
    struct bed b;
    struct probe *p = begin(&b, state, true);
    assert_int_equal(hanging(&b), 0);
    driver_start(&b.d, 0, QUEUES);
    assert_int_equal(hanging(&b), QUEUES);
    for (unsigned q = 0; q < QUEUES; q++) {
        unsigned before = p->kicks[q];
        assert_non_null(hangs(&b, q));
        assert_int_equal(write(hangs(&b, q)->fd, &(uint64_t){1}, 8), 8);
        wait_for(&p->kicks[q], before + 1);
        driver_notify(&b.d, q); // the way without it stays open
        wait_for(&p->kicks[q], before + 2);
    }
    driver_set_status(&b.d, 0);
    assert_int_equal(hanging(&b), 0);
    driver_start(&b.d, 0, QUEUES);
    assert_int_equal(hanging(&b), QUEUES);
    fake_vm_reset(&b.f);
    assert_int_equal(hanging(&b), 0);
    bed_destroy(&b);
}

static void not_where_nobody_wants_them(void **state)
{
    struct bed b;
    begin(&b, state, false);
    driver_start(&b.d, 0, QUEUES);
    assert_int_equal(hanging(&b), 0);
    bed_destroy(&b);
}

static void config(struct bed *b, unsigned reg, unsigned size, uint32_t val)
{
    fake_vm_out(&b->f, 0xcf8, 4, 0x80000000u | BED_SLOT << 11 | (reg & ~3u));
    fake_vm_out(&b->f, 0xcfc + (reg & 3), size, val);
}

static void they_move_with_the_BAR(void **state)
{
    (void)state;
    struct bed b;
    void *pci = &b;
    begin(&b, &pci, true);
    driver_start(&b.d, 0, QUEUES);
    uint64_t old = b.d.notify;
    config(&b, PCI_COMMAND, 2, 0); // no memory decoding
    assert_int_equal(hanging(&b), 0);
    config(&b, PCI_BAR0, 4, NEW_BAR);
    config(&b, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    b.d.notify = NEW_BAR + (old & 0x7fff);
    assert_int_equal(hanging(&b), QUEUES);
    for (unsigned q = 0; q < QUEUES; q++)
        assert_non_null(hangs(&b, q));
    bed_destroy(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_BOTH(they_hang_while_the_driver_works),
        ON_BOTH(not_where_nobody_wants_them),
        cmocka_unit_test(they_move_with_the_BAR),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
