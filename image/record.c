// See record.h.
#include "image/record.h"
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILE_MAX = 64 << 10 };

static const struct {
    const char *key;
    size_t offset, size;
    bool needed;
} texts[] = {
    {"sha256", offsetof(struct image_record, sha256), IMAGE_HASH, true},
    {"source", offsetof(struct image_record, source), IMAGE_TEXT, false},
    {"packages", offsetof(struct image_record, packages), IMAGE_TEXT, false},
    {"kernel", offsetof(struct image_record, kernel), IMAGE_TEXT, false},
    {"initrd", offsetof(struct image_record, initrd), IMAGE_TEXT, false},
    {"root", offsetof(struct image_record, root), IMAGE_TEXT, false},
};

enum { TEXTS = sizeof texts / sizeof *texts };

bool image_name_good(const char *name)
{
    static const char good[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    size_t n = strlen(name);
    return n && n < IMAGE_NAME && name[0] != '.' && name[0] != '-' && strspn(name, good) == n;
}

const char *image_record_format(const struct image_record *r)
{
    return r->format == DISK_QCOW2 ? "qcow2" : "raw";
}

// Printable ASCII: it goes to terminals.
static bool take_text(const json_t *object, unsigned k, struct image_record *r)
{
    const json_t *v = json_object_get(object, texts[k].key);
    if (!v)
        return !texts[k].needed;
    const char *s = json_string_value(v);
    if (!s || strlen(s) != json_string_length(v) || strlen(s) >= texts[k].size)
        return false;
    for (const char *c = s; *c; c++)
        if (*c < ' ' || *c > '~')
            return false;
    strcpy((char *)r + texts[k].offset, s);
    return true;
}

// NULL if it is good, else the key that is not.
static const char *take(const json_t *object, struct image_record *r)
{
    const char *kind = json_string_value(json_object_get(object, "kind"));
    const char *format = json_string_value(json_object_get(object, "format"));
    const json_t *size = json_object_get(object, "size"), *created = json_object_get(object, "created");
    if (!kind || (strcmp(kind, "built") && strcmp(kind, "imported")))
        return "kind";
    r->built = !strcmp(kind, "built");
    if (!format || (strcmp(format, "raw") && strcmp(format, "qcow2")))
        return "format";
    r->format = strcmp(format, "raw") ? DISK_QCOW2 : DISK_RAW;
    if (!json_is_integer(size) || json_integer_value(size) <= 0 || json_integer_value(size) % 512)
        return "size";
    r->size = (uint64_t)json_integer_value(size);
    if (!json_is_integer(created) || json_integer_value(created) < 0 || json_integer_value(created) > INT32_MAX * 16ll)
        return "created";
    r->created = (time_t)json_integer_value(created);
    for (unsigned k = 0; k < TEXTS; k++)
        if (!take_text(object, k, r))
            return texts[k].key;
    bool hash = strlen(r->sha256) == IMAGE_HASH - 1 && strspn(r->sha256, "0123456789abcdef") == IMAGE_HASH - 1;
    return hash ? NULL : "sha256";
}

int image_record_read(int fd, const char *where, struct image_record *out, struct error *err)
{
    struct stat st;
    json_error_t why;
    *out = (struct image_record){0};
    if (fstat(fd, &st))
        return error_set(err, errno, "%s: %s", where, strerror(errno));
    if (!S_ISREG(st.st_mode) || st.st_size > FILE_MAX)
        return error_set(err, EINVAL, "%s: not a description of an image", where);
    json_t *object = json_loadfd(fd, JSON_REJECT_DUPLICATES, &why);
    if (!json_is_object(object)) {
        json_decref(object);
        return error_set(err, EINVAL, "%s: not a description of an image", where);
    }
    const char *bad = take(object, out);
    json_decref(object);
    return bad ? error_set(err, EINVAL, "%s: \"%s\" is missing or makes no sense", where, bad) : 0;
}

static json_t *object_of(const struct image_record *r)
{
    json_t *o = json_pack("{s:s, s:s, s:I, s:I}", "kind", r->built ? "built" : "imported", "format",
                          image_record_format(r), "size", (json_int_t)r->size, "created", (json_int_t)r->created);
    for (unsigned k = 0; k < TEXTS && o; k++) {
        const char *s = (const char *)r + texts[k].offset;
        if (*s && json_object_set_new(o, texts[k].key, json_string(s))) {
            json_decref(o);
            o = NULL;
        }
    }
    return o;
}

char *image_record_text(const struct image_record *r, uint64_t disk_bytes, const char *path)
{
    json_t *o = object_of(r);
    bool good = o && !json_object_set_new(o, "name", json_string(r->name)) &&
                !json_object_set_new(o, "disk_bytes", json_integer((json_int_t)disk_bytes)) &&
                !json_object_set_new(o, "disk", json_string(path));
    char *text = good ? json_dumps(o, JSON_INDENT(2)) : NULL;
    json_decref(o);
    return text;
}

int image_record_write(int fd, const struct image_record *r, const char *where, struct error *err)
{
    json_t *o = object_of(r);
    int e = o && !json_dumpfd(o, fd, JSON_INDENT(2)) ? 0 : errno ? -errno : -ENOMEM;
    if (!e && write(fd, "\n", 1) != 1)
        e = -errno;
    json_decref(o);
    return e ? error_set(err, -e, "%s: %s", where, strerror(-e)) : 0;
}
