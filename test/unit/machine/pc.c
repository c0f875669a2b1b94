// The PC as a whole: memory map, what answers where, interrupts from a device's line to a vector, power and reset,
// virtio devices in both transports, and that a reset loads everything again.
#include "machine/pc.h"
#include "chip/lapic.h"
#include "fake_vm.h"
#include "pci/bus.h"
#include "unit.h"
#include "virtio/rng.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

struct bench {
    struct stream stream; // first
    struct fake_vm f;
    struct pc *pc;
    uint8_t *ram;
    char sent[64];
    unsigned sent_count;
};

static void on_write(struct stream *s, const void *data, size_t size)
{
    struct bench *b = (struct bench *)s;
    memcpy(b->sent + b->sent_count, data, size);
    b->sent_count += size;
}

static void on_ready(struct stream *s)
{
    (void)s;
}

static const struct stream_ops stream_ops = {.write = on_write, .ready = on_ready};

static void bench_init(struct bench *b, uint64_t ram_size, unsigned cpus)
{
    struct error err;
    memset(b, 0, sizeof *b);
    b->stream.ops = &stream_ops;
    fake_vm_init_bare(&b->f, cpus);
    b->ram = aligned_alloc(4096, ram_size);
    memset(b->ram, 0, ram_size);
    struct pc_config config = {.ram = b->ram,
                               .ram_size = ram_size,
                               .cpus = cpus,
                               .serial = {&b->stream},
                               .debug_console = &b->stream,
                               .debug_exit = true};
    if (pc_create(&b->f.vm, &config, &b->pc, &err))
        fail_msg("%s", err.text);
    fake_vm_reset(&b->f);
}

static void bench_destroy(struct bench *b)
{
    fake_vm_destroy(&b->f);
    free(b->ram);
}

// A kernel that multiboot takes as it is: 64 bytes at 1 MiB.
static const uint32_t kernel[16] = {0x1badb002, 0x10000,   -(0x1badb002 + 0x10000), 0x100000, 0x100000, 0, 0,
                                    0x100020,   0xf4f4f4f4};

static int boot(struct bench *b, struct cpu_state *cpu)
{
    struct error err = {.text = ""};
    struct boot_source source = {
        .kernel = kernel, .kernel_size = sizeof kernel, .kernel_name = "dir/tiny", .cmdline = "a b"};
    pc_boot(b->pc, &source);
    cpu_reset(cpu, true);
    b->f.vm.prepare_cpu(cpu, 0);
    assert_int_equal(cpu->msr.mtrr_def_type, 0x806);
    int r = b->f.vm.boot(&b->f.vm, b->f.vm.boot_ctx, cpu, &err);
    if (r)
        fail_msg("%s", err.text);
    return r;
}

static void memory_map(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 8 << 20, 1);
    struct vm *vm = &b.f.vm;
    assert_ptr_equal(vm_ram(vm, 0, 0xa0000, true), b.ram);
    assert_null(vm_ram(vm, 0xa0000, 1, false));
    assert_ptr_equal(vm_ram(vm, 0xc0000, 0x740000, true), b.ram + 0xc0000);
    assert_null(vm_ram(vm, 8 << 20, 1, false));
    assert_int_equal(fake_vm_read(&b.f, 0xfee00030, 4), 0x01050014);
    assert_int_equal(fake_vm_read(&b.f, 0xe0000000, 2), 0x1b36); // the host bridge by ECAM
    assert_int_equal(fake_vm_read(&b.f, 0xd0000000, 4), 0xffffffff);
    fake_vm_out(&b.f, 0xcf8, 4, 0x80000000);
    assert_int_equal(fake_vm_in(&b.f, 0xcfc, 2), 0x1b36);
    static const uint16_t ports[] = {0x20, 0x40, 0x61, 0x64, 0x92, 0xa1, 0x3fd, 0x4d0, 0x600, 0x71, 0xe9, 0xf4};
    for (unsigned i = 0; i < sizeof ports / sizeof ports[0]; i++)
        assert_int_not_equal(fake_vm_in(&b.f, ports[i], 1), 0xff);
    static const uint16_t absent[] = {0x2f8, 0x3e8, 0x80, 0x1f0, 0x3f0, 0x378};
    for (unsigned i = 0; i < sizeof absent / sizeof absent[0]; i++)
        assert_int_equal(fake_vm_in(&b.f, absent[i], 1), 0xff);
    fake_vm_out(&b.f, 0x3f8, 1, 'x');
    fake_vm_out(&b.f, 0xe9, 1, 'y');
    assert_memory_equal(b.sent, "xy", 2);
    bench_destroy(&b);
}

// More RAM than fits below the devices. Nothing touches it, so it is only address space.
static void high_memory(void **state)
{
    (void)state;
    struct bench b;
    struct error err;
    memset(&b, 0, sizeof b);
    fake_vm_init_bare(&b.f, 1);
    uint8_t *anywhere = (uint8_t *)0x100000000000;
    struct pc_config config = {.ram = anywhere, .ram_size = 5ull << 30, .cpus = 1};
    assert_int_equal(pc_create(&b.f.vm, &config, &b.pc, &err), 0);
    assert_ptr_equal(vm_ram(&b.f.vm, 0xbffff000, 4096, true), anywhere + 0xbffff000);
    assert_null(vm_ram(&b.f.vm, 0xc0000000, 1, true));
    assert_ptr_equal(vm_ram(&b.f.vm, 0x100000000, 2ull << 30, true), anywhere + 0xc0000000);
    assert_null(vm_ram(&b.f.vm, 0x180000000, 1, true));
    fake_vm_destroy(&b.f);

    static const struct {
        uint64_t size;
        unsigned cpus;
        const char *why;
    } bad[] = {{512 << 10, 1, "at least 1 MiB"},
               {(1 << 20) + 1, 1, "whole pages"},
               {1ull << 40, 1, "40 address bits"},
               {4 << 20, 65, "65 CPUs"},
               {4 << 20, 0, "0 CPUs"}};
    for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        fake_vm_init_bare(&b.f, 1);
        config = (struct pc_config){.ram = anywhere, .ram_size = bad[i].size, .cpus = bad[i].cpus};
        assert_int_equal(pc_create(&b.f.vm, &config, &b.pc, &err), -EINVAL);
        assert_non_null(strstr(err.text, bad[i].why));
        fake_vm_destroy(&b.f);
    }
}

static int ack(struct bench *b, unsigned cpu)
{
    return b->f.vm.local_apic.ack(b->f.vm.local_apic_ctx, cpu);
}

static void io_apic(struct bench *b, unsigned pin, uint64_t entry)
{
    fake_vm_write(&b->f, 0xfec00000, 4, 0x11 + 2 * pin);
    fake_vm_write(&b->f, 0xfec00010, 4, entry >> 32);
    fake_vm_write(&b->f, 0xfec00000, 4, 0x10 + 2 * pin);
    fake_vm_write(&b->f, 0xfec00010, 4, entry);
}

static void interrupts_by_pic(void **state)
{
    (void)state;
    struct bench b;
    struct cpu_state cpu;
    bench_init(&b, 4 << 20, 2);
    boot(&b, &cpu);
    assert_int_equal(fake_vm_in(&b.f, 0x21, 1), 0xff);
    assert_int_equal(fake_vm_in(&b.f, 0x4d1, 1), 0x0c); // PCI's lines are levels
    fake_vm_out(&b.f, 0x21, 1, 0xfe);
    fake_vm_out(&b.f, 0x43, 1, 0x34); // the PIT, 100 Hz
    fake_vm_out(&b.f, 0x40, 1, 11932 & 0xff);
    fake_vm_out(&b.f, 0x40, 1, 11932 >> 8);
    fake_vm_signals(&b.f, 0);
    fake_vm_advance(&b.f, 10001000);
    assert_int_equal(fake_vm_signals(&b.f, 0), VCPU_INTR);
    assert_int_equal(fake_vm_signals(&b.f, 1), 0);
    assert_int_equal(ack(&b, 0), 8);
    // PCI's GSIs 17 and 19 share line 11 with each other.
    struct irq_line a, c;
    irq_line_init(&a, &b.f.vm, 17);
    irq_line_init(&c, &b.f.vm, 19);
    fake_vm_out(&b.f, 0x21, 1, 0);
    fake_vm_out(&b.f, 0xa1, 1, 0);
    fake_vm_out(&b.f, 0x20, 1, 0x20);
    irq_set(&a, true);
    irq_set(&c, true);
    assert_int_equal(ack(&b, 0), 0x73);
    irq_set(&a, false);
    fake_vm_out(&b.f, 0xa0, 1, 0x20);
    fake_vm_out(&b.f, 0x20, 1, 0x20);
    assert_int_equal(ack(&b, 0), 0x73);
    irq_set(&c, false);
    fake_vm_out(&b.f, 0xa0, 1, 0x20);
    fake_vm_out(&b.f, 0x20, 1, 0x20);
    assert_int_equal(ack(&b, 0), -1);
    bench_destroy(&b);
}

static void interrupts_by_apic(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 4 << 20, 2);
    for (unsigned i = 0; i < 2; i++)
        bus_write(&b.f.vm.mmio, i, 0xfee000f0, 4, 0x1ff);
    io_apic(&b, 2, 0x50); // the PIT is pin 2
    io_apic(&b, 4, 1ull << 56 | 0x51);
    io_apic(&b, 9, 0x8052);
    io_apic(&b, 0, 1ull << 56 | 0x700); // the PIC's output as an ExtINT to CPU 1
    fake_vm_out(&b.f, 0x43, 1, 0x30);
    fake_vm_out(&b.f, 0x40, 1, 100);
    fake_vm_out(&b.f, 0x40, 1, 0);
    fake_vm_advance(&b.f, 100000);
    assert_int_equal(ack(&b, 0), 0x50);
    bus_write(&b.f.vm.mmio, 0, 0xfee000b0, 4, 0);
    fake_vm_out(&b.f, 0x3fc, 1, 8);
    fake_vm_out(&b.f, 0x3f9, 1, 2);
    assert_int_equal(ack(&b, 1), 0x51);
    // Level: the EOI goes from the local APIC to the IOAPIC and the interrupt comes again.
    fake_vm_out(&b.f, 0x602, 2, 0x100);
    vm_press_power_button(&b.f.vm);
    assert_int_equal(ack(&b, 0), 0x52);
    assert_int_equal(ack(&b, 0), -1);
    bus_write(&b.f.vm.mmio, 0, 0xfee000b0, 4, 0);
    assert_int_equal(ack(&b, 0), 0x52);
    fake_vm_out(&b.f, 0x600, 2, 0x100);
    bus_write(&b.f.vm.mmio, 0, 0xfee000b0, 4, 0);
    assert_int_equal(ack(&b, 0), -1);
    // MSIs.
    irq_msi(&b.f.vm, 0xfee01000, 0x61);
    assert_int_equal(ack(&b, 1), 0x61);
    irq_msi(&b.f.vm, 0x1000, 0x62); // not to the APICs
    irq_msi(&b.f.vm, 0xfee00000, 0x662);
    assert_int_equal(ack(&b, 0), -1);
    fake_vm_signals(&b.f, 1);
    // The PIC through the IOAPIC.
    fake_vm_out(&b.f, 0x20, 1, 0x11);
    fake_vm_out(&b.f, 0x21, 1, 0x20);
    fake_vm_out(&b.f, 0x21, 1, 4);
    fake_vm_out(&b.f, 0x21, 1, 1);
    assert_int_equal(fake_vm_signals(&b.f, 1), 0); // the slave, with an edge of line 9, was not initialized yet
    fake_vm_out(&b.f, 0x3f9, 1, 0);
    fake_vm_out(&b.f, 0x3f9, 1, 2);
    assert_int_equal(fake_vm_signals(&b.f, 1), VCPU_INTR);
    assert_int_equal(ack(&b, 1), 0x24);
    bench_destroy(&b);
}

static void boots_again(void **state)
{
    (void)state;
    struct bench b;
    struct cpu_state cpu, again;
    bench_init(&b, 4 << 20, 1);
    boot(&b, &cpu);
    assert_int_equal(cpu.rip, 0x100020);
    assert_int_equal(cpu.gpr[CPU_RAX], 0x2badb002);
    assert_memory_equal(b.ram + 0x100000, kernel, sizeof kernel);
    assert_memory_equal(b.ram + 0xe0000, "RSD PTR ", 8);
    uint8_t *before = malloc(4 << 20);
    memcpy(before, b.ram, 4 << 20);
    memset(b.ram, 0xcc, 0xa0000);
    memset(b.ram + 0xe0000, 0xcc, 0x20000);
    memset(b.ram + 0x100000, 0xcc, 0x2000);
    fake_vm_out(&b.f, 0x21, 1, 0);
    fake_vm_reset(&b.f);
    boot(&b, &again);
    assert_memory_equal(&cpu, &again, sizeof cpu);
    assert_memory_equal(b.ram + 0xe0000, before + 0xe0000, 0x20000);
    assert_memory_equal(b.ram + 0x100000, before + 0x100000, 64);
    assert_int_equal(fake_vm_in(&b.f, 0x21, 1), 0xff);
    free(before);
    bench_destroy(&b);
}

static void ends(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 4 << 20, 1);
    fake_vm_out(&b.f, 0x604, 2, 0x2000);
    assert_int_equal(b.f.vm.end, VM_END_POWEROFF);
    bench_destroy(&b);
    bench_init(&b, 4 << 20, 1);
    fake_vm_out(&b.f, 0xcf9, 1, 6);
    assert_int_equal(b.f.vm.end, VM_END_RESET);
    bench_destroy(&b);
}

static void virtio(void **state)
{
    (void)state;
    struct bench b;
    struct error err;
    struct virtio_device *d;
    struct cpu_state cpu;
    char name[16];
    bench_init(&b, 4 << 20, 1);
    for (unsigned i = 0; i < 31 + PC_VIRTIO_MMIO_MAX; i++) {
        snprintf(name, sizeof name, "rng%u", i);
        assert_int_equal(virtio_rng_create(&b.f.vm, name, &d, &err), 0);
        if (pc_attach_virtio(b.pc, d, i < 31 ? PC_VIRTIO_PCI : PC_VIRTIO_MMIO, &err))
            fail_msg("%s", err.text);
    }
    fake_vm_reset(&b.f);
    assert_int_equal(virtio_rng_create(&b.f.vm, "rng", &d, &err), 0);
    assert_int_equal(pc_attach_virtio(b.pc, d, PC_VIRTIO_PCI, &err), -ENOSPC);
    assert_int_equal(pc_attach_virtio(b.pc, d, PC_VIRTIO_MMIO, &err), -ENOSPC);
    assert_int_equal(fake_vm_read(&b.f, 0xe0000000 + (31 << 15), 2), 0x1af4);
    assert_int_equal(fake_vm_read(&b.f, 0xe0000000 + (2 << 15) + PCI_INTERRUPT_LINE, 1), 10); // the PIC's
    assert_int_equal(fake_vm_read(&b.f, 0xfeb00000 + 31 * 0x200, 4), 0x74726976);             // "virt"
    boot(&b, &cpu);                                                                           // the tables still fit
    bench_destroy(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_map),
        cmocka_unit_test(high_memory),
        cmocka_unit_test(interrupts_by_pic),
        cmocka_unit_test(interrupts_by_apic),
        cmocka_unit_test(boots_again),
        cmocka_unit_test(ends),
        cmocka_unit_test(virtio),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
