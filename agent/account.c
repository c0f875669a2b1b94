// Users and groups: see account.h.
#include "agent/account.h"
#include <errno.h>
#include <grp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LINE = 4096, FIELDS = 7 };

// Cuts a line at its colons. Returns how many fields there are.
static unsigned cut(char *line, char *field[FIELDS])
{
    unsigned n = 0;
    line[strcspn(line, "\n")] = 0;
    while (line && n < FIELDS)
        field[n++] = strsep(&line, ":");
    return n;
}

static bool number(const char *text, unsigned *n)
{
    char *end;
    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    *n = (unsigned)value;
    return *text >= '0' && *text <= '9' && !*end && !errno && value < UINT32_MAX;
}

// Finds a line whose first field is `name`, or whose third is `id` if there is no name. The fields point into line.
static unsigned find_line(const char *file, const char *name, unsigned id, char line[LINE], char *field[FIELDS])
{
    FILE *f = fopen(file, "re");
    unsigned n = 0, value;
    while (f && fgets(line, LINE, f)) {
        n = cut(line, field);
        if (n >= 3 && (name ? !strcmp(field[0], name) : number(field[2], &value) && value == id))
            break;
        n = 0;
    }
    if (f)
        fclose(f);
    return n;
}

static void copy(char *to, size_t size, const char *from)
{
    snprintf(to, size, "%s", from);
}

// Groups that name the user as a member.
static void find_groups(struct account *a)
{
    char line[LINE], *field[FIELDS];
    unsigned id;
    a->groups[a->count++] = a->gid;
    FILE *f = fopen("/etc/group", "re");
    while (f && fgets(line, sizeof line, f)) {
        if (cut(line, field) < 4 || !number(field[2], &id) || id == a->gid)
            continue;
        for (char *rest = field[3], *member; (member = strsep(&rest, ",")) && a->count < ACCOUNT_GROUPS;)
            if (!strcmp(member, a->name)) {
                a->groups[a->count++] = id;
                break;
            }
    }
    if (f)
        fclose(f);
}

static int find_user(struct account *a, const char *user, struct error *err)
{
    char line[LINE], *field[FIELDS];
    unsigned id = 0;
    bool by_number = number(user, &id);
    unsigned n = find_line("/etc/passwd", by_number ? NULL : user, id, line, field);
    *a = (struct account){.uid = id, .gid = id, .home = "/", .shell = "/bin/sh"};
    copy(a->name, sizeof a->name, user);
    if (n == FIELDS) {
        unsigned uid, gid;
        if (!number(field[2], &uid) || !number(field[3], &gid))
            return error_set(err, EINVAL, "user %.60s: /etc/passwd has no numbers for it", user);
        a->uid = uid;
        a->gid = gid;
        copy(a->name, sizeof a->name, field[0]);
        copy(a->home, sizeof a->home, *field[5] ? field[5] : "/");
        copy(a->shell, sizeof a->shell, *field[6] ? field[6] : "/bin/sh");
    } else if (!by_number && strcmp(user, "root")) {
        return error_set(err, ENOENT, "user %.60s: there is none in the guest", user);
    }
    return 0;
}

int account_find(struct account *a, const char *user, struct error *err)
{
    char name[64], line[LINE], *field[FIELDS];
    if (!user) {
        snprintf(name, sizeof name, "%u", (unsigned)geteuid());
        user = name;
    }
    const char *group = strchr(user, ':');
    if (group) {
        if ((size_t)(group - user) >= sizeof name)
            return error_set(err, EINVAL, "user %.60s: the name is too long", user);
        memcpy(name, user, (size_t)(group - user));
        name[group - user] = 0;
        user = name;
        group++;
    }
    int e = find_user(a, user, err);
    if (e)
        return e;
    if (group) {
        unsigned id;
        bool by_number = number(group, &id);
        if (!by_number && (find_line("/etc/group", group, 0, line, field) < 3 || !number(field[2], &id)))
            return error_set(err, ENOENT, "group %.60s: there is none in the guest", group);
        a->gid = id;
    }
    find_groups(a);
    return 0;
}

int account_become(const struct account *a)
{
    if (geteuid() == a->uid && getegid() == a->gid && geteuid())
        return 0; // we are that user, and may change nothing
    if (setgroups(a->count, a->groups) || setgid(a->gid) || setuid(a->uid))
        return -errno;
    return 0;
}
