// A test bed for engines: one vCPU, flat memory, and an owner that writes down what the engine asks of it.
//
// Guest code is written in assembler between GUEST's braces; it is position-independent or runs at BED_CODE, where
// bed_load puts it. The bed starts the CPU in a mode of choice, with flat segments, a GDT, an IDT whose gates all lead
// to HLTs of their own (so a test sees by RIP which vector was taken), and a TSS.
//
// Example:
//     GUEST(add, 64, "add %rbx, %rax; hlt");
//     struct bed b; bed_open(&b, BED_LONG); bed_load(&b, add, add_end);
//     b.s.gpr[CPU_RAX] = 1; b.s.gpr[CPU_RBX] = 2; bed_run(&b);
//     assert_int_equal(b.s.gpr[CPU_RAX], 3);
#pragma once
#include "cpu/exception.h"
#include "engine/engine.h"
#include "unit.h"

#define GUEST(name, bits, text)                                                                                        \
    extern const uint8_t name[], name##_end[];                                                                         \
    __asm__(".pushsection .rodata\n.code" #bits "\n" #name ":\n" text "\n" #name "_end:\n.code64\n.popsection")

enum bed_mode { BED_REAL, BED_PROT16, BED_PROT32, BED_LONG };

// Where things lie (guest-physical, and linear: paging is off, or identity); within reach of 16 bits.
enum {
    BED_RAM = 4 << 20,
    BED_IVT = 0,
    BED_GDT = 0x1000,
    BED_IDT = 0x2000,
    BED_TSS = 0x3000, // 104 bytes, then the I/O bitmap
    BED_TSS_LIMIT = 0x3ff,
    BED_TSS2 = 0x3800,
    BED_HANDLERS = 0x4000, // vector n: at BED_HANDLERS + 16 * n
    BED_LDT = 0x5000,
    BED_CODE = 0x6000,
    BED_DATA = 0x8000,
    BED_STACK0 = 0xa000, // tops, growing down
    BED_STACK = 0xb000,
    BED_IST = 0xc000,     // of IST 1; the others every 0x400
    BED_TABLES = 0x10000, // page tables, long mode
};

// Selectors of the GDT.
enum {
    BED_CS = 0x08,  // of the mode, DPL 0
    BED_DS = 0x10,  // writable, DPL 0
    BED_CS3 = 0x1b, // DPL 3
    BED_DS3 = 0x23,
    BED_CS32 = 0x28, // 32-bit code, DPL 0 (compatibility mode in long mode)
    BED_CS32_3 = 0x33,
    BED_TR = 0x38,   // 16 bytes
    BED_LDTR = 0x48, // 16 bytes
    BED_FREE = 0x58, // from here: for the test
    BED_GDT_LIMIT = 0xfff,
};

enum { BED_LOG = 64, BED_END = 0xee };

struct bed_event {
    char what; // 'i' port read, 'o' port write, 'r' MMIO read, 'w' MMIO write, 't' TPR write, 'h' hypercall, 'm' MSR
               // write, 'e' EOI
    uint64_t address, value;
    unsigned size;
};

struct bed {
    struct cpu_model model;
    struct engine_vm *vm;
    struct engine_vcpu *cpu;
    uint8_t *ram;
    struct cpu_state s; // set before each run, read back after it
    // what the owner says
    uint64_t tsc;
    int vector; // of interrupt_ack, once; -1: none
    uint64_t port_value;
    uint32_t wake; // ENGINE_* bits that the owner sets in the first HLT, once, instead of ending the run
    bool free;     // bed_run counts no instructions: the engine runs as it does for real
    // what the owner has heard
    struct bed_event log[BED_LOG];
    unsigned events, halts;
    enum engine_exit how;
};

void bed_open(struct bed *b, enum bed_mode mode);
void bed_open_model(struct bed *b, enum bed_mode mode, const char *model);
void bed_open_engine(struct bed *b, enum bed_mode mode, const char *model, const struct engine_ops *engine);
// With local APICs of the engine's own: HLT is the engine's, so a run ends when the guest writes to port BED_END.
// As bed_open_engine with the default model; `change` sees what the engine has opened before the VM is made from it.
void bed_open_changed(struct bed *b, enum bed_mode mode, const struct engine_ops *engine,
                      void (*change)(struct engine_host *host));
void bed_open_own_apic(struct bed *b, enum bed_mode mode, const struct engine_ops *engine);
void bed_close(struct bed *b);
// Puts code at BED_CODE and RIP there.
void bed_load(struct bed *b, const uint8_t *code, const uint8_t *end);
// Runs until HLT (which ends the run: interrupts, if wanted, must come before), shutdown, or 100000 instructions.
void bed_run(struct bed *b);
// Exactly this many instructions.
void bed_step(struct bed *b, uint64_t count);
// The vector whose handler the run has ended in, or -1.
int bed_vector(const struct bed *b);

uint64_t bed_read(const struct bed *b, uint64_t gpa, unsigned size);
void bed_write(struct bed *b, uint64_t gpa, uint64_t val, unsigned size);
// Descriptors. `attr` as in struct cpu_segment.
uint64_t bed_descriptor(uint32_t base, uint32_t limit, uint16_t attr); // limit unscaled
void bed_gdt(struct bed *b, unsigned sel, uint64_t low);
void bed_gate(struct bed *b, unsigned vector, uint16_t sel, uint64_t offset, uint8_t type_dpl_p, unsigned ist);
// The n-th value on the stack at RSP, of `size` bytes, as seen by a handler that has just been entered.
uint64_t bed_stack(const struct bed *b, unsigned n, unsigned size);
