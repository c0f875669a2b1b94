// Where a network card's cable leads: what --net names.
//
//     user           a network of the machine's own, by libslirp in this process: no privileges, nothing set up
//     tap[:NAME]     a TAP device of the host: a cable into the host's own network stack
//     socket:PATH    a unix socket: a cable to another machine, or to whatever else speaks its format
//     switch:NAME    a cable to a switch, a process that many machines share (switch/switch.h): a named network there
//
// The user network. The guest gets 10.0.2.15 by DHCP; the host is 10.0.2.2, which reaches what listens on the host's
// 127.0.0.1; DNS is at 10.0.2.3; other addresses are reached as this process reaches them (TCP and UDP; ping where the
// host lets it). Nobody reaches the guest but through ports that are published.
//
// The socket. Whoever comes first listens, the other one connects, and again when one of them is gone; while nobody is
// there the link is down. Frames are preceded by their length, four bytes in network order: the format of QEMU's
// `-netdev stream` and of passt.
//
// Example:
//     net_user_open(&(struct net_user_options){.hostname = "vm1", .publish = p, .publishes = 1}, &net, &err)
#pragma once
#include "backend/rate.h"
#include "vm/net.h"
#include <netinet/in.h>

enum { NET_USER_MTU = 16384 }; // net_user.c says why not more

struct net_publish {
    const char *text; // as the user wrote it, for messages
    struct in_addr address;
    uint16_t host, guest; // ports
    bool udp;
};

struct net_user_options {
    const char *hostname; // what DHCP calls the guest
    uint16_t mtu;         // 0: NET_USER_MTU
    const struct net_publish *publish;
    unsigned publishes;
};

int net_user_open(const struct net_user_options *o, struct net **out, struct error *err);
// NULL or "": the kernel chooses a name. mtu 0: the device's own. `found` (IFNAMSIZ bytes) gets the name.
int net_tap_open(const char *name, uint16_t mtu, char *found, struct net **out, struct error *err);
int net_socket_open(const char *path, uint16_t mtu, struct net **out, struct error *err);

struct net_switch_options {
    const char *socket;  // the switch's
    const char *network; // on it; made when the first port asks for it
    const char *name;    // the machine's, for people
    const uint8_t *mac;  // 6 bytes: the only address that may send from here
    bool any_mac;        // ... or not
    bool uplink_user;    // the network shall have a user network as its uplink, unless the switch says otherwise
    uint16_t mtu;        // 0: what the switch says
    // Starts a switch with that socket and returns when it listens; also called later, on the backend's thread, when
    // the switch is gone. 0 or negative errno. NULL: nobody does.
    int (*start)(void *ctx, const char *socket);
    void *start_ctx;
};

int net_switch_open(const struct net_switch_options *o, struct net **out, struct error *err);

// Puts limits, for each direction, before a network that was not started: *net becomes the one that keeps to them, and
// closing that closes both. Without limits nothing changes. On failure *net may have changed and is to be closed all
// the same. operations: packets.
int net_limit(struct net **net, const struct rate_limits *limits, struct error *err);
