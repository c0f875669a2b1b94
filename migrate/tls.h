// TLS for migrations over a network: version 1.3 alone, by OpenSSL.
//
// Both sides show who they are, in one of two ways. A key that both have: a file with one line, NAME:KEY, the key in
// hexadecimal digits (16 to 32 bytes), as `openssl rand -hex 32` makes it. Or certificates: each side has its own, its
// key, and the certificate of the authority that signed the other's; the source compares the receiver's with the name
// of the host that it connects to.
//
// Example: tls_open(&t, &options, false, "host2", fd, &err); tls_write(t, data, size, &want)...
#pragma once
#include "report/error.h"
#include <stdbool.h>
#include <stddef.h>

struct tls_options {
    const char *psk;             // file
    const char *cert, *key, *ca; // files; psk NULL: all three
};

struct tls;

// fd stays the caller's and is not blocking. host: the receiver's name; for the receiver itself NULL. -EINVAL: what the
// options name is no good.
int tls_open(struct tls **out, const struct tls_options *o, const char *host, int fd, struct error *err);
void tls_close(struct tls *t);

// All of them: bytes done, or a negative errno: -EAGAIN when the socket is not ready; *want is then what to poll for
// (POLLIN or POLLOUT). 0 from tls_read: the peer has ended the stream.
int tls_handshake(struct tls *t, short *want, struct error *err); // 0: it is done
long tls_read(struct tls *t, void *data, size_t size, short *want);
long tls_write(struct tls *t, const void *data, size_t size, short *want);
bool tls_pending(const struct tls *t); // tls_read would give something at once
