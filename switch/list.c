// The list that `trapeze switch ls` shows: lines of fields, switch_messages.h says which.
#include "host/clock.h"
#include "switch/parts.h"
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

enum { NS_PER_S = 1000000000 };

static void line(struct lan_port *to, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void line(struct lan_port *to, const char *fmt, ...)
{
    char text[512] = {SWITCH_LINE};
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text + 1, sizeof text - 1, fmt, ap);
    va_end(ap);
    if (n > 0 && !to->dead)
        port_tell(to, text, 1 + ((size_t)n < sizeof text - 1 ? (size_t)n : sizeof text - 2));
}

static void tell_port(struct lan_port *to, const struct lan_network *n, const struct lan_port *p)
{
    const uint8_t *m = p->mac;
    line(to,
         "port\t%s\t%s\t%02x:%02x:%02x:%02x:%02x:%02x\t%" PRIu64 "\t%" PRIu64 "\t%" PRIu64 "\t%" PRIu64 "\t%" PRIu64
         "\t%" PRIu64,
         n->name, p->name, m[0], m[1], m[2], m[3], m[4], m[5], p->rx_frames, p->rx_bytes, p->tx_frames, p->tx_bytes,
         p->stream.dropped, p->refused);
}

void list_tell(struct lan_switch *s, struct lan_port *to)
{
    static const char *const kinds[] = {
        [LAN_UPLINK_UNSAID] = "none", [LAN_UPLINK_NONE] = "none", [LAN_UPLINK_USER] = "user", [LAN_UPLINK_TAP] = "tap"};
    line(to, "switch\t%d\t%.110s\t%" PRIu64, (int)getpid(), s->o.socket,
         (host_monotonic_ns() - s->started_ns) / NS_PER_S);
    for (const struct lan_network *n = s->networks; n; n = n->next) {
        line(to, "network\t%s\t%s\t%u", n->name, kinds[n->uplink_kind], n->count);
        for (const struct lan_port *p = n->ports; p; p = p->next_here)
            if (p != n->uplink)
                tell_port(to, n, p);
    }
}
