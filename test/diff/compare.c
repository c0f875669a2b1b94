// Comparison of results, and reports. See compare.h.
#include "compare.h"
#include <Zydis/Zydis.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#define KERNEL_HALF 0x7ffffffff000ull
#define ADDRESS 0xffffffffffffull

enum { STATUS_FLAGS = 0x8d5, COMPARED_FLAGS = STATUS_FLAGS | 0x244700, FLAG_AC = 1 << 18 };

struct text {
    char *at;
    size_t left;
    bool any;
};

static void say(struct text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void say(struct text *t, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(t->at, t->left, fmt, ap);
    va_end(ap);
    if (n > 0 && (size_t)n < t->left) {
        t->at += n;
        t->left -= (size_t)n;
    }
    t->any = true;
}

static bool decode(const struct diff_case *c, ZydisDecodedInstruction *insn, ZydisDecodedOperand *o)
{
    ZydisDecoder d;
    case_decoder(&d, c->long64);
    return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&d, c->code, c->len, insn, o));
}

// Flags that the manual leaves undefined for this instruction with these operands (Intel SDM vol. 2, under the
// instruction's name; Zydis has the static part as data).
static uint64_t undefined_flags(const struct diff_case *c)
{
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand o[ZYDIS_MAX_OPERAND_COUNT];
    if (!decode(c, &insn, o) || !insn.cpu_flags)
        return 0;
    return insn.cpu_flags->undefined & STATUS_FLAGS;
}

static bool two_operands(const struct diff_case *c)
{
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand o[ZYDIS_MAX_OPERAND_COUNT];
    return decode(c, &insn, o) && (insn.mnemonic == ZYDIS_MNEMONIC_CMPSB || insn.mnemonic == ZYDIS_MNEMONIC_CMPSW ||
                                   insn.mnemonic == ZYDIS_MNEMONIC_CMPSD || insn.mnemonic == ZYDIS_MNEMONIC_CMPSQ);
}

static bool in_pieces(const struct diff_case *c)
{
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand o[ZYDIS_MAX_OPERAND_COUNT];
    if (!decode(c, &insn, o))
        return false;
    switch (insn.mnemonic) {
    case ZYDIS_MNEMONIC_MASKMOVQ:
    case ZYDIS_MNEMONIC_MASKMOVDQU:
    case ZYDIS_MNEMONIC_VMASKMOVDQU:
    case ZYDIS_MNEMONIC_VMASKMOVPS:
    case ZYDIS_MNEMONIC_VMASKMOVPD:
    case ZYDIS_MNEMONIC_VPMASKMOVD:
    case ZYDIS_MNEMONIC_VPMASKMOVQ:
        return true;
    default:
        break;
    }
    for (unsigned n = 0; n < insn.operand_count; n++)
        if (o[n].type == ZYDIS_OPERAND_TYPE_MEMORY &&
            (o[n].size > 512 || o[n].element_type == ZYDIS_ELEMENT_TYPE_STRUCT))
            return true;
    return false;
}

// What Intel's processors do otherwise than AMD's where no program can care, and the engine does as AMD's: in which
// order an exception of a computation and a fault of its result come, and how far registers have changed when a fault
// comes; the upper halves of registers that are 32-bit addresses and counts of a string that is empty; the size of an
// operand that nobody uses (MOVSXD of 16 bits); alignment checks of half floats.
static bool differs_by_vendor(const struct diff_case *c, const struct diff_result *a, const struct diff_result *b)
{
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand o[ZYDIS_MAX_OPERAND_COUNT];
    if (!__builtin_cpu_is("intel") || !decode(c, &insn, o))
        return false;
    bool faults = a->vector >= 0 || b->vector >= 0, mmx = false;
    for (unsigned n = 0; n < insn.operand_count; n++)
        mmx |= o[n].type == ZYDIS_OPERAND_TYPE_REGISTER && ZydisRegisterGetClass(o[n].reg.value) == ZYDIS_REGCLASS_MMX;
    if (insn.meta.category == ZYDIS_CATEGORY_STRINGOP)
        return faults || insn.address_width == 32;
    switch (insn.mnemonic) {
    case ZYDIS_MNEMONIC_MOVSXD:
        return faults && insn.operand_width == 16;
    case ZYDIS_MNEMONIC_BOUND:
    case ZYDIS_MNEMONIC_FBSTP:
    case ZYDIS_MNEMONIC_FIST:
    case ZYDIS_MNEMONIC_FISTP:
    case ZYDIS_MNEMONIC_FISTTP:
    case ZYDIS_MNEMONIC_FST:
    case ZYDIS_MNEMONIC_FSTP:
    case ZYDIS_MNEMONIC_VCVTPS2PH:
    case ZYDIS_MNEMONIC_VCVTPH2PS:
    case ZYDIS_MNEMONIC_XRSTOR:
        return faults;
    default:
        return faults &&
               (mmx || insn.meta.category == ZYDIS_CATEGORY_AVX2GATHER || (in_pieces(c) && insn.address_width == 16));
    }
}

static bool stores_pointers(const struct diff_case *c)
{
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand o[ZYDIS_MAX_OPERAND_COUNT];
    return decode(c, &insn, o) && (insn.mnemonic == ZYDIS_MNEMONIC_FNSTENV || insn.mnemonic == ZYDIS_MNEMONIC_FNSAVE);
}

// Two faults, either of which a processor may raise: of an operand that is not aligned #GP or, with alignment checks
// on, #AC (state images: Intel SDM vol. 2, FXSAVE); of one that is not canonical either #SS.
static bool alike(const struct diff_case *c, const struct diff_result *a, const struct diff_result *b)
{
    unsigned both = 1u << (a->vector & 31) | 1u << (b->vector & 31);
    return !a->error && !b->error &&
           ((both == (1 << 13 | 1 << 17) && c->in.rflags & FLAG_AC && in_pieces(c)) || both == (1 << 12 | 1 << 13));
}

// What an instruction that faults may have left below the stack pointer: CALL, when its target is not canonical.
static bool only_below_stack(const struct diff_case *c, const struct diff_result *a, unsigned first, unsigned last)
{
    uint64_t rsp = c->in.gpr[4] - CASE_DATA;
    return a->vector == 13 && first >= rsp - 8 && last < rsp;
}

// Flags in MXCSR that an unmasked SIMD exception may leave either way. Only the order of a processor's steps tells
// them, and an engine that lets the host compute with all exceptions masked can't see it:
//   - PE with an unmasked overflow or underflow: whether the result would be inexact if the exponent had no limit;
//   - UE and PE where a half float is made: whether the result is tiny before it is rounded;
//   - all of them in a dot product, whose products may raise an exception before its sums are made.
static uint32_t undefined_mxcsr(const struct diff_case *c, uint32_t mxcsr)
{
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand o[ZYDIS_MAX_OPERAND_COUNT];
    if (!decode(c, &insn, o))
        return 0;
    switch (insn.mnemonic) {
    case ZYDIS_MNEMONIC_DPPS:
    case ZYDIS_MNEMONIC_DPPD:
    case ZYDIS_MNEMONIC_VDPPS:
    case ZYDIS_MNEMONIC_VDPPD:
        return 0x3f;
    case ZYDIS_MNEMONIC_VCVTPS2PH:
        return 0x30;
    default:
        return mxcsr & ~(mxcsr >> 7) & 0x18 ? 0x20 : 0;
    }
}

static void compare_xsave(struct text *t, const struct diff_case *c, int vector, const uint8_t *a, const uint8_t *b,
                          bool pointers)
{
    static const struct {
        const char *name;
        unsigned at, size;
    } field[] = {{"FCW", 0, 2}, {"FSW", 2, 2},  {"FTW", 4, 1},   {"FOP", 6, 2},
                 {"FIP", 8, 8}, {"FDP", 16, 8}, {"MXCSR", 24, 4}};
    // AMD processors save the last instruction's pointers only while an exception is pending (AMD APM vol. 2, 11.4.4):
    // otherwise nobody can say what they are.
    pointers &= a[2] >> 7;
    for (unsigned n = 0; n < sizeof field / sizeof *field; n++) {
        uint64_t x = 0, y = 0;
        if (field[n].at >= 6 && field[n].at < 24 && !pointers)
            continue;
        memcpy(&x, a + field[n].at, field[n].size);
        memcpy(&y, b + field[n].at, field[n].size);
        if (field[n].at == 24 && vector == 19) {
            uint32_t undefined = undefined_mxcsr(c, (uint32_t)x);
            x &= ~(uint64_t)undefined;
            y &= ~(uint64_t)undefined;
        }
        if (field[n].size == 8) { // no processor keeps more of an address
            x &= ADDRESS;
            y &= ADDRESS;
        }
        if (x != y)
            say(t, "  %s %" PRIx64 " %" PRIx64 "\n", field[n].name, x, y);
    }
    for (unsigned n = 0; n < 8; n++)
        if (memcmp(a + 32 + 16 * n, b + 32 + 16 * n, 10))
            say(t, "  ST%u\n", n);
    for (unsigned n = 0; n < 16; n++) {
        if (memcmp(a + 160 + 16 * n, b + 160 + 16 * n, 16))
            say(t, "  XMM%u\n", n);
        if (memcmp(a + 576 + 16 * n, b + 576 + 16 * n, 16))
            say(t, "  YMM%u, upper half\n", n);
    }
}

int compare_results(const struct diff_case *c, const struct diff_result *a, const struct diff_result *b,
                    bool translated, char *why, size_t size)
{
    static const char *const gpr[16] = {"RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI",
                                        "R8",  "R9",  "R10", "R11", "R12", "R13", "R14", "R15"};
    struct text t = {.at = why, .left = size};
    uint64_t width = c->long64 ? ~0ull : 0xffffffff;
    *why = 0;
    if (differs_by_vendor(c, a, b))
        return 0;
    bool pieces = in_pieces(c);
    if (a->vector != b->vector && !alike(c, a, b))
        say(&t, "  fault %d %d\n", a->vector, b->vector);
    // Of addresses in its own half Linux never says that they are not present.
    uint32_t hidden = a->vector == 14 && a->cr2 >= KERNEL_HALF ? 1 : 0;
    // Of an operand that is accessed in pieces (state images, masked moves), which piece faults first is nobody's
    // promise; nor is it which of CMPS's two operands does.
    bool other_page = pieces && (a->cr2 ^ b->cr2) & ~(CASE_PAGE - 1ull) && a->cr2 - b->cr2 + CASE_PAGE < 2 * CASE_PAGE;
    uint64_t grain = two_operands(c) || other_page ? ~0ull : pieces ? CASE_PAGE - 1 : 0;
    if ((a->error ^ b->error) & ~hidden & ~(other_page ? 1u : 0))
        say(&t, "  error code %x %x\n", a->error, b->error);
    if ((a->cr2 ^ b->cr2) & ~grain)
        say(&t, "  CR2 %" PRIx64 " %" PRIx64 "\n", a->cr2, b->cr2);
    if ((a->out.rip ^ b->out.rip) & width)
        say(&t, "  RIP %" PRIx64 " %" PRIx64 "\n", a->out.rip, b->out.rip);
    // A fault leaves the flags alone, undefined ones too.
    uint64_t flags = COMPARED_FLAGS & ~(a->vector < 0 ? undefined_flags(c) : 0);
    if ((a->out.rflags ^ b->out.rflags) & flags)
        say(&t, "  RFLAGS %" PRIx64 " %" PRIx64 "\n", a->out.rflags, b->out.rflags);
    for (unsigned n = 0; n < (c->long64 ? 16 : 8); n++)
        if ((a->out.gpr[n] ^ b->out.gpr[n]) & width)
            say(&t, "  %s %" PRIx64 " %" PRIx64 "\n", gpr[n], a->out.gpr[n], b->out.gpr[n]);
    if (c->long64 && a->out.gs_base != b->out.gs_base)
        say(&t, "  GS base %" PRIx64 " %" PRIx64 "\n", a->out.gs_base, b->out.gs_base);
    if (memcmp(a->out.xsave, b->out.xsave, CASE_XSAVE))
        compare_xsave(&t, c, a->vector, a->out.xsave, b->out.xsave, !translated);
    if (!(translated && stores_pointers(c)) && memcmp(a->data, b->data, CASE_WRITABLE)) {
        unsigned first = 0, last = CASE_WRITABLE - 1;
        while (a->data[first] == b->data[first])
            first++;
        while (a->data[last] == b->data[last])
            last--;
        if (!(translated && only_below_stack(c, a, first, last)))
            say(&t, "  memory %llx to %llx\n", CASE_DATA + first, CASE_DATA + last);
    }
    return t.any;
}

static void print_bytes(FILE *out, const uint8_t *p, unsigned n)
{
    for (unsigned k = n; k--;)
        fprintf(out, "%02x", p[k]);
}

static void print_registers(FILE *out, const struct case_registers *r, const struct case_registers *was, unsigned count)
{
    static const char *const name[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                         "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
    unsigned shown = 0;
    for (unsigned n = 0; n < count; n++)
        if (!was || was->gpr[n] != r->gpr[n])
            fprintf(out, "%s%s %016" PRIx64, shown++ % 4 ? "  " : "\n    ", name[n], r->gpr[n]);
    fprintf(out, "\n    rip %" PRIx64 "  rflags %" PRIx64 "  gs base %" PRIx64 "\n", r->rip, r->rflags, r->gs_base);
    if (was && !memcmp(was->xsave, r->xsave, CASE_XSAVE))
        return;
    const uint8_t *x = r->xsave;
    fprintf(out, "    fcw %02x%02x  fsw %02x%02x  ftw %02x  fop %02x%02x  fip ", x[1], x[0], x[3], x[2], x[4], x[7],
            x[6]);
    print_bytes(out, x + 8, 8);
    fprintf(out, "  fdp ");
    print_bytes(out, x + 16, 8);
    fprintf(out, "  mxcsr ");
    print_bytes(out, x + 24, 4);
    shown = 0;
    for (unsigned n = 0; n < 8; n++)
        if (!was || memcmp(was->xsave + 32 + 16 * n, x + 32 + 16 * n, 10)) {
            fprintf(out, "%sst%u ", shown++ % 4 ? "  " : "\n    ", n);
            print_bytes(out, x + 32 + 16 * n, 10);
        }
    shown = 0;
    for (unsigned n = 0; n < 16; n++)
        if (!was || memcmp(was->xsave + 160 + 16 * n, x + 160 + 16 * n, 16) ||
            memcmp(was->xsave + 576 + 16 * n, x + 576 + 16 * n, 16)) {
            fprintf(out, "%symm%u ", shown++ % 2 ? "  " : "\n    ", n);
            print_bytes(out, x + 576 + 16 * n, 16);
            fputc('_', out);
            print_bytes(out, x + 160 + 16 * n, 16);
        }
    fputc('\n', out);
}

static void print_result(FILE *out, const struct diff_case *c, const char *name, const struct diff_result *r)
{
    fprintf(out, "  %s:", name);
    if (r->vector >= 0)
        fprintf(out, " fault %d, error code %x, cr2 %" PRIx64, r->vector, r->error, r->cr2);
    print_registers(out, &r->out, &c->in, 16);
    for (unsigned at = 0, shown = 0; at < CASE_WRITABLE && shown < 8; at += 16)
        if (memcmp(c->data + at, r->data + at, 16)) {
            fprintf(out, "    [%llx] ", CASE_DATA + at);
            print_bytes(out, r->data + at, 16);
            fprintf(out, " was ");
            print_bytes(out, c->data + at, 16);
            fputc('\n', out);
            shown++;
        }
}

static void print_operand_memory(FILE *out, const struct diff_case *c)
{
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand o[ZYDIS_MAX_OPERAND_COUNT];
    if (!decode(c, &insn, o))
        return;
    for (unsigned n = 0; n < insn.operand_count; n++) {
        ZydisRegisterContext regs = {{0}};
        uint64_t la;
        if (o[n].type != ZYDIS_OPERAND_TYPE_MEMORY)
            continue;
        for (unsigned k = 0; k < 16; k++) {
            regs.values[ZYDIS_REGISTER_RAX + k] = c->in.gpr[k];
            regs.values[ZYDIS_REGISTER_EAX + k] = (uint32_t)c->in.gpr[k];
        }
        if (!ZYAN_SUCCESS(ZydisCalcAbsoluteAddressEx(&insn, &o[n], c->in.rip, &regs, &la)))
            continue;
        if (o[n].mem.segment == ZYDIS_REGISTER_GS)
            la += c->in.gs_base;
        fprintf(out, "    operand at %" PRIx64, la);
        unsigned size = o[n].size / 8 && o[n].size / 8 <= 64 ? o[n].size / 8 : 64;
        if (la - CASE_DATA < CASE_WINDOW && size <= CASE_WINDOW - (la - CASE_DATA)) {
            fputs(": ", out);
            print_bytes(out, c->data + (la - CASE_DATA), size);
        }
        fputc('\n', out);
    }
}

void print_case(FILE *out, const struct diff_case *c, const char *name_a, const struct diff_result *a,
                const char *name_b, const struct diff_result *b)
{
    ZydisDisassembledInstruction d;
    fprintf(out, "  %s-bit code, bytes", c->long64 ? "64" : "32");
    for (unsigned n = 0; n < c->len; n++)
        fprintf(out, " %02x", c->code[n]);
    if (ZYAN_SUCCESS(ZydisDisassembleIntel(c->long64 ? ZYDIS_MACHINE_MODE_LONG_64 : ZYDIS_MACHINE_MODE_LONG_COMPAT_32,
                                           c->in.rip, c->code, c->len, &d)))
        fprintf(out, ": %s", d.text);
    fprintf(out, "\n  before:");
    print_registers(out, &c->in, NULL, c->long64 ? 16 : 8);
    print_operand_memory(out, c);
    print_result(out, c, name_a, a);
    print_result(out, c, name_b, b);
}
