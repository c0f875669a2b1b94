// trapeze image build, import, resize, convert: the command lines of what makes images (image/make.h).
#include "image/make.h"
#include "prog/command/commands.h"
#include "prog/command/image.h"
#include "prog/guest/agent.h"
#include "prog/option/command_line.h"
#include "prog/state/waiting.h"
#include <errno.h>
#include <string.h>
#include <unistd.h>

#define DEFAULT_SIZE (4ull << 30)
#define DEFAULT_SUITE "bookworm"

struct make_options {
    const char *word[2]; // "debian", FILE, NAME...
    unsigned words;
    const char *name, *suite, *packages, *mirror, *sha256;
    enum disk_format format;
    uint64_t size;
    bool help;
};

// --- options

static int take_word(void *into, char *word, struct error *err)
{
    struct make_options *o = into;
    if (o->words == 2)
        return error_set(err, EINVAL, "%.80s: unexpected argument", word);
    o->word[o->words++] = word;
    return 0;
}

static int take_name(void *into, char *v, struct error *err)
{
    struct make_options *o = into;
    o->name = v;
    return image_name_good(v)
               ? 0
               : error_set(err, EINVAL, "--name %.40s: must be 1 to 32 letters, digits, dots, dashes or underscores",
                           v);
}

static int take_size(void *into, char *v, struct error *err)
{
    struct make_options *o = into;
    bool good = option_size(v, &o->size) && o->size && o->size % 512 == 0 && o->size <= 1ull << 44;
    return good ? 0 : error_set(err, EINVAL, "--size %.40s: must be a size such as 8G, at most 16T", v);
}

static int take_sha256(void *into, char *v, struct error *err)
{
    struct make_options *o = into;
    o->sha256 = v;
    bool good = strlen(v) == IMAGE_HASH - 1 && strspn(v, "0123456789abcdefABCDEF") == IMAGE_HASH - 1;
    return good ? 0 : error_set(err, EINVAL, "--sha256 %.40s: must be 64 hexadecimal digits", v);
}

static int take_format(void *into, char *v, struct error *err)
{
    struct make_options *o = into;
    o->format = !strcmp(v, "qcow2") ? DISK_QCOW2 : DISK_RAW;
    return o->format == DISK_QCOW2 || !strcmp(v, "raw")
               ? 0
               : error_set(err, EINVAL, "--format %.40s: must be raw or qcow2", v);
}

#define TEXT(field) OPTION_TEXT(struct make_options, field)
#define NAME                                                                                                           \
    {                                                                                                                  \
        "name", "NAME", "of the image (default: after what it comes from)", OPTION_TAKE(take_name)                     \
    }
#define HELP                                                                                                           \
    {                                                                                                                  \
        "help", NULL, "this help (also -h)", OPTION_SET(struct make_options, help), .letter = 'h'                      \
    }

static const struct option build_table[] = {
    NAME,
    {"suite", "SUITE", "which Debian (default " DEFAULT_SUITE ")", TEXT(suite)},
    {"packages", "A,B", "packages to install besides", TEXT(packages)},
    {"size", "SIZE", "of the disk (default 4G; what is not used takes no space)", OPTION_TAKE(take_size)},
    {"mirror", "URL", "where packages come from (default: Debian's mirrors)", TEXT(mirror)},
    HELP,
};
static const struct option import_table[] = {
    NAME, {"sha256", "HASH", "refuse a file that has another one", OPTION_TAKE(take_sha256)}, HELP};
static const struct option resize_table[] = {HELP};
static const struct option convert_table[] = {{"format", "raw|qcow2", "of the new file", OPTION_TAKE(take_format)},
                                              HELP};

#define GROUPS(table)                                                                                                  \
    (const struct option_group *const[])                                                                               \
    {                                                                                                                  \
        &(const struct option_group)OPTION_GROUP(NULL, table), NULL                                                    \
    }

static const struct command_line build_line = {
    .command = "image build",
    .usage = "image build debian [OPTION]...\n"
             "Install Debian into a new image: kernel, systemd, network, ssh, cloud-init; root has no password.",
    .after = "mmdebstrap and mke2fs do the work, as root or, without root, in a user namespace or by fakechroot.\n\n"
             "Example: trapeze image build debian --name web --packages nginx,curl --size 8G\n",
    .groups = GROUPS(build_table),
    .word = take_word};
static const struct command_line import_line = {
    .command = "image import",
    .usage = "image import FILE|URL [OPTION]...\nTake a raw or qcow2 disk as an image; its content tells which it is.",
    .after = "Example: trapeze image import "
             "https://cloud.debian.org/images/cloud/bookworm/latest/debian-12-genericcloud-amd64.qcow2\n",
    .groups = GROUPS(import_table),
    .word = take_word};
static const struct command_line resize_line = {
    .command = "image resize",
    .usage = "image resize NAME SIZE\nMake an image's disk larger. Machines that exist keep theirs.",
    .after = "Example: trapeze image resize debian 20G\n",
    .groups = GROUPS(resize_table),
    .word = take_word};
static const struct command_line convert_line = {
    .command = "image convert",
    .usage = "image convert NAME|FILE --format raw|qcow2 OUT\nWrite a disk into a new file.",
    .after = "Example: trapeze image convert debian --format qcow2 debian.qcow2\n",
    .groups = GROUPS(convert_table),
    .word = take_word};

// Parses; true if there is something to do, else *status is the command's.
static bool parse(const struct command_line *c, struct make_options *o, unsigned words, const char *what, int argc,
                  char **argv, int *status)
{
    struct error err;
    int e = command_line_parse(c, o, argc, argv, &err);
    if (!e && !o->help && o->words != words)
        e = o->words < words ? command_line_wrong(c, &err, "%s", what)
                             : command_line_wrong(c, &err, "%.80s: unexpected argument", o->word[o->words - 1]);
    if (e) {
        *status = image_failed(c->command, e, &err);
    } else if (o->help) {
        command_line_help(c, stdout);
        *status = STATUS_OK;
    }
    return !e && !o->help;
}

void image_print_made(const struct image_record *r)
{
    printf("image %s: %s, %llu MiB, %s\n", r->name, image_record_format(r),
           (unsigned long long)(r->size + 0xfffff) >> 20, r->kernel[0] ? r->kernel : "no kernel found in it");
}

// --- the commands

int image_build_default(const struct store *s, const struct progress *p, struct image_record *out, struct error *err)
{
    char agent[PATH_MAX];
    const struct build_options build = {
        .name = "debian", .suite = DEFAULT_SUITE, .size = DEFAULT_SIZE, .agent = agent_folder(agent)};
    return image_build_debian(s, &build, p, out, err);
}

// What a command that makes an image has: opened by begin(), given back by finish().
struct making {
    const struct command_line *line;
    struct image_record r;
    struct waiting w;
    struct progress p;
    struct store s;
    struct error err;
};

// From here on progress is shown under that name. What it returns finish() wants.
static int begin(struct making *m, const struct command_line *line, const char *name)
{
    m->line = line;
    m->p = waiting_begin(&m->w, name);
    return store_open(&m->s, &m->err);
}

static int finish(struct making *m, int e)
{
    waiting_end(&m->w);
    store_close(&m->s);
    if (e)
        return image_failed(m->line->command, e, &m->err);
    image_print_made(&m->r);
    return STATUS_OK;
}

int image_build(int argc, char **argv)
{
    struct make_options o = {.suite = DEFAULT_SUITE, .size = DEFAULT_SIZE};
    struct making m;
    char agent[PATH_MAX];
    int status;
    if (!parse(&build_line, &o, 1, "what to build is missing: debian", argc, argv, &status))
        return status;
    int e = strcmp(o.word[0], "debian")
                ? command_line_wrong(&build_line, &m.err, "%.40s: only debian can be built; import others", o.word[0])
                : 0;
    if (e)
        return image_failed(build_line.command, e, &m.err);
    const struct build_options build = {.name = o.name ? o.name : "debian",
                                        .suite = o.suite,
                                        .packages = o.packages,
                                        .mirror = o.mirror,
                                        .agent = agent_folder(agent),
                                        .size = o.size};
    e = begin(&m, &build_line, build.name);
    if (!e)
        e = image_build_debian(&m.s, &build, &m.p, &m.r, &m.err);
    return finish(&m, e);
}

int image_import_command(int argc, char **argv)
{
    struct make_options o = {.size = 0};
    struct making m;
    int status;
    if (!parse(&import_line, &o, 1, "the file or URL is missing", argc, argv, &status))
        return status;
    const struct import_options import = {.name = o.name, .from = o.word[0], .sha256 = o.sha256};
    int e = begin(&m, &import_line, "import");
    if (!e)
        e = image_import(&m.s, &import, &m.p, &m.r, &m.err);
    return finish(&m, e);
}

int image_resize_command(int argc, char **argv)
{
    struct make_options o = {.size = 0};
    struct making m;
    int status;
    if (!parse(&resize_line, &o, 2, "the image's name and its new size are missing", argc, argv, &status))
        return status;
    bool good = option_size(o.word[1], &o.size) && o.size && o.size % 512 == 0 && o.size <= 1ull << 44;
    int e = begin(&m, &resize_line, "resize");
    if (!e && !good)
        e = command_line_wrong(&resize_line, &m.err, "%.40s: must be a size such as 8G, at most 16T", o.word[1]);
    if (!e)
        e = image_resize(&m.s, o.word[0], o.size, &m.p, &m.r, &m.err);
    return finish(&m, e);
}

int image_convert_command(int argc, char **argv)
{
    struct make_options o = {.format = DISK_PROBE};
    struct image_record r = {.format = DISK_PROBE};
    struct waiting w;
    struct store s;
    struct error err;
    char path[PATH_MAX];
    int status;
    if (!parse(&convert_line, &o, 2, "the image and the new file are missing", argc, argv, &status))
        return status;
    int e = o.format == DISK_PROBE ? command_line_wrong(&convert_line, &err, "--format is missing: raw or qcow2")
                                   : store_open(&s, &err);
    if (e)
        return image_failed(convert_line.command, e, &err);
    // An image's name goes before a file's; ./NAME is the file.
    e = image_name_good(o.word[0]) ? store_get(&s, o.word[0], &r, &err) : -ENOENT;
    if (!e)
        store_disk(&s, &r, path);
    else if (e == -ENOENT)
        e = snprintf(path, sizeof path, "%s", o.word[0]) < PATH_MAX ? 0
                                                                    : error_set(&err, ENAMETOOLONG, "path too long");
    struct progress p = waiting_begin(&w, "convert");
    if (!e)
        e = image_convert(path, r.format, o.word[1], o.format, 0, &p, &err);
    waiting_end(&w);
    store_close(&s);
    return e ? image_failed(convert_line.command, e, &err) : STATUS_OK;
}
