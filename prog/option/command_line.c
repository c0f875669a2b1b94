// See command_line.h.
#include "prog/option/command_line.h"
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum { LEFT = 30 }; // columns for options in the help

int command_line_wrong(const struct command_line *c, struct error *err, const char *fmt, ...)
{
    char text[200];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return error_set(err, EINVAL, "%s (see trapeze %s --help)", text, c->command);
}

static const struct option *find(const struct command_line *c, const char *name, size_t length, char letter)
{
    for (const struct option_group *const *g = c->groups; *g; g++)
        for (unsigned i = 0; i < (*g)->count; i++) {
            const struct option *o = &(*g)->options[i];
            if (letter ? o->letter == letter : strlen(o->name) == length && !memcmp(o->name, name, length))
                return o;
        }
    return NULL;
}

static int take(const struct command_line *c, const struct option *o, void *into, char *value, struct error *err)
{
    struct error why = {.text = ""};
    if (o->set)
        *(bool *)((char *)into + o->set - 1) = true;
    if (o->text)
        *(const char **)((char *)into + o->text - 1) = value;
    int e = o->take ? o->take(into, value, &why) : 0;
    return e == -EINVAL ? command_line_wrong(c, err, "%.200s", why.text) : e ? error_set(err, -e, "%s", why.text) : 0;
}

// "-vvd" and "-n VALUE": letters; *i moves on over a value.
static int take_letters(const struct command_line *c, void *into, int argc, char **argv, int *i, struct error *err)
{
    char *a = argv[*i];
    for (char *letter = a + 1; *letter; letter++) {
        const struct option *o = find(c, NULL, 0, *letter);
        if (!o)
            return command_line_wrong(c, err, "%.80s: unknown option", a);
        char *value = NULL;
        if (o->value) {
            value = letter[1] ? letter + 1 : *i + 1 < argc ? argv[++*i] : NULL;
            if (!value)
                return command_line_wrong(c, err, "-%c: %s is missing", *letter, o->value);
        }
        int e = take(c, o, into, value, err);
        if (e || value)
            return e;
    }
    return 0;
}

static int take_name(const struct command_line *c, void *into, int argc, char **argv, int *i, struct error *err)
{
    char *a = argv[*i];
    char *value = strchr(a, '=');
    size_t length = value ? (size_t)(value - a - 2) : strlen(a + 2);
    const struct option *o = find(c, a + 2, length, 0);
    if (!o)
        return command_line_wrong(c, err, "%.80s: unknown option", a);
    if (value && !o->value)
        return command_line_wrong(c, err, "--%s: takes no value", o->name);
    if (value)
        value++;
    else if (o->value && *i + 1 < argc)
        value = argv[++*i];
    if (o->value && !value)
        return command_line_wrong(c, err, "--%s: %s is missing", o->name, o->value);
    return take(c, o, into, value, err);
}

static int take_word(const struct command_line *c, void *into, char *word, struct error *err)
{
    struct error why = {.text = ""};
    if (!c->word)
        return command_line_wrong(c, err, "%.80s: unexpected argument", word);
    int e = c->word(into, word, &why);
    return e == -EINVAL ? command_line_wrong(c, err, "%.200s", why.text) : e ? error_set(err, -e, "%s", why.text) : 0;
}

int command_line_parse(const struct command_line *c, void *into, int argc, char **argv, struct error *err)
{
    bool words = false;
    unsigned count = 0;
    for (int i = 0; i < argc; i++) {
        char *a = argv[i];
        int e;
        if (words || a[0] != '-' || !a[1]) {
            e = take_word(c, into, a, err);
            words |= c->rest_is_words && count++ == c->names;
        } else if (!strcmp(a, "--")) {
            words = true;
            continue;
        } else {
            e = a[1] == '-' ? take_name(c, into, argc, argv, &i, err) : take_letters(c, into, argc, argv, &i, err);
        }
        if (e)
            return e;
    }
    return 0;
}

void command_line_help(const struct command_line *c, FILE *f)
{
    fprintf(f, "Usage: trapeze %s\n", c->usage);
    for (const struct option_group *const *g = c->groups; *g; g++) {
        fprintf(f, "\n");
        if ((*g)->title)
            fprintf(f, "%s:\n", (*g)->title);
        for (unsigned i = 0; i < (*g)->count; i++) {
            const struct option *o = &(*g)->options[i];
            char letter[8] = "", left[100];
            if (o->letter)
                snprintf(letter, sizeof letter, "-%c, ", o->letter);
            snprintf(left, sizeof left, "%s--%s%s%s", letter, o->name, o->value ? " " : "", o->value ? o->value : "");
            if (strlen(left) <= LEFT)
                fprintf(f, "  %-*s  %s\n", LEFT, left, o->help);
            else
                fprintf(f, "  %s\n  %*s  %s\n", left, LEFT, "", o->help);
        }
    }
    if (c->after)
        fprintf(f, "\n%s", c->after);
}

bool option_size(const char *v, uint64_t *bytes)
{
    static const char units[] = "KMGT";
    char *end;
    errno = 0;
    unsigned long long n = strtoull(v, &end, 10);
    unsigned shift = 20;
    const char *unit = *end ? strchr(units, *end & ~0x20) : NULL;
    if (unit) {
        shift = 10 * (unsigned)(unit - units + 1);
        end++;
        if (!strcmp(end, "iB") || !strcmp(end, "B"))
            end += strlen(end);
    }
    if (*v < '0' || *v > '9' || *end || errno || n > UINT64_MAX >> shift)
        return false;
    *bytes = (uint64_t)n << shift;
    return true;
}

bool option_number(const char *v, uint64_t least, uint64_t most, uint64_t *n)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(v, &end, 10);
    if (*v < '0' || *v > '9' || *end || errno || value < least || value > most)
        return false;
    *n = value;
    return true;
}
