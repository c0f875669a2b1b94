// A switch in this thread, and ports that are one end of a pair of sockets. Used by the unit test and the fuzz target.
//
//     struct bed b; bed_open(&b); int fd = bed_plug(&b); write(fd, ...); bed_work(&b); ... bed_close(&b);
#pragma once
#include "switch/parts.h"
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

struct bed {
    struct lan_switch *s;
    struct loop *loop;
};

static void bed_open(struct bed *b)
{
    b->s = calloc(1, sizeof *b->s);
    if (!b->s || loop_create(&b->loop, NULL))
        abort();
    b->s->loop = b->loop;
    b->s->lock = b->s->listener = -1;
    b->s->o.socket = "bed";
    b->s->o.mtu = LAN_MTU;
}

static int bed_plug(struct bed *b)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair))
        abort();
    port_new(b->s, pair[0]);
    return pair[1];
}

static void bed_stop(void *ctx)
{
    loop_stop(ctx);
}

// Lets the switch see what has come.
static void bed_work(struct bed *b)
{
    for (unsigned i = 0; i < 3; i++) { // what the first round sends may make work for the second
        loop_post(b->loop, bed_stop, b->loop);
        loop_run(b->loop);
    }
}

static void bed_close(struct bed *b)
{
    lan_switch_close(b->s);
    loop_destroy(b->loop);
}
