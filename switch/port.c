// Ports: connections, what comes from them, and what goes to them.
//
// A port that fails is only marked (port_end) and freed by port_sweep, so that whoever walks a list of ports, or the
// messages of this one, need not look out for that.
#include "backend/net_checksum.h"
#include "switch/parts.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SOCKET_BUFFER = 1 << 20 }; // what we would like; the kernel gives what it allows

void port_end(struct lan_port *p)
{
    struct lan_switch *s = p->owner;
    if (p->dead)
        return;
    p->dead = true;
    network_leave(p);
    *p->link = p->next;
    if (p->next)
        p->next->link = p->link;
    s->count -= p->source != NULL;
    p->next = s->dead;
    s->dead = p;
}

static void touch(struct lan_port *p)
{
    if (p->touched)
        return;
    p->touched = true;
    p->next_touched = p->owner->touched;
    p->owner->touched = p;
}

static void flush(struct lan_port *p)
{
    if (!p->source)
        return;
    if (!p->dead && net_stream_flush(&p->stream))
        port_end(p);
    bool writing = !p->dead && net_stream_waits(&p->stream);
    if (writing != p->writing) {
        p->writing = writing;
        loop_fd_events(p->source, LOOP_READ | (writing ? LOOP_WRITE : 0));
    }
}

void port_sweep(struct lan_switch *s)
{
    while (s->touched) {
        struct lan_port *p = s->touched;
        s->touched = p->next_touched;
        p->touched = false;
        flush(p);
    }
    while (s->dead) {
        struct lan_port *p = s->dead;
        s->dead = p->next;
        if (p->uplink)
            uplink_close(p->uplink);
        if (p->source) {
            loop_remove(p->source);
            close(p->stream.fd);
        }
        net_stream_free(&p->stream);
        free(p);
    }
}

void port_tell(struct lan_port *p, const void *control, size_t size)
{
    net_stream_put(&p->stream, NET_MESSAGE_CONTROL, NULL, control, size);
    flush(p); // at once: the message may be gone when the caller returns
}

static void put(struct lan_port *p, const struct net_header *h, const uint8_t *frame, size_t size)
{
    if (p->uplink) {
        bool sent = uplink_send(p->uplink, h, frame, size);
        p->stream.dropped += !sent;
        if (!sent)
            return;
    } else if (!net_stream_put(&p->stream, p->plain ? NET_MESSAGE_FRAME : NET_MESSAGE_HEADED, h, frame, size))
        return; // dropped and counted
    p->tx_frames++;
    p->tx_bytes += size;
}

// A frame in the switch's work space: it is used again for the next one, so this one goes, or is copied, at once.
static void put_changed(void *ctx, const uint8_t *frame, size_t size)
{
    struct lan_port *p = ctx;
    const struct net_header h = {0};
    if (p->dead)
        return;
    put(p, &h, frame, size);
    flush(p);
}

void port_send(struct lan_port *p, const struct net_header *h, const uint8_t *frame, size_t size)
{
    struct lan_switch *s = p->owner;
    if (p->dead)
        return;
    unsigned needs = (h->flags & NET_HEADER_NEEDS_CSUM ? NET_CSUM : 0u) | (h->gso_type == NET_GSO_TCPV4   ? NET_TSO4
                                                                           : h->gso_type == NET_GSO_TCPV6 ? NET_TSO6
                                                                                                          : 0u);
    if (!(needs & ~p->offloads)) {
        put(p, h, frame, size);
        if (p->source)
            touch(p);
    } else if (h->gso_type != NET_GSO_NONE) {
        net_cut_segments(h, frame, size, s->frame, put_changed, p);
    } else {
        memcpy(s->frame, frame, size);
        net_complete_checksum(h, s->frame, size);
        put_changed(p, s->frame, size);
    }
}

static void refuse(struct lan_port *p, const char *why)
{
    struct switch_answer a = {.type = SWITCH_ANSWER, .refused = 1};
    snprintf(a.text, sizeof a.text, "%.*s", (int)sizeof a.text - 1, why);
    port_tell(p, &a, sizeof a);
    port_end(p);
}

static void on_hello(struct lan_port *p, const struct net_message *m)
{
    struct lan_switch *s = p->owner;
    struct switch_hello h;
    if (p->network || m->size != sizeof h) {
        port_end(p);
        return;
    }
    memcpy(&h, m->data, sizeof h);
    h.network[SWITCH_NAME_MAX] = h.name[SWITCH_NAME_MAX] = 0;
    if (memcmp(h.magic, SWITCH_MAGIC, sizeof h.magic) || h.version != SWITCH_VERSION) {
        refuse(p, "it is of another version");
        return;
    }
    struct switch_answer a = {.type = SWITCH_ANSWER, .mtu = s->o.mtu};
    if (h.want == SWITCH_WANT_LIST) {
        list_tell(s, p);
        port_tell(p, &a, sizeof a);
        return;
    }
    if (!switch_name_good(h.network) || !switch_name_good(h.name) || (h.mac[0] & 1)) {
        refuse(p, "a name or address that none can have");
        return;
    }
    struct error err;
    struct lan_network *n = network_get(s, h.network);
    memcpy(p->mac, h.mac, 6);
    p->any_mac = h.flags & SWITCH_ANY_MAC;
    strcpy(p->name, h.name);
    if (!n)
        refuse(p, "out of memory");
    else if (network_join(n, p, h.flags & SWITCH_UPLINK_USER, &err))
        refuse(p, err.text);
    else
        port_tell(p, &a, sizeof a);
}

// One that speaks first with a frame: a port without a name whose address is the first that it sends from.
static void greet_plain(struct lan_port *p, const struct net_message *m)
{
    struct lan_network *n = m->size >= NET_ETHERNET && !(m->data[6] & 1) ? network_get(p->owner, "default") : NULL;
    struct error err;
    p->plain = true;
    strcpy(p->name, "plain");
    if (n)
        memcpy(p->mac, m->data + 6, 6);
    if (!n || network_join(n, p, false, &err))
        port_end(p);
}

static void on_message(struct lan_port *p, const struct net_message *m)
{
    if (m->kind == NET_MESSAGE_CONTROL) {
        if (p->plain || !m->size)
            port_end(p);
        else if (m->data[0] == SWITCH_HELLO)
            on_hello(p, m);
        else if (m->data[0] == SWITCH_OFFLOADS && m->size == sizeof(struct switch_offloads) && p->network)
            p->offloads = m->data[1] & (NET_CSUM | NET_TSO4 | NET_TSO6);
        else
            port_end(p);
        return;
    }
    if (!p->network && m->kind == NET_MESSAGE_FRAME)
        greet_plain(p, m);
    if (p->network)
        network_frame(p, m);
    else
        port_end(p);
}

static void on_events(void *ctx, unsigned events)
{
    struct lan_port *p = ctx;
    struct lan_switch *s = p->owner;
    if (events & LOOP_WRITE)
        touch(p);
    if (events & LOOP_READ) {
        struct net_message m;
        int e = net_stream_fill(&p->stream);
        while (e > 0 && !p->dead && (e = net_stream_next(&p->stream, &m)) > 0)
            on_message(p, &m);
        if (e < 0)
            port_end(p);
    }
    port_sweep(s);
}

struct lan_port *port_new(struct lan_switch *s, int fd)
{
    struct lan_port *p = calloc(1, sizeof *p);
    if (p) {
        p->owner = s;
        net_stream_init(&p->stream, fd, PORT_BACKLOG);
        p->source = fd >= 0 ? loop_fd(s->loop, fd, LOOP_READ, on_events, p) : NULL;
    }
    if (!p || (fd >= 0 && !p->source)) {
        free(p);
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    if (p->source)
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &(int){SOCKET_BUFFER}, sizeof(int));
    p->next = s->ports;
    p->link = &s->ports;
    if (s->ports)
        s->ports->link = &p->next;
    s->ports = p;
    s->count += p->source != NULL;
    return p;
}
