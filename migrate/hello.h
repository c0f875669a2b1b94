// The first messages of a migration: what is coming, and whether it is welcome.
//
// HELLO's payload is HELLO_MAGIC, the protocol's version (4 bytes) and JSON:
//     {"id": ..., "owner": "/path/of/the/file (owner.h)", "memory": 1073741824, "paused": false,
//      "writable": 1, "machine": "...", "files": [{"name": "kernel", "bytes": 9000000}], "disks": [{"index": 0,
//      "bytes": 4294967296}]}
// "machine" is what the machine is made of, as text that this room does not look into (snapshot/manifest.h). WELCOME's
// payload is JSON: {"owner": true} if the receiver sees the same file.
//
// Example: hello_write(&h, &text); ... hello_read(&h, m.data, m.size, &err); hello_free(&h);
#pragma once
#include "migrate/owner.h"
#include "report/error.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { HELLO_VERSION = 1, HELLO_FILES = 4, HELLO_DISKS = 24 };
#define HELLO_MAGIC "TRAPEZE-MIGRATE\n" // 16 bytes

struct hello_file {
    char name[16];
    uint64_t bytes;
};

struct hello_disk {
    unsigned index; // of the machine's disks
    uint64_t bytes;
};

struct hello {
    char id[OWNER_ID + 1];
    char *owner; // path
    uint64_t memory;
    bool paused;       // by a user: it stays so
    uint32_t writable; // bit n: the machine writes to its disk n
    char *machine;
    unsigned files, disks;
    struct hello_file file[HELLO_FILES];
    struct hello_disk disk[HELLO_DISKS];
};

// A message with FRAME_HEADER bytes of room before it, to free(); *size is the payload's. NULL: no memory.
uint8_t *hello_write(const struct hello *h, size_t *size);
// -EPROTO, -ENOTSUP: a newer version. Nothing is left to free then.
int hello_read(struct hello *h, const void *payload, size_t size, struct error *err);
void hello_free(struct hello *h);
