// A guest whose every action comes from the fuzzer's bytes, on the fake VM of the unit tests.
//
// A target registers the devices' ranges and then runs the bytes as a program. Each step takes one byte that says what
// to do and the bytes that this needs; when they are used up the program ends:
//
//     reg    read or write a register in one of the ranges, any size
//     ram    write some bytes into the first 64 KiB of guest memory
//     time   advance the clock
//     state  save a device, spoil what was saved perhaps, and load it back
//     reset  the machine (rarely)
//     own    what only the target knows, e.g. put a chain into a queue
//
// So every input is valid, small changes of it are small changes of what the guest does, and a found input can be
// replayed: fuzz_NAME FILE.
//
// Example (a target for a chip):
//     struct fuzz_guest g;
//     fuzz_begin(&g, data, size);
//     rtc_create(&g.f.vm, ...);
//     fuzz_range(&g, &g.f.vm.ports, 0x70, 2);
//     fuzz_run(&g, NULL, NULL);
//     fuzz_end(&g);
#pragma once
#include "fake_vm.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// A condition that must hold whatever the guest does.
#define FUZZ_CHECK(condition)                                                                                          \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            __builtin_trap();                                                                                          \
    } while (0)

enum { FUZZ_RANGES = 32, FUZZ_RAM = 64 << 10 };

struct fuzz_guest {
    struct fake_vm f;
    const uint8_t *data;
    size_t left;
    uint64_t longest; // ns that the clock is advanced by at most
    unsigned ranges;
    struct {
        struct bus *bus;
        uint64_t base, size;
    } range[FUZZ_RANGES];
};

void fuzz_begin(struct fuzz_guest *g, const uint8_t *data, size_t size); // two CPUs
// Without a memory map, for whole machines; `ram` is where the guest's first 64 KiB will be.
void fuzz_begin_bare(struct fuzz_guest *g, const uint8_t *data, size_t size, uint8_t *ram);
void fuzz_range(struct fuzz_guest *g, struct bus *bus, uint64_t base, uint64_t size);
// Runs to the end of the bytes. `own` may be NULL.
void fuzz_run(struct fuzz_guest *g, void (*own)(struct fuzz_guest *g, void *ctx), void *ctx);
void fuzz_end(struct fuzz_guest *g);

// The next bytes as a number, little-endian; missing ones are zero.
uint64_t fuzz_take(struct fuzz_guest *g, unsigned bytes);
// An address: mostly in the first 64 KiB, now and then anywhere.
uint64_t fuzz_address(struct fuzz_guest *g);
