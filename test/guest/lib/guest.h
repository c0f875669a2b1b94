// What every guest builds on: the transcript, the recorded traps, and the tables of the CPU.
//
// A guest is a main() that runs cases and returns. Each case writes one line to port 0xe9:
//
//     ok   NAME: what was seen
//     FAIL NAME: got ..., want ...
//     skip NAME: what is missing
//
// What is printed must not depend on the machine, on time or on where the linker put things. After main() the last line
// says how many failed and the guest leaves through port 0xf4 with 0 (all well) or 1: exit status 1 or 3 of the
// emulator.

#pragma once
#include "selectors.h"
#include "x86.h"

#include <stdarg.h>

int main(void);

// ---- transcript (transcript.c) ----

// %s string, %c character, %x hex, %X hex of a u64, %u decimal, %t a trap ("#PF(0002)"; takes vector, error code).
void say(const char *format, ...);

// One value, which must be `want`; returns whether it is.
bool check(const char *name, u64 got, u64 want);
// A condition that cannot be told by one value.
bool check_true(const char *name, bool holds);
void skip(const char *name, const char *why);
// Whether the command line names the case in brackets, "[NAME]"; says so by a skip line. A wrong emulator may not only
// fail a case but end in chaos or crash: the test runner leaves such a case out there, and lists it.
bool left_out(const char *name);
// Counts and opens a line the caller finishes by say(): "ok   NAME: " or "FAIL NAME: ".
bool verdict(const char *name, bool good);
// The last line, then port 0xf4. Does not return.
_Noreturn void finish(void);
// The guest is lost: says why and leaves with 2 (exit status 5).
_Noreturn void panic(const char *format, ...);

// ---- traps (trap.c, trap.S) ----

struct trap {
    ulong rax, rcx, rdx, rbx, spare, rbp, rsi, rdi;
#ifdef __x86_64__
    ulong r8, r9, r10, r11, r12, r13, r14, r15;
#endif
    ulong vector, error, rip, cs, flags;
    ulong rsp, ss; // 32-bit: pushed only if the ring changed; in `last` they are always right
    ulong cr2;     // only in `last`, and only of a #PF
};

// How the last run ended; vector NONE: by its END.
extern struct trap last;

// A vector with a handler does not end the run; the handler may change the frame and returns to the code by IRET.
typedef void (*trap_handler)(struct trap *);
extern trap_handler trap_handlers[256];

// An interrupt came between STI and HLT. Guests that sleep a lot say so as their last case.
extern bool sti_shadow_failed;

// Runs code in ring 0 until it returns or raises an exception; see `last`.
void run_kernel(const void *code);

struct start {
    ulong rip, cs, flags, rsp, ss;
    ulong rax, rcx, rdx, rbx, rsi, rdi;
};
// The same in any ring and mode, entered by IRET.
void run_at(const struct start *s);
// The same in ring 3, on the user stack, flags = 2.
void run_user(const void *code);

// Checks `last`: one line. rip == 0 or cr2 == -1: any. The line shows RIP relative to base.
bool check_trap(const char *name, ulong vector, long error, ulong rip, ulong base, ulong cr2);

// Where a case runs, as in case.inc.
#define CASE_KERNEL 0
#define CASE_USER 1
#define CASE_USER32 2 // ring 3, 32-bit code (compatibility mode in a 64-bit guest)
#define CASE_IST 0x100
#define CASE_ANYRIP 0x200

struct fault_case {
    const char *name;
    const u8 *code;
    ulong rip, vector;
    long error;
    ulong cr2, in;
};
extern const struct fault_case cases_begin[], cases_end[];
// Runs the cases of all linked assembly files (case.inc); prepare, if any, is called before each.
void run_cases(void (*prepare)(void));

// ---- the CPU's tables ----

void traps_init(void);

extern u64 gdt[GDT_SIZE / 8];
struct __attribute__((packed)) table_pointer {
    u16 limit;
    ulong base;
};
extern struct table_pointer gdt_pointer, idt_pointer;

#ifdef __x86_64__
#define IDT_WORDS 2
struct __attribute__((packed, aligned(16))) tss {
    u32 reserved;
    u64 rsp[3], reserved2, ist[7], reserved3;
    u16 reserved4, io_bitmap;
    u8 io_bits[8192 + 1];
};
#else
#define IDT_WORDS 1
struct tss {
    u32 link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, flags;
    u32 eax, ecx, edx, ebx, esp, ebp, esi, edi, es, cs, ss, ds, fs, gs, ldt;
    u16 trap, io_bitmap;
    u8 io_bits[8192 + 1];
};
#endif
// Of CPU 0. Its descriptor's limit is TSS_BYTES - 1 at first, without the bitmap: bits of 65536 ports, and a byte of
// ones that must follow them.
extern struct tss tss;
extern u64 idt[256 * IDT_WORDS];

#define GATE_INTERRUPT 0x8e
#define GATE_TRAP 0x8f
#define GATE_DPL3 0x60
// type: GATE_... ; ist: 0, or 1 to 7 (64-bit only)
void set_gate(unsigned vector, ulong target, u16 selector, u8 type, u8 ist);
// Vector back to its stub, in a ring 0 interrupt gate (DONE: ring 3), on stack `ist`.
void default_gate(unsigned vector, u8 ist);
// A code or data segment: access byte as in the manuals (0x9a...), flags the upper nibble: 4 D/B, 2 L, 8 G.
u64 segment(u32 base, u32 limit, u8 access, u8 flags);

extern u8 trap_stubs[], stack_top[], case_stack_top[], user_stack_top[], arena[];
extern u32 boot_info;

#ifdef __x86_64__
extern u64 pml4[512], pdpt[512], pd[4 * 512];
#endif

static inline bool cpu_has(u32 leaf, u32 subleaf, unsigned reg, unsigned bit)
{
    u32 r[4];
    cpuid(leaf & 0x80000000, 0, r);
    if (r[0] < leaf)
        return false;
    cpuid(leaf, subleaf, r);
    return r[reg] >> bit & 1;
}

// The makers disagree in some corners (SYSRET, SYSENTER, ...). CPUID's vendor tells which rules hold.
bool vendor_is_intel(void);

void *memset(void *to, int c, size_t n);
void *memcpy(void *restrict to, const void *restrict from, size_t n);
