// Rates: see rate.h. No rounding adds up: what a division leaves is carried on to the next.
//
// Example: 3 a second, each takes 333333333 ns and 1/3, and every third one 333333334.
#include "backend/rate.h"

enum { NS_PER_MS = 1000000, NS_PER_S = 1000000000 };

void rate_init(struct rate *r, uint64_t per_second, uint32_t burst_ms)
{
    *r = (struct rate){.per_second = per_second,
                       .burst_ns = (uint64_t)(burst_ms ? burst_ms : RATE_BURST_MS) * NS_PER_MS};
}

uint64_t rate_ready(const struct rate *r, uint64_t now_ns)
{
    if (!r->per_second || r->paid_ns <= r->burst_ns)
        return now_ns;
    uint64_t ready = r->paid_ns - r->burst_ns;
    return ready > now_ns ? ready : now_ns;
}

void rate_take(struct rate *r, uint64_t now_ns, uint64_t amount)
{
    if (!r->per_second)
        return;
    if (r->paid_ns < now_ns) { // what was not used is lost, beyond the burst
        r->paid_ns = now_ns;
        r->rest = 0;
    }
    unsigned __int128 due = (unsigned __int128)amount * NS_PER_S + r->rest;
    unsigned __int128 paid = r->paid_ns + due / r->per_second;
    r->rest = (uint64_t)(due % r->per_second);
    r->paid_ns = paid > UINT64_MAX ? UINT64_MAX : (uint64_t)paid;
}

void rate_pair_init(struct rate_pair *p, const struct rate_limits *l)
{
    rate_init(&p->operations, l->operations, l->burst_ms);
    rate_init(&p->bytes, l->bytes, l->burst_ms);
}

uint64_t rate_pair_ready(const struct rate_pair *p, uint64_t now_ns)
{
    uint64_t a = rate_ready(&p->operations, now_ns), b = rate_ready(&p->bytes, now_ns);
    return a > b ? a : b;
}

void rate_pair_take(struct rate_pair *p, uint64_t now_ns, uint64_t operations, uint64_t bytes)
{
    rate_take(&p->operations, now_ns, operations);
    rate_take(&p->bytes, now_ns, bytes);
}
