// See compare.h.
#include "compare.h"
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

struct text {
    char *at;
    size_t left;
    unsigned lines;
};

enum { LINES = 24, ACCESSED_DIRTY = 0x60 };

static void say(struct text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void say(struct text *t, const char *fmt, ...)
{
    va_list ap;
    if (t->lines++ >= LINES)
        return;
    va_start(ap, fmt);
    int n = vsnprintf(t->at, t->left, fmt, ap);
    va_end(ap);
    if (n > 0 && (size_t)n < t->left) {
        t->at += n;
        t->left -= (size_t)n;
    }
}

// The vector state in one form: a component whose bit in XSTATE_BV is clear is in its initial state. The opcode and
// addresses of the last x87 instruction are not kept by translators, and MXCSR_MASK is no register.
static void normalize(uint8_t out[832], const uint8_t *x)
{
    memcpy(out, x, 832);
    if (!(x[512] & XSTATE_X87)) {
        memset(out, 0, 24);
        out[0] = 0x7f;
        out[1] = 0x03;
        memset(out + 32, 0, 128);
    }
    for (unsigned n = 0; n < 8; n++)
        memset(out + 32 + 16 * n + 10, 0, 6);
    if (!(x[512] & XSTATE_SSE))
        memset(out + 160, 0, 256);
    if (!(x[512] & XSTATE_AVX))
        memset(out + 576, 0, 256);
    memset(out + 416, 0, 160);
    memset(out + 6, 0, 2 + 16);
    memset(out + 28, 0, 4);
}

static void number(struct text *t, const char *name, uint64_t a, uint64_t b)
{
    if (a != b)
        say(t, "    %s %" PRIx64 ", %" PRIx64 "\n", name, a, b);
}

static void registers(struct text *t, const struct cpu_state *a, const struct cpu_state *b)
{
    static const char *const gpr[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                      "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
    static const char *const seg[] = {"es", "cs", "ss", "ds", "fs", "gs"};
    uint8_t x[832], y[832];
    for (unsigned n = 0; n < CPU_GPR_COUNT; n++)
        number(t, gpr[n], a->gpr[n], b->gpr[n]);
    number(t, "rip", a->rip, b->rip);
    number(t, "rflags", a->rflags, b->rflags);
    number(t, "cr0", a->cr0, b->cr0);
    number(t, "cr2", a->cr2, b->cr2);
    number(t, "cr3", a->cr3, b->cr3);
    number(t, "cr4", a->cr4, b->cr4);
    number(t, "dr6", a->dr6, b->dr6);
    for (unsigned n = 0; n < CPU_SEG_COUNT; n++) {
        number(t, seg[n], a->seg[n].selector, b->seg[n].selector);
        if (memcmp(&a->seg[n], &b->seg[n], sizeof a->seg[n]))
            say(t, "    %s's hidden part: base %" PRIx64 ", %" PRIx64 "\n", seg[n], a->seg[n].base, b->seg[n].base);
    }
    if (memcmp(&a->msr, &b->msr, sizeof a->msr))
        say(t, "    MSRs\n");
    if (memcmp(&a->ev, &b->ev, sizeof a->ev))
        say(t, "    events\n");
    normalize(x, a->xsave);
    normalize(y, b->xsave);
    for (unsigned n = 0; n < 832; n += 16)
        if (memcmp(x + n, y + n, 16)) {
            uint64_t v[4];
            memcpy(v, x + n, 16);
            memcpy(v + 2, y + n, 16);
            const char *what = n < 32 ? "control" : n < 160 ? "st" : n < 512 ? "xmm" : "upper half of ymm";
            unsigned k = n < 32 ? n / 16 : n < 160 ? (n - 32) / 16 : n < 512 ? (n - 160) / 16 : (n - 576) / 16;
            say(t, "    %s %u %016" PRIx64 "%016" PRIx64 ", %016" PRIx64 "%016" PRIx64 "\n", what, k, v[1], v[0], v[3],
                v[2]);
        }
}

static void memory(struct text *t, const uint8_t *a, const uint8_t *b)
{
    if (!memcmp(a, b, RAM))
        return;
    for (unsigned at = 0; at < RAM; at += 8) {
        uint64_t x, y, ignored = at < TABLES_END ? ACCESSED_DIRTY : 0;
        memcpy(&x, a + at, 8);
        memcpy(&y, b + at, 8);
        if ((x ^ y) & ~ignored)
            say(t, "    memory at %x: %016" PRIx64 ", %016" PRIx64 "\n", at, x, y);
    }
}

bool machines_same(const struct machine *a, const struct machine *b, char *why, size_t size)
{
    struct text t = {.at = why, .left = size};
    *why = 0;
    if (a->end != b->end)
        say(&t, "    %s, %s\n", end_names[a->end], end_names[b->end]);
    registers(&t, &a->s, &b->s);
    memory(&t, a->ram, b->ram);
    number(&t, "calls of the owner", a->calls, b->calls);
    number(&t, "what they were", a->hash, b->hash);
    number(&t, "reads of the TSC", a->tsc, b->tsc);
    number(&t, "interrupts left", a->interrupts, b->interrupts);
    return !t.lines;
}
