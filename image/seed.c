// See seed.h. Texts go into YAML, so each is checked for what would mean something else there.
#include "image/seed.h"
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEY_MAX = 16 << 10 };

void seed_free(struct seed *s)
{
    for (unsigned i = 0; i < s->keys; i++)
        free(s->key[i]);
    s->keys = 0;
}

static bool is_key(const char *line, size_t length)
{
    static const char *const types[] = {"ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-"};
    bool known = false;
    for (unsigned i = 0; i < sizeof types / sizeof *types; i++)
        known |= length > strlen(types[i]) && !memcmp(line, types[i], strlen(types[i]));
    for (size_t i = 0; i < length; i++) // comments may be in any language
        if ((unsigned char)line[i] < ' ' || line[i] == 0x7f)
            return false;
    return known && length < KEY_MAX && memchr(line, ' ', length);
}

int seed_keys(struct seed *s, const char *text, size_t size, const char *where, struct error *err)
{
    unsigned before = s->keys;
    for (size_t at = 0; at < size;) {
        const char *line = text + at, *end = memchr(line, '\n', size - at);
        size_t length = end ? (size_t)(end - line) : size - at;
        at += length + 1;
        while (length && (line[length - 1] == ' ' || line[length - 1] == '\r'))
            length--;
        if (!length || *line == '#')
            continue;
        if (!is_key(line, length))
            return error_set(err, EINVAL, "%s: not a public key of ssh (such as ~/.ssh/id_ed25519.pub)", where);
        if (s->keys == SEED_KEYS_MAX)
            return error_set(err, E2BIG, "%s: more than %d keys", where, SEED_KEYS_MAX);
        if (!(s->key[s->keys] = strndup(line, length)))
            return error_set(err, ENOMEM, "out of memory");
        s->keys++;
    }
    return s->keys > before ? 0 : error_set(err, EINVAL, "%s: there is no key in it", where);
}

// --- the files

static void quote(FILE *f, const char *s) // YAML's single-quoted style: only the quote itself is special
{
    fputc('\'', f);
    for (; *s; s++) {
        if (*s == '\'')
            fputc('\'', f);
        fputc(*s, f);
    }
    fputc('\'', f);
}

static void meta_data(FILE *f, const struct seed *s)
{
    fprintf(f, "instance-id: ");
    quote(f, s->instance);
    fprintf(f, "\nlocal-hostname: ");
    quote(f, s->hostname);
    fprintf(f, "\n");
    if (s->keys)
        fprintf(f, "public-keys:\n");
    for (unsigned i = 0; i < s->keys; i++) {
        fprintf(f, "  - ");
        quote(f, s->key[i]);
        fprintf(f, "\n");
    }
}

// Version 2 of cloud-init's format. Cards are known by their addresses; the names that they get are those that every
// way of rendering this understands.
static void network_config(FILE *f, const struct seed *s)
{
    fprintf(f, "version: 2\nethernets:%s\n", s->macs ? "" : " {}");
    for (unsigned i = 0; i < s->macs; i++) {
        const uint8_t *m = s->mac[i];
        fprintf(f,
                "  eth%u:\n    match: {macaddress: '%02x:%02x:%02x:%02x:%02x:%02x'}\n    set-name: eth%u\n"
                "    dhcp4: true\n",
                i, m[0], m[1], m[2], m[3], m[4], m[5], i);
    }
}

struct text {
    char *data;
    size_t size;
};

static int write_text(struct text *t, void (*write)(FILE *f, const struct seed *s), const struct seed *s)
{
    FILE *f = open_memstream(&t->data, &t->size);
    if (!f)
        return -ENOMEM;
    write(f, s);
    return fclose(f) ? -ENOMEM : 0;
}

int seed_make(const struct seed *s, void **image, size_t *size, struct error *err)
{
    static const char empty[] = "#cloud-config\n{}\n";
    struct text meta = {0}, network = {0};
    if (s->user_data_size > SEED_FILE_MAX || s->network_config_size > SEED_FILE_MAX)
        return error_set(err, E2BIG, "data for cloud-init: a file is larger than %d MiB", SEED_FILE_MAX >> 20);
    int e = write_text(&meta, meta_data, s);
    if (!e && !s->network_config)
        e = write_text(&network, network_config, s);
    const struct iso_file files[] = {
        {"meta-data", "METADATA", meta.data, meta.size},
        {"network-config", "NETWORK", s->network_config ? s->network_config : network.data,
         s->network_config ? s->network_config_size : network.size},
        {"user-data", "USERDATA", s->user_data ? s->user_data : empty,
         s->user_data ? s->user_data_size : sizeof empty - 1},
    };
    if (!e)
        e = iso_make("cidata", files, sizeof files / sizeof *files, image, size);
    free(meta.data);
    free(network.data);
    return e ? error_set(err, -e, "data for cloud-init: %s", strerror(-e)) : 0;
}
