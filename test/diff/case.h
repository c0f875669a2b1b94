// One test case of the differential test: an instruction, everything it may depend on, and what became of it.
//
// The instruction stands at a linear address in the code page; everything else in that page is INT3, so wherever an
// instruction leads, the next one traps. Data lies in a window of three writable pages, followed by a read-only one;
// the pages around the window are not present. Code and window are below 2 GiB, so that 32-bit addresses reach them.
#pragma once
#include <Zydis/Zydis.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CASE_CODE 0x20000000ull // one page
#define CASE_DATA 0x20100000ull
#define CASE_GS_BASE 0x00001230ull

enum {
    CASE_PAGE = 0x1000,
    CASE_WRITABLE = 3 * CASE_PAGE,
    CASE_WINDOW = 4 * CASE_PAGE,
    CASE_XSAVE = 832, // x87, SSE and AVX in the standard format
    // Selectors as Linux gives them to user programs.
    CASE_CS64 = 0x33,
    CASE_CS32 = 0x23,
    CASE_DS = 0x2b,
};

struct case_registers {
    uint64_t gpr[16]; // in the order of encodings
    uint64_t rip, rflags, gs_base;
    _Alignas(64) uint8_t xsave[CASE_XSAVE];
};

struct diff_case {
    bool long64; // otherwise 32-bit compatibility mode
    uint8_t code[15], len;
    uint64_t number; // for reports
    struct case_registers in;
    uint8_t data[CASE_WINDOW];
};

struct diff_result {
    int vector; // -1: the instruction was executed
    uint32_t error;
    uint64_t cr2; // page faults
    struct case_registers out;
    uint8_t data[CASE_WRITABLE];
};

// The read-only page has the same contents in every case.
void case_fill_readonly(uint8_t *page);
// Copies an XSAVE area so that equal states are equal bytes: components that XSTATE_BV says are initial get their
// initial values, and what is no state (header, MXCSR_MASK, reserved bytes) is cleared.
void case_take_xsave(uint8_t out[CASE_XSAVE], const uint8_t *area);

// Whether user programs may run 32-bit code here: without IA32 emulation the host's kernel has no segment for it.
bool case_host_runs_32bit(void);

// Whether the host's kernel knows of RDFSBASE and the like: without, it does not keep what they write.
bool case_host_has_fsgsbase(void);

// A decoder for the mode, set to what this CPU is: its vendor's branches, and NOP where it lacks what the encoding
// means elsewhere.
void case_decoder(ZydisDecoder *decoder, bool long64);

// Something that executes cases.
struct runner {
    const char *name;
    // It translates: the opcode and addresses of the last x87 instruction are lost whenever the host saves the state in
    // between (AMD processors save them only while an exception is pending), and a CALL that faults because its target
    // is not canonical has written below the stack pointer.
    bool translates;
    void (*run)(struct runner *r, const struct diff_case *c, struct diff_result *result);
    void (*destroy)(struct runner *r);
};

// On the host CPU itself, as a user program. One per process: it needs fixed addresses and signal handlers.
struct runner *native_runner(char *why, size_t size);
// On an engine, in ring 3 of a small guest whose code and data are at the same linear addresses.
struct engine_ops;
struct cpu_model;
struct runner *guest_runner(const struct engine_ops *ops, const struct cpu_model *model, char *why, size_t size);
