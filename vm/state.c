// Saved state: see state.h for the format.
//
// Loading trusts nothing: every length is checked against what is left of the buffer before it is used, a field's size
// and count must be exactly what the table says, so nothing is ever written outside of the member, and nothing is
// allocated.
#include "vm/state.h"
#include "vm/alloc.h"
#include <errno.h>
#include <string.h>

enum { FIELDS_MAX = 256, NAME_MAX_ = 63 };

// --- writing

static bool put(struct state_buffer *b, const void *data, size_t size)
{
    if (size > b->capacity - b->size) {
        size_t capacity = b->capacity ? b->capacity : 512;
        while (capacity - b->size < size)
            capacity *= 2;
        uint8_t *bigger = vm_alloc(capacity);
        if (!bigger)
            return false;
        if (b->size)
            memcpy(bigger, b->data, b->size);
        vm_free(b->data);
        b->data = bigger;
        b->capacity = capacity;
    }
    memcpy(b->data + b->size, data, size);
    b->size += size;
    return true;
}

static bool put_number(struct state_buffer *b, uint64_t val, unsigned bytes)
{
    uint8_t le[8];
    for (unsigned i = 0; i < bytes; i++)
        le[i] = (uint8_t)(val >> 8 * i);
    return put(b, le, bytes);
}

static bool put_name(struct state_buffer *b, const char *name)
{
    size_t n = strlen(name);
    return n <= NAME_MAX_ && put_number(b, n, 1) && put(b, name, n);
}

static uint64_t member(const void *p, unsigned size)
{
    uint64_t val = 0;
    memcpy(&val, p, size); // the host is little-endian, as the guest is
    return val;
}

static size_t stride(const struct state_field *f)
{
    return f->stride ? f->stride : f->size;
}

static bool save(struct state_buffer *b, const struct state_table *t, const void *object)
{
    unsigned fields = 0;
    while (t->fields[fields].name)
        fields++;
    if (fields > FIELDS_MAX || !put_name(b, t->name) || !put_number(b, t->version, 4) || !put_number(b, fields, 2))
        return false;
    for (const struct state_field *f = t->fields; f->name; f++) {
        if (!put_name(b, f->name) || !put_number(b, f->size, 1) || !put_number(b, f->count, 4))
            return false;
        const uint8_t *p = (const uint8_t *)object + f->offset;
        for (uint32_t i = 0; i < f->count; i++, p += stride(f))
            if (!put_number(b, member(p, f->size), f->size))
                return false;
    }
    return true;
}

int state_save(struct state_buffer *b, const struct state_table *t, const void *object, struct error *err)
{
    if (b->data && !b->capacity)
        return error_set(err, EINVAL, "saved state of %s: the buffer can only be read", t->name);
    if (!save(b, t, object))
        return error_set(err, ENOMEM, "saved state of %s: no memory", t->name);
    return 0;
}

// --- reading

static bool get_number(struct state_buffer *b, unsigned bytes, uint64_t *val)
{
    if (bytes > b->size - b->at)
        return false;
    *val = 0;
    for (unsigned i = 0; i < bytes; i++)
        *val |= (uint64_t)b->data[b->at++] << 8 * i;
    return true;
}

static bool get_name(struct state_buffer *b, char name[NAME_MAX_ + 1])
{
    uint64_t n;
    if (!get_number(b, 1, &n) || n > NAME_MAX_ || n > b->size - b->at)
        return false;
    memcpy(name, b->data + b->at, n);
    name[n] = 0;
    b->at += n;
    return strlen(name) == n;
}

static int truncated(const struct state_table *t, struct error *err)
{
    return error_set(err, EINVAL, "saved state of %s: damaged or cut off", t->name);
}

// The elements lie at b->at; the caller has checked that they are there and as many as the table wants.
static void load_elements(struct state_buffer *b, const struct state_field *f, void *object)
{
    uint8_t *p = (uint8_t *)object + f->offset;
    for (uint32_t i = 0; i < f->count; i++, p += stride(f)) {
        uint64_t val;
        get_number(b, f->size, &val);
        if (f->is_bool)
            val = !!val;
        memcpy(p, &val, f->size);
    }
}

static int load_field(struct state_buffer *b, const struct state_table *t, bool seen[], struct error *err, void *object)
{
    char name[NAME_MAX_ + 1];
    uint64_t size, count;
    if (!get_name(b, name) || !get_number(b, 1, &size) || !get_number(b, 4, &count) || size * count > b->size - b->at)
        return truncated(t, err);
    unsigned i = 0;
    while (i < FIELDS_MAX && t->fields[i].name && strcmp(t->fields[i].name, name))
        i++;
    if (i == FIELDS_MAX || !t->fields[i].name) { // dropped from the device since
        b->at += size * count;
        return 0;
    }
    const struct state_field *f = &t->fields[i];
    if (seen[i])
        return error_set(err, EINVAL, "saved state of %s: field %s twice", t->name, name);
    if (size != f->size || count != f->count)
        return error_set(err, EINVAL, "saved state of %s: field %s has another size", t->name, name);
    seen[i] = true;
    load_elements(b, f, object);
    return 0;
}

static int load(struct state_buffer *b, const struct state_table *t, void *object, struct error *err)
{
    char name[NAME_MAX_ + 1];
    uint64_t version, fields;
    if (!get_name(b, name) || !get_number(b, 4, &version) || !get_number(b, 2, &fields))
        return truncated(t, err);
    if (strcmp(name, t->name))
        return error_set(err, EINVAL, "saved state of %s: found that of %s", t->name, name);
    if (version > t->version)
        return error_set(err, ENOTSUP, "saved state of %s: version %u, but only up to %u is known", t->name,
                         (unsigned)version, t->version);
    bool seen[FIELDS_MAX] = {false};
    while (fields--) {
        int e = load_field(b, t, seen, err, object);
        if (e < 0)
            return e;
    }
    for (unsigned i = 0; i < FIELDS_MAX && t->fields[i].name; i++)
        if (t->fields[i].since <= version && !seen[i])
            return error_set(err, EINVAL, "saved state of %s: field %s is missing", t->name, t->fields[i].name);
    return 0;
}

int state_load(struct state_buffer *b, const struct state_table *t, void *object, struct error *err)
{
    if (b->at > b->size)
        return truncated(t, err);
    return load(b, t, object, err);
}

void state_free(struct state_buffer *b)
{
    if (b->capacity)
        vm_free(b->data);
    *b = (struct state_buffer){0};
}
