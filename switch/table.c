// Addresses and ports: see table.h. Chained hashing; entries that have aged go when their chain is walked to learn.
#include "switch/table.h"
#include "host/random.h"
#include <stdlib.h>
#include <string.h>

struct table_entry {
    struct table_entry *next;
    uint8_t mac[6];
    bool announced;
    void *port;
    unsigned *learnt; // the port's counter; NULL if announced
    uint64_t seen_s;
};

void table_init(struct table *t)
{
    memset(t, 0, sizeof *t);
    host_random(&t->key, sizeof t->key);
}

static struct table_entry **bucket_of(const struct table *t, const uint8_t mac[6])
{
    uint64_t h = 0;
    memcpy(&h, mac, 6);
    h = (h ^ t->key) * 0x9e3779b97f4a7c15; // Fibonacci hashing; the top bits depend on all others
    h ^= h >> 32;
    h *= t->key | 1;
    return (struct table_entry **)&t->bucket[(h >> 32) % TABLE_BUCKETS];
}

static bool aged(const struct table_entry *e, uint64_t now_s)
{
    return !e->announced && now_s - e->seen_s >= TABLE_AGE_S;
}

static void drop(struct table *t, struct table_entry **link)
{
    struct table_entry *e = *link;
    *link = e->next;
    t->entries--;
    if (e->learnt)
        --*e->learnt;
    free(e);
}

static struct table_entry *find(const struct table *t, const uint8_t mac[6])
{
    struct table_entry *e = *bucket_of(t, mac);
    while (e && memcmp(e->mac, mac, 6))
        e = e->next;
    return e;
}

void *table_find(const struct table *t, const uint8_t mac[6], uint64_t now_s)
{
    const struct table_entry *e = find(t, mac);
    return e && !aged(e, now_s) ? e->port : NULL;
}

static struct table_entry *add(struct table *t, const uint8_t mac[6], void *port)
{
    struct table_entry **bucket = bucket_of(t, mac), *e = calloc(1, sizeof *e);
    if (!e)
        return NULL;
    memcpy(e->mac, mac, 6);
    e->port = port;
    e->next = *bucket;
    *bucket = e;
    t->entries++;
    return e;
}

bool table_announce(struct table *t, const uint8_t mac[6], void *port)
{
    struct table_entry **link = bucket_of(t, mac);
    while (*link && memcmp((*link)->mac, mac, 6))
        link = &(*link)->next;
    if (*link && (*link)->announced)
        return false;
    if (*link)
        drop(t, link);
    struct table_entry *e = add(t, mac, port);
    if (e)
        e->announced = true;
    return e;
}

void table_learn(struct table *t, const uint8_t mac[6], void *port, unsigned *learnt, uint64_t now_s)
{
    struct table_entry **link = bucket_of(t, mac);
    while (*link) {
        struct table_entry *e = *link;
        bool same = !memcmp(e->mac, mac, 6);
        if (same && (e->announced || e->port == port)) {
            e->seen_s = now_s;
            return;
        }
        if (same || aged(e, now_s)) // it has moved; or nobody needs it any more
            drop(t, link);
        else
            link = &e->next;
    }
    if (t->entries >= TABLE_MAX || *learnt >= TABLE_LEARNT_MAX)
        return;
    struct table_entry *e = add(t, mac, port);
    if (!e)
        return;
    e->learnt = learnt;
    e->seen_s = now_s;
    ++*learnt;
}

static void drop_where(struct table *t, const void *port) // NULL: everywhere
{
    for (unsigned i = 0; i < TABLE_BUCKETS; i++)
        for (struct table_entry **link = &t->bucket[i]; *link;) {
            if (!port || (*link)->port == port)
                drop(t, link);
            else
                link = &(*link)->next;
        }
}

void table_remove_port(struct table *t, const void *port)
{
    drop_where(t, port);
}

void table_free(struct table *t)
{
    drop_where(t, NULL);
}
