// Writes AML, the byte code of ACPI (ACPI 6.4, chapter 20), and resource templates (6.4).
//
// Things that have a length (devices, methods, packages, buffers) are opened and closed; the length is filled in at the
// close. Errors (too long, too deep) are remembered: look at `overflow` once, at the end.
//
// Example: Device (COM1) { Name (_UID, One) } is
//     aml_device(a, "COM1"); aml_name(a, "_UID"); aml_int(a, 1); aml_close(a);
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { AML_DEPTH = 8 };

struct aml {
    uint8_t *data; // the caller's
    size_t size, capacity;
    bool overflow;
    unsigned depth;
    size_t open[AML_DEPTH]; // where the package length of each open thing belongs
};

void aml_bytes(struct aml *a, const void *data, size_t size);
void aml_byte(struct aml *a, uint8_t v);

// Terms. Names are paths: "\\_SB.PCI0", "COM1"; short segments are filled up with '_'.
void aml_path(struct aml *a, const char *path);
void aml_int(struct aml *a, uint64_t v);
void aml_string(struct aml *a, const char *s);
void aml_eisa_id(struct aml *a, const char *id); // "PNP0501"
void aml_name(struct aml *a, const char *path);  // Name (path, ...): the value follows

// These open; aml_close ends the innermost.
void aml_scope(struct aml *a, const char *path);
void aml_device(struct aml *a, const char *name);
void aml_method(struct aml *a, const char *path, unsigned args);
void aml_package(struct aml *a, uint8_t elements);
void aml_if(struct aml *a); // the condition follows, then the body
void aml_close(struct aml *a);

// Expressions.
enum { AML_ARG0 = 0x68, AML_STORE = 0x70, AML_NOTIFY = 0x86, AML_RETURN = 0xa4 };

// A resource template, as in Name (_CRS, ResourceTemplate () {...}). Ranges are all consumed by the device itself,
// but aml_window_*, which a bridge hands on to what is behind it.
void aml_resources(struct aml *a);
void aml_resources_end(struct aml *a);
void aml_io(struct aml *a, uint16_t port, uint8_t size);
void aml_irq(struct aml *a, unsigned irq);                      // ISA: edge, active high, exclusive
void aml_interrupt(struct aml *a, uint32_t gsi);                // level, active high, shared
void aml_event(struct aml *a, uint32_t gsi);                    // edge, active high, exclusive
void aml_memory32(struct aml *a, uint32_t base, uint32_t size); // writable
void aml_window_bus(struct aml *a, uint16_t first, uint16_t last);
void aml_window_io(struct aml *a, uint16_t first, uint16_t last);
void aml_window_memory(struct aml *a, uint64_t base, uint64_t size); // not cacheable, writable
