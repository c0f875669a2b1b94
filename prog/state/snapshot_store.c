// See snapshot_store.h.
#include "prog/state/snapshot_store.h"
#include "image/store.h"
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { NUMBER_MAX = 100000 };

static char *store(struct error *err)
{
    char path[PATH_MAX];
    if (store_folder("snapshots", path, sizeof path, err))
        return NULL;
    char *copy = strdup(path);
    if (!copy)
        error_set(err, ENOMEM, "out of memory");
    return copy;
}

char *snapshot_store_path(const char *word, struct error *err)
{
    char *path = NULL, *folder = strchr(word, '/') ? NULL : store(err);
    if (strchr(word, '/'))
        path = strdup(word);
    else if (folder && (!*word || *word == '.'))
        error_set(err, EINVAL, "%.80s: not the name of a snapshot", word);
    else if (folder && asprintf(&path, "%s/%s", folder, word) < 0)
        path = NULL;
    free(folder);
    return path;
}

static int make_folders(char *path)
{
    for (char *slash = path + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = 0;
        int e = mkdir(path, 0700) < 0 && errno != EEXIST ? -errno : 0;
        *slash = '/';
        if (e)
            return e;
    }
    return mkdir(path, 0700) < 0 && errno != EEXIST ? -errno : 0;
}

char *snapshot_store_new(const char *machine, struct error *err)
{
    char *folder = store(err), *path = NULL;
    int e = folder ? make_folders(folder) : 0;
    if (e)
        error_set(err, -e, "%s: %s", folder, strerror(-e));
    for (unsigned n = 1; folder && !e && n < NUMBER_MAX; n++) {
        if (asprintf(&path, "%s/%s-%u", folder, machine, n) < 0) {
            path = NULL;
            error_set(err, ENOMEM, "out of memory");
            break;
        }
        if (access(path, F_OK) < 0)
            break;
        free(path);
        path = NULL;
    }
    free(folder);
    return path;
}

static int is_snapshot(const struct dirent *d)
{
    return d->d_name[0] != '.';
}

char **snapshot_store_list(struct error *err)
{
    struct dirent **found = NULL;
    char *folder = store(err);
    if (!folder)
        return NULL;
    int count = scandir(folder, &found, is_snapshot, alphasort);
    free(folder);
    if (count < 0 && errno != ENOENT) {
        error_set(err, errno, "snapshots: %s", strerror(errno));
        return NULL;
    }
    char **names = calloc((size_t)(count > 0 ? count : 0) + 1, sizeof *names);
    for (int i = 0; i < count; i++) {
        if (names)
            names[i] = strdup(found[i]->d_name);
        free(found[i]);
    }
    free(found);
    if (!names)
        error_set(err, ENOMEM, "out of memory");
    return names;
}
