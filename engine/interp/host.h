// Instructions that the interpreter lets the host CPU execute: x87, MMX, SSE, AVX and their relatives.
//
// How it works. Such an instruction only changes registers that are no danger to us, so the host executes it itself,
// with the guest's values in its registers. The instruction is brought into a canonical form first: its register
// operands become xmm1 (ModRM.reg), xmm2 (ModRM.rm), xmm3 (VEX.vvvv) and xmm4 (the register in an immediate), a general
// register becomes rax, its memory operand becomes [rdi], and what has no meaning (segment prefixes, unused REX bits)
// goes. Then `addps xmm9, [rax+rcx*4]` and `addps xmm2, [rsi]` are one and the same form, `addps xmm1, [rdi]`, and a
// guest, however hard it tries, can make only so many.
//
// For each form there is a stub, made once: it loads the registers from a frame, executes the instruction, and stores
// them back into the frame. Around it, C moves guest state into the frame and, when all went well, back; memory too is
// read into the frame before and written from it after. So a stub touches nothing but its frame, can't fault on the
// host, and the instruction is all or nothing.
//
// Invariants:
//   - While a stub runs, all SIMD exceptions are masked; x87 exceptions may be unmasked (an x87 instruction only marks
//     them pending), and the frame's image of the x87 state has none pending on entry.
//   - A stub leaves the host's MXCSR, x87 control word and (empty) x87 stack as it found them.
//   - No guest register stays in a host register from one instruction to the next.
#pragma once
#include "engine/interp/interp.h"
#include <Zydis/Zydis.h>

// Offsets in the XSAVE area (Intel SDM vol. 1, 13.4).
enum {
    AREA_FCW = 0,
    AREA_FSW = 2,
    AREA_FTW = 4, // abridged: one bit a register, 1 is not empty
    AREA_FOP = 6,
    AREA_FIP = 8,
    AREA_FDP = 16,
    AREA_MXCSR = 24,
    AREA_MXCSR_MASK = 28,
    AREA_ST = 32, // eight times 16 bytes, ST(0) first
    AREA_XMM = 160,
    AREA_LEGACY_END = 416,
    AREA_XSTATE_BV = 512,
    AREA_XCOMP_BV = 520,
    AREA_EXTENDED = 576,
    AREA_YMM = 576, // upper halves
};

enum {
    MXCSR_FLAGS = 0x3f,
    MXCSR_BEFORE = 0x07, // IE, DE, ZE
    MXCSR_UE = 1 << 4,
    MXCSR_MASKS = 0x1f80,
    MXCSR_UM = 1 << 11,
    MXCSR_FZ = 1 << 15,
    MXCSR_MM = 1 << 17
};
enum { MXCSR_DEFAULT = 0x1f80, FCW_DEFAULT = 0x37f };
enum { FSW_ES = 1 << 7, FSW_B = 1 << 15, FSW_EXCEPTIONS = 0x3f, FSW_TOP = 7 << 11, FSW_TOP_SHIFT = 11 };

// What a stub works on. The stubs' code knows the offsets (host_stub.c).
struct host_frame {
    _Alignas(64) uint8_t mem[64]; // the memory operand; first, so that it is [rdi]
    uint8_t vec[5][32];           // registers 0..4: xmm0 (where an instruction implies it), then ModRM.reg, ModRM.rm...
    uint64_t gpr[3];              // rax, rcx, rdx
    uint64_t flags;
    uint32_t mxcsr, host_mxcsr;
    uint16_t host_fcw;
    _Alignas(64) uint8_t x87[512]; // FXSAVE image; of it only the x87 part counts
};

enum host_slot { SLOT_NONE, SLOT_MMX, SLOT_XMM, SLOT_YMM, SLOT_GPR };
enum { FIELD_REG, FIELD_RM, FIELD_VVVV, FIELD_IS4, FIELDS }; // where an instruction names a register

enum { HOST_BYTES = 8 }; // a canonical instruction is no longer than this

struct host_form {
    void (*run)(struct host_frame *f);
    uint8_t bytes[HOST_BYTES]; // canonical instruction
    uint8_t len;
    uint8_t slot[FIELDS]; // enum host_slot
    uint8_t written;      // bit n: the register of field n
    bool xmm0, xmm0_written;
    bool rax, rcx, rdx; // implied: rax and rdx read, rcx written
    bool vex, mmx, sse, fp, x87;
    bool flags; // reads or writes rflags
    bool mem_read, mem_write;
    uint8_t mem_size;
    uint8_t align;       // the memory operand must be aligned to this, 0: needn't
    bool align_strict;   // even with MXCSR.MM
    uint16_t x87_opcode; // FOP, without the ModRM byte
    uint32_t next;       // in the hash chain, index + 1
};

struct host_code { // executable memory, written through a second mapping
    uint8_t *write;
    uint8_t *exec;
    size_t size, used;
};

struct interp_host {
    struct host_frame frame;
    struct host_code code;
    struct host_form *form; // `forms` of at most `limit`
    uint32_t forms, limit;
    uint32_t *bucket; // index + 1; power of two
    uint32_t buckets;
    struct host_form passing; // when the table is full: made anew for every execution
    uint32_t mxcsr_mask;
    bool intel; // the model's vendor, where processors differ
};

enum { HOST_FORMS = 4096, HOST_STUB_MAX = 192 };

// host_code.c
int host_code_create(struct host_code *c, size_t size, struct error *err);
void host_code_destroy(struct host_code *c);
// Copies code to the end of what is used (aligned to 16) or, with `at` not NULL, to that place; returns where it can be
// called. NULL if it is full.
void *host_code_put(struct host_code *c, const void *code, size_t len, void *at);

// host_stub.c: makes the stub for a form. Returns its length in out[HOST_STUB_MAX], 0 if there is no room.
size_t host_stub_emit(const struct host_form *f, uint8_t *out);

// host.c: the form for a canonical instruction, made if need be. NULL if it is none that the host may execute.
const struct host_form *host_form_get(struct interp_host *h, const uint8_t *bytes, uint8_t len);

// host_operand.c: availability and memory. Each returns false with v->fault raised.
bool host_check_sse(struct interp_vcpu *v);
bool host_check_avx(struct interp_vcpu *v);
bool host_check_mmx(struct interp_vcpu *v); // pending x87 exceptions too
// #NM, then #MF if an exception is pending and `waits`.
bool host_check_x87(struct interp_vcpu *v, bool waits);
bool host_check_pending(struct interp_vcpu *v);
// After FCW or FSW were loaded: FSW.ES and B follow from flags and masks, reserved bits of FCW are fixed.
void host_settle_x87(struct interp_vcpu *v);
// Linear address of the memory operand after all checks but paging.
// Whether alignment checks (#AC) allow a vector operand at la. Intel's processors do not look at those of 16 bytes and
// more; AMD's want 16.
bool host_aligned(struct interp_vcpu *v, uint64_t la, unsigned size);
bool host_address(struct interp_vcpu *v, const struct interp_insn *i, unsigned size, unsigned align, bool write,
                  uint64_t *la);
bool host_read(struct interp_vcpu *v, uint64_t la, void *buf, unsigned size);
bool host_write(struct interp_vcpu *v, uint64_t la, const void *buf, unsigned size);

// Makes components (XSTATE_*) usable in v->s.xsave: initial values where XSTATE_BV says so, and the bits set.
void host_use_slow(struct interp_vcpu *v, uint64_t components);
// Components from 2 on: bytes (0: none that we know), and offset in the state's area.
enum { HOST_COMPONENTS = 10 };
unsigned host_component_size(unsigned n);
unsigned host_component_offset(const struct interp_vcpu *v, unsigned n);

// Handlers. host_vector.c: forms; host_move.c, host_mask.c, host_x87.c, host_env.c, host_xsave.c: by mnemonic, NULL if
// it is not theirs.
uint8_t *host_mmx(struct interp_vcpu *v, unsigned n); // the 16 bytes that hold a register
void host_enter_mmx(struct interp_vcpu *v);
const struct host_form *host_form_passing(struct interp_host *h, const struct interp_insn *i);
enum interp_result host_vector(struct interp_vcpu *v, const struct interp_insn *i);
enum interp_result host_vector_passing(struct interp_vcpu *v, const struct interp_insn *i);
enum interp_result host_x87(struct interp_vcpu *v, const struct interp_insn *i);
enum interp_result host_x87_passing(struct interp_vcpu *v, const struct interp_insn *i);
interp_fn host_move_handler(struct interp_insn *i, const ZydisDecodedInstruction *d, const ZydisDecodedOperand *o);
interp_fn host_mask_handler(struct interp_insn *i, const ZydisDecodedInstruction *d, const ZydisDecodedOperand *o);
interp_fn host_env_handler(const struct interp_insn *i);
interp_fn host_xsave_handler(const struct interp_insn *i);

static inline uint64_t host_get(const void *p, unsigned size)
{
    uint64_t v = 0;
    __builtin_memcpy(&v, p, size);
    return v;
}

static inline uint16_t host_get16(const void *p)
{
    uint16_t v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

static inline uint32_t host_get32(const void *p)
{
    uint32_t v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

static inline uint64_t host_get64(const void *p)
{
    uint64_t v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

static inline void host_put16(void *p, uint16_t v)
{
    __builtin_memcpy(p, &v, sizeof v);
}

static inline void host_put32(void *p, uint32_t v)
{
    __builtin_memcpy(p, &v, sizeof v);
}

static inline void host_put64(void *p, uint64_t v)
{
    __builtin_memcpy(p, &v, sizeof v);
}

static inline uint8_t *host_xmm(struct interp_vcpu *v, unsigned n)
{
    return v->s.xsave + AREA_XMM + 16 * n;
}

static inline uint8_t *host_ymm_high(struct interp_vcpu *v, unsigned n)
{
    return v->s.xsave + AREA_YMM + 16 * n;
}

static inline void host_use(struct interp_vcpu *v, uint64_t components)
{
    uint64_t bv = host_get64(v->s.xsave + AREA_XSTATE_BV);
    if ((bv & components) != components)
        host_use_slow(v, components);
}
