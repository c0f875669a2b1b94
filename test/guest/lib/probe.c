// See probe.h.
#include "probe.h"

extern u8 probe_kernel[], probe_user[];

int probe(enum access access, enum ring ring, ulong va, ulong flags)
{
    struct start s = {.flags = flags | 2, .rsi = va};
    if (ring == KERNEL) {
        s.rip = (ulong)probe_kernel + 16 * access;
        s.cs = KCODE;
        s.rsp = (ulong)case_stack_top;
        s.ss = KDATA;
    } else {
        s.rip = (ulong)probe_user + 16 * access;
        s.cs = UCODE | 3;
        s.rsp = (ulong)user_stack_top;
        s.ss = UDATA | 3;
    }
    ulong at = access == EXECUTE ? va : s.rip;
    run_at(&s);
    if (last.vector == NONE)
        return NO_FAULT;
    return last.vector == PF && last.cr2 == va && last.rip == at ? (int)last.error : STRANGE;
}

bool check_probe(const char *name, enum access access, enum ring ring, ulong va, int want)
{
    int got = probe(access, ring, va, 0);
    bool good = verdict(name, got == want);
    if (!good)
        say("got ");
    say("%t", last.vector, last.vector == NONE ? NOERR : (long)last.error);
    if (got == STRANGE)
        say(" rip=%x cr2=%x", last.rip, last.cr2);
    if (!good)
        say(", want %t cr2=%x", want == NO_FAULT ? (ulong)NONE : (ulong)PF, want == NO_FAULT ? NOERR : (long)want, va);
    say("\n");
    return good;
}
