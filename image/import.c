// Images from elsewhere, and what can be said of any. See make.h.
#include "backend/qcow2/qcow2.h"
#include "image/find.h"
#include "image/make.h"
#include "image/program.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SECTOR = 512 };

// --- what a file is

// What is packed would be taken for a raw disk.
static const char *packed(const uint8_t *b)
{
    static const struct {
        const char *magic;
        unsigned length;
        const char *name;
    } kinds[] = {{"\x1f\x8b", 2, "gzip"},
                 {"\xfd"
                  "7zXZ",
                  5, "xz"},
                 {"\x28\xb5\x2f\xfd", 4, "zstd"},
                 {"BZh", 3, "bzip2"},
                 {"PK\3\4", 4, "zip"},
                 {"KDMV", 4, "VMDK"},
                 {"vhdxfile", 8, "VHDX"},
                 {"<!DOCTYPE", 9, "HTML"},
                 {"<html", 5, "HTML"}};
    for (unsigned i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (!memcmp(b, kinds[i].magic, kinds[i].length))
            return kinds[i].name;
    return NULL;
}

int image_probe(const char *path, enum disk_format *format, struct error *err)
{
    uint8_t b[SECTOR] = {0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, b, sizeof b);
    int e = n < 0 ? error_set(err, errno, "%s: %s", path, strerror(errno)) : 0;
    if (fd >= 0)
        close(fd);
    if (e)
        return e;
    const char *kind = packed(b);
    if (!n || kind)
        return error_set(err, EINVAL, "%s: %s%s%s", path,
                         kind ? "neither a raw nor a qcow2 image: this is " : "it is empty", kind ? kind : "",
                         kind && strlen(kind) < 6 && strcmp(kind, "HTML") ? " (unpack it first)" : "");
    *format = memcmp(b, "QFI\xfb", 4) ? DISK_RAW : DISK_QCOW2;
    return 0;
}

int image_examine(const char *path, enum disk_format format, struct image_record *r, struct error *err)
{
    struct reader d;
    struct boot_found b;
    struct error none;
    int e = format == DISK_PROBE ? image_probe(path, &format, err) : 0;
    if (!e)
        e = reader_open(&d, path, format, err);
    if (e)
        return e;
    r->format = format;
    r->size = d.size;
    reader_close(&d);
    if (find_boot(path, format, &b, &none))
        return 0; // it may boot in other ways
    strcpy(r->kernel, b.kernel);
    strcpy(r->initrd, b.initrd);
    strcpy(r->root, b.root);
    boot_found_close(&b);
    return 0;
}

// --- importing

static bool is_url(const char *s)
{
    return !strncmp(s, "http://", 7) || !strncmp(s, "https://", 8);
}

// debian-12-genericcloud-amd64.qcow2?x -> debian-12-genericcloud-amd64
static int name_of(const char *from, char name[IMAGE_NAME], struct error *err)
{
    size_t length = is_url(from) ? strcspn(from, "?#") : strlen(from);
    const char *slash = memrchr(from, '/', length), *base = slash ? slash + 1 : from;
    size_t n = length - (size_t)(base - from);
    static const char *const endings[] = {".qcow2", ".img", ".raw", ".bin"};
    for (unsigned i = 0; i < sizeof endings / sizeof *endings; i++) {
        size_t k = strlen(endings[i]);
        if (n > k && !strncasecmp(base + n - k, endings[i], k)) {
            n -= k;
            break;
        }
    }
    snprintf(name, IMAGE_NAME, "%.*s", (int)(n < IMAGE_NAME ? n : 0), base);
    return image_name_good(name)
               ? 0
               : error_set(err, EINVAL, "%.120s: its name is none for an image: give it one by --name", from);
}

struct fetch {
    const char *path;
    const struct progress *progress;
};

static void on_tick(void *ctx)
{
    const struct fetch *f = ctx;
    struct stat st;
    progress_tell(f->progress, "downloading", stat(f->path, &st) ? 0 : (uint64_t)st.st_size, 0);
}

static int fetch(const char *url, const char *to, const struct progress *progress, struct error *err)
{
    struct fetch f = {to, progress};
    const struct program curl = {.argv = {"curl", "-fsSL", "--proto", "=http,https", "--retry", "3",
                                          "--connect-timeout", "30", "-o", to, "--", url, NULL},
                                 .package = "curl",
                                 .tick = on_tick,
                                 .ctx = &f};
    int e = program_run(&curl, err);
    if (e)
        error_prefix(err, "%.100s", url);
    return e;
}

static int verify(const char *path, const char *from, const char *want, struct error *err)
{
    char hash[IMAGE_HASH];
    int e = file_sha256(path, hash, err);
    if (!e && strcasecmp(hash, want))
        e = error_set(err, EINVAL, "%.100s: its SHA-256 is %s, not the one that was given", from, hash);
    return e;
}

static int no_backing(const char *path, struct error *err)
{
    char name[QCOW2_BACKING];
    int e = qcow2_backing(path, name, err);
    if (!e && name[0])
        e = error_set(err, EINVAL, "%s: it is only an overlay of %.80s: import that, or convert it first", path, name);
    return e;
}

// The draft's disk is there, under a name that does not tell its format yet.
static int take(struct draft *d, const char *path, const struct import_options *o, struct image_record *r,
                struct error *err)
{
    enum disk_format format = DISK_RAW;
    char disk[PATH_MAX];
    struct stat st;
    int e = o->sha256 ? verify(path, o->from, o->sha256, err) : 0;
    if (!e)
        e = image_probe(path, &format, err);
    if (!e && format == DISK_QCOW2)
        e = no_backing(path, err);
    // What came from the net has any length.
    if (!e && format == DISK_RAW && (stat(path, &st) || truncate(path, (st.st_size + SECTOR - 1) / SECTOR * SECTOR)))
        e = error_set(err, errno, "%s: %s", path, strerror(errno));
    if (e)
        return e;
    store_draft_disk(d, format, disk);
    if (rename(path, disk))
        return error_set(err, errno, "%s: %s", path, strerror(errno));
    return image_examine(disk, format, r, err);
}

// Texts of records are printable ASCII.
static void put_text(char *to, const char *from)
{
    unsigned n = 0;
    for (; *from && n < IMAGE_TEXT - 1; from++)
        to[n++] = *from < ' ' || *from > '~' ? '?' : *from;
    to[n] = 0;
}

int image_import(const struct store *s, const struct import_options *o, const struct progress *progress,
                 struct image_record *out, struct error *err)
{
    struct draft d;
    char name[IMAGE_NAME], path[PATH_MAX + 8];
    int e = o->name ? 0 : name_of(o->from, name, err);
    bool url = is_url(o->from);
    if (!e && !url && strstr(o->from, "://"))
        e = error_set(err, EINVAL, "%.100s: only http and https are fetched", o->from);
    if (!e)
        e = store_begin(s, o->name ? o->name : name, false, &d, err);
    if (e)
        return e;
    *out = (struct image_record){.created = time(NULL)};
    put_text(out->source, o->from);
    snprintf(path, sizeof path, "%s/disk", d.path);
    e = url ? fetch(o->from, path, progress, err) : image_copy_file(o->from, path, progress, err);
    if (!e)
        e = take(&d, path, o, out, err);
    if (e) {
        store_abort(&d);
        return e;
    }
    progress_tell(progress, "checking", 0, 0);
    return store_commit(&d, out, err);
}

int image_resize(const struct store *s, const char *name, uint64_t size, const struct progress *progress,
                 struct image_record *out, struct error *err)
{
    struct draft d;
    char from[PATH_MAX], to[PATH_MAX];
    int e = store_get(s, name, out, err);
    if (!e && size < out->size)
        e = error_set(err, EINVAL, "image %s: it has %llu bytes: it can't be made smaller", name,
                      (unsigned long long)out->size);
    if (e || size == out->size)
        return e;
    e = store_begin(s, name, true, &d, err);
    if (e)
        return e;
    store_disk(s, out, from);
    store_draft_disk(&d, out->format, to);
    if (out->format == DISK_RAW) {
        e = image_copy_file(from, to, progress, err);
        if (!e && truncate(to, (off_t)size))
            e = error_set(err, errno, "%s: %s", to, strerror(errno));
    } else {
        e = image_convert(from, out->format, to, out->format, size, progress, err);
    }
    if (e) {
        store_abort(&d);
        return e;
    }
    out->size = size;
    progress_tell(progress, "checking", 0, 0);
    return store_commit(&d, out, err);
}
