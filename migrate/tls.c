// TLS for migrations: see tls.h.
#include "migrate/tls.h"
#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEY_MIN = 16, KEY_MAX = 32, NAME_MAX_ = 64 };

struct tls {
    SSL_CTX *ctx;
    SSL *ssl;
    char name[NAME_MAX_ + 1];
    unsigned char secret[KEY_MAX];
    unsigned secret_size;
};

static int ssl_error(struct error *err, int code, const char *what)
{
    char text[200];
    unsigned long e = ERR_get_error();
    ERR_clear_error();
    if (!e)
        return error_set(err, code, "%s", what);
    ERR_error_string_n(e, text, sizeof text);
    const char *reason = ERR_reason_error_string(e);
    return error_set(err, code, "%s: %s", what, reason ? reason : text);
}

// --- the key that both have

static int digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

static int take_key(struct tls *t, char *line)
{
    line[strcspn(line, "\r\n")] = 0;
    char *colon = strchr(line, ':');
    size_t name = colon ? (size_t)(colon - line) : 0;
    if (!name || name > NAME_MAX_)
        return -EINVAL;
    memcpy(t->name, line, name);
    const char *hex = colon + 1;
    size_t digits = strlen(hex);
    if (digits % 2 || digits < 2 * KEY_MIN || digits > 2 * KEY_MAX)
        return -EINVAL;
    for (; hex[0]; hex += 2) {
        if (digit(hex[0]) < 0 || digit(hex[1]) < 0)
            return -EINVAL;
        t->secret[t->secret_size++] = (unsigned char)(digit(hex[0]) << 4 | digit(hex[1]));
    }
    return 0;
}

static int read_key(struct tls *t, const char *path, struct error *err)
{
    char line[NAME_MAX_ + 2 * KEY_MAX + 8] = "";
    FILE *f = fopen(path, "re");
    if (!f)
        return error_set(err, errno, "--tls-psk %s: %s", path, strerror(errno));
    bool read = fgets(line, sizeof line, f);
    fclose(f);
    int e = read ? take_key(t, line) : -EINVAL;
    OPENSSL_cleanse(line, sizeof line);
    return e ? error_set(err, EINVAL,
                         "--tls-psk %s: it must hold one line, NAME:KEY with a key of 32 to 64 hexadecimal digits",
                         path)
             : 0;
}

static unsigned client_key(SSL *ssl, const char *hint, char *identity, unsigned identity_size, unsigned char *psk,
                           unsigned psk_size)
{
    const struct tls *t = SSL_get_app_data(ssl);
    (void)hint;
    if (t->secret_size > psk_size || strlen(t->name) >= identity_size)
        return 0;
    strcpy(identity, t->name);
    memcpy(psk, t->secret, t->secret_size);
    return t->secret_size;
}

static unsigned server_key(SSL *ssl, const char *identity, unsigned char *psk, unsigned psk_size)
{
    const struct tls *t = SSL_get_app_data(ssl);
    if (!identity || strcmp(identity, t->name) != 0 || t->secret_size > psk_size)
        return 0;
    memcpy(psk, t->secret, t->secret_size);
    return t->secret_size;
}

// --- certificates

static int use_certificates(struct tls *t, const struct tls_options *o, struct error *err)
{
    if (!o->cert || !o->key || !o->ca)
        return error_set(err, EINVAL, "TLS: it needs --tls-psk, or --tls-cert, --tls-key and --tls-ca");
    if (SSL_CTX_use_certificate_chain_file(t->ctx, o->cert) != 1) {
        int e = ssl_error(err, EINVAL, "reading it");
        error_prefix(err, "--tls-cert %s", o->cert);
        return e;
    }
    if (SSL_CTX_use_PrivateKey_file(t->ctx, o->key, SSL_FILETYPE_PEM) != 1 || SSL_CTX_check_private_key(t->ctx) != 1) {
        int e = ssl_error(err, EINVAL, "reading it");
        error_prefix(err, "--tls-key %s", o->key);
        return e;
    }
    if (SSL_CTX_load_verify_locations(t->ctx, o->ca, NULL) != 1) {
        int e = ssl_error(err, EINVAL, "reading it");
        error_prefix(err, "--tls-ca %s", o->ca);
        return e;
    }
    SSL_CTX_set_verify(t->ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    return 0;
}

static bool expect_host(SSL *ssl, const char *host)
{
    struct in6_addr any;
    if (inet_pton(AF_INET, host, &any) == 1 || inet_pton(AF_INET6, host, &any) == 1)
        return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), host) == 1;
    SSL_set_tlsext_host_name(ssl, host);
    return SSL_set1_host(ssl, host) == 1;
}

// --- a connection

static int set_up(struct tls *t, const struct tls_options *o, const char *host, int fd, struct error *err)
{
    t->ctx = SSL_CTX_new(host ? TLS_client_method() : TLS_server_method());
    if (!t->ctx || SSL_CTX_set_min_proto_version(t->ctx, TLS1_3_VERSION) != 1)
        return ssl_error(err, ENOMEM, "TLS");
    SSL_CTX_set_mode(t->ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    // One connection each: nobody comes back with a ticket.
    SSL_CTX_set_session_cache_mode(t->ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_num_tickets(t->ctx, 0);
    if (!host)
        SSL_CTX_set_session_id_context(t->ctx, (const unsigned char *)"trapeze", 7); // a key is a session to OpenSSL
    int e;
    if (o->psk) {
        if ((e = read_key(t, o->psk, err)))
            return e;
        // A key without a hash of its own goes with SHA-256 (RFC 8446, 4.2.11).
        if (SSL_CTX_set_ciphersuites(t->ctx, "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256") != 1)
            return ssl_error(err, EINVAL, "TLS");
        if (host)
            SSL_CTX_set_psk_client_callback(t->ctx, client_key);
        else
            SSL_CTX_set_psk_server_callback(t->ctx, server_key);
        // The receiver has no certificate to fall back on, and the source takes none.
        SSL_CTX_set_verify(t->ctx, SSL_VERIFY_PEER, NULL);
    } else if ((e = use_certificates(t, o, err))) {
        return e;
    }
    t->ssl = SSL_new(t->ctx);
    if (!t->ssl || SSL_set_fd(t->ssl, fd) != 1)
        return ssl_error(err, ENOMEM, "TLS");
    SSL_set_app_data(t->ssl, t);
    if (host && !o->psk && !expect_host(t->ssl, host))
        return ssl_error(err, EINVAL, "TLS: the receiver's name");
    if (host)
        SSL_set_connect_state(t->ssl);
    else
        SSL_set_accept_state(t->ssl);
    return 0;
}

int tls_open(struct tls **out, const struct tls_options *o, const char *host, int fd, struct error *err)
{
    struct tls *t = calloc(1, sizeof *t);
    if (!t)
        return error_set(err, ENOMEM, "TLS: out of memory");
    int e = set_up(t, o, host, fd, err);
    if (e)
        tls_close(t);
    else
        *out = t;
    return e;
}

void tls_close(struct tls *t)
{
    if (!t)
        return;
    if (t->ssl) {
        SSL_shutdown(t->ssl);
        SSL_free(t->ssl);
    }
    ERR_clear_error();
    SSL_CTX_free(t->ctx);
    OPENSSL_cleanse(t, sizeof *t);
    free(t);
}

// -EAGAIN and *want, or what else it was.
static int reason(const struct tls *t, int result, short *want)
{
    switch (SSL_get_error(t->ssl, result)) {
    case SSL_ERROR_WANT_READ:
        *want = POLLIN;
        return -EAGAIN;
    case SSL_ERROR_WANT_WRITE:
        *want = POLLOUT;
        return -EAGAIN;
    case SSL_ERROR_ZERO_RETURN:
        return 0;
    case SSL_ERROR_SYSCALL:
        return errno ? -errno : -ECONNRESET;
    default:
        return -EPROTO;
    }
}

int tls_handshake(struct tls *t, short *want, struct error *err)
{
    ERR_clear_error();
    errno = 0;
    int n = SSL_do_handshake(t->ssl);
    if (n == 1)
        return 0;
    int e = reason(t, n, want);
    if (e == -EAGAIN)
        return e;
    return ssl_error(err, e ? -e : ECONNRESET, "TLS: the other side and this one do not come to terms");
}

long tls_read(struct tls *t, void *data, size_t size, short *want)
{
    ERR_clear_error();
    errno = 0;
    int n = SSL_read(t->ssl, data, size > INT_MAX ? INT_MAX : (int)size);
    return n > 0 ? n : reason(t, n, want);
}

long tls_write(struct tls *t, const void *data, size_t size, short *want)
{
    ERR_clear_error();
    errno = 0;
    int n = SSL_write(t->ssl, data, size > INT_MAX ? INT_MAX : (int)size);
    if (n > 0)
        return n;
    int e = reason(t, n, want);
    return e ? e : -EPIPE;
}

bool tls_pending(const struct tls *t)
{
    return SSL_pending(t->ssl) > 0;
}
