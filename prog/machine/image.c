// See run_image.h.
#include "prog/machine/image.h"
#include "backend/qcow2/qcow2.h"
#include "image/make.h"
#include "image/seed.h"
#include "prog/command/image.h"
#include "prog/machine/file.h"
#include "prog/state/waiting.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

enum { INSTANCE = 33, IDENTITY = 600 };

static bool is_file(const char *what)
{
    return strchr(what, '/');
}

int run_image_available(const struct run_options *o, struct error *err)
{
    struct store s;
    struct image_record r;
    if (!o->image.what || is_file(o->image.what))
        return 0;
    int e = store_open(&s, err);
    if (e)
        return e;
    e = store_get(&s, o->image.what, &r, err);
    if (e == -ENOENT && !strcmp(o->image.what, "debian")) {
        struct waiting w;
        struct progress p = waiting_begin(&w, "image debian (built once)");
        e = image_build_default(&s, &p, &r, err);
        waiting_end(&w);
        if (e == -EEXIST) // somebody else was faster
            e = store_get(&s, o->image.what, &r, err);
    } else if (e == -ENOENT) {
        error_set(
            err, ENOENT,
            "image %.40s: there is none: trapeze image ls lists them, image import FILE makes one; a disk in a file "
            "needs a slash: ./FILE",
            o->image.what);
    }
    store_close(&s);
    return e;
}

// --- the overlay

// Where the base is, and words by which it is recognized.
static int find_base(const char *what, char path[PATH_MAX], enum disk_format *format, uint64_t *size,
                     char identity[IDENTITY], struct error *err)
{
    struct image_record r = {.size = 0};
    struct reader disk;
    struct store s;
    struct stat st;
    int e;
    if (is_file(what)) {
        if (!realpath(what, path))
            return error_set(err, errno, "disk %s: %s", what, strerror(errno));
        e = image_probe(path, &r.format, err);
        if (!e && !(e = reader_open(&disk, path, r.format, err))) {
            r.size = disk.size;
            reader_close(&disk);
        }
        if (!e && stat(path, &st))
            e = error_set(err, errno, "disk %s: %s", what, strerror(errno));
        if (!e)
            snprintf(identity, IDENTITY, "file %llu:%llu %lld.%09ld\n", (unsigned long long)st.st_dev,
                     (unsigned long long)st.st_ino, (long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
    } else {
        e = store_open(&s, err);
        if (!e)
            e = store_get(&s, what, &r, err);
        if (!e) {
            store_disk(&s, &r, path);
            snprintf(identity, IDENTITY, "image %s %lld\n", r.name, (long long)r.created);
        }
        store_close(&s);
    }
    *format = r.format;
    *size = r.size;
    return e;
}

static int make_overlay(const struct run_options *o, const struct state_dir *d, const char *overlay, struct error *err)
{
    char base[PATH_MAX], identity[IDENTITY] = "";
    enum disk_format format = DISK_RAW;
    uint64_t size = 0;
    int e = find_base(o->image.what, base, &format, &size, identity, err);
    if (e)
        return e;
    if (o->image.size && o->image.size < size)
        return error_set(err, EINVAL, "--size %" PRIu64 "M: smaller than the image, which has %" PRIu64 "M",
                         o->image.size >> 20, size >> 20);
    char *before = state_dir_read(d, "image");
    if (before && !access(overlay, F_OK)) {
        bool same = !strcmp(before, identity);
        free(before);
        return same ? 0
                    : error_set(err, ESTALE, "image %.80s: it is not the one any more that machine %s was made from",
                                o->image.what, d->name);
    }
    free(before);
    unlink(overlay); // half of one: "image" is written last
    const struct qcow2_options q = {.path = overlay,
                                    .size = o->image.size,
                                    .backing = base,
                                    .backing_format = format == DISK_QCOW2 ? "qcow2" : "raw"};
    e = qcow2_create(&q, err);
    return e ? e : state_dir_write(d, "image", identity, err);
}

// --- what the machine has alone

static int instance(const struct state_dir *d, char id[INSTANCE], struct error *err)
{
    uint8_t b[INSTANCE / 2];
    char *before = d->fd >= 0 ? state_dir_read(d, "instance") : NULL;
    if (before && strlen(before) == INSTANCE - 1 && strspn(before, "0123456789abcdef") == INSTANCE - 1) {
        strcpy(id, before);
        free(before);
        return 0;
    }
    free(before);
    if (getrandom(b, sizeof b, 0) != sizeof b)
        return error_set(err, EIO, "no random numbers: %s", strerror(errno));
    b[6] = (uint8_t)((b[6] & 0x0f) | 0x40); // as systemd makes them: RFC 4122, version 4
    b[8] = (uint8_t)((b[8] & 0x3f) | 0x80);
    for (unsigned i = 0; i < sizeof b; i++)
        snprintf(id + 2 * i, 3, "%02x", b[i]);
    return d->fd >= 0 ? state_dir_write(d, "instance", id, err) : 0;
}

// Machines' names may have underscores, hosts' may not.
static void host_name(const struct run_options *o, char name[64])
{
    snprintf(name, 64, "%s", o->image.hostname ? o->image.hostname : o->name);
    for (char *c = name; *c; c++)
        if (*c == '_' || (*c == '.' && !o->image.hostname))
            *c = '-';
}

// --- cloud-init's disk

static bool wants_seed(const struct image_option *i)
{
    return i->user_data || i->network_config || i->hostname || i->ssh_keys;
}

static int write_new(const char *path, const void *data, size_t size, struct error *err)
{
    unlink(path);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600); // user data may have passwords
    int e = fd < 0 ? -errno : 0;
    for (size_t done = 0; !e && done < size;) {
        ssize_t n = write(fd, (const char *)data + done, size - done);
        if (n < 0 && errno != EINTR)
            e = -errno;
        done += n > 0 ? (size_t)n : 0;
    }
    if (fd >= 0)
        close(fd);
    return e ? error_set(err, -e, "%s: %s", path, strerror(-e)) : 0;
}

static int read_keys(struct seed *s, const struct image_option *o, struct error *err)
{
    int e = 0;
    for (unsigned n = 0; n < o->ssh_keys && !e; n++) {
        struct file f = {NULL, 0};
        char what[300];
        snprintf(what, sizeof what, "--ssh-key %.280s", o->ssh_key[n]);
        e = file_map(&f, "--ssh-key", o->ssh_key[n], err);
        if (!e)
            e = seed_keys(s, f.data, f.size, what, err);
        file_unmap(&f);
    }
    return e;
}

static int make_seed(const struct run_options *o, const char *id, const char *path, struct error *err)
{
    struct file user = {NULL, 0}, network = {NULL, 0};
    char name[64];
    void *image = NULL;
    size_t size;
    host_name(o, name);
    struct seed s = {.instance = id, .hostname = name};
    for (unsigned n = 0; n < o->nets && n < SEED_MACS_MAX; n++, s.macs++)
        if (o->net[n].has_mac)
            memcpy(s.mac[n], o->net[n].mac, 6);
        else
            network_mac(o->name, n, s.mac[n]);
    int e = read_keys(&s, &o->image, err);
    if (!e && o->image.user_data)
        e = file_map(&user, "--user-data", o->image.user_data, err);
    if (!e && o->image.network_config)
        e = file_map(&network, "--network-config", o->image.network_config, err);
    s.user_data = user.data;
    s.user_data_size = user.size;
    s.network_config = network.data;
    s.network_config_size = network.size;
    if (!e)
        e = seed_make(&s, &image, &size, err);
    if (!e)
        e = write_new(path, image, size, err);
    free(image);
    file_unmap(&network);
    file_unmap(&user);
    seed_free(&s);
    return e;
}

static int add_seed(struct run_image *i, struct run_options *o, const struct state_dir *d, const char *id,
                    struct error *err)
{
    if (o->disks == MAX_DISKS)
        return error_set(err, EINVAL, "--disk: no room for the disk for cloud-init: at most %d", MAX_DISKS - 1);
    if (d->fd < 0)
        return error_set(err, ENOENT, "data for cloud-init: there is no directory to keep it in");
    if (snprintf(i->seed, sizeof i->seed, "%s/seed.iso", d->path) >= (int)sizeof i->seed)
        return error_set(err, ENAMETOOLONG, "%s: too long", d->path);
    int e = make_seed(o, id, i->seed, err);
    if (!e)
        o->disk[o->disks++] = (struct disk_option){.path = i->seed, .readonly = true, .format = DISK_RAW};
    return e;
}

// --- the kernel

static int find_kernel(struct run_image *i, struct run_options *o, const char *id, struct error *err)
{
    const struct disk_option *disk = &o->disk[0];
    int e = find_boot(disk->path, disk->format, &i->found, err);
    if (e)
        return e;
    char name[64];
    host_name(o, name);
    // systemd takes its names from here; others take these for some module's.
    char *shares = share_words(o->share, o->shares);
    e = !shares || asprintf(&i->append, "root=%s ro console=ttyS0 systemd.hostname=%s systemd.machine_id=%s%s%s%s",
                            i->found.root, name, id, shares, o->append[0] ? " " : "", o->append) < 0
            ? error_set(err, ENOMEM, "out of memory")
            : 0;
    free(shares);
    snprintf(i->kernel, sizeof i->kernel, "/proc/self/fd/%d", i->found.kernel_fd);
    snprintf(i->initrd, sizeof i->initrd, "/proc/self/fd/%d", i->found.initrd_fd);
    if (e) {
        i->append = NULL;
        return e;
    }
    o->kernel = i->kernel;
    o->initrd = i->found.initrd_fd >= 0 ? i->initrd : NULL;
    o->append = i->append;
    return 0;
}

int run_image_prepare(struct run_image *i, struct run_options *o, const struct state_dir *d, struct error *err)
{
    char id[INSTANCE];
    *i = (struct run_image){.found = {.kernel_fd = -1, .initrd_fd = -1}};
    if (!o->image.what && o->kernel && !wants_seed(&o->image))
        return 0;
    int e = instance(d, id, err);
    if (!e && o->image.what) {
        if (d->fd < 0)
            return error_set(err, ENOENT, "image %.80s: there is no directory to keep the machine's disk in",
                             o->image.what);
        if (snprintf(i->disk, sizeof i->disk, "%s/disk.qcow2", d->path) >= (int)sizeof i->disk)
            return error_set(err, ENAMETOOLONG, "%s: too long", d->path);
        e = make_overlay(o, d, i->disk, err);
        if (!e) {
            memmove(o->disk + 1, o->disk, o->disks * sizeof *o->disk);
            o->disk[0] = (struct disk_option){.path = i->disk, .format = DISK_QCOW2};
            o->disks++;
        }
    }
    if (!e && wants_seed(&o->image))
        e = add_seed(i, o, d, id, err);
    if (!e && !o->kernel)
        e = find_kernel(i, o, id, err);
    return e;
}

void run_image_started(struct run_image *i)
{
    boot_found_close(&i->found);
}

void run_image_free(struct run_image *i)
{
    boot_found_close(&i->found);
    free(i->append);
    i->append = NULL;
}
