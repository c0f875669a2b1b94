// A limit on how much may happen per second: arithmetic only, told the time by whoever asks.
//
// The bucket holds `burst_ns` worth of the rate. It is kept as one number, the time at which what was taken is paid for
// (`paid_ns`): something may go while that is no further ahead than the burst. What goes is taken whole, so one thing
// that is larger than the bucket goes too, and those after it wait longer.
//
//     100 a second, burst 20 ms.  now 1000 ms: the first goes (paid at 1010), the second too (1020), the third (1030);
//     then rate_ready() says 1010: the fourth may go 10 ms later
//
// Used for requests and bytes of disks (disk_limit.c) and packets and bytes of networks (net_limit.c).
#pragma once
#include <stdint.h>

enum { RATE_BURST_MS = 100, RATE_BURST_MS_MAX = 60000 };

struct rate {
    uint64_t per_second; // 0: no limit
    uint64_t burst_ns;
    uint64_t paid_ns;
    uint64_t rest; // of the last division: what paid_ns lacks, in units of ns / per_second
};

// What a user may say of a disk or a network card.
struct rate_limits {
    uint64_t operations, bytes; // per second; 0: no limit
    uint32_t burst_ms;          // 0: RATE_BURST_MS
};

void rate_init(struct rate *r, uint64_t per_second, uint32_t burst_ms);
// When the next thing may go: at once if that is not after now_ns.
uint64_t rate_ready(const struct rate *r, uint64_t now_ns);
void rate_take(struct rate *r, uint64_t now_ns, uint64_t amount);

// Two rates that something has to keep at once.
struct rate_pair {
    struct rate operations, bytes;
};

void rate_pair_init(struct rate_pair *p, const struct rate_limits *l);
uint64_t rate_pair_ready(const struct rate_pair *p, uint64_t now_ns);
void rate_pair_take(struct rate_pair *p, uint64_t now_ns, uint64_t operations, uint64_t bytes);
