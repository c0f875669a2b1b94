// See record.h. What is read was written by this program, but is not trusted for that: who edits a file makes mistakes.
#include "prog/state/record.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { VERSION = 1 };

void record_free(struct record *r)
{
    if (!r)
        return;
    for (int i = 0; i < r->count; i++)
        free(r->arguments[i]);
    free(r->arguments);
    free(r->directory);
    json_decref(r->json);
    free(r);
}

static int copy_words(struct record *r, int argc, char **argv)
{
    r->arguments = calloc((size_t)argc + 1, sizeof *r->arguments);
    if (!r->arguments)
        return -ENOMEM;
    for (; r->count < argc; r->count++)
        if (!(r->arguments[r->count] = strdup(argv[r->count])))
            return -ENOMEM;
    return 0;
}

struct record *record_new(int argc, char **argv, bool detached, struct error *err)
{
    struct record *r = calloc(1, sizeof *r);
    if (!r || copy_words(r, argc, argv) || !(r->directory = getcwd(NULL, 0))) {
        error_set(err, errno, "remembering how the machine is started: %s", strerror(errno));
        record_free(r);
        return NULL;
    }
    r->detached = detached;
    return r;
}

int record_write(const struct state_dir *d, const struct record *r, struct error *err)
{
    json_t *words = json_array();
    int bad = 0;
    for (int i = 0; i < r->count; i++)
        bad |= json_array_append_new(words, json_string(r->arguments[i]));
    if (bad) { // no UTF-8 (or no memory)
        json_decref(words);
        words = json_null();
    }
    json_t *j = json_pack("{s:i, s:s, s:s*, s:o, s:b, s:b, s:I, s:s}", "version", VERSION, "name", d->name, "directory",
                          r->directory, "arguments", words, "detached", r->detached, "restored", r->restored, "created",
                          (json_int_t)time(NULL), "trapeze", TRAPEZE_VERSION);
    char *text = j ? json_dumps(j, JSON_INDENT(2)) : NULL;
    json_decref(j);
    int e = text ? state_dir_write(d, "config.json", text, err) : error_set(err, ENOMEM, "%s: out of memory", d->name);
    free(text);
    return e;
}

// The words of the array, as r's. -EINVAL if it isn't one of strings.
static int take_words(struct record *r, const json_t *words)
{
    size_t count = json_array_size(words), i;
    json_t *word;
    if (!json_is_array(words))
        return -EINVAL;
    r->arguments = calloc(count + 1, sizeof *r->arguments);
    if (!r->arguments)
        return -ENOMEM;
    json_array_foreach(words, i, word)
    {
        if (!json_is_string(word) || !(r->arguments[r->count] = strdup(json_string_value(word))))
            return -EINVAL;
        r->count++;
    }
    return 0;
}

int record_read(const struct state_dir *d, struct record **out, struct error *err)
{
    char *text = state_dir_read(d, "config.json");
    if (!text)
        return error_set(err, errno, "%s/config.json: %s", d->path, strerror(errno));
    json_error_t why;
    json_t *j = json_loads(text, 0, &why);
    free(text);
    if (!j)
        return error_set(err, EINVAL, "%s/config.json: line %d: %s", d->path, why.line, why.text);
    struct record *r = calloc(1, sizeof *r);
    int version = 0, detached = 0, restored = 0;
    const char *directory = NULL;
    json_t *words = NULL;
    if (!r) {
        json_decref(j);
        return error_set(err, ENOMEM, "%s: out of memory", d->name);
    }
    r->json = j;
    int e = 0;
    if (json_unpack(j, "{s:i, s?:s, s:o, s?:b, s?:b}", "version", &version, "directory", &directory, "arguments",
                    &words, "detached", &detached, "restored", &restored) ||
        version != VERSION)
        e = error_set(err, EINVAL, "%s/config.json: it is not what this version of trapeze writes", d->path);
    else if (json_is_null(words) || !directory)
        e = error_set(err, ENOTSUP, "%s: how it was started could not be kept, for its arguments are no UTF-8",
                      d->name);
    else if (take_words(r, words) || !(r->directory = strdup(directory)))
        e = error_set(err, EINVAL, "%s/config.json: \"arguments\" must be a list of strings", d->path);
    r->detached = detached;
    r->restored = restored;
    if (e) {
        record_free(r);
        return e;
    }
    *out = r;
    return 0;
}

void record_end(const struct state_dir *d, const char *end, int status, const char *text)
{
    json_t *j =
        json_pack("{s:s, s:i, s:s, s:I}", "end", end, "status", status, "text", text, "time", (json_int_t)time(NULL));
    if (!j)
        j = json_pack("{s:s, s:i, s:s, s:I}", "end", end, "status", status, "text", "", "time", (json_int_t)time(NULL));
    char *dump = j ? json_dumps(j, 0) : NULL;
    if (dump)
        state_dir_write(d, "exit.json", dump, NULL);
    free(dump);
    json_decref(j);
}

json_t *record_end_read(const struct state_dir *d)
{
    char *text = state_dir_read(d, "exit.json");
    json_t *j = text ? json_loads(text, 0, NULL) : NULL;
    free(text);
    if (j && !json_is_object(j)) {
        json_decref(j);
        j = NULL;
    }
    return j;
}
