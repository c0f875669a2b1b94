// The device without a kind of its own to speak of: negotiation, status, queues, interrupts, configuration, work that
// must not hold up the host, reset with chains in flight, and saved state; over both transports.
#include "driver.h"
#include "unit.h"
#include "vm/alloc.h"

enum { FEATURE = 1 << 5, QUEUES = 3 };

// A device that takes chains and keeps the last `KEPT` until the test gives them back, or returns them at once.
enum { KEPT = 4 };
struct probe {
    struct virtio_device virtio;
    uint8_t config[10];
    bool keep, forever;
    unsigned kicks, taken, kept, resets;
    unsigned kept_queue[KEPT];
    struct virtq_chain chain[KEPT];
};

static void probe_kick(struct virtio_device *d, unsigned queue)
{
    struct probe *p = (struct probe *)d;
    p->kicks++;
    while ((!p->keep || p->kept < KEPT) && virtio_pop(d, queue, &p->chain[p->kept])) {
        p->taken++;
        if (p->keep) {
            p->kept_queue[p->kept++] = queue;
        } else {
            virtio_push(d, queue, &p->chain[p->kept], 1);
            if (p->forever) { // a driver that is always quicker than we are
                struct virtq *q = &d->queue[queue].ring;
                uint16_t idx;
                vm_read(d->dev.vm, q->avail + 2, &idx, 2);
                idx++;
                vm_write(d->dev.vm, q->avail + 2, &idx, 2);
            }
        }
    }
    virtio_notify(d, queue);
}

static void give_back(struct probe *p, unsigned i, uint32_t written)
{
    vm_lock(&p->virtio.dev.lock);
    virtio_push(&p->virtio, p->kept_queue[i], &p->chain[i], written);
    virtio_notify(&p->virtio, p->kept_queue[i]);
    vm_unlock(&p->virtio.dev.lock);
}

static void probe_config_write(struct virtio_device *d, unsigned offset, unsigned size, uint32_t val)
{
    memcpy(((struct probe *)d)->config + offset, &val, size);
}

static void probe_reset(struct virtio_device *d)
{
    ((struct probe *)d)->resets++;
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
                                              .kick = probe_kick,
                                              .config_write = probe_config_write,
                                              .reset = probe_reset};

static struct probe *begin(struct bed *b, void **state)
{
    bed_init(b);
    struct probe *p = vm_alloc(sizeof *p);
    memcpy(p->config, "configured", sizeof p->config);
    virtio_init(&p->virtio, &b->f.vm, &probe_kind, "probe0", FEATURE, QUEUES, 64, p->config, sizeof p->config);
    bed_attach(b, &p->virtio, *state != NULL);
    p->resets = 0;
    return p;
}

static uint64_t offer_one(struct bed *b, unsigned q)
{
    uint64_t gpa = driver_alloc(&b->d, 64);
    driver_desc(&b->d, q, 0, (struct driver_desc){.addr = gpa, .len = 64, .flags = DESC_WRITE});
    driver_make_available(&b->d, q, 0);
    return gpa;
}

static void set_bits(struct bed *b, uint8_t bits)
{
    driver_set_status(&b->d, driver_status(&b->d) | bits);
}

static void features_are_negotiated(void **state)
{
    struct bed b;
    struct probe *p = begin(&b, state);
    uint64_t all = FEATURE | VIRTIO_F_VERSION_1 | VIRTIO_F_EVENT_IDX | VIRTIO_F_INDIRECT_DESC;
    assert_true(driver_offered(&b.d) == all);
    static const uint64_t bad[] = {FEATURE, VIRTIO_F_VERSION_1 | 1, VIRTIO_F_VERSION_1 | 1ull << 63, 0};
    for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        set_bits(&b, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER);
        driver_accept(&b.d, bad[i]);
        set_bits(&b, VIRTIO_FEATURES_OK);
        assert_false(driver_status(&b.d) & VIRTIO_FEATURES_OK);
        set_bits(&b, VIRTIO_DRIVER_OK); // a driver that does not look
        assert_false(driver_status(&b.d) & VIRTIO_DRIVER_OK);
        driver_set_status(&b.d, 0);
        assert_true(p->virtio.accepted == 0);
    }
    driver_start(&b.d, FEATURE, 1);
    assert_true(virtio_has(&p->virtio, FEATURE));
    driver_accept(&b.d, VIRTIO_F_VERSION_1); // too late
    assert_true(virtio_has(&p->virtio, FEATURE));
    bed_destroy(&b);
}

static void status_only_rises(void **state)
{
    struct bed b;
    struct probe *p = begin(&b, state);
    driver_start(&b.d, 0, 1);
    uint8_t status = driver_status(&b.d);
    driver_set_status(&b.d, VIRTIO_DRIVER);
    assert_int_equal(driver_status(&b.d), status);
    driver_set_status(&b.d, VIRTIO_NEEDS_RESET); // is the device's to set
    assert_int_equal(driver_status(&b.d), status);
    set_bits(&b, VIRTIO_FAILED);
    assert_int_equal(driver_status(&b.d), status | VIRTIO_FAILED);
    assert_int_equal(p->resets, 1); // by driver_start
    driver_set_status(&b.d, 0);
    assert_int_equal(driver_status(&b.d), 0);
    assert_int_equal(p->resets, 2);
    bed_destroy(&b);
}

static void queues_wait_for_the_driver(void **state)
{
    struct bed b;
    struct probe *p = begin(&b, state);
    assert_int_equal(driver_queue_max(&b.d, 0), 64);
    assert_int_equal(driver_queue_max(&b.d, QUEUES - 1), 64);
    assert_int_equal(driver_queue_max(&b.d, QUEUES), 0);
    assert_int_equal(driver_queue_max(&b.d, 0xffff), 0);
    set_bits(&b, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER);
    driver_accept(&b.d, VIRTIO_F_VERSION_1);
    set_bits(&b, VIRTIO_FEATURES_OK);
    driver_make_queue(&b.d, 1, 4);
    driver_enable_queue(&b.d, 1);
    offer_one(&b, 1);
    driver_notify(&b.d, 1);
    assert_int_equal(p->taken, 0);
    set_bits(&b, VIRTIO_DRIVER_OK); // what was made available before is not forgotten
    assert_int_equal(p->taken, 1);
    unsigned kicks = p->kicks;
    driver_notify(&b.d, 0); // disabled
    driver_notify(&b.d, 3); // does not exist
    driver_notify(&b.d, 500);
    assert_int_equal(p->kicks, kicks);
    // An enabled queue's registers no longer move.
    struct virtq before = p->virtio.queue[1].ring;
    b.d.queue[1].desc += 0x100;
    b.d.queue[1].size = 2;
    driver_enable_queue(&b.d, 1);
    assert_memory_equal(&before, &p->virtio.queue[1].ring, sizeof before);
    bed_destroy(&b);
}

static void chains_come_back_with_an_interrupt(void **state)
{
    struct bed b;
    begin(&b, state);
    driver_start(&b.d, 0, 2);
    assert_false(bed_interrupt(&b));
    offer_one(&b, 1);
    driver_notify(&b.d, 1);
    uint32_t id, len;
    assert_true(driver_used(&b.d, 1, &id, &len));
    assert_int_equal(len, 1);
    assert_true(bed_interrupt(&b));
    assert_int_equal(driver_isr(&b.d), 1);
    assert_false(bed_interrupt(&b));
    driver_poke16(&b.d, b.d.queue[1].avail, 1); // no interrupt, please
    offer_one(&b, 1);
    driver_notify(&b.d, 1);
    assert_true(driver_used(&b.d, 1, &id, &len));
    assert_false(bed_interrupt(&b));
    bed_destroy(&b);
}

static void a_broken_ring_needs_reset(void **state)
{
    struct bed b;
    struct probe *p = begin(&b, state);
    driver_start(&b.d, 0, 1);
    driver_make_available(&b.d, 0, 999);
    driver_notify(&b.d, 0);
    assert_true(driver_status(&b.d) & VIRTIO_NEEDS_RESET);
    assert_int_equal(driver_isr(&b.d), 2); // a configuration interrupt says so
    assert_string_equal(b.f.last_log, "guest: probe0: the driver broke the rules: descriptor outside of its table");
    unsigned kicks = p->kicks;
    driver_notify(&b.d, 0);
    assert_int_equal(p->kicks, kicks);
    driver_start(&b.d, 0, 1);
    offer_one(&b, 0);
    driver_notify(&b.d, 0);
    assert_int_equal(p->taken, 1);
    // Rings that cannot be.
    driver_set_status(&b.d, 0);
    set_bits(&b, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER);
    driver_accept(&b.d, VIRTIO_F_VERSION_1);
    set_bits(&b, VIRTIO_FEATURES_OK);
    driver_make_queue(&b.d, 0, 4);
    b.d.queue[0].used = 0xffffffff00000000;
    driver_enable_queue(&b.d, 0);
    assert_true(driver_status(&b.d) & VIRTIO_NEEDS_RESET);
    assert_false(p->virtio.queue[0].ring.enabled);
    assert_false(bed_interrupt(&b)); // the driver is not ready for one
    bed_destroy(&b);
}

static void configuration(void **state)
{
    struct bed b;
    struct probe *p = begin(&b, state);
    assert_int_equal(driver_config(&b.d, 0, 4), 'c' | 'o' << 8 | 'n' << 16 | 'f' << 24);
    assert_int_equal(driver_config(&b.d, 4, 2), 'i' | 'g' << 8);
    assert_int_equal(driver_config(&b.d, 9, 1), 'd');
    assert_int_equal(driver_config(&b.d, 8, 4), 'e' | 'd' << 8); // zeroes beyond the end
    assert_int_equal(driver_config(&b.d, 0x40, 4), 0);
    driver_set_config(&b.d, 0, 1, 'C');
    driver_set_config(&b.d, 8, 4, 0); // leaves it
    driver_set_config(&b.d, 0x80, 4, 0);
    assert_memory_equal(p->config, "Configured", sizeof p->config);
    driver_start(&b.d, 0, 1);
    uint32_t generation = driver_generation(&b.d);
    vm_lock(&p->virtio.dev.lock);
    virtio_config_changed(&p->virtio);
    vm_unlock(&p->virtio.dev.lock);
    assert_int_not_equal(driver_generation(&b.d), generation);
    assert_true(bed_interrupt(&b));
    assert_int_equal(driver_isr(&b.d), 2);
    assert_false(bed_interrupt(&b));
    bed_destroy(&b);
}

// A driver that keeps a queue full for ever gets its work done piece by piece on the timer, and the vCPU goes on.
static void work_is_done_in_pieces(void **state)
{
    struct bed b;
    struct probe *p = begin(&b, state);
    driver_start(&b.d, 0, 1);
    p->forever = true;
    offer_one(&b, 0);
    driver_notify(&b.d, 0);
    unsigned piece = p->taken;
    assert_in_range(piece, 1, 5000);
    driver_notify(&b.d, 0); // a vCPU that insists works for itself
    assert_int_equal(p->taken, 2 * piece);
    fake_vm_advance(&b.f, 1);
    assert_true(p->taken >= 3 * piece);
    p->forever = false;
    fake_vm_advance(&b.f, 1000);
    unsigned taken = p->taken;
    fake_vm_advance(&b.f, 1000);
    assert_int_equal(p->taken, taken);
    bed_destroy(&b);
}

static void reset_waits_for_what_is_in_flight(void **state)
{
    struct bed b;
    struct probe *p = begin(&b, state);
    driver_start(&b.d, 0, 1);
    p->keep = true;
    offer_one(&b, 0);
    driver_notify(&b.d, 0);
    offer_one(&b, 0);
    driver_notify(&b.d, 0);
    assert_int_equal(p->kept, 2);
    driver_set_status(&b.d, 0);
    assert_int_equal(driver_status(&b.d), VIRTIO_ACKNOWLEDGE); // not zero yet
    give_back(p, 1, 7);
    assert_int_equal(driver_status(&b.d), VIRTIO_ACKNOWLEDGE);
    give_back(p, 0, 7);
    assert_int_equal(driver_status(&b.d), 0);
    assert_int_equal(driver_peek16(&b.d, b.d.queue[0].used + 2), 0);
    assert_false(bed_interrupt(&b));

    // A driver that does not wait gets a fresh queue, which the old chain does not touch.
    p->kept = 0;
    driver_start(&b.d, 0, 1);
    offer_one(&b, 0);
    driver_notify(&b.d, 0);
    assert_int_equal(p->kept, 1);
    driver_set_status(&b.d, 0);
    driver_set_status(&b.d, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER);
    driver_accept(&b.d, VIRTIO_F_VERSION_1);
    set_bits(&b, VIRTIO_FEATURES_OK);
    driver_make_queue(&b.d, 0, 4);
    driver_enable_queue(&b.d, 0);
    set_bits(&b, VIRTIO_DRIVER_OK);
    offer_one(&b, 0);
    driver_notify(&b.d, 0);
    assert_int_equal(p->kept, 2);
    give_back(p, 0, 7);
    assert_int_equal(driver_peek16(&b.d, b.d.queue[0].used + 2), 0);
    assert_false(bed_interrupt(&b));
    give_back(p, 1, 9);
    uint32_t id, len;
    assert_true(driver_used(&b.d, 0, &id, &len));
    assert_int_equal(len, 9);
    assert_true(bed_interrupt(&b));
    assert_int_equal(p->virtio.in_flight, 0);
    bed_destroy(&b);
}

static void a_machine_reset_clears_everything(void **state)
{
    struct bed b;
    struct probe *p = begin(&b, state);
    driver_start(&b.d, FEATURE, 2);
    offer_one(&b, 0);
    driver_notify(&b.d, 0);
    assert_true(bed_interrupt(&b));
    fake_vm_reset(&b.f);
    assert_false(bed_interrupt(&b));
    if (b.d.is_pci)
        driver_find_pci(&b.d, &b.f.vm, b.bus, BED_SLOT, b.d.heap);
    assert_int_equal(driver_status(&b.d), 0);
    assert_true(p->virtio.accepted == 0);
    assert_false(p->virtio.queue[0].ring.enabled);
    assert_int_equal(driver_isr(&b.d), 0);
    bed_destroy(&b);
}

static struct device *transport_of(struct bed *b)
{
    return b->d.is_pci ? &b->bus->function[BED_SLOT * 8]->dev : b->f.vm.devices->next->next->next;
}

static void state_moves_to_another_machine(void **state)
{
    struct bed b, c;
    struct probe *p = begin(&b, state), *q = begin(&c, state);
    driver_start(&b.d, FEATURE | VIRTIO_F_EVENT_IDX, 2);
    for (unsigned i = 0; i < 20; i++) {
        offer_one(&b, 0);
        driver_notify(&b.d, 0);
    }
    assert_true(bed_interrupt(&b));
    offer_one(&b, 0); // and not notified: the new machine finds it by itself
    memcpy(c.f.ram, b.f.ram, FAKE_VM_RAM);
    assert_int_equal(fake_vm_copy_state(&p->virtio.dev, &q->virtio.dev), 0);
    assert_int_equal(fake_vm_copy_state(transport_of(&b), transport_of(&c)), 0);
    assert_true(bed_interrupt(&c));
    c.d = b.d;
    c.d.vm = &c.f.vm;
    c.d.bus = c.bus;
    assert_int_equal(driver_status(&c.d), driver_status(&b.d));
    assert_int_equal(q->taken, 0);
    fake_vm_advance(&c.f, 1);
    assert_int_equal(q->taken, 1);
    assert_int_equal(driver_peek16(&c.d, c.d.queue[0].used + 2), 21);
    offer_one(&c, 0);
    driver_notify(&c.d, 0);
    assert_int_equal(driver_peek16(&c.d, c.d.queue[0].used + 2), 22);

    // Files that lie.
    p->virtio.accepted |= 1ull << 40;
    assert_int_not_equal(fake_vm_copy_state(&p->virtio.dev, &q->virtio.dev), 0);
    p->virtio.accepted &= ~(1ull << 40);
    p->virtio.queue[0].ring.size = 3;
    assert_int_not_equal(fake_vm_copy_state(&p->virtio.dev, &q->virtio.dev), 0);
    p->virtio.queue[0].ring.size = DRIVER_QUEUE_SIZE;
    p->virtio.queue[0].ring.used = 1ull << 50;
    assert_int_not_equal(fake_vm_copy_state(&p->virtio.dev, &q->virtio.dev), 0);
    p->virtio.queue[0].ring.used = b.d.queue[0].used;
    p->virtio.queue[0].ring.next_avail += 100;
    assert_int_equal(fake_vm_copy_state(&p->virtio.dev, &q->virtio.dev), 0);
    fake_vm_advance(&c.f, 1);
    assert_true(driver_status(&c.d) & VIRTIO_NEEDS_RESET);
    bed_destroy(&b);
    bed_destroy(&c);
}

// --- what only one of the transports has

static void program_vector(struct bed *b, unsigned v, uint32_t data)
{
    fake_vm_write(&b->f, b->d.msix + 16 * v, 4, 0xfee00000);
    fake_vm_write(&b->f, b->d.msix + 16 * v + 4, 4, 0);
    fake_vm_write(&b->f, b->d.msix + 16 * v + 8, 4, data);
    fake_vm_write(&b->f, b->d.msix + 16 * v + 12, 4, 0);
}

static uint16_t set_queue_vector(struct bed *b, unsigned q, uint16_t vector)
{
    fake_vm_write(&b->f, b->d.common + 22, 2, q);
    fake_vm_write(&b->f, b->d.common + 26, 2, vector);
    return (uint16_t)fake_vm_read(&b->f, b->d.common + 26, 2);
}

static void pci_queues_have_vectors(void **state)
{
    *state = (void *)1;
    struct bed b;
    struct probe *p = begin(&b, state);
    driver_start(&b.d, 0, 2);
    unsigned cap = pci_bus_config_read(b.bus, b.d.devfn, PCI_CAPABILITIES, 1);
    assert_int_equal(pci_bus_config_read(b.bus, b.d.devfn, cap, 1), PCI_CAP_MSIX);
    assert_int_equal(pci_bus_config_read(b.bus, b.d.devfn, cap + 2, 2), QUEUES); // one more than that: configuration
    pci_bus_config_write(b.bus, b.d.devfn, cap + 2, 2, 0x8000);
    for (unsigned v = 0; v <= QUEUES; v++)
        program_vector(&b, v, 0x50 + v);
    assert_int_equal(set_queue_vector(&b, 0, QUEUES + 1), 0xffff); // not in the table
    assert_int_equal(set_queue_vector(&b, 0, 2), 2);
    assert_int_equal(set_queue_vector(&b, QUEUES, 1), 0); // no such queue
    fake_vm_write(&b.f, b.d.common + 16, 2, 3);
    assert_int_equal(fake_vm_read(&b.f, b.d.common + 16, 2), 3);
    offer_one(&b, 0);
    driver_notify(&b.d, 0);
    assert_int_equal(b.f.msis, 1);
    assert_int_equal(b.f.msi[0].data, 0x52);
    offer_one(&b, 1); // has no vector
    driver_notify(&b.d, 1);
    assert_int_equal(b.f.msis, 1);
    virtio_config_changed(&p->virtio);
    assert_int_equal(b.f.msis, 2);
    assert_int_equal(b.f.msi[1].data, 0x53);
    assert_false(bed_interrupt(&b));
    assert_int_equal(driver_isr(&b.d), 0);
    driver_set_status(&b.d, 0);
    assert_int_equal(set_queue_vector(&b, 0, 0xffff), 0xffff);
    assert_int_equal(fake_vm_read(&b.f, b.d.common + 16, 2), 0xffff);
    bed_destroy(&b);
}

static void pci_identity(void **state)
{
    *state = (void *)1;
    struct bed b;
    begin(&b, state);
    assert_int_equal(pci_bus_config_read(b.bus, b.d.devfn, PCI_VENDOR_ID, 4), (0x1040 + 42) << 16 | 0x1af4);
    assert_in_range(pci_bus_config_read(b.bus, b.d.devfn, PCI_REVISION, 1), 1, 255);
    assert_in_range(pci_bus_config_read(b.bus, b.d.devfn, PCI_SUBSYSTEM, 2), 0x40, 0xffff);
    struct error err;
    struct probe *p = vm_alloc(sizeof *p);
    virtio_init(&p->virtio, &b.f.vm, &probe_kind, "probe1", 0, 1, 64, NULL, 0);
    assert_true(virtio_pci_attach(&p->virtio, b.bus, BED_SLOT, &err) < 0); // taken
    assert_true(virtio_pci_attach(&p->virtio, b.bus, 0, &err) < 0);
    assert_true(virtio_pci_attach(&p->virtio, b.bus, 32, &err) < 0);
    assert_string_equal(err.text, "probe1: no PCI slot 32");
    assert_int_equal(virtio_pci_attach(&p->virtio, b.bus, 31, &err), 0);
    bed_destroy(&b);
}

// The common configuration register by register in odd widths.
static void pci_odd_widths(void **state)
{
    *state = (void *)1;
    struct bed b;
    struct probe *p = begin(&b, state);
    assert_int_equal(fake_vm_read(&b.f, b.d.common + 18, 1), QUEUES);
    assert_int_equal(fake_vm_read(&b.f, b.d.common + 16, 4), QUEUES << 16 | 0xffff);
    fake_vm_write(&b.f, b.d.common + 22, 2, 1);
    fake_vm_write(&b.f, b.d.common + 32, 8, 0x123456789abcdef0); // two halves
    assert_true(p->virtio.queue[1].ring.desc == 0x123456789abcdef0);
    assert_true(fake_vm_read(&b.f, b.d.common + 32, 8) == 0x123456789abcdef0);
    fake_vm_write(&b.f, b.d.common + 32, 2, 0xffff);
    fake_vm_write(&b.f, b.d.common + 33, 4, 0xffffffff);
    fake_vm_write(&b.f, b.d.common + 20, 4, 0x0f0f0f0f);
    assert_true(p->virtio.queue[1].ring.desc == 0x123456789abcdef0);
    assert_int_equal(driver_status(&b.d), 0);
    for (unsigned offset = 56; offset < 0x1000; offset += 4)
        assert_int_equal(fake_vm_read(&b.f, b.d.common + offset, 4), 0);
    bed_destroy(&b);
}

static void pci_access_through_configuration(void **state)
{
    *state = (void *)1;
    struct bed b;
    begin(&b, state);
    unsigned w = b.d.window;
    uint32_t config = (uint32_t)(b.d.config - b.d.common), status = 20;
#define CONF_WRITE(reg, size, val) pci_bus_config_write(b.bus, b.d.devfn, w + (reg), size, val)
    CONF_WRITE(4, 1, 0);
    CONF_WRITE(8, 4, config + 4);
    CONF_WRITE(12, 4, 2);
    assert_int_equal(pci_bus_config_read(b.bus, b.d.devfn, w + 16, 2), 'i' | 'g' << 8);
    CONF_WRITE(8, 4, status);
    CONF_WRITE(12, 4, 1);
    CONF_WRITE(16, 1, VIRTIO_ACKNOWLEDGE);
    assert_int_equal(driver_status(&b.d), VIRTIO_ACKNOWLEDGE);
    // Nonsense in it reaches nothing.
    static const struct {
        uint32_t bar, offset, length;
    } bad[] = {{1, 20, 1},         {0, 20, 0},     {0, 20, 3}, {0, 20, 8},
               {0, 0xfffffffc, 4}, {0, 0x8000, 4}, {0, 2, 4},  {255, 20, 1}};
    for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        CONF_WRITE(4, 1, bad[i].bar);
        CONF_WRITE(8, 4, bad[i].offset);
        CONF_WRITE(12, 4, bad[i].length);
        CONF_WRITE(16, 4, 0x0b0b0b0b);
        assert_int_equal(pci_bus_config_read(b.bus, b.d.devfn, w + 16, 4), 0x0b0b0b0b);
        assert_int_equal(driver_status(&b.d), VIRTIO_ACKNOWLEDGE);
    }
#undef CONF_WRITE
    bed_destroy(&b);
}

static void mmio_registers(void **state)
{
    *state = NULL;
    struct bed b;
    struct probe *p = begin(&b, state);
    assert_int_equal(fake_vm_read(&b.f, BED_MMIO + 8, 4), 42);
    assert_int_equal(fake_vm_read(&b.f, BED_MMIO + 0xb0, 4), 0xffffffff); // no shared memory
    assert_int_equal(fake_vm_read(&b.f, BED_MMIO + 8, 2), 0);             // 32 bits or nothing
    assert_int_equal(fake_vm_read(&b.f, BED_MMIO + 9, 4), 0);
    fake_vm_write(&b.f, BED_MMIO + 0x70, 1, VIRTIO_ACKNOWLEDGE);
    assert_int_equal(driver_status(&b.d), 0);
    driver_start(&b.d, 0, 1);
    fake_vm_write(&b.f, BED_MMIO + 0x30, 4, 0);
    assert_int_equal(fake_vm_read(&b.f, BED_MMIO + 0x44, 4), 1);
    fake_vm_write(&b.f, BED_MMIO + 0x44, 4, 0); // the driver takes the queue back
    assert_int_equal(fake_vm_read(&b.f, BED_MMIO + 0x44, 4), 0);
    assert_int_equal(fake_vm_read(&b.f, BED_MMIO + 0x34, 4), 64);
    offer_one(&b, 0);
    driver_notify(&b.d, 0);
    assert_int_equal(p->taken, 0);
    fake_vm_write(&b.f, BED_MMIO + 0x38, 4, 0x10004);
    fake_vm_write(&b.f, BED_MMIO + 0x44, 4, 1);
    assert_true(driver_status(&b.d) & VIRTIO_NEEDS_RESET); // 0x10004 is no size, not 4
    bed_destroy(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_BOTH(features_are_negotiated),
        ON_BOTH(status_only_rises),
        ON_BOTH(queues_wait_for_the_driver),
        ON_BOTH(chains_come_back_with_an_interrupt),
        ON_BOTH(a_broken_ring_needs_reset),
        ON_BOTH(configuration),
        ON_BOTH(work_is_done_in_pieces),
        ON_BOTH(reset_waits_for_what_is_in_flight),
        ON_BOTH(a_machine_reset_clears_everything),
        ON_BOTH(state_moves_to_another_machine),
        cmocka_unit_test(pci_queues_have_vectors),
        cmocka_unit_test(pci_identity),
        cmocka_unit_test(pci_odd_widths),
        cmocka_unit_test(pci_access_through_configuration),
        cmocka_unit_test(mmio_registers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
