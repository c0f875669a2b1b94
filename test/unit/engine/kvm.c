// The KVM engine's vCPU at work: exits and their upcalls, kicks, interrupts, errors, memory and the dirty log.
//
// The code keeps to what KVM's own emulator can do, so that it runs where KVM is nothing but that, too.
#include "engine/kvm/kvm.h"
#include "bed.h"
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { MMIO = 0x80000000, ROM = 0x3f0000, PAGE = 4096, SHORT_RING = 256 };

#define RUN(b, code) (bed_load(b, code, code##_end), bed_run(b))

static void open_bed(struct bed *b, enum bed_mode mode)
{
    bed_open_engine(b, mode, NULL, &engine_kvm);
}

GUEST(ports, 64, "mov $0x1234, %dx; in %dx, %ax; mov $0x99, %al; out %al, $0x80; mov %ax, %bx; hlt");

static void ports_go_up(void **state)
{
    (void)state;
    struct bed b;
    open_bed(&b, BED_LONG);
    b.port_value = 0xabcd;
    RUN(&b, ports);
    assert_int_equal(b.events, 2);
    assert_int_equal(b.log[0].what, 'i');
    assert_int_equal(b.log[0].address, 0x1234);
    assert_int_equal(b.log[0].size, 2);
    assert_int_equal(b.log[1].what, 'o');
    assert_int_equal(b.log[1].value, 0x99);
    assert_int_equal(b.s.gpr[CPU_RBX] & 0xffff, 0xab99);
    bed_close(&b);
}

GUEST(device, 32, "mov $0x80000000, %ebx; movl $0x11223344, (%ebx); movw $0x5566, 6(%ebx); mov 8(%ebx), %eax; hlt");

static void memory_of_nobody_goes_up(void **state)
{
    (void)state;
    struct bed b;
    open_bed(&b, BED_PROT32);
    RUN(&b, device);
    assert_int_equal(b.events, 3);
    assert_int_equal(b.log[0].what, 'w');
    assert_int_equal(b.log[0].address, MMIO);
    assert_int_equal(b.log[0].value, 0x11223344);
    assert_int_equal(b.log[0].size, 4);
    assert_int_equal(b.log[1].address, MMIO + 6);
    assert_int_equal(b.log[1].value, 0x5566);
    assert_int_equal(b.log[2].what, 'r');
    assert_int_equal(b.s.gpr[CPU_RAX], 0xffffffff);
    bed_close(&b);
}

GUEST(bells, 32,
      "mov $0x80000000, %ebx; movl $1, (%ebx); movl $2, (%ebx); movw $1, (%ebx); movw $7, 16(%ebx); movl $7, 17(%ebx);"
      "hlt");

static uint64_t rings(int fd)
{
    uint64_t n = 0;
    return read(fd, &n, sizeof n) == sizeof n ? n : 0;
}

// What rings a bell does not go up: the value and the size that it is for, or anything.
static void bells_ring_without_us(void **state)
{
    (void)state;
    struct bed b;
    open_bed(&b, BED_PROT32);
    int one = eventfd(0, EFD_NONBLOCK), any = eventfd(0, EFD_NONBLOCK);
    assert_int_equal(b.vm->ops->bell(b.vm, MMIO, 4, 1, one, true), 0);
    assert_int_equal(b.vm->ops->bell(b.vm, MMIO + 16, 0, 0, any, true), 0);
    RUN(&b, bells);
    assert_int_equal(rings(one), 1);
    assert_int_equal(rings(any), 1);
    assert_int_equal(b.events, 3); // another value, another size, another address
    assert_int_equal(b.log[0].value, 2);
    assert_int_equal(b.log[1].size, 2);
    assert_int_equal(b.log[2].address, MMIO + 17);
    assert_int_equal(b.vm->ops->bell(b.vm, MMIO, 4, 1, one, false), 0);
    assert_int_equal(b.vm->ops->bell(b.vm, MMIO + 16, 0, 0, any, false), 0);
    RUN(&b, bells);
    assert_int_equal(rings(one) + rings(any), 0);
    assert_int_equal(b.events, 3 + 5);
    close(one);
    close(any);
    bed_close(&b);
}

GUEST(rom, 64, "mov (0x3f0000), %eax; movl $7, (0x3f0000); mov (0x3f0000), %ebx; hlt");

static void read_only_memory(void **state)
{
    (void)state;
    struct bed b;
    struct error err;
    open_bed(&b, BED_LONG);
    assert_int_equal(b.vm->ops->unmap(b.vm, ROM, PAGE, &err), 0);
    assert_int_equal(b.vm->ops->map(b.vm, ROM, PAGE, b.ram + ROM, ENGINE_MAP_READONLY, &err), 0);
    assert_true(b.vm->ops->map(b.vm, ROM, PAGE, b.ram, 0, &err) < 0); // is taken
    memcpy(b.ram + ROM, &(uint32_t){0x55}, 4);
    RUN(&b, rom);
    assert_int_equal(b.s.gpr[CPU_RAX], 0x55);
    assert_int_equal(b.s.gpr[CPU_RBX], 0x55);
    assert_int_equal(b.events, 1);
    assert_int_equal(b.log[0].what, 'w');
    assert_int_equal(b.log[0].address, ROM);
    bed_close(&b);
}

GUEST(msrs, 64,
      "mov $0x6e0, %ecx; xor %edx, %edx; mov $0x77, %eax; wrmsr;"
      "rdmsr; mov %eax, %ebx;"
      "mov $0xc0000082, %ecx; mov $0x1000, %eax; wrmsr; rdmsr; mov %eax, %esi;"
      "mov $0x200, %ecx; mov $0x5006, %eax; wrmsr; rdmsr; mov %eax, %edi; hlt");

static void registers_of_devices_and_of_the_CPU(void **state)
{
    (void)state;
    struct bed b;
    open_bed(&b, BED_LONG);
    RUN(&b, msrs);
    assert_int_equal(b.events, 1);
    assert_int_equal(b.log[0].what, 'm');
    assert_int_equal(b.log[0].address, 0x6e0);
    assert_int_equal(b.s.gpr[CPU_RBX], 0x1234);
    assert_int_equal(b.s.gpr[CPU_RSI], 0x1000);
    assert_int_equal(b.s.gpr[CPU_RDI], 0x5006);
    assert_int_equal(b.s.msr.lstar, 0x1000);
    assert_int_equal(b.s.msr.mtrr_base[0], 0x5006);
    bed_close(&b);
}

GUEST(no_msr, 64, "mov $0x1234, %ecx; rdmsr; hlt");

static void a_register_of_nobody_faults(void **state)
{
    (void)state;
    struct bed b;
    open_bed(&b, BED_LONG);
    RUN(&b, no_msr);
    assert_int_equal(bed_vector(&b), EXC_GP);
    bed_close(&b);
}

// --- interrupts and kicks

GUEST(count, 64, "sti; 1: inc %rbx; jmp 1b");

static void *after_a_while(void *bed)
{
    struct bed *b = bed;
    usleep(50000);
    b->vector = 0x41;
    engine_notify(b->cpu, ENGINE_INTR);
    return NULL;
}

static void an_interrupt_from_another_thread(void **state)
{
    (void)state;
    struct bed b;
    pthread_t thread;
    open_bed(&b, BED_LONG);
    pthread_create(&thread, NULL, after_a_while, &b);
    RUN(&b, count);
    pthread_join(thread, NULL);
    assert_int_equal(bed_vector(&b), 0x41);
    assert_true(b.s.gpr[CPU_RBX] > 0);
    bed_close(&b);
}

static void *stop_later(void *bed)
{
    usleep(50000);
    engine_notify(((struct bed *)bed)->cpu, ENGINE_EXIT);
    return NULL;
}

GUEST(forever, 64, "1: inc %rbx; jmp 1b");

static void it_stops_when_told(void **state)
{
    (void)state;
    struct bed b;
    pthread_t thread;
    struct error err;
    open_bed(&b, BED_LONG);
    bed_load(&b, forever, forever_end);
    assert_int_equal(b.vm->ops->set_state(b.cpu, &b.s, CPU_GROUP_ALL, &err), 0);
    for (unsigned n = 0; n < 3; n++) { // and goes on where it was
        uint64_t before = b.s.gpr[CPU_RBX];
        pthread_create(&thread, NULL, stop_later, &b);
        assert_int_equal(b.vm->ops->run(b.cpu, &err), ENGINE_EXIT_REQUESTED);
        pthread_join(thread, NULL);
        b.vm->ops->get_state(b.cpu, &b.s, CPU_GROUP_GPR);
        assert_true(b.s.gpr[CPU_RBX] > before);
    }
    bed_close(&b);
}

GUEST(closed, 64, "mov $100000, %ecx; 1: dec %ecx; jnz 1b; sti; nop; 2: jmp 2b");

static void an_interrupt_waits_for_the_window(void **state)
{
    (void)state;
    struct bed b;
    open_bed(&b, BED_LONG);
    b.vector = 0x52;
    engine_notify(b.cpu, ENGINE_INTR);
    RUN(&b, closed);
    assert_int_equal(bed_vector(&b), 0x52);
    assert_int_equal(b.s.gpr[CPU_RCX], 0);
    bed_close(&b);
}

// --- the end

GUEST(nowhere, 32, "mov $0x80000000, %eax; jmp *%eax");

static void code_of_nobody_is_an_error(void **state)
{
    (void)state;
    struct bed b;
    struct error err = {""};
    open_bed(&b, BED_PROT32);
    bed_load(&b, nowhere, nowhere_end);
    assert_int_equal(b.vm->ops->set_state(b.cpu, &b.s, CPU_GROUP_ALL, &err), 0);
    assert_int_equal(b.vm->ops->run(b.cpu, &err), ENGINE_EXIT_ERROR);
    assert_non_null(strstr(err.text, "KVM cannot emulate"));
    assert_non_null(strstr(err.text, "0008:80000000"));
    bed_close(&b);
}

GUEST(triple, 32, "lidt (0x8000); ud2");

static void a_triple_fault_is_the_end(void **state)
{
    (void)state;
    struct bed b;
    open_bed(&b, BED_PROT32);
    bed_load(&b, triple, triple_end);
    struct error err = {""};
    assert_int_equal(b.vm->ops->set_state(b.cpu, &b.s, CPU_GROUP_ALL, &err), 0);
    assert_int_equal(b.vm->ops->run(b.cpu, &err), ENGINE_EXIT_SHUTDOWN);
    assert_int_equal(b.vm->ops->run(b.cpu, &err), ENGINE_EXIT_SHUTDOWN); // and stays it
    bed_close(&b);
}

// --- the dirty log

GUEST(stores, 64, "movl $1, (0x300000); movl $1, (0x310ffe); hlt");

static void without_rings(struct engine_host *host)
{
    KVM_HOST(host)->ring_entries = 0;
}

static void with_rings(struct engine_host *host)
{
    KVM_HOST(host)->ring_entries = KVM_RING_ENTRIES;
}

static void with_short_rings(struct engine_host *host)
{
    KVM_HOST(host)->ring_entries = SHORT_RING;
}

// By rings, where there are any, and by bitmaps.
static void written_pages_are_told(void **state)
{
    (void)state;
    for (unsigned bitmaps = 0; bitmaps < 2; bitmaps++) {
        struct bed b;
        struct error err;
        uint64_t bits[BED_RAM / PAGE / 64];
        bed_open_changed(&b, BED_LONG, &engine_kvm, bitmaps ? without_rings : with_rings);
        print_message("%u entries\n", KVM_VM(b.vm)->ring_entries);
        assert_true(b.vm->ops->log_fetch(b.vm, 0, BED_RAM, bits) < 0); // it is off
        assert_int_equal(b.vm->ops->log_start(b.vm, &err), 0);
        RUN(&b, stores);
        bed_write(&b, 0x320000, 1, 1); // a device
        assert_int_equal(b.vm->ops->log_fetch(b.vm, 0x300000, 0x100000, bits), 0);
        assert_int_equal(bits[0], 1ull << 0 | 1ull << 0x10 | 1ull << 0x11 | 1ull << 0x20);
        assert_int_equal(b.vm->ops->log_fetch(b.vm, 0x300000, 0x100000, bits), 0);
        assert_int_equal(bits[0], 0);
        // What was not asked for is still there.
        assert_int_equal(b.vm->ops->log_fetch(b.vm, BED_CODE, PAGE, bits), 0);
        assert_int_equal(bits[0] & 1, 1);
        // And again: what was told is watched again.
        RUN(&b, stores);
        assert_int_equal(b.vm->ops->log_fetch(b.vm, 0x301000, 0x80000, bits), 0); // not whole words of bits
        assert_int_equal(bits[0], 1ull << 0xf | 1ull << 0x10);
        assert_int_equal(b.vm->ops->log_fetch(b.vm, 0x300000, PAGE, bits), 0);
        assert_int_equal(bits[0], 1);
        b.vm->ops->log_stop(b.vm);
        assert_true(b.vm->ops->log_fetch(b.vm, 0, BED_RAM, bits) < 0);
        bed_close(&b);
    }
}

GUEST(many, 64, "mov $0x100000, %ebx; mov $512, %ecx; 1: incl (%rbx); add $4096, %rbx; dec %ecx; jnz 1b; hlt");

// More pages than a ring holds: nobody has to ask in time. (A KVM that only emulates loses some.)
static void a_full_ring_loses_nothing(void **state)
{
    (void)state;
    struct bed b;
    struct error err;
    uint64_t bits[512 / 64];
    if (engine_kvm.recommend(&err)) {
        print_message("%s\n", err.text);
        skip();
    }
    bed_open_changed(&b, BED_LONG, &engine_kvm, with_short_rings);
    if (!KVM_VM(b.vm)->ring_entries) {
        bed_close(&b);
        skip();
    }
    assert_int_equal(b.vm->ops->log_start(b.vm, &err), 0);
    RUN(&b, many);
    assert_true(KVM_VCPU(b.cpu)->exits[KVM_EXIT_DIRTY_RING_FULL] > 0);
    assert_int_equal(b.vm->ops->log_fetch(b.vm, 0x100000, sizeof bits * 8 * PAGE, bits), 0);
    for (unsigned n = 0; n < 512 / 64; n++)
        assert_int_equal(bits[n], ~0ull);
    bed_close(&b);
}

int main(void)
{
    struct error err;
    if (engine_kvm.probe(&err)) {
        print_message("%s\n", err.text);
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ports_go_up),
        cmocka_unit_test(memory_of_nobody_goes_up),
        cmocka_unit_test(bells_ring_without_us),
        cmocka_unit_test(read_only_memory),
        cmocka_unit_test(registers_of_devices_and_of_the_CPU),
        cmocka_unit_test(a_register_of_nobody_faults),
        cmocka_unit_test(an_interrupt_from_another_thread),
        cmocka_unit_test(it_stops_when_told),
        cmocka_unit_test(an_interrupt_waits_for_the_window),
        cmocka_unit_test(code_of_nobody_is_an_error),
        cmocka_unit_test(a_triple_fault_is_the_end),
        cmocka_unit_test(written_pages_are_told),
        cmocka_unit_test(a_full_ring_loses_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
