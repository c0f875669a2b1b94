// Loading saved state from hostile bytes: nothing outside of the object is touched, bools are 0 or 1, and what was
// accepted can be saved again.
#include "vm/state.h"
#include <stdint.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct part {
    uint32_t number;
    bool on;
};

struct thing {
    uint8_t before[16];
    uint8_t bytes[12];
    bool flag;
    uint16_t words[3];
    uint64_t big;
    struct part part[3];
    uint32_t added;
    uint8_t behind[16];
};

static const struct state_field fields[] = {
    STATE_BYTES(struct thing, bytes, 1),       STATE_U8(struct thing, flag, 1),
    STATE_U16(struct thing, words, 1),         STATE_U64(struct thing, big, 1),
    STATE_EACH(struct thing, part, number, 1), STATE_EACH(struct thing, part, on, 1),
    STATE_U32(struct thing, added, 2),         STATE_END,
};
static const struct state_table table = {"thing", 2, fields};

static void check_bool(const bool *b)
{
    uint8_t byte;
    memcpy(&byte, b, 1);
    if (byte > 1)
        __builtin_trap();
}

// The bytes as they are, and also as damage (position, value) done to a good file, which gets deeper into the loader.
static void load(struct state_buffer *b)
{
    struct thing t;
    memset(&t, 0, sizeof t);
    memset(t.before, 0x5a, sizeof t.before);
    memset(t.behind, 0x5a, sizeof t.behind);
    struct error err;
    int e = state_load(b, &table, &t, &err);
    if (memcmp(t.before, t.behind, sizeof t.before) || t.before[0] != 0x5a || t.before[15] != 0x5a)
        __builtin_trap();
    check_bool(&t.flag);
    for (unsigned i = 0; i < 3; i++)
        check_bool(&t.part[i].on);
    struct state_buffer again = {0};
    if (b->at > b->size || (!e && state_save(&again, &table, &t, &err) < 0))
        __builtin_trap();
    state_free(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct state_buffer raw = {.data = (uint8_t *)(uintptr_t)data, .size = size};
    load(&raw);

    struct thing t;
    memset(&t, 0, sizeof t);
    struct state_buffer good = {0};
    if (state_save(&good, &table, &t, NULL) < 0)
        __builtin_trap();
    for (size_t i = 0; i + 1 < size && i < 64; i += 2)
        good.data[data[i] % good.size] = data[i + 1];
    load(&good);
    state_free(&good);
    return 0;
}
