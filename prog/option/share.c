// See share.h.
#include "prog/option/share.h"
#include "virtio/fs.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

int share_take(struct share_option *o, char *v, struct error *err)
{
    *o = (struct share_option){.folder = v};
    char *tag = strrchr(v, ':'), *more = tag ? strchr(tag, ',') : NULL;
    if (!tag || tag == v || !tag[1] || more == tag + 1)
        return error_set(err, EINVAL, "--share %.80s: must be FOLDER:TAG[,ro]", v);
    if (more && strcmp(more, ",ro"))
        return error_set(err, EINVAL, "--share %.80s: %.40s: unknown; there is: ro", v, more + 1);
    o->readonly = more;
    if (more)
        *more = 0;
    *tag++ = 0;
    o->tag = tag;
    if (strlen(tag) > VIRTIO_FS_TAG_MAX)
        return error_set(err, EINVAL, "--share %.80s:%.50s: a tag has at most %d bytes", v, tag, VIRTIO_FS_TAG_MAX);
    return 0;
}

char *share_words(const struct share_option *o, unsigned count)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
    static const char word[] = " trapeze.share=";
    char *words = malloc(1 + count * (sizeof word + VIRTIO_FS_TAG_MAX)), *to = words;
    if (!words)
        return NULL;
    *to = 0;
    for (unsigned n = 0; n < count; n++)
        if (o[n].tag[0] != '.' && strspn(o[n].tag, plain) == strlen(o[n].tag))
            to = stpcpy(stpcpy(to, word), o[n].tag);
    return words;
}
