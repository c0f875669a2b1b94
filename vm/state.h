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
// A member of type bool is saved with STATE_U8 and loads as 0 or 1 whatever the file says. Everything else comes from a
// file that may be hostile: the device's loaded() checks what its code relies on (indices, enums).
//
// The stream is little-endian, without padding. A name is a length byte and the characters.
//     table:  name, version (4 bytes), number of fields (2), fields
//     field:  name, element size (1), count (4), elements
#pragma once
#include "report/error.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct state_field {
    const char *name;
    uint32_t offset; // in the struct
    uint16_t size;   // of an element: 1, 2, 4, 8
    uint16_t since;  // first version that has it; absent ones load as they are after reset
    uint32_t count;  // elements
    uint32_t stride; // bytes from one element to the next; 0: they are adjacent (the same as size)
    bool is_bool;
};

struct state_table {
    const char *name;
    uint32_t version;
    const struct state_field *fields; // ends with STATE_END
};

#define STATE_IS_BOOL_(member) _Generic((member), bool : true, bool * : true, default : false)
#define STATE_FIELD_(type, member, bytes, since_)                                                                      \
    {                                                                                                                  \
        .name = #member, .offset = offsetof(type, member), .size = (bytes), .since = (since_),                         \
        .count = sizeof(((type *)0)->member) / (bytes), .is_bool = STATE_IS_BOOL_(((type *)0)->member)                 \
    }
#define STATE_U8(type, member, since_) STATE_FIELD_(type, member, 1, since_)
#define STATE_U16(type, member, since_) STATE_FIELD_(type, member, 2, since_)
#define STATE_U32(type, member, since_) STATE_FIELD_(type, member, 4, since_)
#define STATE_U64(type, member, since_) STATE_FIELD_(type, member, 8, since_)
#define STATE_BYTES STATE_U8 // arrays: the count follows from the member's size
// One member of every element of an array of structs, e.g. STATE_EACH(struct hpet, timer, deadline, 1).
#define STATE_EACH(type, array, member, since_)                                                                        \
    {                                                                                                                  \
        .name = #array "." #member, .offset = offsetof(type, array[0].member),                                         \
        .size = sizeof(((type *)0)->array[0].member), .since = (since_),                                               \
        .count = sizeof(((type *)0)->array) / sizeof(((type *)0)->array[0]), .stride = sizeof(((type *)0)->array[0]),  \
        .is_bool = STATE_IS_BOOL_(((type *)0)->array[0].member)                                                        \
    }
#define STATE_END                                                                                                      \
    {                                                                                                                  \
        .name = NULL                                                                                                   \
    }

// A buffer of saved state. Saving appends and grows it; loading reads from `at` on.
struct state_buffer {
    uint8_t *data;
    size_t size, capacity; // capacity 0: data is the caller's and only read
    size_t at;             // where reading is
};

int state_save(struct state_buffer *b, const struct state_table *t, const void *object, struct error *err);
// -EINVAL: not the state of such a thing, or damaged; object may be half loaded then. -ENOTSUP: from a newer version.
int state_load(struct state_buffer *b, const struct state_table *t, void *object, struct error *err);
void state_free(struct state_buffer *b);
