// Which port an Ethernet address was last seen at: a table of bounded size whose entries age.
//
// Addresses that a port announced stay until they are removed; those that were learnt are good for TABLE_AGE_S seconds.
// When a port has TABLE_LEARNT_MAX of them, or the table TABLE_MAX, no more are learnt: frames for the rest go to all
// ports that might have them, as in any switch. Hashes have a secret key, so that nobody can choose addresses that
// meet.
#pragma once
#include <stdbool.h>
#include <stdint.h>

enum { TABLE_MAX = 4096, TABLE_LEARNT_MAX = 512, TABLE_AGE_S = 300, TABLE_BUCKETS = 1024 };

struct table_entry;

struct table {
    struct table_entry *bucket[TABLE_BUCKETS];
    unsigned entries;
    uint64_t key;
};

void table_init(struct table *t);
void table_free(struct table *t);
void *table_find(const struct table *t, const uint8_t mac[6], uint64_t now_s); // the port; NULL: nobody knows
// Announces: false if somebody else has announced it already, or there is no memory. What was learnt gives way.
bool table_announce(struct table *t, const uint8_t mac[6], void *port);
// Learns; *learnt counts the port's entries and is kept up to date as they go.
void table_learn(struct table *t, const uint8_t mac[6], void *port, unsigned *learnt, uint64_t now_s);
void table_remove_port(struct table *t, const void *port); // all that it has
