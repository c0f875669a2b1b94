// What the translator lets the host execute: every encoding that the decoder knows is classified, and what is system,
// privileged, of unknown kind or tells of the host must never be classified as something to copy. The rules that are
// asked here are written down apart from the translator's own lists, and by what an instruction is, not what it is
// called; the real CPU is asked, too: as a user program it must execute what is copied without #UD and #GP, and touch
// no byte outside of the memory operand that the translator checks.
#include "case.h"
#include "encode.h"
#include "engine/dbt/translate.h"
#include "engine/interp/decode.h"
#include "forms.h"
#include "host/cpuid.h"
#include "unit.h"
#include <stdlib.h>

struct bench {
    struct dbt_vcpu *v;
    struct dbt_translation *t;
    struct cpu_model model;
    struct forms forms;
    struct runner *native;
};

static struct bench bench;

static int open_bench(void **state)
{
    struct bench *b = &bench;
    struct error e = {""};
    struct cpu_config config = {.cpus = 1, .tsc_khz = 1000000};
    (void)state;
    b->v = aligned_alloc(64, (sizeof *b->v + 63) & ~(size_t)63);
    b->t = calloc(1, sizeof *b->t);
    if (!b->v || !b->t || cpu_model_make(&b->model, "host", host_cpuid, &config, &e) ||
        !forms_enumerate(&b->forms, true))
        return -1;
    memset(b->v, 0, sizeof *b->v);
    if (decoder_create(&b->model, &b->v->i.decoder, &e))
        return -1;
    b->t->v = b->v;
    b->t->decoder = decoder_zydis(b->v->i.decoder, MODE_LONG64);
    b->t->key = DBT_KEY_FPU;
    return 0;
}

static int close_bench(void **state)
{
    struct bench *b = &bench;
    (void)state;
    forms_free(&b->forms);
    decoder_destroy(b->v->i.decoder);
    free(b->v);
    free(b->t);
    return 0;
}

// The instruction at the beginning of these bytes as the translator sees it, or NULL.
static const struct dbt_insn *scan(const uint8_t *bytes, unsigned size)
{
    dbt_scan(bench.t, 0x1000, bytes, size, 1);
    return bench.t->count ? &bench.t->insn[0] : NULL;
}

static bool is_copied(const struct dbt_insn *i)
{
    return i->class == CLASS_COPY || i->class == CLASS_LEA || i->class == CLASS_RSP_ADD;
}

static const char *name(const struct dbt_insn *i)
{
    return ZydisMnemonicGetString(i->z.mnemonic);
}

// --- the rules

static bool sensitive_category(ZydisInstructionCategory c)
{
    switch (c) {
    case ZYDIS_CATEGORY_AMX_TILE:
    case ZYDIS_CATEGORY_CET:
    case ZYDIS_CATEGORY_CLDEMOTE:
    case ZYDIS_CATEGORY_CLFLUSHOPT:
    case ZYDIS_CATEGORY_CLWB:
    case ZYDIS_CATEGORY_CLZERO:
    case ZYDIS_CATEGORY_ENQCMD:
    case ZYDIS_CATEGORY_HRESET:
    case ZYDIS_CATEGORY_INTERRUPT:
    case ZYDIS_CATEGORY_INVALID:
    case ZYDIS_CATEGORY_IO:
    case ZYDIS_CATEGORY_IOSTRINGOP:
    case ZYDIS_CATEGORY_KEYLOCKER:
    case ZYDIS_CATEGORY_KEYLOCKER_WIDE:
    case ZYDIS_CATEGORY_MPX:
    case ZYDIS_CATEGORY_PADLOCK:
    case ZYDIS_CATEGORY_PCONFIG:
    case ZYDIS_CATEGORY_PKU:
    case ZYDIS_CATEGORY_PT:
    case ZYDIS_CATEGORY_RDPID:
    case ZYDIS_CATEGORY_RDPRU:
    case ZYDIS_CATEGORY_RDRAND:
    case ZYDIS_CATEGORY_RDSEED:
    case ZYDIS_CATEGORY_RDWRFSGS:
    case ZYDIS_CATEGORY_SEGOP:
    case ZYDIS_CATEGORY_SERIALIZE:
    case ZYDIS_CATEGORY_SGX:
    case ZYDIS_CATEGORY_SMAP:
    case ZYDIS_CATEGORY_SYSCALL:
    case ZYDIS_CATEGORY_SYSRET:
    case ZYDIS_CATEGORY_SYSTEM:
    case ZYDIS_CATEGORY_TSX_LDTRK:
    case ZYDIS_CATEGORY_UINTR:
    case ZYDIS_CATEGORY_VTX:
    case ZYDIS_CATEGORY_WAITPKG:
    case ZYDIS_CATEGORY_XSAVE:
    case ZYDIS_CATEGORY_XSAVEOPT:
        return true;
    default:
        return false;
    }
}

static bool sensitive_set(ZydisISASet s)
{
    switch (s) {
    case ZYDIS_ISA_SET_INVALID:
    case ZYDIS_ISA_SET_AMD: // SYSCALL and the like
    case ZYDIS_ISA_SET_AMD_INVLPGB:
    case ZYDIS_ISA_SET_CLFSH:
    case ZYDIS_ISA_SET_FXSAVE:
    case ZYDIS_ISA_SET_FXSAVE64:
    case ZYDIS_ISA_SET_I286PROTECTED:
    case ZYDIS_ISA_SET_I286REAL:
    case ZYDIS_ISA_SET_INVPCID:
    case ZYDIS_ISA_SET_LWP:
    case ZYDIS_ISA_SET_MCOMMIT:
    case ZYDIS_ISA_SET_MONITOR:
    case ZYDIS_ISA_SET_MONITORX:
    case ZYDIS_ISA_SET_RDPMC:
    case ZYDIS_ISA_SET_RDTSCP:
    case ZYDIS_ISA_SET_RTM:
    case ZYDIS_ISA_SET_SMX:
    case ZYDIS_ISA_SET_SNP:
    case ZYDIS_ISA_SET_SVM:
    case ZYDIS_ISA_SET_TDX:
    case ZYDIS_ISA_SET_VMFUNC:
    case ZYDIS_ISA_SET_VTX:
    case ZYDIS_ISA_SET_XSAVE:
    case ZYDIS_ISA_SET_XSAVEC:
    case ZYDIS_ISA_SET_XSAVES:
        return true;
    default:
        return false;
    }
}

static bool sensitive_mnemonic(ZydisMnemonic m)
{
    switch (m) {
    case ZYDIS_MNEMONIC_CLD:
    case ZYDIS_MNEMONIC_CLI:
    case ZYDIS_MNEMONIC_CPUID:
    case ZYDIS_MNEMONIC_INVPCID:
    case ZYDIS_MNEMONIC_LAR:
    case ZYDIS_MNEMONIC_LSL:
    case ZYDIS_MNEMONIC_POPF:
    case ZYDIS_MNEMONIC_POPFQ:
    case ZYDIS_MNEMONIC_PUSHF:
    case ZYDIS_MNEMONIC_PUSHFQ:
    case ZYDIS_MNEMONIC_RDTSC:
    case ZYDIS_MNEMONIC_SGDT:
    case ZYDIS_MNEMONIC_SIDT:
    case ZYDIS_MNEMONIC_SLDT:
    case ZYDIS_MNEMONIC_SMSW:
    case ZYDIS_MNEMONIC_STD:
    case ZYDIS_MNEMONIC_STI:
    case ZYDIS_MNEMONIC_STR:
    case ZYDIS_MNEMONIC_UD0:
    case ZYDIS_MNEMONIC_UD1:
    case ZYDIS_MNEMONIC_UD2:
    case ZYDIS_MNEMONIC_VERR:
    case ZYDIS_MNEMONIC_VERW:
        return true;
    default:
        return false;
    }
}

// A register that holds data of programs, and not the state of the machine.
static bool is_data_register(ZydisRegister r)
{
    switch (ZydisRegisterGetClass(r)) {
    case ZYDIS_REGCLASS_GPR8:
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64:
    case ZYDIS_REGCLASS_X87:
    case ZYDIS_REGCLASS_MMX:
    case ZYDIS_REGCLASS_XMM:
    case ZYDIS_REGCLASS_YMM:
    case ZYDIS_REGCLASS_FLAGS:
        return true;
    default:
        return r == ZYDIS_REGISTER_MXCSR || r == ZYDIS_REGISTER_X87CONTROL || r == ZYDIS_REGISTER_X87STATUS ||
               r == ZYDIS_REGISTER_X87TAG;
    }
}

// Why an instruction must not be copied, or NULL.
static const char *forbidden(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *op)
{
    unsigned memory = 0;
    if (z->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY && z->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX)
        return "encoding";
    if (z->attributes & ZYDIS_ATTRIB_IS_PRIVILEGED)
        return "privileged";
    if (sensitive_category(z->meta.category) || sensitive_set(z->meta.isa_set) || sensitive_mnemonic(z->mnemonic))
        return "system";
    if (z->meta.branch_type != ZYDIS_BRANCH_TYPE_NONE)
        return "branch";
    for (unsigned n = 0; n < z->operand_count; n++) {
        if (op[n].type == ZYDIS_OPERAND_TYPE_POINTER)
            return "far pointer";
        if (op[n].type == ZYDIS_OPERAND_TYPE_REGISTER && !is_data_register(op[n].reg.value))
            return "register";
        if (op[n].type == ZYDIS_OPERAND_TYPE_MEMORY && op[n].mem.type != ZYDIS_MEMOP_TYPE_AGEN &&
            (memory++ || op[n].visibility != ZYDIS_OPERAND_VISIBILITY_EXPLICIT ||
             op[n].mem.type != ZYDIS_MEMOP_TYPE_MEM))
            return "memory operands";
    }
    if (z->cpu_flags) {
        const ZydisAccessedFlags *f = z->cpu_flags;
        static const ZydisAccessedFlagsMask arithmetic = ZYDIS_CPUFLAG_CF | ZYDIS_CPUFLAG_PF | ZYDIS_CPUFLAG_AF |
                                                         ZYDIS_CPUFLAG_ZF | ZYDIS_CPUFLAG_SF | ZYDIS_CPUFLAG_OF;
        if ((f->tested | f->modified | f->set_0 | f->set_1 | f->undefined) & ~arithmetic)
            return "flags";
    }
    return NULL;
}

static void check(const struct dbt_insn *i)
{
    const char *why = is_copied(i) ? forbidden(&i->z, i->op) : NULL;
    if (!why)
        return;
    for (unsigned n = 0; n < i->len; n++)
        print_error("%02x ", i->bytes[n]);
    fail_msg("%s would be copied, but for its %s it must not be", name(i), why);
}

// --- the tests

static void every_form(void **state)
{
    enum { ENCODINGS = 24 };
    struct random r = {1};
    struct encoded e;
    unsigned plain = 0, copied = 0, mnemonics = 0;
    static bool seen[ZYDIS_MNEMONIC_MAX_VALUE + 1];
    (void)state;
    for (size_t n = 0; n < bench.forms.count; n++) {
        const struct form *f = &bench.forms.form[n];
        bool is_plain = false, is_copy = false;
        for (unsigned k = 0; k < ENCODINGS; k++) {
            const struct dbt_insn *i = encode_random(&e, f, &r) ? scan(e.bytes, e.len) : NULL;
            if (!i)
                continue;
            check(i);
            is_plain |= decoder_allows(bench.v->i.decoder, &i->z) && !forbidden(&i->z, i->op) && i->class != CLASS_SKIP;
            is_copy |= is_copied(i);
            seen[f->mnemonic] |= is_copied(i);
        }
        plain += is_plain;
        copied += is_copy;
        if (is_plain && !is_copy)
            print_message("not copied: %s (%s, %s)\n", ZydisMnemonicGetString(f->mnemonic),
                          ZydisISASetGetString(f->isa_set), f->mem ? "memory" : "registers");
    }
    for (unsigned n = 0; n <= ZYDIS_MNEMONIC_MAX_VALUE; n++)
        mnemonics += seen[n];
    print_message("copied: %u forms of %u mnemonics; %.1f %% of %u plain forms\n", copied, mnemonics,
                  100.0 * copied / plain, plain);
    assert_true(copied * 10 >= plain * 9); // the list must not be so strict that it is useless
}

// All opcodes of the encodings that the forms leave out: EVEX, XOP, 3DNow!, and VEX with any map.
static void other_encodings(void **state)
{
    static const uint8_t evex_map[] = {1, 2, 3, 5, 6}, modrm[] = {0xc1, 0x01, 0x41, 0xd8, 0x18};
    unsigned decoded = 0;
    (void)state;
    for (unsigned opcode = 0; opcode < 256; opcode++)
        for (unsigned variant = 0; variant < 5 * 4 * 2 * 4; variant++)
            for (unsigned m = 0; m < sizeof modrm; m++) {
                unsigned map = evex_map[variant % 5], pp = variant / 5 % 4, w = variant / 20 % 2, l = variant / 40;
                const uint8_t evex[] = {0x62, 0xf0 | map, w << 7 | 0x7c | pp, l << 5 | 8, opcode, modrm[m], 0, 0, 0,
                                        0,    0};
                const uint8_t xop[] = {
                    0x8f, 0xe0 | (8 + variant % 5), w << 7 | 0x78 | (l & 1) << 2, opcode, modrm[m], 0, 0, 0, 0, 0};
                const uint8_t amd[] = {0x0f, 0x0f, modrm[m], 1, opcode, opcode};
                const uint8_t vex[] = {
                    0xc4, 0xe0 | variant % 5, w << 7 | (l & 1) << 2 | 0x78 | pp, opcode, modrm[m], 0, 0, 0, 0, 0};
                const struct dbt_insn *i;
                if ((i = scan(evex, sizeof evex)))
                    decoded++, check(i);
                if ((i = scan(xop, sizeof xop)))
                    decoded++, check(i);
                if ((i = scan(amd, sizeof amd)))
                    decoded++, check(i);
                if ((i = scan(vex, sizeof vex)))
                    decoded++, check(i);
            }
    print_message("%u encodings\n", decoded);
    assert_true(decoded > 10000);
}

static void random_bytes(void **state)
{
    struct random r = {2};
    unsigned decoded = 0;
    (void)state;
    for (unsigned n = 0; n < 1000000; n++) {
        uint64_t bytes[2] = {random_bits(&r), random_bits(&r)};
        const struct dbt_insn *i = scan((const uint8_t *)bytes, 15);
        if (i)
            decoded++, check(i);
    }
    assert_true(decoded > 100000);
}

// What the translator has never heard of is not copied, whatever it is called.
static void unknown_kinds(void **state)
{
    (void)state;
    for (unsigned set = 0; set <= ZYDIS_ISA_SET_MAX_VALUE; set++)
        for (unsigned category = 0; category <= ZYDIS_CATEGORY_MAX_VALUE; category++) {
            ZydisDecodedInstruction z = {.encoding = ZYDIS_INSTRUCTION_ENCODING_LEGACY};
            z.meta.isa_set = set;
            z.meta.category = category;
            if (dbt_innocuous(&z))
                assert_false(sensitive_category(category) || sensitive_set(set));
        }
    for (unsigned m = 0; m <= ZYDIS_MNEMONIC_MAX_VALUE; m++) {
        ZydisDecodedInstruction z = {.encoding = ZYDIS_INSTRUCTION_ENCODING_LEGACY, .mnemonic = m};
        z.raw.modrm.mod = 3;
        assert_false(dbt_innocuous(&z) && sensitive_mnemonic(m));
    }
}

static void prepare(struct diff_case *c)
{
    memset(c, 0, sizeof *c);
    c->long64 = true;
    c->in.rip = CASE_CODE + 64;
    c->in.rflags = 0x202;
    c->in.gs_base = CASE_GS_BASE;
    c->in.xsave[0] = 0x7f; // all exceptions masked
    c->in.xsave[1] = 0x03;
    c->in.xsave[25] = 0x1f;
    c->in.xsave[24] = 0x80;
    c->in.xsave[512] = 7;
    for (unsigned n = 0; n < CPU_GPR_COUNT; n++)
        c->in.gpr[n] = 1;
    c->in.gpr[CPU_RSP] = CASE_DATA + 256;
    c->in.gpr[CPU_RDX] = 0;
}

static void run_natively(const struct dbt_insn *i, struct diff_case *c, uint64_t address)
{
    struct emit e = {.p = c->code, .end = c->code + sizeof c->code};
    struct diff_result result;
    // The translator's own way of giving an instruction another operand: [rdi].
    dbt_copy(&e, i, i->mem.present ? &(struct dbt_place){CPU_RDI, NO_REG, 1, 0} : NULL, NO_REG);
    c->len = (uint8_t)(e.p - c->code);
    c->in.gpr[CPU_RDI] = address;
    bench.native->run(bench.native, c, &result);
    if (result.vector == EXC_UD || result.vector == EXC_GP || result.vector == EXC_PF)
        fail_msg("%s with its %u bytes at %#lx: exception %d, address %#lx", name(i), i->mem.size, address,
                 result.vector, result.cr2);
}

// In front of the window and behind it are no pages: a byte too many is a page fault.
static void nothing_else_is_touched(void **state)
{
    struct random r = {3};
    struct encoded e;
    struct diff_case *c = malloc(sizeof *c);
    unsigned tried = 0;
    char why[256];
    (void)state;
    assert_non_null(c);
    bench.native = native_runner(why, sizeof why); // its signal handlers come after cmocka's
    if (!bench.native) {
        print_message("%s\n", why);
        free(c);
        skip();
    }
    prepare(c);
    for (size_t n = 0; n < bench.forms.count; n++) {
        const struct form *f = &bench.forms.form[n];
        for (unsigned k = 0; k < 32; k++) {
            const struct dbt_insn *i = encode_random(&e, f, &r) ? scan(e.bytes, e.len) : NULL;
            bool fits = i && is_copied(i) && i->class != CLASS_LEA && !(i->used & 1u << CPU_RSP) && e.len <= 12 &&
                        (!i->mem.present || (dbt_copy_can(i) && !(i->written & 1u << CPU_RDI)));
            // The bit number is 1, not the address.
            bool addresses = i && i->bit_string && ZydisRegisterGetId(i->op[1].reg.value) == CPU_RDI;
            if (!fits || addresses)
                continue;
            tried++;
            if (!i->mem.present) {
                run_natively(i, c, 1);
                break;
            }
            run_natively(i, c, CASE_DATA);
            // The window's last page is read-only and holds what is no value for MXCSR.
            bool control = i->z.mnemonic == ZYDIS_MNEMONIC_LDMXCSR || i->z.mnemonic == ZYDIS_MNEMONIC_VLDMXCSR;
            run_natively(i, c, CASE_DATA + (i->mem.write || control ? CASE_WRITABLE : CASE_WINDOW) - i->mem.size);
            break;
        }
    }
    print_message("%u forms\n", tried);
    bench.native->destroy(bench.native);
    free(c);
    assert_true(tried > 2000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_form),    cmocka_unit_test(other_encodings),         cmocka_unit_test(random_bytes),
        cmocka_unit_test(unknown_kinds), cmocka_unit_test(nothing_else_is_touched),
    };
    return cmocka_run_group_tests(tests, open_bench, close_bench);
}
