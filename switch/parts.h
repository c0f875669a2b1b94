// What the parts of the switch share: ports and networks. Nobody outside includes this.
//
// Invariant: a port that is `dead` is in the switch's list of dead ports and has left its network; it is freed at the
// end of the event. Frames lie in the memory of the port that sent them until the ports in `touched` have been flushed.
#pragma once
#include "backend/net_stream.h"
#include "backend/switch_messages.h"
#include "switch/switch.h"
#include "switch/table.h"

enum { PORT_BACKLOG = 2 << 20 }; // bytes that may wait for a port

struct lan_network;
struct lan_uplink;

struct lan_port {
    struct lan_switch *owner;
    struct lan_port *next, **link;           // among all ports
    struct lan_port *next_here, **link_here; // on its network
    struct lan_network *network;             // NULL: has not introduced itself
    struct loop_source *source;
    struct net_stream stream;
    struct lan_uplink *uplink; // the network's own port; then there is no stream
    char name[SWITCH_NAME_MAX + 4];
    uint8_t mac[6];
    bool plain;   // takes plain frames, without header
    bool any_mac; // may send from any address
    bool writing; // the loop waits until it takes something
    bool touched; // in the list of those to be flushed
    bool dead;
    unsigned offloads; // that it takes: NET_*
    unsigned learnt;   // entries in the table
    struct lan_port *next_touched;
    uint64_t rx_frames, rx_bytes, tx_frames, tx_bytes; // from and to the port
    uint64_t refused;                                  // frames that it must not send
};

struct lan_network {
    struct lan_switch *owner;
    struct lan_network *next;
    char name[SWITCH_NAME_MAX + 4];
    struct table table;
    struct lan_port *ports;
    unsigned count;          // without the uplink
    struct lan_port *uplink; // or NULL
    enum lan_uplink_kind uplink_kind;
};

struct lan_switch {
    struct loop *loop;
    struct lan_switch_options o;
    int lock, listener;
    struct loop_source *listening;
    struct lan_port *ports, *touched, *dead;
    unsigned count; // ports, without uplinks
    struct lan_network *networks;
    uint64_t started_ns, idle_since_ns;
    uint8_t frame[NET_FRAME_MAX]; // work space: a frame that had to be changed
};

// --- ports (port.c)

// Takes the connection over; fd -1: a port without one. NULL: no memory, and it is closed.
struct lan_port *port_new(struct lan_switch *s, int fd);
void port_end(struct lan_port *p);     // leaves its network; freed later
void port_sweep(struct lan_switch *s); // flushes touched ports, frees dead ones: at the end of each event
// Sends a frame, cut and completed as the port needs it. Without an `own` copy, data stays until the ports are flushed.
void port_send(struct lan_port *p, const struct net_header *h, const uint8_t *frame, size_t size);
void port_tell(struct lan_port *p, const void *control, size_t size); // a control message

// --- networks (network.c)

struct lan_network *network_get(struct lan_switch *s, const char *name); // made if there is none; NULL: no memory
// 0 or negative errno with a text for the port. user: an uplink by the user network is wished for.
int network_join(struct lan_network *n, struct lan_port *p, bool user, struct error *err);
void network_leave(struct lan_port *p); // and lets the network go if it was the last one
void network_frame(struct lan_port *from, const struct net_message *m);

// --- uplinks (uplink.c)

// Opens what leads out of the network and joins it with `port`.
int uplink_open(const struct lan_network *n, const struct lan_uplink_rule *rule, uint16_t mtu, struct lan_port *port,
                struct lan_uplink **out, struct error *err);
bool uplink_send(struct lan_uplink *u, const struct net_header *h, const uint8_t *frame, size_t size); // false: dropped
void uplink_close(struct lan_uplink *u);

// --- the list (list.c)

void list_tell(struct lan_switch *s, struct lan_port *to);
