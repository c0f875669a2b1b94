// The PC: which chip sits at which address, and how the interrupts are wired.
//
//     0x0000000000  RAM (the top KiB below 0xa0000 is reserved, as an EBDA would be)
//     0x00000a0000  nothing: where a VGA card would be
//     0x00000c0000  RAM; from 0xe0000 on it holds the ACPI tables and is reserved
//     0x0000100000  RAM, up to 3 GiB at most
//     0x00c0000000  PCI memory window
//     0x00e0000000  PCI configuration space (ECAM), bus 0
//     0x00feb00000  virtio-mmio transports
//     0x00fec00000  IOAPIC
//     0x00fee00000  local APIC, each CPU's own
//     0x0100000000  the rest of RAM
//     above that    PCI memory window for 64-bit BARs
//
// Interrupts are named by GSI, which is the IOAPIC pin: ISA devices have their usual number, but the PIT is GSI 2 (line
// 0 of the PIC). PCI pins are GSI 16..19, and lines 10 and 11 of the PIC for systems that run without IOAPIC;
// virtio-mmio transports share 20..23.
//
// Example:
//     struct pc_config c = {.ram = memory, .ram_size = 1 << 30, .cpus = 2, .serial = {console}};
//     pc_create(&vm, &c, &pc, &err);
//     pc_attach_virtio(pc, disk, PC_VIRTIO_PCI, &err);
//     pc_boot(pc, &(struct boot_source){.kernel = image, ...});
//     vm_add_cpus(&vm, 2, &err); vm_reset(&vm, &err); vm_run(&vm, &err);
#pragma once
#include "boot/boot.h"
#include "vm/stream.h"
#include "vm/vm.h"

struct virtio_device;

enum { PC_SERIAL_PORTS = 4, PC_VIRTIO_MMIO_MAX = 32 };

struct pc_config {
    // Guest RAM, one mapping: its first bytes are guest address 0; what is beyond 3 GiB appears from 4 GiB on. Stays
    // the caller's and outlives the VM. Page-aligned; a multiple of 4096, from PC_RAM_MIN on.
    void *ram;
    uint64_t ram_size;
    unsigned cpus;
    struct stream *serial[PC_SERIAL_PORTS]; // COM1..COM4; NULL: there is no such port. They outlive the VM.
    struct stream *debug_console;           // port 0xe9; NULL: none
    bool debug_exit;                        // port 0xf4
};

#define PC_RAM_MIN (1ull << 20)

enum pc_transport { PC_VIRTIO_PCI, PC_VIRTIO_MMIO };

struct pc;

// Builds the machine in a VM that vm_init has made. The VM owns it, and frees it even if this fails half-way.
int pc_create(struct vm *vm, const struct pc_config *config, struct pc **out, struct error *err);
// Plugs a virtio device in: the next free PCI slot, or the next virtio-mmio transport. Before vm_reset.
int pc_attach_virtio(struct pc *pc, struct virtio_device *d, enum pc_transport transport, struct error *err);
// The machine goes on from what was saved of it, maybe not for the first time: the guest is told (chip/generation.h).
void pc_new_generation(struct pc *pc);
// Says what the machine starts with. The source's buffers and strings must outlive the VM.
void pc_boot(struct pc *pc, const struct boot_source *source);
