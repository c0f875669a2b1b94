// Writing x86-64 machine code: just the handful of forms that the translator adds around the guest's own instructions.
//
// An emitter is a cursor in the code cache. When it runs out of room it stops writing and `full` stays set; whoever
// began a piece of code looks at it once at the end. Host registers have the numbers of enum cpu_gpr. No function here
// touches flags but those that say so (e_alu..., e_cmp...).
//
// Example: e_lea(&e, CPU_R14, CPU_RDI, NO_REG, 1, 16);    lea r14, [rdi+16]
#pragma once
#include "cpu/state.h"
#include <string.h>

enum { NO_REG = 0xff };

struct emit {
    uint8_t *p, *end; // in the writable view of the cache
    bool full;
};

static inline void e_bytes(struct emit *e, const void *b, unsigned n)
{
    if ((size_t)(e->end - e->p) < n) {
        e->full = true;
        return;
    }
    memcpy(e->p, b, n);
    e->p += n;
}

static inline void e8(struct emit *e, unsigned b)
{
    uint8_t v = (uint8_t)b;
    e_bytes(e, &v, 1);
}

static inline void e32(struct emit *e, uint32_t v)
{
    e_bytes(e, &v, 4);
}

static inline void e64(struct emit *e, uint64_t v)
{
    e_bytes(e, &v, 8);
}

static inline bool fits8(int64_t v)
{
    return v == (int8_t)v;
}

static inline bool fits32(int64_t v)
{
    return v == (int32_t)v;
}

// ModRM, SIB and displacement of [base + index*scale + disp]. base NO_REG: no base (absolute, 32-bit sign-extended).
static inline void e_mem(struct emit *e, unsigned reg, unsigned base, unsigned index, unsigned scale, int32_t disp)
{
    static const uint8_t log2[9] = {[1] = 0, [2] = 1, [4] = 2, [8] = 3};
    unsigned r = (reg & 7) << 3;
    unsigned ss = (unsigned)log2[scale] << 6, ii = index == NO_REG ? 4 : index & 7;
    if (base == NO_REG) {
        e8(e, r | 4);
        e8(e, ss | ii << 3 | 5);
        e32(e, (uint32_t)disp);
        return;
    }
    bool sib = index != NO_REG || (base & 7) == 4;
    unsigned mod = disp == 0 && (base & 7) != 5 ? 0 : fits8(disp) ? 1 : 2;
    e8(e, mod << 6 | r | (sib ? 4 : base & 7));
    if (sib)
        e8(e, ss | ii << 3 | (base & 7));
    if (mod == 1)
        e8(e, (uint8_t)disp);
    else if (mod == 2)
        e32(e, (uint32_t)disp);
}

static inline unsigned rex_for(unsigned w, unsigned reg, unsigned index, unsigned base)
{
    return 0x40 | w << 3 | (reg != NO_REG && reg & 8 ? 4 : 0) | (index != NO_REG && index & 8 ? 2 : 0) |
           (base != NO_REG && base & 8 ? 1 : 0);
}

// One-byte opcode, 64-bit operands, memory operand.
static inline void e_op64(struct emit *e, unsigned opcode, unsigned reg, unsigned base, unsigned index, unsigned scale,
                          int32_t disp)
{
    e8(e, rex_for(1, reg, index, base));
    e8(e, opcode);
    e_mem(e, reg, base, index, scale, disp);
}

static inline void e_lea(struct emit *e, unsigned reg, unsigned base, unsigned index, unsigned scale, int32_t disp)
{
    e_op64(e, 0x8d, reg, base, index, scale, disp);
}

static inline void e_lea32(struct emit *e, unsigned reg, unsigned base, unsigned index, unsigned scale, int32_t disp)
{
    e8(e, rex_for(0, reg, index, base));
    e8(e, 0x8d);
    e_mem(e, reg, base, index, scale, disp);
}

// Forms with gs:[disp] and gs:[index*8 + disp]: the vCPU's own fields. `opcode` 0x8b load, 0x89 store, 0x03 add, 0x2b
// sub, 0x3b cmp.
static inline void e_gs(struct emit *e, unsigned opcode, unsigned reg, size_t field)
{
    e8(e, 0x65);
    e_op64(e, opcode, reg, NO_REG, NO_REG, 1, (int32_t)field);
}

static inline void e_gs_indexed(struct emit *e, unsigned opcode, unsigned reg, unsigned index, size_t field)
{
    e8(e, 0x65);
    e_op64(e, opcode, reg, NO_REG, index, 8, (int32_t)field);
}

static inline void e_gs_load(struct emit *e, unsigned reg, size_t field)
{
    e_gs(e, 0x8b, reg, field);
}

static inline void e_gs_store(struct emit *e, unsigned reg, size_t field)
{
    e_gs(e, 0x89, reg, field);
}

static inline void e_gs_load32(struct emit *e, unsigned reg, size_t field)
{
    e8(e, 0x65);
    e8(e, rex_for(0, reg, NO_REG, NO_REG));
    e8(e, 0x8b);
    e_mem(e, reg, NO_REG, NO_REG, 1, (int32_t)field);
}

static inline void e_gs_store32(struct emit *e, unsigned reg, size_t field)
{
    e8(e, 0x65);
    e8(e, rex_for(0, reg, NO_REG, NO_REG));
    e8(e, 0x89);
    e_mem(e, reg, NO_REG, NO_REG, 1, (int32_t)field);
}

static inline void e_gs_set8(struct emit *e, size_t field, unsigned value)
{
    e8(e, 0x65);
    e8(e, 0xc6);
    e_mem(e, 0, NO_REG, NO_REG, 1, (int32_t)field);
    e8(e, value);
}

static inline void e_gs_set32(struct emit *e, size_t field, uint32_t value)
{
    e8(e, 0x65);
    e8(e, 0xc7);
    e_mem(e, 0, NO_REG, NO_REG, 1, (int32_t)field);
    e32(e, value);
}

// test byte gs:[field], imm (flags)
static inline void e_gs_test8(struct emit *e, size_t field, unsigned imm)
{
    e8(e, 0x65);
    e8(e, 0xf6);
    e_mem(e, 0, NO_REG, NO_REG, 1, (int32_t)field);
    e8(e, imm);
}

// inc qword gs:[field] (flags)
static inline void e_gs_inc(struct emit *e, size_t field)
{
    e8(e, 0x65);
    e8(e, 0x48);
    e8(e, 0xff);
    e_mem(e, 0, NO_REG, NO_REG, 1, (int32_t)field);
}

// cmp dword gs:[field], imm (flags)
static inline void e_gs_cmp32(struct emit *e, size_t field, uint32_t imm)
{
    e8(e, 0x65);
    e8(e, 0x81);
    e_mem(e, 7, NO_REG, NO_REG, 1, (int32_t)field);
    e32(e, imm);
}

static inline void e_jmp_gs(struct emit *e, unsigned index, size_t field)
{
    e8(e, 0x65);
    if (index != NO_REG && index & 8)
        e8(e, 0x42);
    e8(e, 0xff);
    e_mem(e, 4, NO_REG, index, index == NO_REG ? 1 : 8, (int32_t)field);
}

static inline void e_mov(struct emit *e, unsigned to, unsigned from)
{
    e8(e, rex_for(1, from, NO_REG, to));
    e8(e, 0x89);
    e8(e, 0xc0 | (from & 7) << 3 | (to & 7));
}

// With all 64 bits of the constant, to be changed later.
static inline void e_mov_imm64(struct emit *e, unsigned reg, uint64_t v)
{
    e8(e, rex_for(1, NO_REG, NO_REG, reg));
    e8(e, 0xb8 | (reg & 7));
    e64(e, v);
}

static inline void e_mov_imm(struct emit *e, unsigned reg, uint64_t v)
{
    if (v <= UINT32_MAX) {
        if (reg & 8)
            e8(e, 0x41);
        e8(e, 0xb8 | (reg & 7));
        e32(e, (uint32_t)v);
    } else if (fits32((int64_t)v)) {
        e8(e, rex_for(1, NO_REG, NO_REG, reg));
        e8(e, 0xc7);
        e8(e, 0xc0 | (reg & 7));
        e32(e, (uint32_t)v);
    } else {
        e_mov_imm64(e, reg, v);
    }
}

static inline void e_movsxd(struct emit *e, unsigned to, unsigned from)
{
    e8(e, rex_for(1, to, NO_REG, from));
    e8(e, 0x63);
    e8(e, 0xc0 | (to & 7) << 3 | (from & 7));
}

// rorx to, from, bits (BMI2; no flags)
static inline void e_rorx(struct emit *e, unsigned to, unsigned from, unsigned bits)
{
    e8(e, 0xc4);
    e8(e, (to & 8 ? 0 : 0x80) | 0x40 | (from & 8 ? 0 : 0x20) | 3);
    e8(e, 0xfb);
    e8(e, 0xf0);
    e8(e, 0xc0 | (to & 7) << 3 | (from & 7));
    e8(e, bits);
}

// movzx to32, from16
static inline void e_movzx16(struct emit *e, unsigned to, unsigned from)
{
    e8(e, rex_for(0, to, NO_REG, from));
    e8(e, 0x0f);
    e8(e, 0xb7);
    e8(e, 0xc0 | (to & 7) << 3 | (from & 7));
}

// and r32, imm32 (flags)
static inline void e_and32(struct emit *e, unsigned reg, uint32_t imm)
{
    e8(e, rex_for(0, NO_REG, NO_REG, reg));
    e8(e, 0x81);
    e8(e, 0xe0 | (reg & 7));
    e32(e, imm);
}

enum { SHIFT_LEFT = 4, SHIFT_RIGHT = 5, SHIFT_SIGNED = 7 };

// Shifts a register's 64 (wide) or 32 bits by n (flags).
static inline void e_shift(struct emit *e, unsigned how, bool wide, unsigned reg, unsigned n)
{
    e8(e, rex_for(wide, NO_REG, NO_REG, reg));
    e8(e, 0xc1);
    e8(e, 0xc0 | how << 3 | (reg & 7));
    e8(e, n);
}

// cmp r64, imm32 sign-extended (flags)
static inline void e_cmp_imm(struct emit *e, unsigned reg, int32_t imm)
{
    e8(e, rex_for(1, NO_REG, NO_REG, reg));
    e8(e, 0x81);
    e8(e, 0xf8 | (reg & 7));
    e32(e, (uint32_t)imm);
}

// cmp a, b (flags)
static inline void e_cmp(struct emit *e, unsigned a, unsigned b)
{
    e8(e, rex_for(1, b, NO_REG, a));
    e8(e, 0x39);
    e8(e, 0xc0 | (b & 7) << 3 | (a & 7));
}

// sub a, b (flags)
static inline void e_sub(struct emit *e, unsigned a, unsigned b)
{
    e8(e, rex_for(1, b, NO_REG, a));
    e8(e, 0x29);
    e8(e, 0xc0 | (b & 7) << 3 | (a & 7));
}

// movzx to32, word [base+disp]
static inline void e_load16(struct emit *e, unsigned to, unsigned base, int32_t disp)
{
    e8(e, rex_for(0, to, NO_REG, base));
    e8(e, 0x0f);
    e8(e, 0xb7);
    e_mem(e, to, base, NO_REG, 1, disp);
}

// mov to32, [base+disp]
static inline void e_load32(struct emit *e, unsigned to, unsigned base, int32_t disp)
{
    e8(e, rex_for(0, to, NO_REG, base));
    e8(e, 0x8b);
    e_mem(e, to, base, NO_REG, 1, disp);
}

// Jumps with a 32-bit displacement. They return the address of the displacement, to be set by e_target.
static inline uint8_t *e_jmp(struct emit *e)
{
    e8(e, 0xe9);
    e32(e, 0);
    return e->p - 4;
}

static inline uint8_t *e_jcc(struct emit *e, unsigned cond)
{
    e8(e, 0x0f);
    e8(e, 0x80 | cond);
    e32(e, 0);
    return e->p - 4;
}

static inline void e_target(struct emit *e, uint8_t *displacement, const uint8_t *target)
{
    if (e->full)
        return;
    int32_t d = (int32_t)(target - (displacement + 4));
    memcpy(displacement, &d, 4);
}

enum { COND_O = 0, COND_B = 2, COND_AE = 3, COND_E = 4, COND_NE = 5, COND_BE = 6, COND_A = 7 };
