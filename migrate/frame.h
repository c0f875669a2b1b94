// The messages of a migration: how one is framed in a stream of bytes.
//
// A message is a header of FRAME_HEADER bytes and a payload. The header, little-endian: type (2 bytes), zero (2),
// length of the payload (4), sequence number (4), zero (4), checksum (8). Each direction counts its messages from 0, so
// one that is lost, doubled or out of order is seen; the checksum is XXH3 of the header's first 16 bytes, as seed, and
// the payload. It finds accidents; who must not read or change a stream is kept out by TLS. Each type has a largest
// length, so that a peer can't make us allocate more.
//
// docs/MIGRATION.md lists the messages and what they hold.
//
// Example:
//     frame_encode(header, MESSAGE_ROUND, sequence++, payload, 8);
//     frame_decode(&f, header, expected_sequence, &err); ...read f.length bytes... frame_check(&f, payload, &err);
#pragma once
#include "report/error.h"
#include <stddef.h>
#include <stdint.h>

enum { FRAME_HEADER = 24 };

enum message_type {
    // From the source.
    MESSAGE_HELLO = 1,  // version, and JSON that tells what is coming (hello.h)
    MESSAGE_FILE = 2,   // a piece of a file: kernel, initial RAM disk
    MESSAGE_PAGES = 3,  // pages of memory (pages.h)
    MESSAGE_ZEROS = 4,  // ranges of memory that became zero
    MESSAGE_ROUND = 5,  // end of a round: asks for MESSAGE_ROUND_DONE with the same 8 bytes
    MESSAGE_DISK = 6,   // a piece of a disk
    MESSAGE_STATE = 7,  // state of CPUs and devices (vm/save.h); all memory and disks have been sent
    MESSAGE_COMMIT = 8, // the machine is the receiver's
    MESSAGE_CANCEL = 9, // the source keeps the machine; the reason as text
    // From the receiver.
    MESSAGE_WELCOME = 65, // JSON
    MESSAGE_ROUND_DONE = 66,
    MESSAGE_READY = 67,   // the machine is complete and could start
    MESSAGE_STARTED = 68, // it runs
    MESSAGE_REFUSED = 69, // the receiver gives up; the reason as text
};

// The largest payload of a type; -1: there is no such type.
int64_t frame_limit(unsigned type);
const char *frame_name(unsigned type); // for messages to people

struct frame {
    unsigned type;
    uint32_t length;
    uint32_t sequence;
    uint64_t checksum, seed;
};

void frame_encode(uint8_t header[FRAME_HEADER], unsigned type, uint32_t sequence, const void *payload, size_t length);
// -EPROTO: no message, none of ours, too long, or not the one that is due.
int frame_decode(struct frame *f, const uint8_t header[FRAME_HEADER], uint32_t sequence, struct error *err);
// -EPROTO: the payload is not what was sent.
int frame_check(const struct frame *f, const void *payload, struct error *err);

// Little-endian numbers in payloads.
void put_u32(void *at, uint32_t v);
void put_u64(void *at, uint64_t v);
uint32_t get_u32(const void *at);
uint64_t get_u64(const void *at);
