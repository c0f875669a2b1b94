// A virtual machine for unit tests of devices: real buses, timers, memory map and router of vm/, a virtual clock that
// moves only when told, and behind them an engine that executes nothing and records what it is told.
//
// There is no event loop and no thread: everything happens on the test's thread. The machine has 4 MiB of RAM at 0. The
// TSC runs at 1 GHz, so ticks are nanoseconds. A reset that a device asks for ends the machine (vm.end).
//
// Example:
//     struct fake_vm f;
//     fake_vm_init(&f, 1);
//     rtc_init(&f.vm, ...);
//     fake_vm_reset(&f);
//     fake_vm_out(&f, 0x70, 1, 0x0a);
//     fake_vm_advance(&f, 5000000);               // 5 ms; due timers have run
//     assert_true(f.line[8]);                     // the router's output; or set f.vm.irq.to to chips of your own
//     assert_int_equal(fake_vm_signals(&f, 0), VCPU_INTR);
//     fake_vm_destroy(&f);
#pragma once
#include "cpu/apic.h"
#include "vm/vm.h"

enum { FAKE_VM_RAM = 4 << 20, FAKE_VM_RECORDS = 64, FAKE_VM_BELLS = 16 };

struct fake_vm {
    struct vm vm;
    struct cpu_model model;
    struct log log; // swallows everything; level LOG_WARN
    uint8_t *ram;
    // What the router put out.
    bool line[IRQ_GSI_MAX];
    unsigned rises[IRQ_GSI_MAX], falls[IRQ_GSI_MAX];
    // Messages; `msis` counts on beyond what is recorded.
    struct {
        uint64_t address;
        uint32_t data;
    } msi[FAKE_VM_RECORDS];
    unsigned msis;
    // Writes by devices that the engine was told of (vm_ram_written); counts on likewise.
    struct {
        uint64_t gpa, size;
    } written[FAKE_VM_RECORDS];
    unsigned writes;
    struct fake_vm_bell { // hung now (vm/bell.h; the test sets vm.with_bells); fd 0: none
        uint64_t gpa;
        unsigned size;
        uint32_t value;
        int fd;
    } bell[FAKE_VM_BELLS];
    // Local APICs of the engine's own, after fake_vm_own_apic.
    struct cpu_apic apic[CPU_MAX];
    uint64_t apic_msr[CPU_MAX], steal_msr[CPU_MAX]; // EOIs in memory, steal time
    unsigned apic_gets, engine_msis, routings, routes;
    struct cpu_msi engine_msi, route[24]; // the last message, and the routes
    unsigned log_lines;
    char last_log[512];
};

void fake_vm_init(struct fake_vm *f, unsigned cpus);      // fails the test if it can't
void fake_vm_init_bare(struct fake_vm *f, unsigned cpus); // without RAM, for tests of whole machines
void fake_vm_own_apic(struct fake_vm *f); // the engine has local APICs of its own: before there are chips
void fake_vm_destroy(struct fake_vm *f);
void fake_vm_reset(struct fake_vm *f); // all devices

// Accesses by CPU 0.
uint64_t fake_vm_in(struct fake_vm *f, uint16_t port, unsigned size);
void fake_vm_out(struct fake_vm *f, uint16_t port, unsigned size, uint64_t val);
uint64_t fake_vm_read(struct fake_vm *f, uint64_t gpa, unsigned size); // MMIO
void fake_vm_write(struct fake_vm *f, uint64_t gpa, unsigned size, uint64_t val);

void fake_vm_advance(struct fake_vm *f, uint64_t ns);

// VCPU_* bits that were signalled to the CPU since the last call; vector of the last startup IPI.
unsigned fake_vm_signals(struct fake_vm *f, unsigned cpu);
uint8_t fake_vm_sipi_vector(struct fake_vm *f, unsigned cpu);

// Saves one device, loads what was saved into another of its kind (as restoring does, `loaded` included) and returns
// what that said.
int fake_vm_copy_state(struct device *from, struct device *to);
