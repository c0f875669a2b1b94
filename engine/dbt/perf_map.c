// A map for perf: a line for each block, with its address, size and name, as perf reads from /tmp/perf-PID.map (Linux,
// tools/perf/Documentation/jit-interface.txt).
//
//     7f2a10c41340 1b3 guest_kernel:ffffffff81a0012f
//
// When the code cache is full it is used again from its beginning, and the file then has other names for the same
// addresses further down: perf takes one of them. Where that matters, a larger --code-cache helps.
//
// A cell is a process of its own and has a file of its own.
#include "engine/dbt/cell/cell.h"
#include "engine/dbt/show.h"
#include "engine/interp/shared.h"
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

void dbt_perf_map(struct dbt_vcpu *v, const struct dbt_block *b)
{
    int fd = v->i.vm->tuning.perf_map;
    bool user = (b->key & DBT_KEY_VIEW) == DBT_USER;
    if (fd)
        dprintf(fd, "%llx %x guest_%s:%llx\n", (unsigned long long)(uintptr_t)b->code, b->end, user ? "user" : "kernel",
                (unsigned long long)b->rip);
}

void cell_perf_map(const struct cell *c, const struct cell_block *b)
{
    char path[40];
    if (!c->v->i.vm->tuning.perf_map)
        return;
    snprintf(path, sizeof path, "/tmp/perf-%d.map", c->pid);
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd < 0)
        return; // perf has no names then
    dprintf(fd, "%llx %x guest_cell:%llx\n", (unsigned long long)(c->base + b->begin), b->end - b->begin,
            (unsigned long long)b->rip);
    close(fd);
}
