// Writes the machine code of a stub: void stub(struct host_frame *f), see host.h.
//
// Example, for `addps xmm1, [rdi]` (rdi is f):
//     stmxcsr [rdi+host_mxcsr]; ldmxcsr [rdi+mxcsr]; movups xmm1, [rdi+vec[1]]
//     addps xmm1, [rdi]
//     movups [rdi+vec[1]], xmm1; stmxcsr [rdi+mxcsr]; ldmxcsr [rdi+host_mxcsr]; ret
#include "engine/interp/host.h"
#include <stddef.h>
#include <string.h>

struct emitter {
    uint8_t *out;
    size_t len;
};

static void emit(struct emitter *e, const uint8_t *bytes, size_t n)
{
    // The longest stub is well below HOST_STUB_MAX; the check in host_stub_emit relies on this one.
    if (e->len + n <= HOST_STUB_MAX)
        memcpy(e->out + e->len, bytes, n);
    e->len += n;
}

#define EMIT(e, ...) emit(e, (const uint8_t[]){__VA_ARGS__}, sizeof(const uint8_t[]){__VA_ARGS__})

// Opcode bytes, then a ModRM byte for [rdi + offset] with `reg`.
static void emit_frame(struct emitter *e, const uint8_t *opcode, size_t n, unsigned reg, size_t offset)
{
    emit(e, opcode, n);
    EMIT(e, (uint8_t)(0x80 | reg << 3 | 7), (uint8_t)offset, (uint8_t)(offset >> 8), 0, 0);
}

#define FRAME(e, reg, offset, ...)                                                                                     \
    emit_frame(e, (const uint8_t[]){__VA_ARGS__}, sizeof(const uint8_t[]){__VA_ARGS__}, reg, offset)

static size_t vec(unsigned n)
{
    return offsetof(struct host_frame, vec) + n * sizeof((struct host_frame *)0)->vec[0];
}

static size_t gpr(unsigned n)
{
    return offsetof(struct host_frame, gpr) + n * sizeof(uint64_t);
}

static void move_slot(struct emitter *e, unsigned slot, unsigned reg, bool store)
{
    switch (slot) {
    case SLOT_MMX:
        FRAME(e, reg, vec(reg), 0x0f, store ? 0x7f : 0x6f); // movq
        break;
    case SLOT_XMM:
        FRAME(e, reg, vec(reg), 0x0f, store ? 0x11 : 0x10); // movups
        break;
    case SLOT_YMM:
        FRAME(e, reg, vec(reg), 0xc5, 0xfc, store ? 0x11 : 0x10); // vmovups
        break;
    case SLOT_GPR:
        FRAME(e, 0, gpr(0), 0x48, store ? 0x89 : 0x8b); // mov
        break;
    default:
        break;
    }
}

static void load_flags(struct emitter *e)
{
    FRAME(e, 6, offsetof(struct host_frame, flags), 0xff); // push
    EMIT(e, 0x9d);                                         // popfq
}

static void store_flags(struct emitter *e)
{
    EMIT(e, 0x9c);                                         // pushfq
    FRAME(e, 0, offsetof(struct host_frame, flags), 0x8f); // pop
}

static void emit_x87(struct emitter *e, const struct host_form *f)
{
    FRAME(e, 7, offsetof(struct host_frame, host_fcw), 0xd9);               // fnstcw
    FRAME(e, 3, offsetof(struct host_frame, x87) + AREA_MXCSR, 0x0f, 0xae); // stmxcsr: fxrstor loads what is there
    FRAME(e, 1, offsetof(struct host_frame, x87), 0x48, 0x0f, 0xae);        // fxrstor64
    if (f->flags)
        load_flags(e);
    emit(e, f->bytes, f->len);
    if (f->flags)
        store_flags(e);
    FRAME(e, 0, offsetof(struct host_frame, x87), 0x48, 0x0f, 0xae); // fxsave64
    EMIT(e, 0xdb, 0xe3);                                             // fninit
    FRAME(e, 5, offsetof(struct host_frame, host_fcw), 0xd9);        // fldcw
}

static void emit_vector(struct emitter *e, const struct host_form *f)
{
    bool ymm = false;
    if (f->fp) {
        FRAME(e, 3, offsetof(struct host_frame, host_mxcsr), 0x0f, 0xae); // stmxcsr
        FRAME(e, 2, offsetof(struct host_frame, mxcsr), 0x0f, 0xae);      // ldmxcsr
    }
    if (f->xmm0)
        move_slot(e, SLOT_XMM, 0, false);
    for (unsigned n = 0; n < FIELDS; n++) {
        // Loaded even where it is only written: many forms leave a part of their destination as it was.
        move_slot(e, f->slot[n], n + 1, false);
        ymm |= f->slot[n] == SLOT_YMM;
    }
    if (f->flags)
        load_flags(e);
    if (f->rax)
        FRAME(e, 0, gpr(0), 0x48, 0x8b);
    if (f->rcx)
        FRAME(e, 1, gpr(1), 0x48, 0x8b);
    if (f->rdx)
        FRAME(e, 2, gpr(2), 0x48, 0x8b);
    emit(e, f->bytes, f->len);
    if (f->rcx)
        FRAME(e, 1, gpr(1), 0x48, 0x89);
    for (unsigned n = 0; n < FIELDS; n++)
        if (f->written & 1 << n)
            move_slot(e, f->slot[n], n + 1, true);
    if (f->xmm0_written)
        move_slot(e, SLOT_XMM, 0, true);
    if (f->flags)
        store_flags(e);
    if (f->fp) {
        FRAME(e, 3, offsetof(struct host_frame, mxcsr), 0x0f, 0xae);
        FRAME(e, 2, offsetof(struct host_frame, host_mxcsr), 0x0f, 0xae);
    }
    if (f->mmx)
        EMIT(e, 0x0f, 0x77); // emms
    if (ymm)
        EMIT(e, 0xc5, 0xf8, 0x77); // vzeroupper
}

size_t host_stub_emit(const struct host_form *f, uint8_t *out)
{
    struct emitter e = {.out = out};
    if (f->x87)
        emit_x87(&e, f);
    else
        emit_vector(&e, f);
    EMIT(&e, 0xc3);
    return e.len <= HOST_STUB_MAX ? e.len : 0;
}
