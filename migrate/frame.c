// Framing messages: see frame.h.
#include "migrate/frame.h"
#include "migrate/pages.h"
#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

enum { TEXT = 256, KIB = 1024, MIB = 1024 * 1024 };

static const struct {
    const char *name;
    uint32_t most;
} types[] = {
    [MESSAGE_HELLO] = {"HELLO", MIB},
    [MESSAGE_FILE] = {"FILE", MIB + 16},
    [MESSAGE_PAGES] = {"PAGES", PAGES_PAYLOAD},
    [MESSAGE_ZEROS] = {"ZEROS", ZEROS_PAYLOAD},
    [MESSAGE_ROUND] = {"ROUND", 8},
    [MESSAGE_DISK] = {"DISK", MIB + 16},
    [MESSAGE_STATE] = {"STATE", 64 * MIB},
    [MESSAGE_COMMIT] = {"COMMIT", 0},
    [MESSAGE_CANCEL] = {"CANCEL", TEXT},
    [MESSAGE_WELCOME] = {"WELCOME", 64 * KIB},
    [MESSAGE_ROUND_DONE] = {"ROUND_DONE", 8},
    [MESSAGE_READY] = {"READY", 0},
    [MESSAGE_STARTED] = {"STARTED", 0},
    [MESSAGE_REFUSED] = {"REFUSED", TEXT},
};

int64_t frame_limit(unsigned type)
{
    return type < sizeof types / sizeof *types && types[type].name ? (int64_t)types[type].most : -1;
}

const char *frame_name(unsigned type)
{
    return frame_limit(type) < 0 ? "unknown" : types[type].name;
}

void put_u32(void *at, uint32_t v)
{
    v = htole32(v);
    memcpy(at, &v, sizeof v);
}

void put_u64(void *at, uint64_t v)
{
    v = htole64(v);
    memcpy(at, &v, sizeof v);
}

uint32_t get_u32(const void *at)
{
    uint32_t v;
    memcpy(&v, at, sizeof v);
    return le32toh(v);
}

uint64_t get_u64(const void *at)
{
    uint64_t v;
    memcpy(&v, at, sizeof v);
    return le64toh(v);
}

static uint64_t seed_of(const uint8_t header[FRAME_HEADER])
{
    return XXH3_64bits(header, 16);
}

void frame_encode(uint8_t header[FRAME_HEADER], unsigned type, uint32_t sequence, const void *payload, size_t length)
{
    memset(header, 0, FRAME_HEADER);
    put_u32(header, type);
    put_u32(header + 4, (uint32_t)length);
    put_u32(header + 8, sequence);
    put_u64(header + 16, XXH3_64bits_withSeed(payload, length, seed_of(header)));
}

int frame_decode(struct frame *f, const uint8_t header[FRAME_HEADER], uint32_t sequence, struct error *err)
{
    *f = (struct frame){.type = get_u32(header),
                        .length = get_u32(header + 4),
                        .sequence = get_u32(header + 8),
                        .checksum = get_u64(header + 16),
                        .seed = seed_of(header)};
    int64_t most = frame_limit(f->type);
    if (most < 0 || get_u32(header + 12))
        return error_set(err, EPROTO, "migration stream: what comes is no message of this protocol");
    if (f->length > most)
        return error_set(err, EPROTO, "migration stream: a message %s of %" PRIu32 " bytes is longer than it may be",
                         frame_name(f->type), f->length);
    if (f->sequence != sequence)
        return error_set(err, EPROTO, "migration stream: message %" PRIu32 " comes where %" PRIu32 " is due",
                         f->sequence, sequence);
    return 0;
}

int frame_check(const struct frame *f, const void *payload, struct error *err)
{
    if (XXH3_64bits_withSeed(payload, f->length, f->seed) != f->checksum)
        return error_set(err, EPROTO, "migration stream: message %" PRIu32 " (%s) was damaged on its way", f->sequence,
                         frame_name(f->type));
    return 0;
}
