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

// NO_FAULT or the error code.
static int model(enum access access, enum ring ring, u64 rights, bool fetch_bit, ulong flags)
{
    bool user_page = rights & RIGHT_U, may_write = rights & RIGHT_W, writes = access == WRITE || access == RMW;
    ulong cr0 = read_cr0(), cr4 = read_cr4();
    bool fault;
    if (ring == USER)
        fault = !user_page || (writes && !may_write) || (access == EXECUTE && (rights & RIGHT_NX));
    else if (access == EXECUTE)
        fault = (rights & RIGHT_NX) || (user_page && (cr4 & CR4_SMEP));
    else
        fault = (user_page && (cr4 & CR4_SMAP) && !(flags & FLAG_AC)) || (writes && !may_write && (cr0 & CR0_WP));
    if (!fault)
        return NO_FAULT;
    return 1 | (writes ? 2 : 0) | (ring == USER ? 4 : 0) | (access == EXECUTE && fetch_bit ? 16 : 0);
}

bool check_rights(const char *name, ulong va, u64 bits, void (*apply)(u64 rights), void *page, ulong flags)
{
    unsigned accesses = 0, faults = 0, wrong = 0;
    // The fetch bit is in use with NX (which needs PAE) or SMEP.
    bool fetch_bit = bits & RIGHT_NX || (read_cr4() & CR4_SMEP);
    for (unsigned r = 0; r < 8; r++) {
        u64 rights = (r & 1 ? RIGHT_W : 0) | (r & 2 ? RIGHT_U : 0) | (r & 4 ? RIGHT_NX : 0);
        if (rights & ~bits)
            continue;
        apply(rights);
        for (enum access access = READ; access <= EXECUTE; access++) {
            for (enum ring ring = KERNEL; ring <= USER; ring++) {
                *(volatile u16 *)page = 0x80cd; // int $DONE, spoilt by the writes
                int want = model(access, ring, rights, fetch_bit, flags), got = probe(access, ring, va, flags);
                accesses++;
                faults += want >= 0;
                if (got == want || wrong++)
                    continue;
                verdict(name, false);
                say("rights %x, access %u, ring %u: got %t cr2=%x, want %x", (ulong)r, access, ring == KERNEL ? 0 : 3,
                    last.vector, (long)last.error, last.cr2, (ulong)want);
            }
        }
    }
    if (wrong) {
        say("; wrong: %u of %u\n", wrong, accesses);
        return false;
    }
    verdict(name, true);
    say("%u accesses, %u faults\n", accesses, faults);
    return true;
}
