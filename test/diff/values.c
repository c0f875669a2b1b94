// Random values. See values.h.
#include "values.h"
#include <string.h>

uint64_t random_bits(struct random *r)
{
    // splitmix64: any seed is good, neighbouring ones too.
    uint64_t z = r->state += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

uint64_t random_integer(struct random *r)
{
    static const uint8_t boundary[] = {7, 8, 15, 16, 31, 32, 63};
    uint64_t v;
    switch (random_below(r, 8)) {
    case 0:
        return random_below(r, 4) - 1ull - (random_below(r, 2) ? 0 : 1);
    case 1:
        v = 1ull << boundary[random_below(r, sizeof boundary)];
        return v + random_below(r, 3) - 1;
    case 2:
        v = 1ull << boundary[random_below(r, sizeof boundary)];
        return -v + random_below(r, 3) - 1;
    case 3:
        return random_below(r, 256);
    case 4:
        return 1ull << random_below(r, 64);
    case 5:
        return (uint32_t)random_bits(r);
    default:
        return random_bits(r);
    }
}

uint32_t random_float(struct random *r)
{
    static const uint32_t corner[] = {
        0,          1,          0x007fffff, 0x00800000, 0x00800001, 0x3f7fffff, 0x3f800000, 0x3f800001, 0x3fc00000,
        0x40000000, 0x40490fdb, 0x4b000000, 0x4b7fffff, 0x4effffff, 0x4f000000, 0x5f000000, 0x7f7fffff, 0x7f800000,
        0x7f800001, 0x7fbfffff, 0x7fc00000, 0x7fc00001, 0x7fffffff, 0x1f800000, 0x5f7fffff, 0x33800000, 0x3f000000,
    };
    uint32_t sign = random_bits(r) & 0x80000000;
    switch (random_below(r, 4)) {
    case 0:
    case 1:
        return corner[random_below(r, sizeof corner / sizeof *corner)] | sign;
    case 2: // near 1, so that sums and products neither vanish nor overflow
        return (uint32_t)(random_bits(r) & 0x7fffff) | (0x3f800000 + ((random_below(r, 48) - 24u) << 23)) | sign;
    default:
        return (uint32_t)random_bits(r);
    }
}

uint64_t random_double(struct random *r)
{
    static const uint64_t corner[] = {
        0,
        1,
        0x000fffffffffffff,
        0x0010000000000000,
        0x0010000000000001,
        0x3fefffffffffffff,
        0x3ff0000000000000,
        0x3ff0000000000001,
        0x3ff8000000000000,
        0x400921fb54442d18,
        0x41dfffffffc00000,
        0x41e0000000000000,
        0x43dfffffffffffff,
        0x43e0000000000000,
        0x47efffffe0000000,
        0x47effffff0000000,
        0x3810000000000000,
        0x36a0000000000000,
        0x7fefffffffffffff,
        0x7ff0000000000000,
        0x7ff0000000000001,
        0x7ff7ffffffffffff,
        0x7ff8000000000000,
        0x7ff8000000000001,
        0x7fffffffffffffff,
        0x1ff0000000000000,
        0x5fefffffffffffff,
        0x3fe0000000000000,
    };
    uint64_t sign = random_bits(r) & 1ull << 63;
    switch (random_below(r, 4)) {
    case 0:
    case 1:
        return corner[random_below(r, sizeof corner / sizeof *corner)] | sign;
    case 2:
        return (random_bits(r) & 0xfffffffffffff) | (0x3ff0000000000000 + ((random_below(r, 96) - 48ull) << 52)) | sign;
    default:
        return random_bits(r);
    }
}

void random_extended(struct random *r, uint8_t out[10])
{
    static const struct {
        uint16_t exponent;
        uint64_t significand;
    } corner[] = {
        {0, 0},                               // zero
        {0, 1},                               // smallest denormal
        {0, 0x7fffffffffffffff},              // largest denormal
        {0, 0x8000000000000000},              // pseudo-denormal
        {1, 0x8000000000000000},              // smallest normal
        {0x3ffe, 0xffffffffffffffff},         //
        {0x3fff, 0x8000000000000000},         // 1
        {0x3fff, 0x8000000000000001},         //
        {0x3fff, 0xc000000000000000},         // 1.5
        {0x4000, 0xc90fdaa22168c235},         // pi
        {0x400e, 0x8000000000000000},         // 2^15
        {0x401e, 0x8000000000000000},         // 2^31
        {0x403e, 0x8000000000000000},         // 2^63
        {0x403e, 0xffffffffffffffff},         //
        {0x407e, 0xffffff8000000000},         // rounds to infinity as a float
        {0x43fe, 0xfffffffffffffc00},         // rounds to infinity as a double
        {0x3f81, 0x8000000000000000},         // smallest normal float
        {0x3c01, 0x8000000000000000},         // smallest normal double
        {0x7ffe, 0xffffffffffffffff},         // largest
        {0x7fff, 0x8000000000000000},         // infinity
        {0x7fff, 0x0000000000000000},         // pseudo-infinity
        {0x7fff, 0x8000000000000001},         // signalling NaN
        {0x7fff, 0xc000000000000000},         // quiet NaN
        {0x7fff, 0xffffffffffffffff},         //
        {0x7fff, 0x4000000000000001},         // pseudo-NaN
        {0x3fff, 0x4000000000000000},         // unnormal
        {0x0000, 0x0000000123456789 * 16ull}, //
    };
    uint64_t significand = random_bits(r);
    uint16_t exponent = (uint16_t)random_bits(r);
    unsigned kind = random_below(r, 8);
    if (kind < 3) {
        unsigned n = random_below(r, sizeof corner / sizeof *corner);
        significand = corner[n].significand;
        exponent = corner[n].exponent | (exponent & 0x8000);
    } else if (kind < 6) {
        significand |= 1ull << 63;
        exponent = (uint16_t)((exponent & 0x8000) | (0x3fff + random_below(r, 80) - 40));
    } else if (kind == 6) { // packed BCD: 18 digits
        significand = 0;
        for (unsigned n = 0; n < 16; n++)
            significand = significand << 4 | random_below(r, 10);
        exponent = (uint16_t)((exponent & 0x8000) | random_below(r, 10) << 4 | random_below(r, 10));
    }
    memcpy(out, &significand, 8);
    memcpy(out + 8, &exponent, 2);
}

void random_vector(struct random *r, uint8_t *out, size_t size)
{
    unsigned kind = random_below(r, 6);
    uint8_t chunk[16];
    for (size_t at = 0; at < size; at += sizeof chunk) {
        for (unsigned n = 0; n < sizeof chunk; n += 8) {
            uint64_t v;
            switch (kind) {
            case 0:
                v = random_float(r) | (uint64_t)random_float(r) << 32;
                break;
            case 1:
                v = random_double(r);
                break;
            case 2:
                v = random_integer(r);
                break;
            case 3:
                v = (uint32_t)random_integer(r) | random_integer(r) << 32;
                break;
            case 4: // halves: half floats and 16-bit integers
                v = random_integer(r) & 0xffff;
                v |= (random_integer(r) & 0xffff) << 16 | (random_bits(r) & 0x7c007fff) << 32;
                break;
            default:
                v = random_bits(r);
                break;
            }
            memcpy(chunk + n, &v, 8);
        }
        memcpy(out + at, chunk, size - at < sizeof chunk ? size - at : sizeof chunk);
    }
}

uint32_t random_mxcsr(struct random *r)
{
    uint32_t v = 0x1f80;
    if (random_chance(r, 50))
        v |= random_below(r, 4) << 13;
    if (random_chance(r, 30))
        v |= (random_bits(r) & 1) << 15 | (random_bits(r) & 1) << 6;
    if (random_chance(r, 30))
        v |= random_bits(r) & 0x3f;
    if (random_chance(r, 15))
        v &= ~(uint32_t)(random_bits(r) & 0x1f80);
    return v;
}

static void put16(uint8_t *p, unsigned v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

void random_xsave(struct random *r, uint8_t *area)
{
    memset(area, 0, 832);
    unsigned fcw = 0x37f, fsw = random_below(r, 8) << 11 | (random_bits(r) & 0x4700), ftw = 0xff;
    if (random_chance(r, 40))
        fcw = 0x7f | (random_bits(r) & 0xf00);
    if (random_chance(r, 15))
        fcw &= ~(random_bits(r) & 0x3f);
    if (random_chance(r, 30))
        fsw |= random_bits(r) & 0x7f;
    if (random_chance(r, 80))
        fsw &= ~(~fcw & 0x3f); // mostly nothing is pending
    if (fsw & ~fcw & 0x3f)
        fsw |= 0x8080;
    if (random_chance(r, 30))
        ftw = random_bits(r) & 0xff;
    put16(area, fcw);
    put16(area + 2, fsw);
    area[4] = (uint8_t)ftw;
    put16(area + 6, random_bits(r) & 0x7ff);
    uint64_t pointer[2] = {random_bits(r) & 0xffffffff, random_bits(r) & 0xffffffff};
    memcpy(area + 8, pointer, 16);
    uint32_t mxcsr = random_mxcsr(r);
    memcpy(area + 24, &mxcsr, 4);
    for (unsigned n = 0; n < 8; n++)
        random_extended(r, area + 32 + 16 * n);
    for (unsigned n = 0; n < 16; n++) {
        random_vector(r, area + 160 + 16 * n, 16);
        random_vector(r, area + 576 + 16 * n, 16);
    }
    area[512] = 7;
}
