// trapeze image: which images there are, and where the commands that make some are found (image_make.c).
#include "prog/command/image.h"
#include "image/make.h"
#include "prog/command/commands.h"
#include "prog/option/command_line.h"
#include "prog/state/state_dir.h"
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// --- ls, rm, info

struct words {
    const char *word[64];
    unsigned count, most;
    bool json, help, force;
};

static int take_word(void *into, char *word, struct error *err)
{
    struct words *w = into;
    if (w->count == w->most)
        return error_set(err, EINVAL, "%.80s: unexpected argument", word);
    w->word[w->count++] = word;
    return 0;
}

#define JSON                                                                                                           \
    {                                                                                                                  \
        "json", NULL, "as JSON, for programs", OPTION_SET(struct words, json)                                          \
    }
#define HELP                                                                                                           \
    {                                                                                                                  \
        "help", NULL, "this help (also -h)", OPTION_SET(struct words, help), .letter = 'h'                             \
    }

static const struct option json_options[] = {JSON, HELP};
static const struct option rm_options[] = {
    {"force", NULL, "even where machines were made from it: they can't be started any more (also -f)",
     OPTION_SET(struct words, force), .letter = 'f'},
    HELP};
static const struct option_group json_group = OPTION_GROUP(NULL, json_options);
static const struct option_group rm_group = OPTION_GROUP(NULL, rm_options);
static const struct option_group *const with_json[] = {&json_group, NULL}, *const with_force[] = {&rm_group, NULL};

static const struct command_line ls_line = {.command = "image ls",
                                            .usage = "image ls [--json]\nList the images that are there.",
                                            .after = "\nExample: trapeze image ls --json | jq -r '.[].name'\n",
                                            .groups = with_json};
static const struct command_line rm_line = {.command = "image rm",
                                            .usage = "image rm [--force] NAME...\nRemove images.",
                                            .after = "\nExample: trapeze image rm debian\n",
                                            .groups = with_force,
                                            .word = take_word};
static const struct command_line info_line = {
    .command = "image info",
    .usage = "image info [--json] NAME|FILE\nTell what an image, or the disk in a file, is and what it would boot.",
    .after = "\nExample: trapeze image info debian; trapeze image info ./cloud.qcow2\n",
    .groups = with_json,
    .word = take_word};

// Parses; true if there is something to do, else *status is the command's.
static bool parse(const struct command_line *c, struct words *w, unsigned least, int argc, char **argv, int *status)
{
    struct error err;
    int e = command_line_parse(c, w, argc, argv, &err);
    if (!e && !w->help && w->count < least)
        e = command_line_wrong(c, &err, "the image's name is missing");
    if (e) {
        *status = image_failed(c->command, e, &err);
    } else if (w->help) {
        command_line_help(c, stdout);
        *status = STATUS_OK;
    }
    return !e && !w->help;
}

static uint64_t bytes_of(const char *path) // that it takes on this disk
{
    struct stat st;
    return stat(path, &st) ? 0 : (uint64_t)st.st_blocks * 512;
}

static void size_text(char *to, size_t room, uint64_t bytes)
{
    if (bytes >= 10ull << 30 || (bytes >= 1 << 30 && bytes % (1 << 30) == 0))
        snprintf(to, room, "%llu GiB", (unsigned long long)(bytes >> 30));
    else if (bytes >= 1 << 20)
        snprintf(to, room, "%llu MiB", (unsigned long long)(bytes >> 20));
    else
        snprintf(to, room, "%llu KiB", (unsigned long long)(bytes >> 10));
}

static void date_text(char *to, size_t room, time_t when)
{
    struct tm tm;
    if (!gmtime_r(&when, &tm) || !strftime(to, room, "%Y-%m-%d", &tm))
        to[0] = 0;
}

static void on_bad(void *ctx, const struct error *e)
{
    (void)ctx;
    fprintf(stderr, "trapeze image ls: %s\n", e->text);
}

static int print_json(const struct store *s, const struct image_record *all, unsigned count)
{
    json_t *list = json_array();
    for (unsigned i = 0; i < count; i++) {
        char path[PATH_MAX];
        store_disk(s, &all[i], path);
        char *text = image_record_text(&all[i], bytes_of(path), path);
        json_t *o = text ? json_loads(text, 0, NULL) : NULL;
        free(text);
        if (!o || json_array_append_new(list, o)) {
            json_decref(list);
            fprintf(stderr, "trapeze image ls: out of memory\n");
            return STATUS_FAILED;
        }
    }
    json_dumpf(list, stdout, JSON_INDENT(2));
    printf("\n");
    json_decref(list);
    return STATUS_OK;
}

static void print_list(const struct store *s, const struct image_record *all, unsigned count)
{
    printf("%-20s %-7s %10s %10s  %-11s %s\n", "NAME", "FORMAT", "SIZE", "ON DISK", "CREATED", "FROM");
    for (unsigned i = 0; i < count; i++) {
        char path[PATH_MAX], size[24], taken[24], date[16];
        store_disk(s, &all[i], path);
        size_text(size, sizeof size, all[i].size);
        size_text(taken, sizeof taken, bytes_of(path));
        date_text(date, sizeof date, all[i].created);
        printf("%-20s %-7s %10s %10s  %-11s %s\n", all[i].name, image_record_format(&all[i]), size, taken, date,
               all[i].source);
    }
}

int image_ls(int argc, char **argv)
{
    struct words w = {.most = 0};
    struct store s;
    struct error err;
    struct image_record *all;
    unsigned count;
    int status;
    if (!parse(&ls_line, &w, 0, argc, argv, &status))
        return status;
    int e = store_open(&s, &err);
    if (!e)
        e = store_list(&s, &all, &count, on_bad, NULL, &err);
    if (e) {
        store_close(&s);
        return image_failed("image ls", e, &err);
    }
    status = STATUS_OK;
    if (w.json)
        status = print_json(&s, all, count);
    else
        print_list(&s, all, count);
    free(all);
    store_close(&s);
    return status;
}

// A machine whose disk is an overlay of that image.
static int check_unused(const char *name, struct error *err)
{
    char **machine, start[IMAGE_NAME + 16];
    int e = state_dir_list(&machine, err);
    if (e)
        return e;
    snprintf(start, sizeof start, "image %.32s ", name);
    for (char **m = machine; *m && !e; m++) {
        struct state_dir d;
        if (state_dir_open(&d, *m, NULL)) // it has gone
            continue;
        char *image = state_dir_read(&d, "image");
        if (image && !strncmp(image, start, strlen(start)))
            e = error_set(err, EBUSY, "image %s: machine %s was made from it (trapeze rm %s removes that; --force)",
                          name, *m, *m);
        free(image);
        state_dir_close(&d);
    }
    free(machine);
    return e;
}

int image_rm(int argc, char **argv)
{
    struct words w = {.most = sizeof w.word / sizeof *w.word};
    struct store s;
    struct error err;
    int status;
    if (!parse(&rm_line, &w, 1, argc, argv, &status))
        return status;
    int e = store_open(&s, &err);
    if (e)
        return image_failed("image rm", e, &err);
    for (unsigned i = 0; i < w.count; i++)
        if ((!w.force && (e = check_unused(w.word[i], &err))) || (e = store_remove(&s, w.word[i], &err)))
            status = image_failed("image rm", e, &err);
        else
            printf("%s\n", w.word[i]);
    store_close(&s);
    return status;
}

static void print_info(const struct image_record *r, const char *path)
{
    char size[24], taken[24], date[16];
    size_text(size, sizeof size, r->size);
    size_text(taken, sizeof taken, bytes_of(path));
    date_text(date, sizeof date, r->created);
    if (r->name[0])
        printf("name      %s (%s)\n", r->name, r->built ? "built" : "imported");
    if (r->source[0])
        printf("from      %s\n", r->source);
    if (r->packages[0])
        printf("packages  %s\n", r->packages);
    if (r->name[0])
        printf("created   %s\n", date);
    printf("disk      %s, %s, %s on disk\n          %s\n", image_record_format(r), size, taken, path);
    if (r->sha256[0])
        printf("sha256    %s\n", r->sha256);
    printf("kernel    %s\n", r->kernel[0] ? r->kernel : "none found");
    if (r->kernel[0])
        printf("initrd    %s\nroot      %s\n", r->initrd[0] ? r->initrd : "none", r->root);
}

int image_info(int argc, char **argv)
{
    struct words w = {.most = 1};
    struct store s;
    struct error err;
    struct image_record r = {.size = 0};
    char path[PATH_MAX];
    int status;
    if (!parse(&info_line, &w, 1, argc, argv, &status))
        return status;
    int e;
    if (strchr(w.word[0], '/') || (!image_name_good(w.word[0]) && !access(w.word[0], F_OK))) {
        e = image_examine(w.word[0], DISK_PROBE, &r, &err);
        snprintf(path, sizeof path, "%s", w.word[0]);
    } else {
        e = store_open(&s, &err);
        if (!e)
            e = store_get(&s, w.word[0], &r, &err);
        if (!e)
            store_disk(&s, &r, path);
        store_close(&s);
    }
    if (e)
        return image_failed("image info", e, &err);
    char *text = w.json ? image_record_text(&r, bytes_of(path), path) : NULL;
    if (text)
        printf("%s\n", text);
    else
        print_info(&r, path);
    free(text);
    return STATUS_OK;
}

// --- all of them

static const struct {
    const char *name, *help;
    int (*run)(int argc, char **argv);
} commands[] = {
    {"build", "make an image: Debian, out of packages", image_build},
    {"import", "take a raw or qcow2 disk, from a file or URL", image_import_command},
    {"ls", "list the images", image_ls},
    {"info", "tell what an image is, and what it would boot", image_info},
    {"resize", "make an image larger", image_resize_command},
    {"convert", "write an image, or the disk in a file, into a new file", image_convert_command},
    {"rm", "remove images", image_rm},
};

enum { COMMANDS = sizeof commands / sizeof *commands };

static void help(FILE *f)
{
    fprintf(f, "Usage: trapeze image COMMAND [OPTION]...\n"
               "Images are disks that machines start from. Each machine writes into an overlay of its own: images stay "
               "as they are.\n\n");
    for (unsigned i = 0; i < COMMANDS; i++)
        fprintf(f, "  %-8s  %s\n", commands[i].name, commands[i].help);
    fprintf(f, "\n  trapeze image COMMAND --help tells more.\n"
               "\nExample: trapeze image build debian --packages nginx --size 8G && trapeze run debian\n");
}

int image_failed(const char *name, int e, const struct error *err)
{
    fprintf(stderr, "trapeze %s: %s\n", name, err->text);
    return e == -EINVAL ? STATUS_USAGE : STATUS_FAILED;
}

int command_image(int argc, char **argv)
{
    if (!argc) {
        help(stderr);
        return STATUS_USAGE;
    }
    if (!strcmp(argv[0], "--help") || !strcmp(argv[0], "-h") || !strcmp(argv[0], "help")) {
        help(stdout);
        return STATUS_OK;
    }
    for (unsigned i = 0; i < COMMANDS; i++)
        if (!strcmp(argv[0], commands[i].name))
            return commands[i].run(argc - 1, argv + 1);
    fprintf(stderr, "trapeze image: %.80s: unknown command (see trapeze image --help)\n", argv[0]);
    return STATUS_USAGE;
}
