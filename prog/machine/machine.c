// See machine.h.
#include "prog/machine/machine.h"
#include "host/cpuid.h"
#include "prog/guest/agent.h"
#include "prog/machine/engines.h"
#include "prog/machine/restore.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CODE_CACHE_DEFAULT = 64 << 20, HARDWARE_LEAVES = 256 };

// --- before there is a VM

static int open_files(struct machine *m, struct error *err)
{
    int (*get)(struct file *, const char *, const char *, struct error *) = m->restore ? file_view : file_map;
    int e = m->o->kernel ? get(&m->kernel, "kernel", m->o->kernel, err) : 0;
    if (!e && m->o->initrd)
        e = get(&m->initrd, "initrd", m->o->initrd, err);
    if (!e && m->o->agent && !m->restore) { // a snapshot's have it already
        e = agent_append(&m->initrd, err);
        if (!e && asprintf(&m->cmdline, "%s %s", m->o->append, AGENT_RDINIT) < 0)
            m->cmdline = NULL;
        if (!e && !m->cmdline)
            e = error_set(err, ENOMEM, "--agent: out of memory");
    }
    return e;
}

// What the guest's CPUs are, under this engine.
static int make_model(struct machine *m, const struct engine_ops *engine, struct engine_host *host, struct error *err)
{
    struct cpu_config cpu = {.cpus = m->o->cpus, .paravirt = !m->o->no_paravirt};
    struct cpuid_leaf hardware[HARDWARE_LEAVES];
    if (m->restore)
        cpu.tsc_khz = m->restore->s.m.model.config.tsc_khz;
    else if (host)
        cpu.tsc_khz = engine->tsc_khz(host);
    if (!cpu.tsc_khz) {
        struct host_counter counter;
        host_counter_find(&counter, 0, &m->since);
        cpu.tsc_khz = counter.khz;
    }
    if (host) {
        int leaves = engine->cpuid(host, hardware, HARDWARE_LEAVES, err);
        if (leaves < 0)
            return leaves;
        cpu.hardware = hardware;
        cpu.hardware_leaves = (unsigned)leaves;
    }
    int e = cpu_model_make(&m->model, m->o->cpu, host_cpuid, &cpu, err);
    return e || !m->restore ? e : snapshot_model_same(&m->restore->s.m.model, &m->model, err);
}

static int open_parts(struct machine *m, struct error *err)
{
    int e = 0;
    for (unsigned i = 0; i < machine_parts_count && !e; i++)
        if (machine_parts[i].open)
            e = machine_parts[i].open(m, err);
    return e;
}

static int make_ram(struct machine *m, struct error *err)
{
    return m->restore ? restore_ram(m->restore, m, err) : host_ram_create(&m->ram, m->o->name, m->o->memory, true, err);
}

// --- the VM

// The file that perf looks for when it finds addresses in this process that no file is mapped at.
static int open_perf_map(struct machine *m, struct error *err)
{
    char path[40];
    snprintf(path, sizeof path, "/tmp/perf-%d.map", (int)getpid());
    // Nobody else's: whoever made a file of that name in a folder that all may write to may have made it a link.
    unlink(path);
    m->perf_map = open(path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0644);
    return m->perf_map < 0 ? error_set(err, errno, "%s: %s", path, strerror(errno)) : 0;
}

static int tune(struct machine *m, const struct engine_ops *engine, struct error *err)
{
    uint64_t code_cache = m->o->code_cache ? m->o->code_cache : CODE_CACHE_DEFAULT;
    int e = m->o->perf_map ? open_perf_map(m, err) : 0;
    if (e || !engine->tune)
        return e;
    const struct engine_tuning tuning = {.code_cache = code_cache / m->o->cpus,
                                         .cells = m->o->cells,
                                         .translate_always = m->o->translate_always,
                                         .count = m->o->stats,
                                         .perf_map = m->perf_map,
                                         .sparing = m->ram.fd < 0,
                                         .memory_fd = m->ram.fd,
                                         .memory = m->ram.base,
                                         .memory_size = m->ram.fd < 0 ? 0 : m->ram.size};
    engine->tune(m->vm.engine, &tuning);
    return 0;
}

int machine_attach_virtio(struct machine *m, struct virtio_device *d, struct error *err)
{
    return pc_attach_virtio(m->pc, d, m->o->virtio_mmio ? PC_VIRTIO_MMIO : PC_VIRTIO_PCI, err);
}

static int attach_parts(struct machine *m, struct error *err)
{
    int e = 0;
    for (unsigned i = 0; i < machine_parts_count && !e; i++)
        if (machine_parts[i].attach)
            e = machine_parts[i].attach(m, err);
    return e;
}

static int make_pc(struct machine *m, struct error *err)
{
    const struct pc_config config = {
        .ram = m->ram.base,
        .ram_size = m->ram.size,
        .cpus = m->o->cpus,
        .serial = {machine_console(m)},
        .debug_console = m->debugcon ? console_stream(m->debugcon) : NULL,
        .debug_exit = m->o->debug_exit,
    };
    const struct boot_source source = {
        .kernel = m->kernel.data,
        .kernel_size = m->kernel.size,
        .kernel_name = m->o->kernel,
        .initrd = m->initrd.data,
        .initrd_size = m->initrd.size,
        .initrd_name = m->o->initrd,
        .cmdline = m->cmdline ? m->cmdline : m->o->append,
    };
    int e = pc_create(&m->vm, &config, &m->pc, err);
    if (!e)
        e = attach_parts(m, err);
    if (!e)
        pc_boot(m->pc, &source);
    return e;
}

// Everything up to the VM that has nothing in it yet.
static int make_vm(struct machine *m, const struct engine_ops *engine, struct engine_host *host, const char *why,
                   struct error *err)
{
    int e = make_model(m, engine, host, err);
    if (e)
        return e;
    log_info(m->log, "engine %s (%s), CPU model %s", engine->name, why, m->model.name);
    const struct vm_config config = {.log = m->log,
                                     .loop = m->loop,
                                     .engine = engine,
                                     .model = &m->model,
                                     .host = host,
                                     .since = &m->since,
                                     .bells = m->o->bells};
    if ((e = open_files(m, err)) || (e = open_parts(m, err)) || (e = make_ram(m, err)) ||
        (e = vm_init(&m->vm, &config, err)))
        return e;
    m->vm_made = true;
    return 0;
}

static int open_engine(const struct machine *m, const struct engine_ops **engine, struct engine_host **host,
                       struct error *why, struct error *err)
{
    *host = NULL;
    int e = engine_choose(m->o->engine, engine, why, err);
    return !e && (*engine)->open ? (*engine)->open(m->o->apics, host, err) : e;
}

int machine_build(struct machine *m, struct error *err)
{
    const struct engine_ops *engine;
    struct engine_host *host;
    struct error why;
    int e = open_engine(m, &engine, &host, &why, err);
    if (!e)
        e = make_vm(m, engine, host, why.text, err);
    if (host)
        engine->close(host);
    if (e)
        return e;
    m->vm.no_reboot = m->o->no_reboot;
    if ((e = tune(m, engine, err)) || (e = make_pc(m, err)) || (e = vm_add_cpus(&m->vm, m->o->cpus, err)))
        return e;
    return m->restore ? restore_load(m->restore, m, err) : vm_reset(&m->vm, err);
}

int machine_check_model(const struct run_options *o, const struct restore *restore, struct error *err)
{
    struct machine *m = calloc(1, sizeof *m);
    const struct engine_ops *engine;
    struct engine_host *host;
    struct error why;
    if (!m)
        return error_set(err, ENOMEM, "out of memory");
    m->o = o;
    m->restore = restore;
    m->since = host_instant_now();
    int e = open_engine(m, &engine, &host, &why, err);
    if (!e)
        e = make_model(m, engine, host, err);
    if (host)
        engine->close(host);
    free(m);
    return e;
}

struct machine *machine_new(const struct run_options *o, struct log *log, struct loop *loop,
                            const struct state_dir *dir, const struct console_keys *keys, struct error *err)
{
    struct machine *m = calloc(1, sizeof *m);
    if (!m) {
        error_set(err, ENOMEM, "out of memory");
        return NULL;
    }
    m->o = o;
    m->log = log;
    m->loop = loop;
    m->dir = dir;
    m->keys = *keys;
    m->ram.fd = -1;
    m->since = host_instant_now();
    return m;
}

void machine_free(struct machine *m)
{
    if (!m)
        return;
    if (m->vm_made)
        vm_destroy(&m->vm);
    if (m->perf_map > 0)
        close(m->perf_map);
    for (unsigned i = machine_parts_count; i-- > 0;)
        if (machine_parts[i].close)
            machine_parts[i].close(m);
    host_ram_destroy(&m->ram);
    free(m->cmdline);
    file_unmap(&m->initrd);
    file_unmap(&m->kernel);
    free(m);
}
