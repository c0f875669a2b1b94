// trapeze import: a file of trapeze export becomes a machine that has ended, for trapeze start.
//
// Its directory has no machine's name until all that is in the file has been checked. What the machine gets is made of
// the manifest's fields here, word by word (bundle/manifest.h says why).
#include "backend/qcow2/qcow2.h"
#include "bundle/bundle.h"
#include "prog/command/commands.h"
#include "prog/command/vm_options.h"
#include "prog/option/options.h"
#include "prog/state/record.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct import_options {
    const char *file, *name;
    bool help;
};

enum { WORDS = 16 + BUNDLE_DISKS + BUNDLE_NETS };

struct words {
    char *word[WORDS + 1];
    int count;
    bool failed;
};

static void say(struct words *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void say(struct words *w, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    w->failed = w->failed || w->count == WORDS || vasprintf(&w->word[w->count], fmt, args) < 0;
    va_end(args);
    if (!w->failed)
        w->count++;
    else if (w->count < WORDS)
        w->word[w->count] = NULL;
}

// Each option and its value are one word, so that no value can pass for an option.
static void spell(struct words *w, const struct bundle_manifest *m)
{
    say(w, "--cpus=%u", m->cpus);
    say(w, "--memory=%" PRIu64 "M", m->memory >> 20);
    if (m->cpu[0])
        say(w, "--cpu=%s", m->cpu);
    if (m->append[0])
        say(w, "--append=%s", m->append);
    if (m->kernel)
        say(w, "--kernel=kernel");
    if (m->initrd)
        say(w, "--initrd=initrd");
    if (m->agent)
        say(w, "--agent");
    if (m->mmio)
        say(w, "--virtio=mmio");
    if (!m->paravirt)
        say(w, "--paravirt=off");
    if (!m->balloon)
        say(w, "--balloon=off");
    if (m->no_reboot)
        say(w, "--no-reboot");
    for (unsigned i = 0; i < m->disks; i++)
        say(w, "--disk=%s,format=qcow2%s%s%s", m->member[i].name, m->disk[i].readonly ? ",ro" : "",
            m->disk[i].serial[0] ? ",serial=" : "", m->disk[i].serial);
    for (unsigned i = 0; i < m->nets; i++) {
        const uint8_t *b = m->mac[i];
        say(w, "--net=user,mac=%02x:%02x:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3], b[4], b[5]);
    }
}

static void forget(struct words *w)
{
    for (int i = 0; i < w->count; i++)
        free(w->word[i]);
}

// Whether `trapeze run` takes it: what the other host could have, this one may not know.
static int try_words(const struct bundle_manifest *m, struct error *err)
{
    struct words w = {.count = 0};
    struct run_options *o = malloc(sizeof *o);
    spell(&w, m);
    int e = o && !w.failed ? run_options_parse(o, w.count, w.word, err) : error_set(err, ENOMEM, "out of memory");
    free(o);
    forget(&w); // the parser has cut them
    return e;
}

static int write_record(const struct state_dir *d, const char *name, const struct bundle_manifest *m, struct error *err)
{
    struct words w = {.count = 0};
    struct state_dir named = *d;
    spell(&w, m);
    struct record *r = w.failed ? NULL : record_new(w.count, w.word, true, err);
    const char *slash = strrchr(d->path, '/');
    int e = r ? 0 : w.failed ? error_set(err, ENOMEM, "out of memory") : -ENOMEM;
    if (!e) {
        free(r->directory);
        if (asprintf(&r->directory, "%.*s/%s", (int)(slash - d->path), d->path, name) < 0) {
            r->directory = NULL;
            e = error_set(err, ENOMEM, "out of memory");
        }
    }
    snprintf(named.name, sizeof named.name, "%s", name);
    if (!e)
        e = record_write(&named, r, err);
    record_free(r);
    forget(&w);
    return e;
}

// An image that names another file of this host would show that to the guest.
static int check_disks(const struct state_dir *d, const struct bundle_manifest *m, struct error *err)
{
    char path[PATH_MAX], backing[QCOW2_BACKING];
    for (unsigned i = 0; i < m->disks; i++) {
        if (snprintf(path, sizeof path, "%s/%s", d->path, m->member[i].name) >= (int)sizeof path)
            return error_set(err, ENAMETOOLONG, "%s: the name is too long", d->path);
        int e = qcow2_backing(path, backing, err);
        if (e)
            return error_set(err, -e, "%s: not a qcow2 image, or damaged", m->member[i].name);
        if (backing[0])
            return error_set(err, EINVAL, "%s: it names another file, %.80s, as its base", m->member[i].name, backing);
    }
    return 0;
}

static int fill(struct state_dir *d, int fd, const struct import_options *o, struct bundle_manifest *m,
                struct error *err)
{
    int e = bundle_read(fd, d->fd, m, err);
    if (!e)
        e = check_disks(d, m, err);
    if (!e)
        e = try_words(m, err);
    if (!e)
        e = write_record(d, o->name ? o->name : m->name, m, err);
    if (!e)
        record_end(d, "imported", STATUS_OK, "it has not run here yet"); // without, it would pass for killed
    if (e)
        error_prefix(err, "%.100s: ", o->file);
    return e ? e : state_dir_publish(d, o->name ? o->name : m->name, err);
}

static int import(const struct import_options *o, struct bundle_manifest *m, struct error *err)
{
    struct state_dir d;
    struct error free_name;
    if (o->name && !state_name_valid(o->name))
        return error_set(err, EINVAL, "%.80s: no machine can have this name", o->name);
    // Found late as well; but then all has been read for nothing.
    if (o->name && !state_dir_open(&d, o->name, &free_name)) {
        state_dir_close(&d);
        return error_set(err, EEXIST, "%s: there is a machine of this name", o->name);
    }
    int fd = open(o->file, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return error_set(err, errno, "%.100s: %s", o->file, strerror(errno));
    int e = state_dir_draft(&d, false, err);
    if (!e) {
        e = fill(&d, fd, o, m, err);
        if (e)
            state_dir_remove(&d, NULL);
        else
            puts(d.name);
        state_dir_close(&d);
    }
    close(fd);
    return e;
}

static int take_word(void *into, char *word, struct error *err)
{
    struct import_options *o = into;
    if (o->file)
        return error_set(err, EINVAL, "%.80s: one file at a time", word);
    o->file = word;
    return 0;
}

static const struct option table[] = {
    {"name", "NAME", "what it is called here (default: as it was)", OPTION_TEXT(struct import_options, name)},
    {"help", NULL, "this help", OPTION_SET(struct import_options, help), .letter = 'h'},
};
static const struct option_group group = OPTION_GROUP(NULL, table);

int command_import(int argc, char **argv)
{
    static const struct option_group *const groups[] = {&group, NULL};
    static const struct command_line line = {
        .command = "import",
        .usage = "import [--name NAME] FILE\n"
                 "Make a machine of a file that trapeze export has written, and print its name; trapeze start runs "
                 "it. The file\nis checked while it is read; it may be from a stranger.",
        .after = "Example: trapeze import --name web2 web.tar.zst && trapeze start web2\n",
        .groups = groups,
        .word = take_word,
    };
    struct import_options o = {NULL, NULL, false};
    struct error err;
    int e = command_line_parse(&line, &o, argc, argv, &err);
    if (!e && o.help) {
        command_line_help(&line, stdout);
        return STATUS_OK;
    }
    if (!e && !o.file)
        e = command_line_wrong(&line, &err, "which file?");
    if (e)
        return vm_fail(&line, err.text), STATUS_USAGE;
    struct bundle_manifest *m = malloc(sizeof *m);
    if (!m)
        return vm_fail(&line, "out of memory");
    e = import(&o, m, &err);
    free(m);
    return e ? vm_fail(&line, err.text) : STATUS_OK;
}
