// AML, byte by byte.
//
// Example: aml_int(a, 5) is 0a 05; a package of two, aml_package(a, 2) ... aml_close(a), is 12 05 02 0a 05 01: the
// length 05 counts itself.
#include "machine/aml.h"
#include <string.h>

enum {
    OP_NAME = 0x08,
    OP_BYTE = 0x0a,
    OP_WORD = 0x0b,
    OP_DWORD = 0x0c,
    OP_STRING = 0x0d,
    OP_QWORD = 0x0e,
    OP_SCOPE = 0x10,
    OP_BUFFER = 0x11,
    OP_PACKAGE = 0x12,
    OP_METHOD = 0x14,
    OP_DUAL_NAME = 0x2e,
    OP_MULTI_NAME = 0x2f,
    OP_EXTENDED = 0x5b,
    OP_DEVICE = 0x82,
    OP_IF = 0xa0,
};

void aml_bytes(struct aml *a, const void *data, size_t size)
{
    if (size > a->capacity - a->size) {
        a->overflow = true;
        return;
    }
    memcpy(a->data + a->size, data, size);
    a->size += size;
}

void aml_byte(struct aml *a, uint8_t v)
{
    aml_bytes(a, &v, 1);
}

static void word(struct aml *a, uint16_t v)
{
    aml_bytes(a, &v, sizeof v);
}

static void dword(struct aml *a, uint32_t v)
{
    aml_bytes(a, &v, sizeof v);
}

static void qword(struct aml *a, uint64_t v)
{
    aml_bytes(a, &v, sizeof v);
}

void aml_path(struct aml *a, const char *path)
{
    if (*path == '\\')
        aml_byte(a, *path++);
    unsigned segments = *path != 0;
    for (const char *p = path; *p; p++)
        segments += *p == '.';
    if (segments == 2) {
        aml_byte(a, OP_DUAL_NAME);
    } else if (segments != 1) {
        aml_byte(a, OP_MULTI_NAME);
        aml_byte(a, segments);
    }
    while (*path) {
        for (unsigned i = 0; i < 4; i++)
            aml_byte(a, *path && *path != '.' ? *path++ : '_');
        if (*path == '.')
            path++;
    }
}

void aml_int(struct aml *a, uint64_t v)
{
    if (v <= 1) {
        aml_byte(a, v);
    } else if (v <= 0xff) {
        aml_byte(a, OP_BYTE);
        aml_byte(a, v);
    } else if (v <= 0xffff) {
        aml_byte(a, OP_WORD);
        word(a, v);
    } else if (v <= 0xffffffff) {
        aml_byte(a, OP_DWORD);
        dword(a, v);
    } else {
        aml_byte(a, OP_QWORD);
        qword(a, v);
    }
}

void aml_string(struct aml *a, const char *s)
{
    aml_byte(a, OP_STRING);
    aml_bytes(a, s, strlen(s) + 1);
}

static unsigned hex(char c)
{
    return c <= '9' ? c - '0' : c - 'A' + 10;
}

// Three letters of five bits each and four hex digits, most significant byte first (ACPI 6.4, 19.3.4).
void aml_eisa_id(struct aml *a, const char *id)
{
    uint32_t v = 0;
    for (unsigned i = 0; i < 3; i++)
        v = v << 5 | ((id[i] - 'A' + 1) & 0x1f);
    for (unsigned i = 3; i < 7; i++)
        v = v << 4 | hex(id[i]);
    aml_byte(a, OP_DWORD);
    dword(a, __builtin_bswap32(v));
}

void aml_name(struct aml *a, const char *path)
{
    aml_byte(a, OP_NAME);
    aml_path(a, path);
}

static void open(struct aml *a)
{
    if (a->depth == AML_DEPTH)
        a->overflow = true;
    else
        a->open[a->depth++] = a->size;
}

// Puts the package length, which counts its own bytes, where the thing was opened (ACPI 6.4, 20.2.4).
void aml_close(struct aml *a)
{
    if (a->overflow || !a->depth)
        return;
    size_t at = a->open[--a->depth], inside = a->size - at;
    unsigned more = inside + 1 <= 0x3f ? 0 : inside + 2 <= 0xfff ? 1 : inside + 3 <= 0xfffff ? 2 : 3;
    size_t length = inside + 1 + more;
    uint8_t bytes[4] = {length};
    if (more) {
        bytes[0] = more << 6 | (length & 0xf);
        for (unsigned i = 1; i <= more; i++)
            bytes[i] = length >> (4 + 8 * (i - 1));
    }
    if (1 + more > a->capacity - a->size) {
        a->overflow = true;
        return;
    }
    memmove(a->data + at + 1 + more, a->data + at, inside);
    memcpy(a->data + at, bytes, 1 + more);
    a->size += 1 + more;
}

void aml_scope(struct aml *a, const char *path)
{
    aml_byte(a, OP_SCOPE);
    open(a);
    aml_path(a, path);
}

void aml_device(struct aml *a, const char *name)
{
    aml_byte(a, OP_EXTENDED);
    aml_byte(a, OP_DEVICE);
    open(a);
    aml_path(a, name);
}

void aml_method(struct aml *a, const char *path, unsigned args)
{
    aml_byte(a, OP_METHOD);
    open(a);
    aml_path(a, path);
    aml_byte(a, args);
}

void aml_package(struct aml *a, uint8_t elements)
{
    aml_byte(a, OP_PACKAGE);
    open(a);
    aml_byte(a, elements);
}

void aml_if(struct aml *a)
{
    aml_byte(a, OP_IF);
    open(a);
}

// ---- resources

void aml_resources(struct aml *a)
{
    aml_byte(a, OP_BUFFER);
    open(a);
    aml_byte(a, OP_WORD); // the size of the buffer, known at the end
    word(a, 0);
}

void aml_resources_end(struct aml *a)
{
    const uint8_t end_tag[] = {0x79, 0}; // checksum 0: not used
    aml_bytes(a, end_tag, sizeof end_tag);
    if (a->overflow)
        return;
    size_t at = a->open[a->depth - 1];
    uint16_t size = a->size - at - 3;
    memcpy(a->data + at + 1, &size, sizeof size);
    aml_close(a);
}

void aml_io(struct aml *a, uint16_t port, uint8_t size)
{
    aml_byte(a, 0x47);
    aml_byte(a, 1); // decodes 16 bits
    word(a, port);
    word(a, port);
    aml_byte(a, 1);
    aml_byte(a, size);
}

void aml_irq(struct aml *a, unsigned irq)
{
    aml_byte(a, 0x22);
    word(a, 1u << irq);
}

static void interrupt(struct aml *a, uint32_t gsi, uint8_t flags)
{
    aml_byte(a, 0x89);
    word(a, 6);
    aml_byte(a, flags);
    aml_byte(a, 1);
    dword(a, gsi);
}

void aml_interrupt(struct aml *a, uint32_t gsi)
{
    interrupt(a, gsi, 1 | 1 << 3); // consumer; shared
}

void aml_event(struct aml *a, uint32_t gsi)
{
    interrupt(a, gsi, 1 | 1 << 1); // consumer; edge
}

void aml_memory32(struct aml *a, uint32_t base, uint32_t size)
{
    aml_byte(a, 0x86);
    word(a, 9);
    aml_byte(a, 1);
    dword(a, base);
    dword(a, size);
}

enum { MIN_AND_MAX_FIXED = 0xc };

static void word_range(struct aml *a, uint8_t type, uint8_t flags, uint16_t first, uint16_t last)
{
    aml_byte(a, 0x88);
    word(a, 13);
    aml_byte(a, type);
    aml_byte(a, MIN_AND_MAX_FIXED);
    aml_byte(a, flags);
    word(a, 0); // granularity
    word(a, first);
    word(a, last);
    word(a, 0); // translation
    word(a, last - first + 1);
}

void aml_window_bus(struct aml *a, uint16_t first, uint16_t last)
{
    word_range(a, 2, 0, first, last);
}

void aml_window_io(struct aml *a, uint16_t first, uint16_t last)
{
    word_range(a, 1, 3, first, last); // the entire range
}

void aml_window_memory(struct aml *a, uint64_t base, uint64_t size)
{
    uint64_t last = base + size - 1;
    bool wide = last > 0xffffffff;
    aml_byte(a, wide ? 0x8a : 0x87);
    word(a, wide ? 43 : 23);
    aml_byte(a, 0);
    aml_byte(a, MIN_AND_MAX_FIXED);
    aml_byte(a, 1); // writable, not cacheable
    const uint64_t numbers[] = {0, base, last, 0, size};
    for (unsigned i = 0; i < 5; i++) {
        if (wide)
            qword(a, numbers[i]);
        else
            dword(a, numbers[i]);
    }
}
