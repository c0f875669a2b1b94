// Saved state: versioned, field by field.
//
// A table lists the fields of a struct that make up a device's state; the same table saves, loads and documents it. A
// field is known by its name, so fields can be added (with `since`) and dropped without breaking old files. Nothing is
// ever saved as a raw struct.
//
// Example:
//     static const struct state_field rtc_fields[] = {
//         STATE_U8(struct rtc, index, 1), STATE_BYTES(struct rtc, ram, 1), STATE_U64(struct rtc, base_ns, 1),
//         STATE_END};
//     static const struct state_table rtc_state = {"rtc", 1, rtc_fields};
//
// The stream is little-endian: table name, version, then per field: name, element size, count, elements.
#pragma once
#include "report/error.h"
#include <stddef.h>
#include <stdint.h>

struct state_field {
    const char *name;
    uint32_t offset; // in the struct
    uint16_t size;   // of an element: 1, 2, 4, 8
    uint16_t since;  // first version that has it; absent ones load as they are after reset
    uint32_t count;  // elements
    uint32_t stride; // bytes from one element to the next; 0: they are adjacent (the same as size)
};

struct state_table {
    const char *name;
    uint32_t version;
    const struct state_field *fields; // ends with STATE_END
};

#define STATE_FIELD_(type, member, bytes, since_)                                                                      \
    {                                                                                                                  \
#member, offsetof(type, member), bytes, since_, sizeof(((type *)0)->member) / (bytes)                          \
    }
#define STATE_U8(type, member, since_) STATE_FIELD_(type, member, 1, since_)
#define STATE_U16(type, member, since_) STATE_FIELD_(type, member, 2, since_)
#define STATE_U32(type, member, since_) STATE_FIELD_(type, member, 4, since_)
#define STATE_U64(type, member, since_) STATE_FIELD_(type, member, 8, since_)
#define STATE_BYTES STATE_U8 // arrays: the count follows from the member's size
// One member of every element of an array of structs, e.g. STATE_EACH(struct hpet, timer, deadline, 1).
#define STATE_EACH(type, array, member, since_)                                                                        \
    {                                                                                                                  \
#array "." #member, offsetof(type, array[0].member), sizeof(((type *)0)->array[0].member), since_,             \
            sizeof(((type *)0)->array) / sizeof(((type *)0)->array[0]), sizeof(((type *)0)->array[0])                  \
    }
#define STATE_END                                                                                                      \
    {                                                                                                                  \
        NULL, 0, 0, 0, 0                                                                                               \
    }

// A growing or a fixed buffer of saved state.
struct state_buffer {
    uint8_t *data;
    size_t size, capacity, at; // `at`: where reading is
};

int state_save(struct state_buffer *b, const struct state_table *t, const void *object, struct error *err);
int state_load(struct state_buffer *b, const struct state_table *t, void *object, struct error *err);
void state_free(struct state_buffer *b);
