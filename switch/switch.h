// A learning switch for the machines of one host: one process, one event loop, any number of networks.
//
// A port is a connection to the switch's unix socket (backend/net_stream.h says how frames travel,
// backend/switch_messages.h how a port introduces itself). Each port is on one network; a network is one broadcast
// domain, and nothing leads from one to another. Networks come with their first port and go with the last.
//
//     vm1 --switch:lan--\                   /-- uplink of lan: the user network, or a TAP device
//     vm2 --switch:lan----  trapeze switch -
//     vm3 --switch:dmz--/                   (dmz has none: its machines reach each other, and nobody else)
//
// Where a frame goes (network.c). One for a group, to every other port of the network. One for an address that a port
// has announced or that was learnt, to that port. Any other, to those ports only that may have addresses behind them
// which they did not announce: the others have told all they have.
//
// What a port may send (network.c). Frames whose source is the address that it announced; all others are refused and
// counted, unless the port announced that it has any. Nobody gets the address of another port.
//
// Nobody waits for anybody. What a port does not take waits in a queue of its own, of bounded size, and is dropped
// beyond that. A port that sends all the time has its turn like all others, one read of its socket each.
//
// Offloads. A frame goes on as it came, with the header that says what it lacks, to ports that take such; for the
// others the checksum is completed, or the frame cut into segments.
//
// Example: lan_switch_open(loop, &(struct lan_switch_options){.socket = path, .mtu = 1500}, &s, &err); loop_run(loop);
#pragma once
#include "host/loop.h"
#include "report/error.h"
#include <stdbool.h>
#include <stdint.h>

enum { LAN_PORTS_MAX = 1024, LAN_UPLINKS_MAX = 64, LAN_MTU = 1500 };

enum lan_uplink_kind { LAN_UPLINK_UNSAID, LAN_UPLINK_NONE, LAN_UPLINK_USER, LAN_UPLINK_TAP };

struct lan_uplink_rule {
    const char *network;
    enum lan_uplink_kind kind;
    const char *tap; // the device's name
};

struct lan_switch_options {
    const char *socket;
    const struct lan_uplink_rule *uplink; // of networks that have no rule, the first port decides
    unsigned uplinks;
    uint16_t mtu;    // that machines are told
    unsigned idle_s; // ends, by idle(), when there has been no port for so long; 0: never
    void (*idle)(void *ctx);
    void *ctx;
};

struct lan_switch;

// Listens. Strings of the options must outlive the switch. -EBUSY if another switch has that socket. On failure nothing
// is left. All calls, and all work, on the loop's thread.
int lan_switch_open(struct loop *loop, const struct lan_switch_options *o, struct lan_switch **out, struct error *err);
void lan_switch_close(struct lan_switch *s);
