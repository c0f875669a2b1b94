// See network.h.
#include "prog/option/network.h"
#include "prog/option/limits.h"
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// A decimal number of `length` characters from `least` to `most`; 0 if it is none.
static unsigned number(const char *s, size_t length, unsigned least, unsigned most)
{
    unsigned n = 0;
    if (!length || length > 5 || strspn(s, "0123456789") < length)
        return 0;
    for (size_t i = 0; i < length; i++)
        n = 10 * n + (unsigned)(s[i] - '0');
    return n >= least && n <= most ? n : 0;
}

static bool take_mac(uint8_t mac[6], const char *v)
{
    static const char digits[] = "0123456789abcdef";
    if (strlen(v) != 17)
        return false;
    for (unsigned i = 0; i < 17; i++) {
        const char *digit = strchr(digits, v[i] | 0x20); // lower case
        if (i % 3 == 2 ? v[i] != ':' : !digit || !*digit)
            return false;
        if (i % 3 < 2)
            mac[i / 3] = (uint8_t)(mac[i / 3] << 4 | (digit - digits));
    }
    return !(mac[0] & 1); // no group's
}

static int take_kind(struct network_option *o, char *v, struct error *err)
{
    char *where = strchr(v, ':');
    size_t length = where ? (size_t)(where - v) : strlen(v);
    static const char *const names[] = {
        [NETWORK_USER] = "user", [NETWORK_TAP] = "tap", [NETWORK_SOCKET] = "socket", [NETWORK_SWITCH] = "switch"};
    for (unsigned k = 0; k < sizeof names / sizeof *names; k++)
        if (strlen(names[k]) == length && !memcmp(names[k], v, length)) {
            o->kind = (enum network_kind)k;
            o->where = where ? where + 1 : NULL;
            char *at = where && k == NETWORK_SWITCH ? strchr(where, '@') : NULL;
            if (at) {
                *at = 0;
                o->socket = at + 1;
            }
            // Each kind has its own opinion about what may follow.
            bool given = o->where && *o->where;
            if (k == NETWORK_USER ? !where : k == NETWORK_TAP ? given || !where : given)
                return 0;
        }
    return error_set(err, EINVAL, "--net %.80s: must be user, tap, tap:NAME, socket:PATH, switch:NETWORK or none", v);
}

int network_take(struct network_option *o, char *v, struct error *err)
{
    *o = (struct network_option){0};
    char *next = strchr(v, ',');
    if (next)
        *next++ = 0;
    int e = take_kind(o, v, err);
    while (next && !e) {
        char *word = next;
        next = strchr(word, ',');
        if (next)
            *next++ = 0;
        char who[80];
        snprintf(who, sizeof who, "--net %.60s", v);
        int limit = limits_take(&o->limits, "pps", word, who, err);
        if (limit) {
            e = limit < 0 ? limit : 0;
        } else if (!strncmp(word, "mac=", 4)) {
            o->has_mac = take_mac(o->mac, word + 4);
            if (!o->has_mac)
                e = error_set(err, EINVAL, "--net %.60s: %.40s: must be like 02:00:00:12:34:56, and no group's address",
                              v, word);
        } else if (!strncmp(word, "mtu=", 4)) {
            o->mtu = (uint16_t)number(word + 4, strlen(word + 4), NET_MTU_MIN, NET_MTU_MAX);
            if (!o->mtu)
                e = error_set(err, EINVAL, "--net %.60s: %.40s: must be a number from %d to %d", v, word, NET_MTU_MIN,
                              NET_MTU_MAX);
        } else if (o->kind == NETWORK_SWITCH && !strcmp(word, "uplink=user")) {
            o->uplink_user = true;
        } else if (o->kind == NETWORK_SWITCH && !strcmp(word, "any-mac")) {
            o->any_mac = true;
        } else {
            e = error_set(err, EINVAL, "--net %.60s: %.40s: unknown; there are: mac=MAC, mtu=N, pps=N, bps=N, burst=MS",
                          v, word);
        }
    }
    return e;
}

int network_take_publish(struct net_publish *p, const char *v, struct error *err)
{
    *p = (struct net_publish){.text = v, .address = {htonl(INADDR_LOOPBACK)}};
    size_t length = strcspn(v, "/");
    const char *guest = memrchr(v, ':', length);
    const char *host = guest ? memrchr(v, ':', (size_t)(guest - v)) : NULL;
    bool good = guest && (!v[length] || !strcmp(v + length, "/udp") || !strcmp(v + length, "/tcp"));
    p->udp = !strcmp(v + length, "/udp");
    if (good && host) {
        char address[INET_ADDRSTRLEN] = "";
        good = (size_t)(host - v) < sizeof address;
        memcpy(address, v, good ? (size_t)(host - v) : 0);
        good = good && inet_pton(AF_INET, address, &p->address) == 1;
    }
    if (good) {
        host = host ? host + 1 : v;
        p->host = (uint16_t)number(host, (size_t)(guest - host), 1, 65535);
        p->guest = (uint16_t)number(guest + 1, (size_t)(v + length - guest - 1), 1, 65535);
    }
    if (!good || !p->host || !p->guest)
        return error_set(err, EINVAL,
                         "--publish %.80s: must be [ADDRESS:]HOST:GUEST, with IPv4 address and ports, and /udp if so",
                         v);
    return 0;
}

void network_mac(const char *machine, unsigned n, uint8_t mac[6])
{
    uint64_t hash = 0xcbf29ce484222325; // FNV-1a
    for (const char *c = machine; *c; c++)
        hash = (hash ^ (uint8_t)*c) * 0x100000001b3;
    hash = (hash ^ (n + 256)) * 0x100000001b3;
    hash ^= hash >> 29; // what the low bits lack
    for (unsigned i = 0; i < 6; i++)
        mac[i] = (uint8_t)(hash >> 8 * i);
    mac[0] = (uint8_t)((mac[0] & 0xfc) | 2); // one card's, locally administered
}
