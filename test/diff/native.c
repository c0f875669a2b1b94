// Executes a case on the CPU that this program runs on.
//
// native_enter() saves what the compiler believes in, loads every register from the context and jumps to the
// instruction. It comes back by a signal, always: the INT3 behind the instruction or the instruction's own fault. The
// handler copies the interrupted registers out of the signal frame and lets the kernel return into native_leave(). The
// context lies at a fixed address below 2 GiB, so that code with no register free can name it.
#include "case.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/ucontext.h>
#include <unistd.h>

#define CONTEXT 0x1f000000

enum { HWCAP2_FSGSBASE = 1 << 1 };

struct context {
    uint64_t gpr[16];
    uint64_t rip, rflags, gs_base; // up to here as in case_registers
    uint64_t host_rsp;
    uint32_t far_offset; // for the jump into 32-bit code
    uint16_t far_selector;
    uint8_t pad[34];
    _Alignas(64) uint8_t xsave[1024];
    struct diff_result *result;
};

enum { AT_RIP = 128, AT_RFLAGS = 136, AT_GS_BASE = 144, AT_HOST_RSP = 152, AT_FAR = 160, AT_XSAVE = 256 };
_Static_assert(offsetof(struct context, rip) == AT_RIP && offsetof(struct context, rflags) == AT_RFLAGS &&
                   offsetof(struct context, gs_base) == AT_GS_BASE && offsetof(struct context, host_rsp) == AT_HOST_RSP &&
                   offsetof(struct context, far_offset) == AT_FAR && offsetof(struct context, xsave) == AT_XSAVE,
               "the assembly below knows these");

void native_enter(uint64_t far);
void native_leave(void);
void native_signal(int sig, siginfo_t *info, void *context);

#define AT(n) "(" #n "+0x1f000000)"
#define LOAD(n, reg) "movq " AT(8 * n) ", %" reg "\n"
__asm__(".text\n.globl native_enter\n.type native_enter, @function\nnative_enter:\n"
        "push %rbx\npush %rbp\npush %r12\npush %r13\npush %r14\npush %r15\n"
        "sub $8, %rsp\nstmxcsr (%rsp)\nfnstcw 4(%rsp)\n"
        "movq %rsp, " AT(152) "\n"
        "movl $0x2b, %eax\nmovl %eax, %ds\nmovl %eax, %es\n"
        "movq " AT(144) ", %rax\nwrgsbase %rax\n"
        "movl $7, %eax\nxorl %edx, %edx\nxrstor64 " AT(256) "\n"
        "test %rdi, %rdi\n"
        "jnz 1f\n"
        "pushq " AT(136) "\npopfq\n"
        LOAD(0, "rax") LOAD(1, "rcx") LOAD(2, "rdx") LOAD(3, "rbx") LOAD(4, "rsp") LOAD(5, "rbp") LOAD(6, "rsi")
        LOAD(7, "rdi") LOAD(8, "r8") LOAD(9, "r9") LOAD(10, "r10") LOAD(11, "r11") LOAD(12, "r12") LOAD(13, "r13")
        LOAD(14, "r14") LOAD(15, "r15")
        "jmpq *" AT(128) "\n"
        "1:\npushq " AT(136) "\npopfq\n"
        LOAD(0, "rax") LOAD(1, "rcx") LOAD(2, "rdx") LOAD(3, "rbx") LOAD(4, "rsp") LOAD(5, "rbp") LOAD(6, "rsi")
        LOAD(7, "rdi")
        "ljmpl *" AT(160) "\n"
        ".globl native_leave\nnative_leave:\n"
        "fninit\nldmxcsr (%rsp)\nfldcw 4(%rsp)\nvzeroupper\nadd $8, %rsp\n"
        "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbp\npop %rbx\nret\n"
        ".size native_enter, .-native_enter\n"
        // RFLAGS.AC may be set where the signal comes from, and C code is full of unaligned accesses.
        ".globl native_signal\nnative_signal:\npushfq\nandl $~0x40000, (%rsp)\npopfq\njmp native_record\n");

static struct context *const context = (struct context *)(uintptr_t)CONTEXT;

void native_record(int sig, siginfo_t *info, void *uc);

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
    __asm__ volatile("rdgsbase %0" : "=r"(r->out.gs_base));
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
    (void)runner;
    uint8_t *code = (uint8_t *)(uintptr_t)CASE_CODE, *data = (uint8_t *)(uintptr_t)CASE_DATA;
    size_t at = c->in.rip - CASE_CODE;
    memcpy(code + at, c->code, c->len);
    memcpy(data, c->data, CASE_WRITABLE);
    memcpy(context, &c->in, AT_HOST_RSP);
    memcpy(context->xsave, c->in.xsave, CASE_XSAVE);
    context->far_offset = (uint32_t)c->in.rip;
    context->far_selector = CASE_CS32;
    context->result = r;
    memset(r, 0, sizeof *r);
    __asm__ volatile("" ::: "memory");
    native_enter(!c->long64);
    memcpy(r->data, data, CASE_WRITABLE);
    memset(code + at, 0xcc, c->len);
    r->out.rflags &= ~(1ull << 16); // RF: set or not, it is no result
    if (r->vector == 3 && r->out.rip != c->in.rip) {
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
    free(r);
}

static bool map_at(uint64_t at, size_t size, int prot)
{
    void *want = (void *)(uintptr_t)at;
    return mmap(want, size, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == want;
}

struct runner *native_runner(char *why, size_t size)
{
    if (!__builtin_cpu_supports("avx") || !(getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE)) {
        snprintf(why, size, "AVX and FSGSBASE are needed");
        return NULL;
    }
    struct runner *r = calloc(1, sizeof *r);
    void *stack = mmap(NULL, 1 << 18, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!r || stack == MAP_FAILED || !map_at(CONTEXT, CASE_PAGE, PROT_READ | PROT_WRITE) ||
        !map_at(CASE_CODE, CASE_PAGE, PROT_READ | PROT_WRITE | PROT_EXEC) ||
        !map_at(CASE_DATA, CASE_WINDOW, PROT_READ | PROT_WRITE)) {
        snprintf(why, size, "memory at fixed addresses: %s", strerror(errno));
        free(r);
        return NULL;
    }
    memset((void *)(uintptr_t)CASE_CODE, 0xcc, CASE_PAGE);
    case_fill_readonly((uint8_t *)(uintptr_t)(CASE_DATA + CASE_WRITABLE));
    mprotect((void *)(uintptr_t)(CASE_DATA + CASE_WRITABLE), CASE_PAGE, PROT_READ);
    sigaltstack(&(stack_t){.ss_sp = stack, .ss_size = 1 << 18}, NULL);
    static const int signals[] = {SIGTRAP, SIGSEGV, SIGILL, SIGFPE, SIGBUS};
    for (unsigned n = 0; n < sizeof signals / sizeof *signals; n++) {
        struct sigaction sa = {.sa_sigaction = native_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
        sigaction(signals[n], &sa, NULL);
    }
    *r = (struct runner){.name = "native", .run = native_run, .destroy = native_destroy};
    return r;
}
