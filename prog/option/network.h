// What --net and --publish say, and the MAC address that a network card gets if nobody gives one.
//
// Example: char v[] = "tap:vm0,mac=02:00:00:00:00:01"; network_take(&option, v, &err)
#pragma once
#include "backend/net.h"
#include "report/error.h"

enum { MAX_NETS = 8, MAX_PUBLISHES = 64 };

enum network_kind { NETWORK_USER, NETWORK_TAP, NETWORK_SOCKET, NETWORK_SWITCH };

struct network_option {
    enum network_kind kind;
    const char *where;         // the device's, socket's or (on a switch) network's name; NULL: none given
    const char *socket;        // the switch's; NULL: the default one
    bool uplink_user, any_mac; // of a switch: see backend/net.h
    uint16_t mtu;              // 0: not given
    bool has_mac;
    uint8_t mac[6];
    struct rate_limits limits;
};

// Both parse one value; -EINVAL with a text that names it. Strings point into v, which is cut in place (network_take).
int network_take(struct network_option *o, char *v, struct error *err);
int network_take_publish(struct net_publish *p, const char *v, struct error *err);

// The address of a machine's n-th card: locally administered, and the same at every start.
void network_mac(const char *machine, unsigned n, uint8_t mac[6]);
