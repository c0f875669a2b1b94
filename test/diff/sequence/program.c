// Where a program's pieces lie. See program.h.
#include "program.h"
#include <string.h>

enum { JUMP = 5, HALT = 0xf4, FILLER = 0xcc };

// The length of a piece that lies at `at`.
static unsigned length_at(const struct piece *p, unsigned at)
{
    if (!p->room)
        return p->len;
    // A jump, and as much behind it as leaves `room` bytes of the page.
    unsigned end = (at + JUMP + p->room + PAGE - 1) & ~(PAGE - 1u);
    return end - p->room - at;
}

static bool refer(const struct program *p, struct image *image, unsigned n, unsigned k)
{
    const struct piece *piece = &p->piece[n];
    unsigned at = image->piece_at[n], to = image->piece_at[piece->ref[k].target % p->pieces];
    uint8_t *field = image->code + at + piece->ref[k].at;
    int64_t away = (int64_t)to - (int64_t)(at + piece->ref[k].next);
    switch (piece->ref[k].kind) {
    case REF_SHORT:
        if (away < INT8_MIN || away > INT8_MAX)
            away = 0; // too far: to the next one
        *field = (uint8_t)away;
        return true;
    case REF_NEAR: {
        int32_t d = (int32_t)away;
        memcpy(field, &d, 4);
        return true;
    }
    default: {
        uint64_t base = piece->ref[k].kind == REF_ALIAS ? p->setup.alias : p->setup.code;
        uint64_t address = base + to + (uint64_t)(int64_t)piece->ref[k].more;
        memcpy(field, &address, 8);
        return true;
    }
    }
}

bool program_lay(const struct program *p, struct image *image)
{
    unsigned at = p->setup.start;
    memset(image->code, FILLER, sizeof image->code);
    for (unsigned n = 0; n < CODE_SIZE; n++)
        image->next[n] = NOWHERE;
    for (unsigned n = 0; n < p->pieces; n++) {
        const struct piece *piece = &p->piece[n];
        unsigned length = piece->gone ? 0 : length_at(piece, at);
        image->piece_at[n] = (uint16_t)at;
        if (at + length >= CODE_SIZE)
            return false;
        if (piece->room && !piece->gone) {
            int32_t d = (int32_t)(length - JUMP);
            image->code[at] = 0xe9;
            memcpy(image->code + at + 1, &d, 4);
        } else {
            memcpy(image->code + at, piece->bytes, length);
        }
        for (unsigned k = 0; k < length; k++)
            image->next[at + k] = (uint16_t)(at + length);
        at += length;
    }
    image->end = (uint16_t)at;
    image->code[at] = HALT;
    for (unsigned n = 0; n < p->pieces; n++)
        for (unsigned k = 0; k < p->piece[n].refs && !p->piece[n].gone; k++)
            if (!refer(p, image, n, k))
                return false;
    return true;
}
