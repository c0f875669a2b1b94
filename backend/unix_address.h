// Addresses of unix sockets by path, however long: an address holds 107 bytes, state directories may lie deeper.
//
// A path that does not fit is reached through its directory's descriptor: /proc/self/fd/7/vsock.sock. The descriptor
// must stay open as long as the address is used.
//
// Example: struct unix_address a; if (!unix_address_open(&a, path, err)) { fd = unix_address_connect(&a); ... }
//          unix_address_close(&a);
#pragma once
#include "report/error.h"
#include <sys/socket.h>
#include <sys/un.h>

struct unix_address {
    struct sockaddr_un sun;
    int directory; // -1: not needed
};

// -ENAMETOOLONG, -ENOENT and the like: the text names the path.
int unix_address_open(struct unix_address *a, const char *path, struct error *err);
void unix_address_close(struct unix_address *a);
// A connected stream socket (close-on-exec; not blocking if flags has SOCK_NONBLOCK), or negative errno.
int unix_address_connect(const struct unix_address *a, int flags);
// A listening one, not blocking, that only this user may connect to. A socket that nobody listens at any more is
// replaced; -EADDRINUSE if somebody does, -EEXIST if there is something else.
int unix_address_listen(const struct unix_address *a, int backlog);
