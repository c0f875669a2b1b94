// What a port and a switch tell each other besides frames: control messages of net_stream.h. Both are this program on
// one host, so numbers are in the host's order.
//
//     port                                   switch
//     hello: network lan, vm1, its MAC   ->
//                                        <-  answer: 0, the network's MTU          or: refused, and why; hangs up
//     offloads: what the driver takes    ->
//     frames                             <-> frames
//
// A peer whose first message is a frame is a port of the network "default" that takes plain frames. One whose hello
// wants a list gets lines and then an answer.
#pragma once
#include <stdbool.h>
#include <stdint.h>

enum { SWITCH_NAME_MAX = 32, SWITCH_VERSION = 1 };
enum switch_message { SWITCH_HELLO = 1, SWITCH_ANSWER, SWITCH_OFFLOADS, SWITCH_LINE };
enum switch_want { SWITCH_WANT_PORT, SWITCH_WANT_LIST };
enum { SWITCH_ANY_MAC = 1, SWITCH_UPLINK_USER = 2 }; // hello.flags

#define SWITCH_MAGIC "TRAPEZE"

struct switch_hello {
    uint8_t type, version, want, flags;
    char magic[8];
    uint8_t mac[6], unused[2];
    char network[SWITCH_NAME_MAX + 4], name[SWITCH_NAME_MAX + 4]; // end with a zero
};

struct switch_answer {
    uint8_t type, refused;
    uint16_t mtu;
    char text[200]; // why; ends with a zero
};

struct switch_offloads {
    uint8_t type, offloads; // NET_*
};

// The line's text follows the type: fields with tabs in between.
//     switch    pid, path, seconds since it started
//     network   name, uplink, number of ports
//     port      network, name, MAC, frames and bytes from the port, to the port, dropped, refused

// Whether a network or a machine can be called that: 1 to SWITCH_NAME_MAX letters, digits, dots, dashes, underscores.
bool switch_name_good(const char *name);
