// Options that both ends of a migration take: how the connection is protected.
#pragma once
#include "migrate/tls.h"
#include "prog/option/command_line.h"

struct migrate_security {
    struct tls_options tls;
    bool insecure;
};

// Entries of a table for a struct `type` with a member struct migrate_security security.
#define MIGRATE_SECURITY_OPTIONS(type)                                                                                 \
    {"tls-psk", "FILE", "encrypt with the key in FILE, which both sides have: one line, NAME:KEY in hexadecimal",      \
     OPTION_TEXT(type, security.tls.psk)},                                                                             \
        {"tls-cert", "FILE", "encrypt; this side's certificate (PEM)", OPTION_TEXT(type, security.tls.cert)},          \
        {"tls-key", "FILE", "its private key", OPTION_TEXT(type, security.tls.key)},                                   \
        {"tls-ca", "FILE", "certificate of the authority that the other side's must be signed by",                     \
         OPTION_TEXT(type, security.tls.ca)},                                                                          \
    {                                                                                                                  \
        "insecure", NULL, "over tcp: neither encrypt nor ask who the other side is",                                   \
            OPTION_SET(type, security.insecure)                                                                        \
    }

static inline bool migrate_secured(const struct migrate_security *s)
{
    return s->tls.psk || s->tls.cert || s->tls.key || s->tls.ca;
}
