// Options of trapeze run about how the guest is executed, and how it is looked at.
#include "prog/option/groups.h"
#include "prog/option/options.h"
#include "report/log.h"
#include <errno.h>
#include <string.h>

static int take_engine(void *into, char *v, struct error *err)
{
    struct run_options *o = into;
    (void)err;
    o->engine = strcmp(v, "auto") ? v : NULL;
    return 0;
}

static int take_irqchip(void *into, char *v, struct error *err)
{
    struct run_options *o = into;
    static const char *const kinds[] = {
        [ENGINE_APICS_AUTO] = "auto", [ENGINE_APICS_OWN] = "split", [ENGINE_APICS_CHIPS] = "off"};
    for (unsigned i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (!strcmp(v, kinds[i])) {
            o->apics = (enum engine_apics)i;
            return 0;
        }
    return error_set(err, EINVAL, "--kernel-irqchip %.40s: auto, split or off", v);
}

static int take_ioeventfd(void *into, char *v, struct error *err)
{
    struct run_options *o = into;
    o->bells = !strcmp(v, "on");
    return o->bells || !strcmp(v, "off") ? 0 : error_set(err, EINVAL, "--ioeventfd %.40s: on or off", v);
}

static int take_cells(void *into, char *v, struct error *err)
{
    struct run_options *o = into;
    static const char *const modes[] = {
        [ENGINE_CELLS_AUTO] = "auto", [ENGINE_CELLS_OFF] = "off", [ENGINE_CELLS_ALWAYS] = "always"};
    for (unsigned i = 0; i < sizeof modes / sizeof *modes; i++)
        if (!strcmp(v, modes[i])) {
            o->cells = (enum engine_cells)i;
            return 0;
        }
    return error_set(err, EINVAL, "--cells %.40s: auto, off or always", v);
}

static int take_translate(void *into, char *v, struct error *err)
{
    struct run_options *o = into;
    o->translate_always = !strcmp(v, "always");
    return o->translate_always || !strcmp(v, "hot") ? 0 : error_set(err, EINVAL, "--translate %.40s: hot or always", v);
}

static int take_code_cache(void *into, char *v, struct error *err)
{
    struct run_options *o = into;
    if (!option_size(v, &o->code_cache) || !o->code_cache || o->code_cache > 1ull << 40)
        return error_set(err, EINVAL, "--code-cache %.40s: must be a size such as 64M", v);
    return 0;
}

static int take_trace(void *into, char *v, struct error *err)
{
    struct run_options *o = into;
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
            return error_set(err, EINVAL, "--trace %.40s: unknown; there are: exits, interrupts, mmio, pio, translate",
                             word);
        o->trace |= kind;
    }
    return 0;
}

static int take_verbose(void *into, char *v, struct error *err)
{
    struct run_options *o = into;
    (void)v, (void)err;
    o->verbose++;
    return 0;
}

#define FLAG(field) OPTION_SET(struct run_options, field)

static const struct option engine_options[] = {
    {"engine", "NAME", "what executes the CPUs: kvm, dbt, interp, or auto (the default): the first that fits this host",
     OPTION_TAKE(take_engine)},
    {"kernel-irqchip", "auto|split|off",
     "whether under engine kvm the local APICs are the kernel's (split, the default with hardware virtualization) or "
     "the machine's own (off)",
     OPTION_TAKE(take_irqchip)},
    {"ioeventfd", "on|off",
     "whether under engine kvm requests to virtio devices are served by a thread, not the vCPU (default on)",
     OPTION_TAKE(take_ioeventfd)},
    {"cells", "auto|off|always",
     "whether engine dbt runs guest programs that compute in processes of their own (default auto)",
     OPTION_TAKE(take_cells)},
    {"translate", "hot|always", "whether engine dbt interprets code until it has run a few times (default hot)",
     OPTION_TAKE(take_translate)},
    {"code-cache", "SIZE", "limit for the machine's translated code in engine dbt (default 64M)",
     OPTION_TAKE(take_code_cache)},
};

static const struct option observe_options[] = {
    {"debug-exit", NULL, "a guest's write of N to port 0xf4 ends with exit status 2*N+1", FLAG(debug_exit)},
    {"debugcon", NULL, "what a guest writes to port 0xe9 goes to standard output", FLAG(debugcon)},
    {"stats", NULL, "print counters at the end: instructions, exits, faults, interrupts, requests", FLAG(stats)},
    {"trace", "KIND,...", "write a trace to standard error: exits, interrupts, mmio, pio, translate",
     OPTION_TAKE(take_trace)},
    {"perf-map", NULL, "let perf name translated code: write /tmp/perf-PID.map", FLAG(perf_map)},
    {"verbose", NULL, "say more; twice: still more", OPTION_TAKE(take_verbose), .letter = 'v'},
    {"help", NULL, "this help", FLAG(help), .letter = 'h'},
};

const struct option_group options_engine = OPTION_GROUP("How it is executed", engine_options);
const struct option_group options_observe = OPTION_GROUP("How it is looked at", observe_options);
