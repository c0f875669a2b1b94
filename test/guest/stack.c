// The stack pointer in all the places where it does not belong: at pages' edges, before pages that are absent or
// read-only, where no memory is, at addresses that are none; and changing between stacks far from each other.
//
// A translator keeps RSP in a register of the host's, of which the host has ideas of its own: interrupts of the host
// must find one that they can return to. So there are loops, longer than a host leaves a program alone for, in which
// RSP is nothing that anybody could use.
#include "lib/page.h"

#define CODE(name, text)                                                                                               \
    asm(".pushsection .user.text; .balign 16; " #name ": " text "; int $0x80; .popsection");                           \
    extern const u8 name[]

// Linear pages, from BASE on: what is there.
#define BASE 0x5000000000ul
#define LOW (BASE + 0x0000)      // writable, and the next one too, but not beside each other in memory
#define HIGH (BASE + 0x1000)     // writable
#define READONLY (BASE + 0x2000) // read-only
#define ABSENT (BASE + 0x3000)   // absent
#define ABOVE (BASE + 0x4000)    // writable
#define NOBODY (BASE + 0x5000)   // neither memory nor a device
#define BELOW (BASE + 0x6000)    // writable; the one behind it is absent
#define BELOW_END (BASE + 0x7000)
#define FAR_STACK(n) (0x600000000000ul + (n)*0x1234567000ul) // tops
#define FAR_STACKS 4
#define NONCANONICAL 0x800000000000ul

static u8 *high, *below; // as ring 0 sees them

static void make_pages(void)
{
    map(LOW, (ulong)new_page(), P | W | U);
    new_page();
    map(HIGH, (ulong)(high = new_page()), P | W | U);
    map(READONLY, (ulong)new_page(), P | U);
    map(ABOVE, (ulong)new_page(), P | W | U);
    map(NOBODY, 0x80000000, P | W | U);
    map(BELOW, (ulong)(below = new_page()), P | W | U);
    for (unsigned n = 0; n < FAR_STACKS; n++)
        map(FAR_STACK(n) - 4096, (ulong)new_page(), P | W | U);
}

static void run_in(unsigned ring, const void *code, ulong rsp, ulong rsi, ulong rdi)
{
    run_at(&(struct start){.rip = (ulong)code,
                           .cs = ring ? UCODE | 3 : KCODE,
                           .flags = 2,
                           .rsp = rsp,
                           .ss = ring ? UDATA | 3 : KDATA,
                           .rdx = (ulong)code,
                           .rsi = rsi,
                           .rdi = rdi});
}

// ---- accesses that fault ----

CODE(c_push, "push %rax");
CODE(c_push_imm, "push $-1");
CODE(c_push_mem, "push (%rsi)");
CODE(c_push_rsp, "push %rsp");
CODE(c_pushf, "pushf");
CODE(c_call, "call 1f; 1:");
CODE(c_call_reg, "call *%rdx");
CODE(c_enter, "enter $32, $0");
CODE(c_store, "mov %rax, -8(%rsp)");
CODE(c_pop, "pop %rax");
CODE(c_pop_mem, "pop (%rsi)");
CODE(c_popf, "popf");
CODE(c_ret, "ret");
CODE(c_ret_n, "ret $16");
CODE(c_leave, "mov %rsi, %rbp; leave");
CODE(c_load, "mov (%rsp), %rax");
CODE(c_read_modify, "addq $1, (%rsp)");
CODE(c_pushes, "push %rax; push %rax; push %rax");
CODE(c_frame, "push %rbp; mov %rsp, %rbp; sub $0x18, %rsp; mov %rax, (%rsp)");

struct fault {
    const char *name;
    const u8 *code;
    ulong rsp, vector;
    long error;                // in ring 0
    ulong cr2, rsi, at, moved; // at: where in the code; moved: of RSP by what came before
};

static const struct fault faults[] = {
    // Stores that go over an edge.
    {"push, all in an absent page", c_push, ABOVE, PF, 2, ABOVE - 8},
    {"push, its lower half absent", c_push, ABOVE + 4, PF, 2, ABOVE - 4},
    {"push, its upper half absent", c_push, BELOW_END + 4, PF, 2, BELOW_END},
    {"push, all read-only", c_push, READONLY + 8, PF, 3, READONLY},
    {"push, its upper half read-only", c_push, READONLY + 4, PF, 3, READONLY},
    {"push of a constant", c_push_imm, BELOW_END + 4, PF, 2, BELOW_END},
    {"push of memory to an absent page", c_push_mem, ABOVE, PF, 2, ABOVE - 8, HIGH},
    {"push of absent memory", c_push_mem, HIGH + 64, PF, 0, ABSENT + 8, ABSENT + 8},
    {"push of absent memory to an absent page", c_push_mem, ABOVE, PF, 0, ABSENT + 8, ABSENT + 8},
    {"push of RSP", c_push_rsp, READONLY + 4, PF, 3, READONLY},
    {"pushf", c_pushf, BELOW_END + 4, PF, 2, BELOW_END},
    {"call", c_call, READONLY + 4, PF, 3, READONLY},
    {"call by register", c_call_reg, READONLY + 4, PF, 3, READONLY},
    {"enter", c_enter, READONLY + 4, PF, 3, READONLY},
    {"store below RSP", c_store, READONLY + 4, PF, 3, READONLY},
    {"read and write", c_read_modify, READONLY - 4, PF, 3, READONLY},
    // In the middle of several.
    {"third push of three", c_pushes, ABOVE + 16, PF, 2, ABOVE - 8, 0, 2, -16},
    {"half of the second push of three", c_pushes, ABOVE + 12, PF, 2, ABOVE - 4, 0, 1, -8},
    {"a frame that does not fit", c_frame, ABOVE + 8, PF, 2, ABOVE - 24, 0, 8, -32},
    // Loads.
    {"pop, all absent", c_pop, ABSENT, PF, 0, ABSENT},
    {"pop, its lower half absent", c_pop, ABOVE - 4, PF, 0, ABOVE - 4},
    {"pop, its upper half absent", c_pop, BELOW_END - 4, PF, 0, BELOW_END},
    {"pop to absent memory", c_pop_mem, HIGH + 64, PF, 2, ABSENT + 8, ABSENT + 8},
    {"pop to read-only memory", c_pop_mem, HIGH + 64, PF, 3, READONLY + 8, READONLY + 8},
    {"popf", c_popf, BELOW_END - 4, PF, 0, BELOW_END},
    {"ret", c_ret, BELOW_END - 4, PF, 0, BELOW_END},
    {"ret n", c_ret_n, BELOW_END - 4, PF, 0, BELOW_END},
    {"leave", c_leave, HIGH + 64, PF, 0, ABSENT + 16, ABSENT + 16, 3},
    {"load", c_load, BELOW_END - 4, PF, 0, BELOW_END},
    // Not canonical: #SS, whatever the instruction.
    {"push, not canonical", c_push, NONCANONICAL + 64, SS, 0, 0},
    {"pop, not canonical", c_pop, NONCANONICAL, SS, 0, 0},
    {"call, not canonical", c_call, NONCANONICAL + 64, SS, 0, 0},
    {"ret, not canonical", c_ret, NONCANONICAL + 64, SS, 0, 0},
    {"load, not canonical", c_load, -NONCANONICAL - 64, SS, 0, 0},
    // The two ends of the address space are not neighbours.
    {"push below address 0", c_push, 0, PF, 2, -8},
    {"push over address 0", c_push, 4, PF, 2, -4},
};

#define PATTERN 0x0807060504030201ul

static bool faults_rightly(const struct fault *f, unsigned ring)
{
    // What a push that faults half way must not have touched.
    u64 *lower_high = (u64 *)(high + 4096 - 8), *lower_below = (u64 *)(below + 4096 - 8);
    *lower_high = *lower_below = PATTERN;
    run_in(ring, f->code, f->rsp, f->rsi, 0);
    return last.vector == f->vector && (long)last.error == (f->error | (f->vector == PF && ring ? 4 : 0)) &&
           last.cr2 == f->cr2 && last.rip == (ulong)f->code + f->at && last.rsp == f->rsp + f->moved &&
           *lower_high == PATTERN && *lower_below == PATTERN;
}

static void all_faults(void)
{
    for (unsigned n = 0; n < sizeof faults / sizeof *faults; n++) {
        const struct fault *f = &faults[n];
        unsigned ring = 0;
        bool good = faults_rightly(f, 0);
        if (good)
            good = faults_rightly(f, ring = 3);
        verdict(f->name, good);
        if (good)
            say("%t\n", f->vector, f->error);
        else
            say("ring %u, %t, cr2 %x, rip+%x, rsp %x\n", (ulong)ring, last.vector, (long)last.error, last.cr2,
                last.rip - (ulong)f->code, last.rsp);
    }
}

// ---- stacks that work, in odd places ----

CODE(c_fib, "call 2f; int $0x80;"
            "2: cmp $2, %edi; jb 1f; push %rdi; dec %edi; call 2b; pop %rdi; push %rax; sub $2, %edi; call 2b;"
            "pop %rdx; add %rdx, %rax; ret; 1: mov %edi, %eax; ret");
CODE(c_frames, "mov $100, %ecx; xor %eax, %eax;"
               "1: push %rbp; mov %rsp, %rbp; sub $40, %rsp; mov %rcx, -16(%rbp); add -16(%rbp), %rax; pushf; popf;"
               "push -16(%rbp); pop -24(%rbp); add -24(%rbp), %rax; leave; dec %ecx; jnz 1b");
CODE(c_turns, "mov $1000, %ecx; xor %eax, %eax; mov %rsp, %rbx;"
              "1: xor %edx, %edx;"
              "2: mov (%rsi,%rdx,8), %rsp; push %rcx; push %rdx; call 3f; pop %rdi; add %rdi, %rax; pop %rdi;"
              "add %rdi, %rax; mov %rsp, (%rsi,%rdx,8); inc %edx; cmp $4, %edx; jne 2b;"
              "dec %ecx; jnz 1b; mov %rbx, %rsp; int $0x80;"
              "3: mov 8(%rsp), %r8; add %r8, %rax; add 16(%rsp), %rax; ret");
CODE(c_nobody, "push %rsi; add $8, %rsp; push %rsi; pop %rax; and -8(%rsp), %rax");
CODE(c_beside, "mov $1000, %ecx; xor %eax, %eax; 1: push %rcx; call 2f; pop %rdx; add %rdx, %rax; dec %ecx; jnz 1b;"
               "int $0x80; 2: inc %rax; ret; .balign 64");

static ulong sum_over_edge(unsigned ring, const u8 *code, ulong rdi)
{
    ulong sum = 0;
    for (ulong off = 0; off < 80; off += 3) {
        run_in(ring, code, HIGH + off, 0, rdi);
        sum += last.vector == NONE ? last.rax : ~0ul >> 8;
    }
    return sum;
}

static void odd_places(void)
{
    static const ulong tops[FAR_STACKS + 1] = {FAR_STACK(0), FAR_STACK(1), FAR_STACK(2) - 4000, FAR_STACK(3),
                                               HIGH + 12};
    for (unsigned ring = 0; ring < 4; ring += 3) {
        check(ring ? "recursion over a page's edge, ring 3" : "recursion over a page's edge",
              sum_over_edge(ring, c_fib, 12), 27 * 144);
        check(ring ? "frames over a page's edge, ring 3" : "frames over a page's edge",
              sum_over_edge(ring, c_frames, 0), 27 * 2 * 5050);
        for (unsigned from = 0; from < 2; from++) { // the second time one of them is at an edge
            ulong *rsp = (ulong *)(below + 64);
            memcpy(rsp, tops + from, FAR_STACKS * sizeof *rsp);
            run_in(ring, c_turns, HIGH + 128, BELOW + 64, 0);
            check(ring   ? from ? "four stacks, one at an edge, ring 3" : "four stacks in turn, ring 3"
                  : from ? "four stacks, one at an edge"
                         : "four stacks in turn",
                  last.vector == NONE ? last.rax : ~0ul, 2 * (4 * 500500 + 1000 * 6));
        }
        // Code and stack in one page.
        memcpy(high + 0x800, c_beside, 64);
        run_in(ring, (void *)(HIGH + 0x800), HIGH + 0x800, 0, 0);
        check(ring ? "stack beside code, ring 3" : "stack beside code", last.rax, 500500 + 1000);
    }
    run_in(0, c_nobody, NOBODY + 64, 5, 0);
    check("stack where nobody is", last.rax, ~0ul);
}

// ---- for a long time nowhere ----

#define CYCLES 60000000 // several of the host's clock ticks

// Until RDI cycles have passed: RSP changes as told, then nothing happens for a while. RAX is what it was in the end.
#define WILD(name, text)                                                                                               \
    CODE(name, "rdtsc; shl $32, %rdx; lea (%rax,%rdx), %r8; add %rdi, %r8; mov %rsp, %rbx;"                            \
               "2: mov $200000, %ecx; " text "; dec %ecx; jnz 1b; mov %rsp, %r9; mov %rbx, %rsp; push %rax; pop %rax;" \
               "rdtsc; shl $32, %rdx; add %rdx, %rax; cmp %r8, %rax; jb 2b; mov %r9, %rax")

WILD(w_mov, "mov %rsi, %rsp; 1:");
WILD(w_lea, "lea (%rsi), %rsp; 1:");
WILD(w_xchg, "xchg %rsi, %rsp; mov %rsp, %rsi; 1:");
WILD(w_pop, "push %rsi; pop %rsp; 1:");
WILD(w_load, "mov %rsi, -8(%rsp); mov -8(%rsp), %rsp; 1:");
WILD(w_add, "sub %rsp, %rsp; add %rsi, %rsp; 1:");
WILD(w_or, "xor %esp, %esp; or %rsi, %rsp; 1:");
WILD(w_cmov, "test %ecx, %ecx; cmovnz %rsi, %rsp; 1:");
WILD(w_imul, "imul $1, %rsi, %rsp; 1:");
WILD(w_ret, "movabs $1f, %rax; push %rax; mov %rsi, %rbp; ret; 1: mov %rbp, %rsp");
WILD(w_drift_down, "1: sub $0x7fffffff, %rsp");
WILD(w_drift_up, "1: lea 0x7ffffff0(%rsp), %rsp");
WILD(w_drift_slowly, "1: add $0xffff0, %rsp");
WILD(w_drift_flags, "1: add $0x7fffffff, %rsp; setc %al; adc %rax, %r10");

struct wild {
    const char *name;
    const u8 *code;
    ulong rsp; // to be, or to have drifted by
};

static const struct wild wilds[] = {
    {"mov to the first address that is none", w_mov, NONCANONICAL},
    {"lea to the last one", w_lea, -NONCANONICAL - 1},
    {"xchg with the top bit alone", w_xchg, 1ul << 63},
    {"pop of any number", w_pop, 0x1234567890abcdef},
    {"mov of the kernel's half", w_load, 0xffff888000000000},
    {"sub and add to 0", w_add, 0},
    {"xor and or to -1", w_or, -1ul},
    {"cmov to an absent page", w_cmov, ABSENT + 64},
    {"imul to where nobody is", w_imul, NOBODY + 64},
    {"behind a ret, the end of the lower half", w_ret, NONCANONICAL - 8},
    {"mov to 1", w_mov, 1},
    {"mov to the local APIC", w_mov, 0xfee00080},
};
static const struct wild drifts[] = {
    {"drifts down", w_drift_down, -0x7ffffffful * 200000},
    {"drifts up", w_drift_up, 0x7ffffff0ul * 200000},
    {"drifts slowly", w_drift_slowly, 0xffff0ul * 200000},
    {"drifts, and somebody looks at the flags", w_drift_flags, 0x7ffffffful * 200000},
};

// In both rings; one line.
static void check_wild(const struct wild *w, ulong start)
{
    bool good = true;
    for (unsigned ring = 0; ring < 4 && good; ring += 3) {
        run_in(ring, w->code, HIGH + 256, w->rsp, CYCLES);
        good = last.vector == NONE && last.rax == start + w->rsp;
    }
    verdict(w->name, good);
    if (good)
        say("%X\n", w->rsp);
    else
        say("%t, rsp %X, want %X\n", last.vector, (long)last.error, last.rax, start + w->rsp);
}

static void nowhere(void)
{
    for (unsigned n = 0; n < sizeof wilds / sizeof *wilds; n++)
        check_wild(&wilds[n], 0);
    for (unsigned n = 0; n < sizeof drifts / sizeof *drifts; n++)
        check_wild(&drifts[n], HIGH + 256);
}

int main(void)
{
    make_pages();
    for (unsigned v = 0; v < 256; v++)
        if (v < 32 || v == DONE)
            default_gate(v, 1); // RSP is of no use to handlers
    all_faults();
    odd_places();
    nowhere();
    return 0;
}
