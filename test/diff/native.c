// Executes a case on the CPU that this program runs on.
//
// native_enter() saves what the compiler believes in, loads every register from the context and goes to the instruction
// by IRETQ, which changes the mode too and, being serializing, sees the code that was just written. It comes back by a
// signal, always: the INT3 behind the instruction or the instruction's own fault. The handler copies the interrupted
// registers out of the signal frame and lets the kernel return into native_leave(). The context lies at a fixed address
// below 2 GiB, so that code with no register free can name it.
#include "case.h"
#include <asm/prctl.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/ucontext.h>
#include <unistd.h>

#define CONTEXT 0x1f000000

enum { SIGNAL_STACK = 1 << 18 };

struct context {
    uint64_t gpr[16];
    uint64_t rip, rflags, gs_base; // up to here as in case_registers
    uint64_t host_rsp;
    uint64_t frame[5]; // for IRETQ: RIP, CS, RFLAGS, RSP, SS
    _Alignas(64) uint8_t xsave[1024];
    struct diff_result *result;
};

enum { AT_RIP = 128, AT_RFLAGS = 136, AT_GS_BASE = 144, AT_HOST_RSP = 152, AT_FRAME = 160, AT_XSAVE = 256 };
_Static_assert(offsetof(struct context, rip) == AT_RIP && offsetof(struct context, rflags) == AT_RFLAGS &&
                   offsetof(struct context, gs_base) == AT_GS_BASE &&
                   offsetof(struct context, host_rsp) == AT_HOST_RSP && offsetof(struct context, frame) == AT_FRAME &&
                   offsetof(struct context, xsave) == AT_XSAVE,
               "the assembly below knows these");

void native_enter(void);
void native_leave(void);
void native_signal(int sig, siginfo_t *info, void *context);

#define AT(n) "(" #n "+0x1f000000)"
#define LOAD(n, reg) "movq " AT(8 * n) ", %" reg "\n"
__asm__(".text\n.globl native_enter\n.type native_enter, @function\nnative_enter:\n"
        "push %rbx\npush %rbp\npush %r12\npush %r13\npush %r14\npush %r15\n"
        "sub $8, %rsp\nstmxcsr (%rsp)\nfnstcw 4(%rsp)\n"
        "movq %rsp, " AT(152) "\n"
                              "movl $0x2b, %eax\nmovl %eax, %ds\nmovl %eax, %es\n"
                              "movl $7, %eax\nxorl %edx, %edx\nxrstor64 " AT(
                                  256) "\n"
                                       "movq $0x1f000000+160, %rsp\n" LOAD(0, "rax") LOAD(1, "rcx") LOAD(2, "rdx")
                                           LOAD(3, "rbx") LOAD(5, "rbp") LOAD(6, "rsi") LOAD(7, "rdi") LOAD(8, "r8")
                                               LOAD(9, "r9") LOAD(10, "r10") LOAD(11, "r11") LOAD(12, "r12")
                                                   LOAD(13, "r13") LOAD(14, "r14")
                                                       LOAD(15,
                                                            "r15") "iretq\n"
                                                                   ".globl native_leave\nnative_leave:\n"
                                                                   // NT would survive the return from the signal and
                                                                   // make the next IRETQ fail.
                                                                   "pushq $0x202\npopfq\n"
                                                                   "fninit\nldmxcsr (%rsp)\nfldcw "
                                                                   "4(%rsp)\nvzeroupper\nadd $8, %rsp\n"
                                                                   "pop %r15\npop %r14\npop %r13\npop %r12\npop "
                                                                   "%rbp\npop %rbx\nret\n"
                                                                   ".size native_enter, .-native_enter\n"
                                                                   // RFLAGS.AC may be set where the signal comes from,
                                                                   // and C code is full of unaligned accesses.
                                                                   ".globl native_signal\nnative_signal:\npushfq\nandl "
                                                                   "$~0x40000, (%rsp)\npopfq\njmp native_record\n");

struct native {
    struct runner runner;
    uint8_t *code; // the code page once more, to be written
};

static struct context *const context = (struct context *)(uintptr_t)CONTEXT;

void native_record(int sig, siginfo_t *info, void *uc);

// GS is nobody's: the C library keeps FS.
static uint64_t read_gs_base(void)
{
    uint64_t base = 0;
    if (case_host_has_fsgsbase())
        __asm__ volatile("rdgsbase %0" : "=r"(base));
    else
        syscall(SYS_arch_prctl, ARCH_GET_GS, &base);
    return base;
}

static void write_gs_base(uint64_t base)
{
    if (case_host_has_fsgsbase())
        __asm__ volatile("wrgsbase %0" : : "r"(base));
    else if (read_gs_base() != base)
        syscall(SYS_arch_prctl, ARCH_SET_GS, base);
}

void native_record(int sig, siginfo_t *info, void *ucontext)
{
    ucontext_t *uc = ucontext;
    greg_t *g = uc->uc_mcontext.gregs;
    struct diff_result *r = context->result;
    static const int order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                  REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    (void)sig;
    (void)info;
    if (!r) {
        // A fault of the test program itself: let it happen again, with no handler.
        signal(sig, SIG_DFL);
        return;
    }
    for (unsigned n = 0; n < 16; n++)
        r->out.gpr[n] = (uint64_t)g[order[n]];
    r->out.rip = (uint64_t)g[REG_RIP];
    r->out.rflags = (uint64_t)g[REG_EFL];
    r->out.gs_base = read_gs_base();
    r->vector = (int)g[REG_TRAPNO];
    r->error = (uint32_t)g[REG_ERR];
    r->cr2 = (uint64_t)g[REG_CR2];
    case_take_xsave(r->out.xsave, (const uint8_t *)uc->uc_mcontext.fpregs);
    context->result = NULL;
    g[REG_RIP] = (greg_t)(uintptr_t)native_leave;
    g[REG_RSP] = (greg_t)context->host_rsp;
    g[REG_EFL] = 0x202;
    uint64_t selectors = (uint64_t)g[REG_CSGSFS];
    g[REG_CSGSFS] = (greg_t)((selectors & ~0xffffull) | CASE_CS64);
}

static void native_run(struct runner *runner, const struct diff_case *c, struct diff_result *r)
{
    uint8_t *code = ((struct native *)runner)->code, *data = (uint8_t *)(uintptr_t)CASE_DATA;
    size_t at = c->in.rip - CASE_CODE;
    memcpy(code + at, c->code, c->len);
    memcpy(data, c->data, CASE_WRITABLE);
    memcpy(context, &c->in, AT_HOST_RSP);
    memcpy(context->xsave, c->in.xsave, CASE_XSAVE);
    const uint64_t frame[5] = {c->in.rip, c->long64 ? CASE_CS64 : CASE_CS32, c->in.rflags, c->in.gpr[4], CASE_DS};
    memcpy(context->frame, frame, sizeof frame);
    context->result = r;
    memset(r, 0, sizeof *r);
    write_gs_base(c->in.gs_base);
    __asm__ volatile("" ::: "memory");
    native_enter();
    memcpy(r->data, data, CASE_WRITABLE);
    memset(code + at, 0xcc, c->len);
    r->out.rflags &= ~(1ull << 16); // RF: set or not, it is no result
    if (r->vector == 3) {
        r->vector = -1;
        r->out.rip--;
        r->error = 0;
    } else if (r->vector == 14 && (r->error & 0x10) && r->out.rip == r->cr2 && r->out.rip != c->in.rip) {
        r->vector = -1; // it jumped to where no code is
        r->error = 0;
    }
    if (r->vector != 14)
        r->cr2 = 0;
}

static void native_destroy(struct runner *r)
{
    munmap((void *)(uintptr_t)CASE_CODE, CASE_PAGE);
    munmap((void *)(uintptr_t)CASE_DATA, CASE_WINDOW);
    munmap(context, CASE_PAGE);
    munmap(((struct native *)r)->code, CASE_PAGE);
    free(r);
}

static bool map_at(uint64_t at, size_t size, int prot, int fd)
{
    void *want = (void *)(uintptr_t)at;
    int flags = MAP_FIXED_NOREPLACE | (fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED);
    return mmap(want, size, prot, flags, fd, 0) == want;
}

// The code page can't be written by what it holds: a case that tries has to get its page fault.
static bool map_all(struct native *n)
{
    int fd = memfd_create("test_diff", MFD_CLOEXEC);
    bool ok = fd >= 0 && !ftruncate(fd, CASE_PAGE) && map_at(CONTEXT, CASE_PAGE, PROT_READ | PROT_WRITE, -1) &&
              map_at(CASE_CODE, CASE_PAGE, PROT_READ | PROT_EXEC, fd) &&
              map_at(CASE_DATA, CASE_WINDOW, PROT_READ | PROT_WRITE, -1);
    n->code = ok ? mmap(NULL, CASE_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
    if (fd >= 0)
        close(fd);
    if (n->code == MAP_FAILED)
        return false;
    memset(n->code, 0xcc, CASE_PAGE);
    case_fill_readonly((uint8_t *)(uintptr_t)(CASE_DATA + CASE_WRITABLE));
    mprotect((void *)(uintptr_t)(CASE_DATA + CASE_WRITABLE), CASE_PAGE, PROT_READ);
    return true;
}

struct runner *native_runner(char *why, size_t size)
{
    if (!__builtin_cpu_supports("avx")) {
        snprintf(why, size, "the host's CPU lacks AVX");
        return NULL;
    }
    struct native *n = calloc(1, sizeof *n);
    void *stack = mmap(NULL, SIGNAL_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!n || stack == MAP_FAILED || !map_all(n)) {
        snprintf(why, size, "memory at fixed addresses: %s", strerror(errno));
        free(n);
        return NULL;
    }
    sigaltstack(&(stack_t){.ss_sp = stack, .ss_size = SIGNAL_STACK}, NULL);
    static const int signals[] = {SIGTRAP, SIGSEGV, SIGILL, SIGFPE, SIGBUS};
    for (unsigned k = 0; k < sizeof signals / sizeof *signals; k++) {
        struct sigaction sa = {.sa_sigaction = native_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
        sigaction(signals[k], &sa, NULL);
    }
    n->runner = (struct runner){.name = "native", .run = native_run, .destroy = native_destroy};
    return &n->runner;
}
