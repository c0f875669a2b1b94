// See v86.h.
#include "v86.h"

// The frame of the IRET that enters, from EIP upwards; and the case that does it.
static struct {
    u32 eip, cs, flags, esp, ss, es, ds, fs, gs;
} enter_frame;
asm(".pushsection .text; enter: sub $36, %esp; mov $enter_frame, %esi; mov %esp, %edi; mov $9, %ecx; rep movsl;"
    "mov $0x11223344, %eax; mov $0xa00, %ebx; iret; .popsection");
extern const u8 enter[];

void run_v86(const u8 *code, const u8 *end, u32 flags)
{
    memcpy((void *)(V86 << 4), code, (size_t)(end - code));
    enter_frame.eip = 0;
    enter_frame.cs = V86;
    enter_frame.flags = FLAG_VM | 2 | flags;
    enter_frame.esp = 0x800;
    enter_frame.ss = V86_STACK;
    enter_frame.es = 0xe00;
    enter_frame.ds = V86_DATA;
    enter_frame.fs = 0xf00;
    enter_frame.gs = 0x1000;
    asm volatile("" : "+m"(enter_frame)::"memory");
    run_kernel(enter);
}

void check_v86(const char *name, const u8 *code, const u8 *end, u32 flags, ulong vector, long error, ulong rip)
{
    run_v86(code, end, flags);
    bool good = last.vector == vector && (vector == NONE || (long)last.error == (error < 0 ? 0 : error)) &&
                last.rip == rip && last.flags & FLAG_VM;
    if (!verdict(name, good))
        say("got ");
    say("%t at %x", last.vector, last.vector == NONE || error < 0 ? NOERR : (long)last.error, last.rip);
    if (!good)
        say(", want %t at %x", vector, error, rip);
    say("\n");
}
