// Networks: who is on them, and where a frame goes. switch.h tells the rules.
#include "host/clock.h"
#include "switch/parts.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { NS_PER_S = 1000000000 };

struct lan_network *network_get(struct lan_switch *s, const char *name)
{
    struct lan_network **link = &s->networks;
    while (*link && strcmp((*link)->name, name))
        link = &(*link)->next;
    if (*link)
        return *link;
    struct lan_network *n = calloc(1, sizeof *n);
    if (!n)
        return NULL;
    n->owner = s;
    strcpy(n->name, name); // its length was checked: switch_name_good
    table_init(&n->table);
    *link = n;
    return n;
}

static void add(struct lan_network *n, struct lan_port *p)
{
    p->network = n;
    p->next_here = n->ports;
    p->link_here = &n->ports;
    if (n->ports)
        n->ports->link_here = &p->next_here;
    n->ports = p;
}

static void drop_if_empty(struct lan_network *n)
{
    if (n->count)
        return;
    if (n->uplink)
        port_end(n->uplink);
    table_free(&n->table);
    struct lan_network **link = &n->owner->networks;
    while (*link != n)
        link = &(*link)->next;
    *link = n->next;
    free(n);
}

// The uplink that the switch's user gave this network, or that its first port wishes for.
static int plug_uplink(struct lan_network *n, bool user, struct error *err)
{
    const struct lan_switch_options *o = &n->owner->o;
    struct lan_uplink_rule rule = {n->name, user ? LAN_UPLINK_USER : LAN_UPLINK_UNSAID, NULL};
    for (unsigned i = 0; i < o->uplinks; i++)
        if (!strcmp(o->uplink[i].network, n->name))
            rule = o->uplink[i];
    if (n->uplink || rule.kind == LAN_UPLINK_UNSAID || rule.kind == LAN_UPLINK_NONE)
        return 0;
    struct lan_port *p = port_new(n->owner, -1);
    if (!p)
        return error_set(err, ENOMEM, "out of memory");
    p->any_mac = true;
    strcpy(p->name, "uplink");
    int e = uplink_open(n, &rule, o->mtu, p, &p->uplink, err);
    if (e) {
        port_end(p);
        return e;
    }
    n->uplink = p;
    n->uplink_kind = rule.kind;
    add(n, p);
    return 0;
}

int network_join(struct lan_network *n, struct lan_port *p, bool user, struct error *err)
{
    int e = plug_uplink(n, user, err);
    if (!e && !p->any_mac && !table_announce(&n->table, p->mac, p))
        e = error_set(err, EADDRINUSE, "%02x:%02x:%02x:%02x:%02x:%02x is there already (mac= or --name gives another)",
                      p->mac[0], p->mac[1], p->mac[2], p->mac[3], p->mac[4], p->mac[5]);
    if (e) {
        drop_if_empty(n);
        return e;
    }
    add(n, p);
    n->count++;
    return 0;
}

void network_leave(struct lan_port *p)
{
    struct lan_network *n = p->network;
    if (!n)
        return;
    *p->link_here = p->next_here;
    if (p->next_here)
        p->next_here->link_here = p->link_here;
    p->network = NULL;
    table_remove_port(&n->table, p);
    if (n->uplink == p)
        return;
    n->count--;
    drop_if_empty(n);
}

// Whether a header says something that can be done.
static bool sensible(const struct net_header *h, size_t size)
{
    bool csum = h->flags & NET_HEADER_NEEDS_CSUM;
    if (csum && (size_t)h->csum_start + h->csum_offset + 2 > size)
        return false;
    if (h->gso_type == NET_GSO_NONE)
        return true;
    return csum && h->gso_size && (h->gso_type == NET_GSO_TCPV4 || h->gso_type == NET_GSO_TCPV6);
}

void network_frame(struct lan_port *from, const struct net_message *m)
{
    struct lan_network *n = from->network;
    const uint8_t *to = m->data, *source = m->data + 6;
    uint64_t now_s = host_monotonic_ns() / NS_PER_S;
    if (m->size < NET_ETHERNET || m->size > NET_FRAME_MAX)
        return;
    if ((source[0] & 1) || !sensible(&m->header, m->size) || (!from->any_mac && memcmp(source, from->mac, 6))) {
        from->refused++;
        return;
    }
    from->rx_frames++;
    from->rx_bytes += m->size;
    if (from->any_mac) {
        // Nobody takes the address of a port that announced it.
        struct lan_port *known = table_find(&n->table, source, now_s);
        if (known && known != from && !known->any_mac) {
            from->refused++;
            return;
        }
        table_learn(&n->table, source, from, &from->learnt, now_s);
    }
    struct lan_port *one = to[0] & 1 ? NULL : table_find(&n->table, to, now_s);
    if (one) {
        if (one != from)
            port_send(one, &m->header, m->data, m->size);
        return;
    }
    for (struct lan_port *p = n->ports, *next; p; p = next) {
        next = p->next_here;
        if (p != from && ((to[0] & 1) || p->any_mac))
            port_send(p, &m->header, m->data, m->size);
    }
}
