// The maps of user and group numbers: see id_map.h, user_namespaces(7), newuidmap(1).
#include "backend/id_map.h"
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

// The first range of the user in a file of lines "name:first:count" or "number:first:count".
static bool find_range(const char *path, char first[24], char count[24])
{
    struct passwd *pw = getpwuid(getuid());
    char line[256], number[16];
    bool found = false;
    FILE *f = fopen(path, "re");
    snprintf(number, sizeof number, "%u", (unsigned)getuid());
    while (f && !found && fgets(line, sizeof line, f)) {
        char name[64];
        found = sscanf(line, "%63[^:]:%20[0-9]:%20[0-9]", name, first, count) == 3 &&
                (!strcmp(name, number) || (pw && !strcmp(name, pw->pw_name)));
    }
    if (f)
        fclose(f);
    return found;
}

// Has newuidmap or newgidmap write both pieces of a map.
static bool write_by(const char *program, pid_t pid, unsigned own, const char *first, const char *count)
{
    char of[16], self[16];
    int status;
    pid_t child;
    snprintf(of, sizeof of, "%d", (int)pid);
    snprintf(self, sizeof self, "%u", own);
    char *argv[] = {(char *)program, of, "0", self, "1", "1", (char *)first, (char *)count, NULL};
    posix_spawn_file_actions_t quiet;
    posix_spawn_file_actions_init(&quiet);
    posix_spawn_file_actions_addopen(&quiet, 2, "/dev/null", O_WRONLY, 0);
    int e = posix_spawnp(&child, program, &quiet, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&quiet);
    return !e && waitpid(child, &status, 0) == child && !status;
}

static bool write_file(pid_t pid, const char *name, const char *text)
{
    char path[48];
    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, name);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool written = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    if (fd >= 0)
        close(fd);
    return written;
}

// How many groups a process has beside its first one; as /proc/PID/status says.
static bool has_groups(pid_t pid)
{
    char path[48], line[512];
    bool any = false;
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, "Groups:", 7))
            any = strpbrk(line, "0123456789") != NULL;
    if (f)
        fclose(f);
    return any;
}

int id_map_write(pid_t pid, struct error *err)
{
    char first[24], count[24], own[48];
    if (find_range("/etc/subgid", first, count) && write_by("newgidmap", pid, getgid(), first, count)) {
        if (find_range("/etc/subuid", first, count) && write_by("newuidmap", pid, getuid(), first, count))
            return 0;
    } else {
        if (has_groups(pid))
            return error_set(err, EPERM,
                             "a folder can be shared by this user only with newgidmap (package uidmap) and numbers in "
                             "/etc/subuid and /etc/subgid");
        snprintf(own, sizeof own, "0 %u 1\n", (unsigned)getgid());
        if (!write_file(pid, "setgroups", "deny") || !write_file(pid, "gid_map", own))
            return error_set(err, EPERM, "the map of groups for virtiofsd: %s", strerror(errno));
    }
    snprintf(own, sizeof own, "0 %u 1\n", (unsigned)getuid());
    if (!write_file(pid, "uid_map", own))
        return error_set(err, EPERM, "the map of users for virtiofsd: %s", strerror(errno));
    return 0;
}
