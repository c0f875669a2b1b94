// Where the file systems of a disk are: GPT (UEFI 2.10, 5.3), MBR with logical partitions, or none at all.
//
// Example: struct partition_table t; partitions_read(&reader, &t, &err); for (i < t.count) ... t.part[i].offset
#pragma once
#include "image/reader.h"
#include <stdbool.h>

enum { PARTITIONS_MAX = 128 };

struct partition {
    unsigned number;         // as in /dev/vda1; 0: the disk itself, which has no table
    uint64_t offset, length; // bytes, within the disk
    bool gpt;
    uint8_t type[16], guid[16]; // GPT: as they are in the table
    uint32_t signature;         // MBR: the disk's
    uint8_t mbr_type;
};

struct partition_table {
    unsigned count;
    struct partition part[PARTITIONS_MAX];
};

// Empty, overlapping-the-end and unreadable entries are left out. A disk without a table is one partition. Ends for
// any content: a chain of logical partitions is followed PARTITIONS_MAX steps at most. Fails only if the disk can't be
// read.
int partitions_read(struct reader *r, struct partition_table *t, struct error *err);

enum { PARTITION_ID = 48 };
// What Linux calls the partition in root=PARTUUID=...; empty for a whole disk.
void partition_id(const struct partition *p, char id[PARTITION_ID]);
// Whether its GPT type says that it is the root of an x86-64 Linux (the Discoverable Partitions Specification).
bool partition_is_root(const struct partition *p);
// A GUID as text: its first three fields are little-endian. Gets 37 bytes.
void guid_text(const uint8_t guid[16], char text[37]);
