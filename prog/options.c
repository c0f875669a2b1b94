// See options.h. Every option is one line of the table: its name, its value's name, its help, and the function that
// takes it.
#include "prog/options.h"
#include "cpu/model.h"
#include "report/log.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct option {
    const char *name;
    const char *value; // what the value is called; NULL: the option takes none
    const char *help;
    int (*take)(struct run_options *o, char *value, struct error *err);
};

static int wrong(struct error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static int wrong(struct error *err, const char *fmt, ...)
{
    char text[200];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return error_set(err, EINVAL, "%s (see trapeze run --help)", text);
}

static int take_engine(struct run_options *o, char *v, struct error *err)
{
    (void)err;
    o->engine = strcmp(v, "auto") ? v : NULL;
    return 0;
}

static int take_cpu(struct run_options *o, char *v, struct error *err)
{
    for (const char *const *n = cpu_model_names; *n; n++)
        if (strlen(*n) == strcspn(v, ",") && !memcmp(*n, v, strlen(*n))) { // changes after a comma: cpu_model_make
            o->cpu = v;
            return 0;
        }
    char names[100] = "";
    for (const char *const *n = cpu_model_names; *n; n++)
        snprintf(names + strlen(names), sizeof names - strlen(names), " %s", *n);
    return wrong(err, "--cpu %.40s: no such model; there are:%s", v, names);
}

static int take_cpus(struct run_options *o, char *v, struct error *err)
{
    char *end;
    errno = 0;
    unsigned long n = strtoul(v, &end, 10);
    if (*v < '0' || *v > '9' || *end || errno || n < 1 || n > CPU_MAX)
        return wrong(err, "--cpus %.40s: must be a number from 1 to %d", v, CPU_MAX);
    o->cpus = (unsigned)n;
    return 0;
}

// A number with a unit; without one it is MiB.
static bool size_of(const char *v, uint64_t *bytes)
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

static int take_memory(struct run_options *o, char *v, struct error *err)
{
    if (!size_of(v, &o->memory))
        return wrong(err, "--memory %.40s: must be a size such as 512M or 2G", v);
    if (o->memory < 1 << 20 || o->memory > 1ull << 40 || o->memory % (1 << 20))
        return wrong(err, "--memory %.40s: must be a multiple of 1M, from 1M to 1T", v);
    return 0;
}

static int take_kernel(struct run_options *o, char *v, struct error *err)
{
    (void)err;
    o->kernel = v;
    return 0;
}

static int take_initrd(struct run_options *o, char *v, struct error *err)
{
    (void)err;
    o->initrd = v;
    return 0;
}

static int take_append(struct run_options *o, char *v, struct error *err)
{
    (void)err;
    o->append = v;
    return 0;
}

static int take_disk(struct run_options *o, char *v, struct error *err)
{
    if (o->disks == MAX_DISKS)
        return wrong(err, "--disk %.80s: at most %d disks", v, MAX_DISKS);
    struct disk_option *d = &o->disk[o->disks];
    *d = (struct disk_option){.path = v};
    char *next = strchr(v, ',');
    if (next)
        *next++ = 0;
    if (!*v)
        return wrong(err, "--disk: the file's name is empty");
    while (next) {
        char *word = next;
        next = strchr(word, ',');
        if (next)
            *next++ = 0;
        if (!strcmp(word, "ro")) {
            d->readonly = true;
        } else if (!strncmp(word, "serial=", 7)) {
            if (strlen(word + 7) >= sizeof d->serial)
                return wrong(err, "--disk %.80s: serial=%.40s: at most 20 characters", v, word + 7);
            strcpy(d->serial, word + 7);
        } else if (!strncmp(word, "format=", 7)) {
            if (strcmp(word + 7, "raw") && strcmp(word + 7, "qcow2"))
                return wrong(err, "--disk %.80s: format=%.40s: must be raw or qcow2", v, word + 7);
            d->format = strcmp(word + 7, "raw") ? DISK_QCOW2 : DISK_RAW;
        } else {
            return wrong(err, "--disk %.80s: %.40s: unknown; there are: ro, serial=S, format=raw|qcow2", v, word);
        }
    }
    o->disks++;
    return 0;
}

static int take_net(struct run_options *o, char *v, struct error *err)
{
    struct error why;
    if (!strcmp(v, "none")) {
        o->nets = 0;
        return 0;
    }
    if (o->nets == MAX_NETS)
        return wrong(err, "--net %.80s: at most %d networks", v, MAX_NETS);
    if (network_take(&o->net[o->nets], v, &why))
        return wrong(err, "%s", why.text);
    o->nets++;
    return 0;
}

static int take_publish(struct run_options *o, char *v, struct error *err)
{
    struct error why;
    if (o->publishes == MAX_PUBLISHES)
        return wrong(err, "--publish %.80s: at most %d ports", v, MAX_PUBLISHES);
    if (network_take_publish(&o->publish[o->publishes], v, &why))
        return wrong(err, "%s", why.text);
    o->publishes++;
    return 0;
}

static bool is_console(const char *v)
{
    return !strcmp(v, "stdio") || !strcmp(v, "pty") || !strcmp(v, "none") || (!strncmp(v, "socket:", 7) && v[7]) ||
           (!strncmp(v, "file:", 5) && v[5]);
}

static int take_console(struct run_options *o, char *v, struct error *err)
{
    if (!is_console(v))
        return wrong(err, "--console %.80s: must be stdio, pty, socket:PATH, file:PATH or none", v);
    o->console = v;
    return 0;
}

static int take_hvc(struct run_options *o, char *v, struct error *err)
{
    if (!is_console(v))
        return wrong(err, "--hvc %.80s: must be stdio, pty, socket:PATH, file:PATH or none", v);
    o->hvc = v;
    return 0;
}

static int take_name(struct run_options *o, char *v, struct error *err)
{
    size_t n = strlen(v);
    if (!n || n > 32 || strspn(v, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != n)
        return wrong(err, "--name %.40s: must be 1 to 32 letters, digits, dots, dashes or underscores", v);
    o->name = v;
    return 0;
}

static int take_virtio(struct run_options *o, char *v, struct error *err)
{
    o->virtio_mmio = !strcmp(v, "mmio");
    if (!o->virtio_mmio && strcmp(v, "pci"))
        return wrong(err, "--virtio %.40s: must be pci or mmio", v);
    return 0;
}

static int take_debug_exit(struct run_options *o, char *v, struct error *err)
{
    (void)v, (void)err;
    o->debug_exit = true;
    return 0;
}

static int take_debugcon(struct run_options *o, char *v, struct error *err)
{
    (void)v, (void)err;
    o->debugcon = true;
    return 0;
}

static int take_no_reboot(struct run_options *o, char *v, struct error *err)
{
    (void)v, (void)err;
    o->no_reboot = true;
    return 0;
}

static int take_stats(struct run_options *o, char *v, struct error *err)
{
    (void)v, (void)err;
    o->stats = true;
    return 0;
}

static int take_trace(struct run_options *o, char *v, struct error *err)
{
    static const struct {
        const char *name;
        unsigned kind;
    } kinds[] = {{"exits", TRACE_EXITS},
                 {"interrupts", TRACE_INTERRUPTS},
                 {"mmio", TRACE_MMIO},
                 {"pio", TRACE_PIO},
                 {"translate", TRACE_TRANSLATE}};
    for (char *word = strtok(v, ","); word; word = strtok(NULL, ",")) {
        unsigned kind = 0;
        for (unsigned i = 0; i < sizeof kinds / sizeof *kinds; i++)
            if (!strcmp(word, kinds[i].name))
                kind = kinds[i].kind;
        if (!kind)
            return wrong(err, "--trace %.40s: unknown; there are: exits, interrupts, mmio, pio, translate", word);
        o->trace |= kind;
    }
    return 0;
}

static int take_cells(struct run_options *o, char *v, struct error *err)
{
    static const char *const modes[] = {
        [ENGINE_CELLS_AUTO] = "auto", [ENGINE_CELLS_OFF] = "off", [ENGINE_CELLS_ALWAYS] = "always"};
    for (unsigned i = 0; i < sizeof modes / sizeof *modes; i++)
        if (!strcmp(v, modes[i])) {
            o->cells = (enum engine_cells)i;
            return 0;
        }
    return wrong(err, "--cells %.40s: auto, off or always", v);
}

static int take_paravirt(struct run_options *o, char *v, struct error *err)
{
    o->no_paravirt = !strcmp(v, "off");
    return o->no_paravirt || !strcmp(v, "on") ? 0 : wrong(err, "--paravirt %.40s: on or off", v);
}

static int take_code_cache(struct run_options *o, char *v, struct error *err)
{
    if (!size_of(v, &o->code_cache) || !o->code_cache || o->code_cache > 1ull << 40)
        return wrong(err, "--code-cache %.40s: must be a size such as 64M", v);
    return 0;
}

static int take_perf_map(struct run_options *o, char *v, struct error *err)
{
    (void)v, (void)err;
    o->perf_map = true;
    return 0;
}

static int take_translate(struct run_options *o, char *v, struct error *err)
{
    o->translate_always = !strcmp(v, "always");
    return o->translate_always || !strcmp(v, "hot") ? 0 : wrong(err, "--translate %.40s: hot or always", v);
}

static int take_verbose(struct run_options *o, char *v, struct error *err)
{
    (void)v, (void)err;
    o->verbose++;
    return 0;
}

static int take_help(struct run_options *o, char *v, struct error *err)
{
    (void)v, (void)err;
    o->help = true;
    return 0;
}

static const struct option options[] = {
    {"kernel", "FILE", "Linux bzImage, ELF kernel with a PVH entry, or multiboot image to start", take_kernel},
    {"initrd", "FILE", "initial RAM disk (multiboot: the module)", take_initrd},
    {"append", "STRING", "the kernel's command line", take_append},
    {"disk", "FILE[,ro][,serial=S][,format=F]", "raw or qcow2 image or block device; may be given several times",
     take_disk},
    {"net", "WHERE[,mac=MAC][,mtu=N]",
     "a network card: user, tap[:NAME], socket:PATH; may be given several times; none (default)", take_net},
    {"publish", "[ADDR:]HOST:GUEST[/udp]",
     "let the host's port (of 127.0.0.1, or ADDR) lead to the guest's; may be given several times", take_publish},
    {"cpus", "N", "virtual CPUs (default 1)", take_cpus},
    {"memory", "SIZE", "such as 512M or 2G (default 1G; a bare number is MiB)", take_memory},
    {"cpu", "MODEL",
     "x86-64-v2, x86-64-v3 or host, and changes such as ,+la57,-avx2 (default: v3 if possible, else v2)", take_cpu},
    {"paravirt", "on|off", "whether the guest is offered KVM's paravirtual interface (default on)", take_paravirt},
    {"engine", "NAME", "what executes the CPUs: kvm, dbt, interp, or auto (the default): the first that fits this host",
     take_engine},
    {"cells", "auto|off|always",
     "whether engine dbt runs guest programs that compute in processes of their own (default auto)", take_cells},
    {"translate", "hot|always", "whether engine dbt interprets code until it has run a few times (default hot)",
     take_translate},
    {"code-cache", "SIZE", "limit for the machine's translated code in engine dbt (default 64M)", take_code_cache},
    {"console", "WHERE", "the serial port: stdio (default), pty, socket:PATH, file:PATH, none", take_console},
    {"hvc", "WHERE", "a virtio console (hvc0) as well; the same choices", take_hvc},
    {"virtio", "pci|mmio", "how virtio devices are attached (default pci)", take_virtio},
    {"name", "NAME", "the machine's name, for messages", take_name},
    {"no-reboot", NULL, "end when the guest resets instead of starting it again", take_no_reboot},
    {"debug-exit", NULL, "a guest's write of N to port 0xf4 ends with exit status 2*N+1", take_debug_exit},
    {"debugcon", NULL, "what a guest writes to port 0xe9 goes to standard output", take_debugcon},
    {"stats", NULL, "print counters at the end: instructions, exits, faults, interrupts, requests", take_stats},
    {"trace", "KIND,...", "write a trace to standard error: exits, interrupts, mmio, pio, translate", take_trace},
    {"perf-map", NULL, "let perf name translated code: write /tmp/perf-PID.map", take_perf_map},
    {"verbose", NULL, "say more; twice: still more (also -v)", take_verbose},
    {"help", NULL, "this help (also -h)", take_help},
};

enum { OPTIONS = sizeof options / sizeof *options };

static const struct option *find(const char *name, size_t length)
{
    for (unsigned i = 0; i < OPTIONS; i++)
        if (strlen(options[i].name) == length && !memcmp(options[i].name, name, length))
            return &options[i];
    return NULL;
}

static int check(const struct run_options *o, struct error *err)
{
    if (o->help)
        return 0;
    if (!o->kernel)
        return wrong(err, "--kernel is missing: nothing to start");
    uint64_t least = (uint64_t)o->cpus * ENGINE_CODE_CACHE_MIN, most = (uint64_t)o->cpus * ENGINE_CODE_CACHE_MAX;
    if (o->code_cache && o->code_cache < least)
        return wrong(err, "--code-cache %" PRIu64 "K: %u vCPUs need %" PRIu64 "M at least", o->code_cache >> 10,
                     o->cpus, least >> 20);
    if (o->code_cache > most)
        return wrong(err, "--code-cache %" PRIu64 "M: %u vCPUs can use %" PRIu64 "G at most", o->code_cache >> 20,
                     o->cpus, most >> 30);
    unsigned users = 0;
    for (unsigned i = 0; i < o->nets; i++)
        users += o->net[i].kind == NETWORK_USER;
    if (users > 1)
        return wrong(err, "--net user: there can be only one user network");
    if (o->publishes && !users)
        return wrong(err, "--publish %.80s: needs --net user", o->publish[0].text);
    bool twice = o->hvc && !strcmp(o->hvc, "stdio") && !strcmp(o->console, "stdio");
    return twice ? wrong(err, "--hvc stdio: the serial port has stdio already; give it --console none") : 0;
}

int run_options_parse(struct run_options *o, int argc, char **argv, struct error *err)
{
    *o = (struct run_options){.cpus = 1, .memory = 1 << 30, .console = "stdio", .append = "", .name = "trapeze"};
    for (int i = 0; i < argc; i++) {
        char *a = argv[i];
        if (a[0] == '-' && (a[1] == 'v' || a[1] == 'h') && strspn(a + 1, "vh") == strlen(a + 1)) {
            for (const char *c = a + 1; *c; c++)
                *c == 'v' ? o->verbose++ : (o->help = true);
            continue;
        }
        if (a[0] != '-' || a[1] != '-')
            return wrong(err, "%.80s: unexpected argument", a);
        char *value = strchr(a, '=');
        size_t length = value ? (size_t)(value - a - 2) : strlen(a + 2);
        const struct option *option = find(a + 2, length);
        if (!option)
            return wrong(err, "%.80s: unknown option", a);
        if (value && !option->value)
            return wrong(err, "--%s: takes no value", option->name);
        if (value)
            value++;
        else if (option->value && i + 1 < argc)
            value = argv[++i];
        if (option->value && !value)
            return wrong(err, "--%s: %s is missing", option->name, option->value);
        int e = option->take(o, value, err);
        if (e)
            return e;
    }
    return check(o, err);
}

void run_options_help(FILE *f)
{
    fprintf(f, "Usage: trapeze run --kernel FILE [OPTION]...\n"
               "Start a virtual machine and stay with it until it ends.\n\n");
    for (unsigned i = 0; i < OPTIONS; i++) {
        char left[48];
        snprintf(left, sizeof left, "--%s%s%s", options[i].name, options[i].value ? " " : "",
                 options[i].value ? options[i].value : "");
        fprintf(f, "  %-30s  %s\n", left, options[i].help);
    }
    fprintf(f,
            "\nOn a terminal, Ctrl-A x switches the machine off, Ctrl-A p presses its power button, Ctrl-A h helps.\n"
            "SIGINT and SIGTERM press the power button; a second one ends the machine at once.\n\n"
            "Exit status: 0 the guest powered off, 2 wrong usage, 3 the guest crashed, 1 any other failure.\n\n"
            "Example: trapeze run --kernel vmlinuz --initrd initrd.img --append 'console=ttyS0 root=/dev/vda' \\\n"
            "                     --disk debian.img --cpus 2 --memory 2G \\\n"
            "                     --net user --publish 2222:22\n");
}
