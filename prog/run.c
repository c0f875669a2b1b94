// trapeze run: builds one machine out of the options, stays with it until it ends, and turns its end into an exit
// status.
//
// Everything that is made is recorded in struct run and freed by run_close in the opposite order, so every failure on
// the way has one way out.
#include "backend/aio.h"
#include "backend/console.h"
#include "backend/disk.h"
#include "backend/net.h"
#include "host/clock.h"
#include "host/cpuid.h"
#include "host/loop.h"
#include "host/memory.h"
#include "host/signal.h"
#include "machine/pc.h"
#include "prog/commands.h"
#include "prog/engines.h"
#include "prog/file.h"
#include "prog/options.h"
#include "virtio/blk.h"
#include "virtio/console.h"
#include "virtio/net.h"
#include "virtio/rng.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <net/if.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { GUEST_MESSAGES = 1000, CODE_CACHE_DEFAULT = 64 << 20, HARDWARE_LEAVES = 256 };

struct run {
    struct run_options o;
    struct log log;
    pthread_mutex_t log_lock;
    struct loop *loop;
    struct signal_watch *signals;
    struct aio *aio;
    struct disk *disk[MAX_DISKS];
    struct net *net[MAX_NETS];
    struct console *console, *hvc, *debugcon;
    struct host_ram ram;
    struct file kernel, initrd;
    struct cpu_model model;
    bool vm_made;
    struct vm vm;
    int perf_map; // 0: none
    bool pressed; // the power button, by a signal
};

// --- messages

static void log_sink(void *ctx, const char *line)
{
    struct run *r = ctx;
    pthread_mutex_lock(&r->log_lock);
    fprintf(stderr, "%s: %s\n", r->o.name, line);
    pthread_mutex_unlock(&r->log_lock);
}

static int fail(const struct run *r, int status, const char *text)
{
    fprintf(stderr, "%s: %s\n", r->o.name, text);
    return status;
}

// --- ways to end it from outside

static void on_quit(void *ctx)
{
    vm_kill(&((struct run *)ctx)->vm);
}

static void on_button(void *ctx)
{
    vm_press_power_button(&((struct run *)ctx)->vm);
}

// The first signal asks the guest politely, the second does not ask.
static void on_signal(void *ctx, int number)
{
    struct run *r = ctx;
    if (!r->vm_made)
        return;
    if (r->pressed) {
        vm_kill(&r->vm);
        return;
    }
    r->pressed = true;
    log_info(&r->log, "%s: pressing the power button; once more ends the machine at once", strsignal(number));
    vm_press_power_button(&r->vm);
}

// --- building

static int open_consoles(struct run *r, struct error *err)
{
    const struct console_keys keys = {.quit = on_quit, .button = on_button, .ctx = r};
    int e = console_open(r->o.console, r->loop, &keys, &r->console, err);
    if (!e && r->o.hvc)
        e = console_open(r->o.hvc, r->loop, &keys, &r->hvc, err);
    if (!e && r->o.debugcon)
        e = console_open("stdout", r->loop, NULL, &r->debugcon, err);
    if (!e && !strncmp(r->o.console, "pty", 3))
        fprintf(stderr, "%s: console on %s\n", r->o.name, console_name(r->console));
    if (!e && r->o.hvc && !strncmp(r->o.hvc, "pty", 3))
        fprintf(stderr, "%s: hvc on %s\n", r->o.name, console_name(r->hvc));
    return e;
}

static int open_disks(struct run *r, struct error *err)
{
    if (!r->o.disks)
        return 0;
    int e = aio_create(&r->aio, err);
    for (unsigned n = 0; n < r->o.disks && !e; n++) {
        const struct disk_option *d = &r->o.disk[n];
        e = disk_open(
            &(struct disk_options){.path = d->path, .serial = d->serial, .readonly = d->readonly, .format = d->format},
            r->aio, &r->disk[n], err);
        if (!e)
            log_info(&r->log, "disk %s: %" PRIu64 " MiB%s, by %s", d->path, r->disk[n]->size >> 20,
                     d->readonly ? ", read-only" : "", r->aio->ops->name);
    }
    return e;
}

static int open_net(struct run *r, const struct network_option *o, struct net **net, struct error *err)
{
    char device[IF_NAMESIZE];
    int e;
    switch (o->kind) {
    case NETWORK_TAP:
        e = net_tap_open(o->where, o->mtu, device, net, err);
        if (!e)
            log_info(&r->log, "network tap: device %s", device);
        return e;
    case NETWORK_SOCKET:
        return net_socket_open(o->where, o->mtu, net, err);
    default:
        return net_user_open(
            &(struct net_user_options){
                .hostname = r->o.name, .mtu = o->mtu, .publish = r->o.publish, .publishes = r->o.publishes},
            net, err);
    }
}

static int open_nets(struct run *r, struct error *err)
{
    int e = 0;
    for (unsigned n = 0; n < r->o.nets && !e; n++)
        e = open_net(r, &r->o.net[n], &r->net[n], err);
    return e;
}

static int open_files(struct run *r, struct error *err)
{
    int e = file_map(&r->kernel, "kernel", r->o.kernel, err);
    if (!e && r->o.initrd)
        e = file_map(&r->initrd, "initrd", r->o.initrd, err);
    return e;
}

static int attach(struct run *r, struct pc *pc, struct virtio_device *d, struct error *err)
{
    return pc_attach_virtio(pc, d, r->o.virtio_mmio ? PC_VIRTIO_MMIO : PC_VIRTIO_PCI, err);
}

static int add_virtio(struct run *r, struct pc *pc, struct error *err)
{
    struct virtio_device *d;
    int e = 0;
    // Network cards first: systems name them by their slot, which should not depend on the number of disks.
    for (unsigned n = 0; n < r->o.nets && !e; n++) {
        char name[24];
        uint8_t mac[6];
        network_mac(r->o.name, n, mac);
        snprintf(name, sizeof name, "virtio-net%u", n);
        e = virtio_net_create(&r->vm, name, r->net[n], r->o.net[n].has_mac ? r->o.net[n].mac : mac, &d, err);
        if (!e)
            e = attach(r, pc, d, err);
    }
    for (unsigned n = 0; n < r->o.disks && !e; n++) {
        char name[24];
        snprintf(name, sizeof name, "virtio-blk%u", n);
        e = virtio_blk_create(&r->vm, name, r->disk[n], 1, &d, err);
        if (!e)
            e = attach(r, pc, d, err);
    }
    if (!e)
        e = virtio_rng_create(&r->vm, "virtio-rng0", &d, err);
    if (!e)
        e = attach(r, pc, d, err);
    if (!e && r->hvc) {
        e = virtio_console_create(&r->vm, "virtio-console0", console_stream(r->hvc), &d, err);
        if (!e)
            e = attach(r, pc, d, err);
    }
    return e;
}

// The file that perf looks for when it finds addresses in this process that no file is mapped at.
static int open_perf_map(struct run *r, struct error *err)
{
    char path[40];
    snprintf(path, sizeof path, "/tmp/perf-%d.map", (int)getpid());
    // Nobody else's: whoever made a file of that name in a folder that all may write to may have made it a link.
    unlink(path);
    r->perf_map = open(path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0644);
    return r->perf_map < 0 ? error_set(err, errno, "%s: %s", path, strerror(errno)) : 0;
}

static int tune(struct run *r, const struct engine_ops *engine, struct error *err)
{
    uint64_t code_cache = r->o.code_cache ? r->o.code_cache : CODE_CACHE_DEFAULT;
    int e = r->o.perf_map ? open_perf_map(r, err) : 0;
    if (e || !engine->tune)
        return e;
    const struct engine_tuning tuning = {.code_cache = code_cache / r->o.cpus,
                                         .cells = r->o.cells,
                                         .translate_always = r->o.translate_always,
                                         .count = r->o.stats,
                                         .perf_map = r->perf_map,
                                         .memory_fd = r->ram.fd,
                                         .memory = r->ram.base,
                                         .memory_size = r->ram.size};
    engine->tune(r->vm.engine, &tuning);
    return 0;
}

static int build(struct run *r, struct error *err)
{
    const struct engine_ops *engine;
    struct error why;
    struct cpu_config cpu = {.cpus = r->o.cpus, .paravirt = !r->o.no_paravirt};
    struct cpuid_leaf hardware[HARDWARE_LEAVES];
    int e = engine_choose(r->o.engine, &engine, &why, err);
    if (!e && engine->tsc_khz)
        cpu.tsc_khz = engine->tsc_khz();
    if (!e && !cpu.tsc_khz) {
        struct host_counter counter;
        host_counter_find(&counter, 0);
        cpu.tsc_khz = counter.khz;
    }
    if (!e && engine->cpuid) {
        int leaves = engine->cpuid(hardware, HARDWARE_LEAVES, err);
        e = leaves < 0 ? leaves : 0;
        cpu.hardware = hardware;
        cpu.hardware_leaves = leaves < 0 ? 0 : (unsigned)leaves;
    }
    if (!e)
        e = cpu_model_make(&r->model, r->o.cpu, host_cpuid, &cpu, err);
    if (e)
        return e;
    log_info(&r->log, "engine %s (%s), CPU model %s", engine->name, why.text, r->model.name);
    if ((e = open_files(r, err)) || (e = open_disks(r, err)) || (e = open_nets(r, err)) ||
        (e = open_consoles(r, err)) || (e = host_ram_create(&r->ram, r->o.name, r->o.memory, true, err)) ||
        (e = vm_init(&r->vm, &r->log, r->loop, engine, &r->model, err)))
        return e;
    r->vm_made = true;
    if ((e = tune(r, engine, err)))
        return e;
    r->vm.no_reboot = r->o.no_reboot;
    const struct pc_config config = {
        .ram = r->ram.base,
        .ram_size = r->ram.size,
        .cpus = r->o.cpus,
        .serial = {console_stream(r->console)},
        .debug_console = r->debugcon ? console_stream(r->debugcon) : NULL,
        .debug_exit = r->o.debug_exit,
    };
    const struct boot_source source = {
        .kernel = r->kernel.data,
        .kernel_size = r->kernel.size,
        .kernel_name = r->o.kernel,
        .initrd = r->initrd.data,
        .initrd_size = r->initrd.size,
        .initrd_name = r->o.initrd,
        .cmdline = r->o.append,
    };
    struct pc *pc;
    if ((e = pc_create(&r->vm, &config, &pc, err)) || (e = add_virtio(r, pc, err)))
        return e;
    pc_boot(pc, &source);
    if ((e = vm_add_cpus(&r->vm, r->o.cpus, err)))
        return e;
    return vm_reset(&r->vm, err);
}

static void run_close(struct run *r)
{
    if (r->vm_made)
        vm_destroy(&r->vm);
    if (r->perf_map > 0)
        close(r->perf_map);
    if (r->debugcon)
        console_close(r->debugcon);
    if (r->hvc)
        console_close(r->hvc);
    if (r->console)
        console_close(r->console);
    for (unsigned n = 0; n < r->o.nets; n++)
        if (r->net[n])
            r->net[n]->ops->close(r->net[n]);
    for (unsigned n = 0; n < r->o.disks; n++)
        if (r->disk[n])
            r->disk[n]->ops->close(r->disk[n]);
    if (r->aio)
        r->aio->ops->destroy(r->aio);
    host_ram_destroy(&r->ram);
    file_unmap(&r->initrd);
    file_unmap(&r->kernel);
    if (r->signals)
        signal_unwatch(r->signals);
    if (r->loop)
        loop_destroy(r->loop);
    pthread_mutex_destroy(&r->log_lock);
}

// --- the end

static void print_stat(void *ctx, const char *name, uint64_t value)
{
    if (value)
        fprintf(ctx, "  %-32s %16" PRIu64 "\n", name, value);
}

static int status_of(const struct run *r, enum vm_end end, const struct error *err)
{
    switch (end) {
    case VM_END_POWEROFF:
        return STATUS_OK;
    case VM_END_RESET:
        return STATUS_OK;
    case VM_END_DEBUG:
        return r->vm.end_status;
    case VM_END_CRASH:
        return fail(r, STATUS_CRASHED, r->vm.end_text);
    case VM_END_KILLED:
        return fail(r, STATUS_FAILED, "ended before the guest had powered off");
    default:
        return fail(r, STATUS_FAILED, err->text);
    }
}

static int run(struct run *r)
{
    static const int ending[] = {SIGINT, SIGTERM, SIGHUP};
    struct error err;
    if (loop_create(&r->loop, &err))
        return fail(r, STATUS_FAILED, err.text);
    r->signals = signal_watch(r->loop, ending, sizeof ending / sizeof *ending, on_signal, r, &err);
    if (!r->signals)
        return fail(r, STATUS_FAILED, err.text);
    int e = build(r, &err);
    if (e) {
        // What the user asked for in words we know but this host or program lacks is usage, too.
        if (r->console)
            console_restore_terminal(r->console);
        bool usage = e == -EINVAL && !r->vm_made && !strncmp(err.text, "--", 2);
        return fail(r, usage ? STATUS_USAGE : STATUS_FAILED, err.text);
    }
    enum vm_end end = vm_run(&r->vm, &err);
    console_stream(r->console)->ops->flush(console_stream(r->console));
    console_restore_terminal(r->console);
    int status = status_of(r, end, &err);
    if (r->o.stats) {
        fprintf(stderr, "%s: counters\n", r->o.name);
        vm_stats(&r->vm, print_stat, stderr);
    }
    return status;
}

int command_run(int argc, char **argv)
{
    struct run *r = calloc(1, sizeof *r);
    struct error err;
    if (!r) {
        fprintf(stderr, "trapeze: out of memory\n");
        return STATUS_FAILED;
    }
    if (run_options_parse(&r->o, argc, argv, &err)) {
        fprintf(stderr, "trapeze run: %s\n", err.text);
        free(r);
        return STATUS_USAGE;
    }
    if (r->o.help) {
        run_options_help(stdout);
        free(r);
        return STATUS_OK;
    }
    static const enum log_level levels[] = {LOG_WARN, LOG_INFO, LOG_DEBUG};
    r->log = (struct log){.level = levels[r->o.verbose < 2 ? r->o.verbose : 2],
                          .trace = r->o.trace,
                          .sink = log_sink,
                          .ctx = r,
                          .guest_budget = GUEST_MESSAGES};
    pthread_mutex_init(&r->log_lock, NULL);
    r->ram.fd = -1;
    signal(SIGPIPE, SIG_IGN);
    int status = run(r);
    run_close(r);
    free(r);
    return status;
}
