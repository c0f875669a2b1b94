// Random values with a liking for corners, from a seed.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct random {
    uint64_t state;
};

uint64_t random_bits(struct random *r);
// 0 <= result < n; n is small.
static inline unsigned random_below(struct random *r, unsigned n)
{
    return (unsigned)((random_bits(r) >> 32) * n >> 32);
}
static inline bool random_chance(struct random *r, unsigned percent)
{
    return random_below(r, 100) < percent;
}

// Integers: 0, 1, -1, boundaries of 8, 16, 32 and 64 bits and their neighbours, small ones, single bits, random bits.
uint64_t random_integer(struct random *r);
// Floating-point bit patterns: zeros, denormals, boundaries, infinities, quiet and signalling NaNs, ordinary numbers.
uint32_t random_float(struct random *r);
uint64_t random_double(struct random *r);
void random_extended(struct random *r, uint8_t out[10]); // also pseudo-denormals, unnormals and packed BCD
// A vector register's or a piece of memory's contents: elements of one random kind.
void random_vector(struct random *r, uint8_t *out, size_t size);
// The x87, SSE and AVX state in an XSAVE area (832 bytes, header 0).
void random_xsave(struct random *r, uint8_t *area);
// MXCSR without reserved bits: mostly all masked.
uint32_t random_mxcsr(struct random *r);
