// Where a migration leads: unix:PATH or tcp:HOST:PORT (an IPv6 address in brackets: tcp:[::1]:4444).
//
// Example: address_parse(&a, "tcp:host2:7000", &err); fd = address_connect(&a, &cancel, &err);
#pragma once
#include "report/error.h"
#include <netdb.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/un.h>

struct address {
    bool tcp;
    char path[sizeof((struct sockaddr_un *)0)->sun_path]; // unix
    char host[NI_MAXHOST], port[8];                       // tcp; an empty host: all addresses of this host (to listen)
};

int address_parse(struct address *a, const char *text, struct error *err);
// A connected socket (close-on-exec, non-blocking) or a negative errno. Gives up after 10 s, or when *cancel is set.
int address_connect(const struct address *a, const _Atomic bool *cancel, struct error *err);
// A listening socket, mode 0600 where it is a file; a file that a dead process has left is replaced.
int address_listen(const struct address *a, struct error *err);
// Waits for a connection. A unix peer must be the same user or root: others are turned away. -ECANCELED.
int address_accept(const struct address *a, int listening, const _Atomic bool *cancel, struct error *err);
