// Cases in virtual-8086 mode: a few instructions of 16-bit code each, copied to V86:0 and entered by the nine-word IRET
// frame. One ends with int $0x80 (IOPL 3), or with HLT, which is always #GP(0): the offset tells how far it came.
//
// In there: SS:SP = V86_STACK:0x800, DS = V86_DATA, ES, FS, GS = 0xe00, 0xf00, 0x1000, EAX = 0x11223344, EBX = 0xa00.
#pragma once
#include "guest.h"

#define FLAG_VM 0x20000u
#define FLAG_VIF 0x80000u
#define FLAG_VIP 0x100000u

#define V86 0x800 // segment of the code; see guest.ld
#define V86_STACK 0x900
#define V86_DATA 0xa00

#define V86_CODE(name, text)                                                                                           \
    asm(".pushsection .rodata; .code16; " #name ": " text "\n" #name "_end: .code32; .popsection");                    \
    extern const u8 name[], name##_end[]

// Runs one with these flags (VM is added); see `last`.
void run_v86(const u8 *code, const u8 *end, u32 flags);
// The same, and one line: how it ended and where.
void check_v86(const char *name, const u8 *code, const u8 *end, u32 flags, ulong vector, long error, ulong rip);

#define V86_CASE(name, code, iopl, vector, error, rip)                                                                 \
    check_v86(name, code, code##_end, (iopl) << 12, vector, error, rip)
// Comes to its last HLT.
#define V86_FINE(name, code, iopl) V86_CASE(name, code, iopl, GP, 0, (ulong)(code##_end - code) - 1)

// Flags as the last run left them; the RF of a fault's frame is the debug guest's business.
#define V86_FLAGS (last.flags & ~(ulong)FLAG_RF)
