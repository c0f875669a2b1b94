// What cloud-init finds at the first boot of a machine: its NoCloud data source (cloud-init's documentation,
// "Datasources: NoCloud"), a small ISO 9660 disk with the label cidata and the files user-data, meta-data and
// network-config.
//
// Example:
//     struct seed s = {.instance = "iid-1", .hostname = "web"};
//     seed_keys(&s, text, "id_ed25519.pub", &err); seed_make(&s, &image, &size, &err); ... free(image); seed_free(&s);
#pragma once
#include "report/error.h"
#include <stddef.h>
#include <stdint.h>

enum { SEED_FILE_MAX = 4 << 20, SEED_KEYS_MAX = 64, SEED_MACS_MAX = 8 };

struct seed {
    const char *instance; // cloud-init works once for each of these; letters, digits, dots, dashes, underscores
    const char *hostname;
    const void *user_data; // as the user wrote it; NULL: none
    size_t user_data_size;
    const void *network_config; // NULL: DHCP on the cards
    size_t network_config_size;
    uint8_t mac[SEED_MACS_MAX][6]; // of the cards
    unsigned macs;
    char *key[SEED_KEYS_MAX]; // public ones of ssh; seed_keys
    unsigned keys;
};

// Takes the public keys of a file such as ~/.ssh/id_ed25519.pub or authorized_keys: one a line, `where` names it in
// errors. -EINVAL if there is none, or anything else (a private key, say).
int seed_keys(struct seed *s, const char *text, size_t size, const char *where, struct error *err);
void seed_free(struct seed *s); // the keys
// The disk, its size a multiple of 2048; the caller frees it. -E2BIG if a file is larger than SEED_FILE_MAX.
int seed_make(const struct seed *s, void **image, size_t *size, struct error *err);

// A file of an ISO 9660 volume (iso9660.c).
struct iso_file {
    const char *name;       // as it is to be found: by Rock Ridge
    const char *short_name; // as ISO 9660 knows it: at most 8 of A-Z, 0-9, _
    const void *data;
    size_t size;
};

// A volume with these files in its root folder, in the order of their short names. -ENOMEM.
int iso_make(const char *label, const struct iso_file *files, unsigned count, void **image, size_t *size);
