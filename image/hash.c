// SHA-256 of whole files. See store.h.
#include "image/store.h"
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PIECE = 1 << 20 };

int file_sha256(const char *path, char hex[IMAGE_HASH], struct error *err)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned length = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return error_set(err, errno, "%s: %s", path, strerror(errno));
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    char *b = malloc(PIECE);
    int e = c && b && EVP_DigestInit_ex(c, EVP_sha256(), NULL) ? 0 : -ENOMEM;
    while (!e) {
        ssize_t n = read(fd, b, PIECE);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            e = n ? -errno : 0;
            break;
        }
        e = EVP_DigestUpdate(c, b, (size_t)n) ? 0 : -ENOMEM;
    }
    if (!e)
        e = EVP_DigestFinal_ex(c, digest, &length) ? 0 : -ENOMEM;
    for (unsigned i = 0; i < length && i < IMAGE_HASH / 2; i++)
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    EVP_MD_CTX_free(c);
    free(b);
    close(fd);
    return e ? error_set(err, -e, "%s: %s", path, strerror(-e)) : 0;
}
