// Options of trapeze run about images: the machine's disk, and what cloud-init in it is told.
#include "prog/option/groups.h"
#include "prog/option/options.h"
#include <errno.h>
#include <string.h>

static int take_size(void *into, char *v, struct error *err)
{
    struct run_options *o = into;
    uint64_t *size = &o->image.size;
    bool good = option_size(v, size) && *size && *size % 512 == 0 && *size <= 1ull << 44;
    return good ? 0 : error_set(err, EINVAL, "--size %.40s: must be a size such as 20G, at most 16T", v);
}

static int take_ssh_key(void *into, char *v, struct error *err)
{
    struct run_options *o = into;
    if (o->image.ssh_keys == MAX_SSH_KEYS)
        return error_set(err, EINVAL, "--ssh-key %.80s: at most %d files", v, MAX_SSH_KEYS);
    o->image.ssh_key[o->image.ssh_keys++] = v;
    return 0;
}

// RFC 1123: labels of letters, digits and dashes.
static int take_hostname(void *into, char *v, struct error *err)
{
    struct run_options *o = into;
    size_t n = strlen(v);
    bool good = n && n < 64 && v[0] != '-' && v[0] != '.' && v[n - 1] != '-' && v[n - 1] != '.' && !strstr(v, "..") &&
                strspn(v, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.") == n;
    o->image.hostname = v;
    return good ? 0
                : error_set(err, EINVAL, "--hostname %.80s: must be up to 63 letters, digits, dashes and single dots",
                            v);
}

#define TEXT(field) OPTION_TEXT(struct run_options, field)

static const struct option image_options[] = {
    {"size", "SIZE", "of the machine's disk (default: the image's)", OPTION_TAKE(take_size)},
    {"ssh-key", "FILE", "let cloud-init install this public key; may be given several times",
     OPTION_TAKE(take_ssh_key)},
    {"hostname", "NAME", "the guest's name, by cloud-init (default: the machine's)", OPTION_TAKE(take_hostname)},
    {"user-data", "FILE", "for cloud-init", TEXT(image.user_data)},
    {"network-config", "FILE", "for cloud-init (default: DHCP)", TEXT(image.network_config)},
};

const struct option_group options_image = OPTION_GROUP("Images", image_options);
