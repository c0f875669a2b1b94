// The first messages of a migration: see hello.h.
#include "migrate/hello.h"
#include "migrate/frame.h"
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { HEAD = 20 };

uint8_t *hello_write(const struct hello *h, size_t *size)
{
    json_t *files = json_array(), *disks = json_array();
    for (unsigned i = 0; i < h->files; i++)
        json_array_append_new(files,
                              json_pack("{s:s, s:I}", "name", h->file[i].name, "bytes", (json_int_t)h->file[i].bytes));
    for (unsigned i = 0; i < h->disks; i++)
        json_array_append_new(
            disks, json_pack("{s:i, s:I}", "index", (int)h->disk[i].index, "bytes", (json_int_t)h->disk[i].bytes));
    json_t *j = json_pack("{s:s, s:s, s:I, s:b, s:I, s:s, s:o, s:o}", "id", h->id, "owner", h->owner, "memory",
                          (json_int_t)h->memory, "paused", h->paused, "writable", (json_int_t)h->writable, "machine",
                          h->machine, "files", files, "disks", disks);
    char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
    json_decref(j);
    size_t length = text ? strlen(text) : 0;
    uint8_t *m = text ? malloc(FRAME_HEADER + HEAD + length) : NULL;
    if (m) {
        memcpy(m + FRAME_HEADER, HELLO_MAGIC, 16);
        put_u32(m + FRAME_HEADER + 16, HELLO_VERSION);
        memcpy(m + FRAME_HEADER + HEAD, text, length);
        *size = HEAD + length;
    }
    free(text);
    return m;
}

static bool number(const json_t *in, const char *key, uint64_t most, uint64_t *n)
{
    const json_t *v = json_object_get(in, key);
    *n = (uint64_t)json_integer_value(v);
    return json_is_integer(v) && *n <= most;
}

static bool take_files(struct hello *h, const json_t *j)
{
    if (!json_is_array(j) || json_array_size(j) > HELLO_FILES)
        return false;
    for (; h->files < json_array_size(j); h->files++) {
        const json_t *f = json_array_get(j, h->files);
        const char *name = json_string_value(json_object_get(f, "name"));
        if (!name || strlen(name) >= sizeof h->file->name || !number(f, "bytes", INT64_MAX, &h->file[h->files].bytes))
            return false;
        strcpy(h->file[h->files].name, name);
    }
    return true;
}

static bool take_disks(struct hello *h, const json_t *j)
{
    if (!json_is_array(j) || json_array_size(j) > HELLO_DISKS)
        return false;
    for (; h->disks < json_array_size(j); h->disks++) {
        const json_t *d = json_array_get(j, h->disks);
        uint64_t index;
        if (!number(d, "index", HELLO_DISKS - 1, &index) || !number(d, "bytes", INT64_MAX, &h->disk[h->disks].bytes))
            return false;
        h->disk[h->disks].index = (unsigned)index;
    }
    return true;
}

static bool take(struct hello *h, const json_t *j)
{
    const char *id = json_string_value(json_object_get(j, "id"));
    const char *owner = json_string_value(json_object_get(j, "owner"));
    const char *machine = json_string_value(json_object_get(j, "machine"));
    uint64_t writable;
    const json_t *paused = json_object_get(j, "paused");
    if (!id || strlen(id) != OWNER_ID || !owner || !machine || !json_is_boolean(paused) ||
        !number(j, "memory", INT64_MAX, &h->memory) || !h->memory || h->memory % 4096 ||
        !number(j, "writable", UINT32_MAX, &writable))
        return false;
    strcpy(h->id, id);
    h->paused = json_is_true(paused);
    h->writable = (uint32_t)writable;
    h->owner = strdup(owner);
    h->machine = strdup(machine);
    return h->owner && h->machine && take_files(h, json_object_get(j, "files")) &&
           take_disks(h, json_object_get(j, "disks"));
}

int hello_read(struct hello *h, const void *payload, size_t size, struct error *err)
{
    const uint8_t *p = payload;
    *h = (struct hello){0};
    if (size < HEAD || memcmp(p, HELLO_MAGIC, 16) != 0)
        return error_set(err, EPROTO, "migration stream: it is none of Trapeze's");
    if (get_u32(p + 16) != HELLO_VERSION)
        return error_set(err, ENOTSUP, "migration stream: it is of version %u, this program knows version %d",
                         get_u32(p + 16), HELLO_VERSION);
    json_t *j = json_loadb((const char *)p + HEAD, size - HEAD, 0, NULL);
    bool good = take(h, j);
    json_decref(j);
    if (good)
        return 0;
    hello_free(h);
    return error_set(err, EPROTO, "migration stream: what it says about the machine makes no sense");
}

void hello_free(struct hello *h)
{
    free(h->owner);
    free(h->machine);
    *h = (struct hello){0};
}
