// Debugging: single step, breakpoints on instructions and data, the debug registers. (SDM vol. 3, chapter 18.)
//
// A handler for #DB notes RIP and DR6 and goes on; so the list of stops is the result of each case.
#include "lib/guest.h"

#define DR6_INIT 0xffff0ff0ul
#define DR6_BD 0x2000ul
#define DR6_BS 0x4000ul
#define DR7_INIT 0x400ul
#define DR7_GD 0x2000ul

// DR7 of breakpoint n: type 0 execute, 1 write, 2 I/O, 3 read or write; size 1, 2, 4, 8.
#define ENABLE(n, type, size)                                                                                          \
    (2ul << 2 * (n) | (ulong)((type) | ((size) == 8 ? 2 : (size)-1) << 2) << (16 + 4 * (n)) | 0x200)

extern u8 plain[], tf_by_popf[], tf_by_popf_trap[], tf_by_popf_next[], rep_code[], rep_insn[], rep_after[];
extern u8 mov_ss_code[], mov_ss_insn[], mov_ss_next[], mov_ss_after[], pushf_code[], int_code[], int_after[];
extern u8 read_code[], read_after[], write_code[], write_after[], wide_code[], wide_after[], stosb_code[];
extern u8 stosb_after[], icebp_code[], icebp_after[], dr_code[], dr4_code[], dr5_code[];
extern u8 iret_rf_code[], iret_rf_target[], user_plain[], user_syscall[], user_syscall_after[], syscall_target[];
extern u8 ud2_code[], int3_code[], out_code[], out_after[], in_code[], in_after[];
extern u8 buffer[];

static struct {
    ulong rip, dr6, flags;
} stop[32];
static unsigned stops;

static void on_debug(struct trap *t)
{
    if (stops < 32) {
        stop[stops].rip = t->rip;
        stop[stops].dr6 = read_dr6() ^ DR6_INIT;
        stop[stops].flags = t->flags;
    }
    stops++;
    write_dr6(DR6_INIT);
    if (stops >= 32) {
        t->flags &= ~(ulong)FLAG_TF;
        write_dr7(DR7_INIT);
    }
}

static void run(const u8 *code, ulong flags)
{
    stops = 0;
    run_at(&(struct start){(ulong)code, KCODE64, flags | 2, (ulong)case_stack_top, KDATA});
    write_dr7(DR7_INIT);
}

// Stops at these offsets from base, each with this DR6.
static void check_stops(const char *name, const u8 *base, ulong dr6, unsigned n, const u8 *const *want)
{
    bool good = stops == n && last.vector == NONE;
    for (unsigned i = 0; i < n && good; i++)
        good = stop[i].rip == (ulong)want[i] && stop[i].dr6 == dr6;
    if (!verdict(name, good))
        say("got ");
    if (!stops)
        say("none");
    for (unsigned i = 0; i < stops && i < 32; i++)
        say("%s+%x/%x", i ? " " : "", stop[i].rip - (ulong)base, stop[i].dr6);
    if (!good) {
        say(", want");
        for (unsigned i = 0; i < n; i++)
            say(" +%x/%x", (ulong)(want[i] - base), dr6);
        if (last.vector != NONE)
            say(", then %t", last.vector, (long)last.error);
    }
    say("\n");
}

#define STOPS(name, base, dr6, ...)                                                                                    \
    check_stops(name, base, dr6, sizeof((const u8 *[]){__VA_ARGS__}) / sizeof(u8 *), (const u8 *[]){__VA_ARGS__})
#define NO_STOPS(name, base) check_stops(name, base, 0, 0, 0)

static void nothing(struct trap *t)
{
    (void)t;
}

static void single_step(void)
{
    run(plain, FLAG_TF);
    STOPS("single step", plain, DR6_BS, plain + 1, plain + 2, plain + 3);
    check_true("TF is in the saved flags", stop[0].flags & FLAG_TF);
    run(tf_by_popf, 0);
    STOPS("TF set by POPF", tf_by_popf, DR6_BS, tf_by_popf_trap, tf_by_popf_trap + 1);
    run(rep_code, FLAG_TF);
    STOPS("each round of REP STOSB", rep_code, DR6_BS, rep_code + 5, rep_insn, rep_insn, rep_insn, rep_after,
          rep_after + 1);
    run(mov_ss_code, FLAG_TF);
    STOPS("no stop behind MOV SS", mov_ss_code, DR6_BS, mov_ss_insn, mov_ss_after, mov_ss_after + 1);
    run(pushf_code, FLAG_TF);
    check("PUSHF shows TF", last.rax & FLAG_TF, FLAG_TF);
    trap_handlers[0x60] = nothing;
    run(int_code, FLAG_TF);
    STOPS("INT n is stepped over", int_code, DR6_BS, int_after + 1);
    trap_handlers[0x60] = 0;
    run(icebp_code, 0);
    STOPS("INT1 sets no bit", icebp_code, 0, icebp_after);

    stops = 0;
    run_at(&(struct start){(ulong)user_plain, UCODE64 | 3, FLAG_TF | 2, (ulong)user_stack_top, UDATA | 3});
    STOPS("single step in ring 3", user_plain, DR6_BS, user_plain + 1, user_plain + 2);

    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
    wrmsr(MSR_STAR, (u64)UCODE32 << 48 | (u64)KCODE64 << 32);
    wrmsr(MSR_LSTAR, (ulong)syscall_target);
    wrmsr(MSR_SFMASK, FLAG_TF);
    stops = 0;
    run_at(&(struct start){(ulong)user_syscall, UCODE64 | 3, FLAG_TF | 2, (ulong)user_stack_top, UDATA | 3});
    // SYSCALL that clears TF gives no trap; SYSRET that sets it traps at once, before the next instruction (SDM vol. 3,
    // 18.3.1.4), while POPF and IRET trap one instruction later.
    STOPS("SYSCALL clears TF, SYSRET sets it", user_syscall, DR6_BS, user_syscall_after, user_syscall_after + 1);
}

static void breakpoints(void)
{
    write_dr0((ulong)plain + 1);
    write_dr7(ENABLE(0, 0, 1));
    run(plain, 0);
    check("execute breakpoint, stops without RF", stops >= 32, 1);
}

static void resume(struct trap *t)
{
    on_debug(t);
    t->flags |= FLAG_RF;
}

static void breakpoints_with_rf(void)
{
    trap_handlers[DB] = resume;
    write_dr0((ulong)plain + 1);
    write_dr7(ENABLE(0, 0, 1));
    run(plain, 0);
    STOPS("execute breakpoint is a fault", plain, 1, plain + 1);
    check("it saves RF = 0, unlike other faults", stop[0].flags & FLAG_RF, 0);
    run_kernel(ud2_code);
    check("UD saves RF = 1", last.flags & FLAG_RF, FLAG_RF);
    run_kernel(int3_code);
    check("int3 saves RF = 0", last.flags & FLAG_RF, 0);
    write_dr3((ulong)plain + 2);
    write_dr7(ENABLE(3, 0, 1) | ENABLE(0, 0, 1));
    run(plain, 0);
    check("two breakpoints", stops << 8 | stop[0].dr6 << 4 | stop[1].dr6, 0x218);
    write_dr7(DR7_INIT);
    run(plain, 0);
    NO_STOPS("none enabled", plain);
    write_dr0((ulong)plain + 1);
    write_dr7(ENABLE(0, 0, 1));
    run(plain, FLAG_TF);
    // TF and a breakpoint on the next instruction: first the trap of the old one, with both conditions seen or not;
    // the fault of the new one follows.
    check("single step and a breakpoint, both are reported", (stop[0].dr6 | stop[1].dr6) & (DR6_BS | 1), DR6_BS | 1);
    write_dr0((ulong)iret_rf_target);
    write_dr7(ENABLE(0, 0, 1));
    run(iret_rf_code, 0);
    NO_STOPS("IRET with RF passes the breakpoint once", iret_rf_code);

    write_dr1((ulong)buffer);
    write_dr7(ENABLE(1, 1, 1));
    run(write_code, 0);
    STOPS("write breakpoint is a trap", write_code, 2, write_after);
    write_dr7(ENABLE(1, 1, 1));
    run(read_code, 0);
    NO_STOPS("write breakpoint, read", read_code);
    write_dr7(ENABLE(1, 3, 1));
    run(read_code, 0);
    STOPS("read-write breakpoint, read", read_code, 2, read_after);
    write_dr7(ENABLE(1, 3, 1));
    run(write_code, 0);
    STOPS("read-write breakpoint, write", write_code, 2, write_after);
    write_dr7(ENABLE(1, 3, 4));
    run(wide_code, 0);
    NO_STOPS("wide read beside it", wide_code);
    write_dr7(ENABLE(1, 3, 8));
    run(wide_code, 0);
    STOPS("wide read that overlaps eight bytes", wide_code, 2, wide_after);
    write_dr2((ulong)buffer + 8);
    write_dr7(ENABLE(2, 3, 1));
    run(wide_code, 0);
    STOPS("wide read that overlaps one byte", wide_code, 4, wide_after);
    write_dr2((ulong)buffer + 10);
    write_dr1((ulong)buffer + 6);
    write_dr7(ENABLE(2, 3, 2) | ENABLE(1, 3, 2));
    run(wide_code, 0);
    STOPS("two at once", wide_code, 6, wide_after);
    write_dr2((ulong)buffer + 3);
    write_dr7(ENABLE(2, 1, 1));
    run(stosb_code, 0);
    // The trap comes after the round that wrote it; that was the last.
    STOPS("REP STOSB, last byte", stosb_code, 4, stosb_after);
    write_dr7(ENABLE(2, 1, 1));
    write_dr2((ulong)buffer + 1);
    run(stosb_code, 0);
    check("REP STOSB, second byte, where it stopped", stops << 8 | stop[0].dr6, 0x104);

    write_cr4(read_cr4() | CR4_DE);
    write_dr0(0x80);
    write_dr7(ENABLE(0, 2, 1));
    run(out_code, 0);
    STOPS("I/O breakpoint, OUT", out_code, 1, out_after);
    write_dr7(ENABLE(0, 2, 1));
    run(in_code, 0);
    STOPS("I/O breakpoint, IN", in_code, 1, in_after);
    write_dr0(0x81);
    write_dr7(ENABLE(0, 2, 1));
    run(out_code, 0);
    NO_STOPS("I/O breakpoint on another port", out_code);
    write_cr4(read_cr4() & ~(ulong)CR4_DE);
    trap_handlers[DB] = on_debug;
}

static void registers(void)
{
    write_dr7(DR7_INIT | DR7_GD);
    stops = 0;
    run_at(&(struct start){(ulong)dr_code, KCODE64, 2, (ulong)case_stack_top, KDATA, .rax = 0x1234});
    // The handler's own access goes through: the CPU has cleared GD on the way.
    check("GD, MOV to DR0 is stopped before it is done", stop[0].rip - (ulong)dr_code, 0);
    check("GD, DR6", stop[0].dr6, DR6_BD);
    check("GD, cleared in the handler, then it is done", read_dr0(), 0x1234);
    check("DR7, GD is off", read_dr7() & DR7_GD, 0);

    write_dr7(0);
    check("DR7, bit 10 is always 1", read_dr7(), 0x400);
    write_dr7(0xffffffff & ~DR7_GD & ~0xffff0000ul);
    check("DR7, bits 12, 14, 15 are always 0", read_dr7() & 0xd000, 0);
    write_dr7(DR7_INIT);
    write_dr6(0);
    check("DR6, fixed ones", read_dr6() & ~0x18000ul, 0xfffe0ff0);
    write_dr6(DR6_INIT);
    write_dr0(0xffff812345678901);
    check("DR0 has 64 bits", read_dr0(), 0xffff812345678901);

    run_kernel(dr4_code);
    check("DR4 is DR6 without CR4.DE", last.rax, DR6_INIT);
    run_kernel(dr5_code);
    check("DR5 is DR7 without CR4.DE", last.rax, DR7_INIT);
    write_cr4(read_cr4() | CR4_DE);
    run_kernel(dr4_code);
    check_trap("DR4 with CR4.DE", UD, NOERR, (ulong)dr4_code, (ulong)dr4_code, -1);
    run_kernel(dr5_code);
    check_trap("DR5 with CR4.DE", UD, NOERR, (ulong)dr5_code, (ulong)dr5_code, -1);
    write_cr4(read_cr4() & ~(ulong)CR4_DE);

    // The CPU does not clear DR6: what the handler leaves stays.
    trap_handlers[DB] = nothing;
    write_dr6(DR6_INIT);
    write_dr1((ulong)buffer);
    write_dr7(ENABLE(1, 1, 1));
    run(write_code, 0);
    trap_handlers[DB] = on_debug;
    check("DR6 stays", read_dr6() & 0xf, 2);
    // A condition that matches but is not enabled may show in the low bits, without a trap.
    write_dr6(DR6_INIT);
}

int main(void)
{
    trap_handlers[DB] = on_debug;
    write_dr6(DR6_INIT);
    single_step();
    breakpoints();
    breakpoints_with_rf();
    registers();
    return 0;
}
