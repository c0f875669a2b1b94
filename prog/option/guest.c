// Options of trapeze run about what the guest finds: what it starts with, its CPUs and memory, and what becomes of it.
#include "cpu/model.h"
#include "prog/option/groups.h"
#include "prog/option/options.h"
#include "prog/state/state_dir.h"
#include <errno.h>
#include <string.h>

static int take_cpus(void *into, char *v, struct error *err)
{
    struct run_options *o = into;
    uint64_t n;
    if (!option_number(v, 1, CPU_MAX, &n))
        return error_set(err, EINVAL, "--cpus %.40s: must be a number from 1 to %d", v, CPU_MAX);
    o->cpus = (unsigned)n;
    return 0;
}

static int take_memory(void *into, char *v, struct error *err)
{
    struct run_options *o = into;
    if (!option_size(v, &o->memory))
        return error_set(err, EINVAL, "--memory %.40s: must be a size such as 512M or 2G", v);
    if (o->memory < 1 << 20 || o->memory > 1ull << 40 || o->memory % (1 << 20))
        return error_set(err, EINVAL, "--memory %.40s: must be a multiple of 1M, from 1M to 1T", v);
    return 0;
}

static int take_cpu(void *into, char *v, struct error *err)
{
    struct run_options *o = into;
    for (const char *const *n = cpu_model_names; *n; n++)
        if (strlen(*n) == strcspn(v, ",") && !memcmp(*n, v, strlen(*n))) { // changes after a comma: cpu_model_make
            o->cpu = v;
            return 0;
        }
    char names[100] = "";
    for (const char *const *n = cpu_model_names; *n; n++)
        snprintf(names + strlen(names), sizeof names - strlen(names), " %s", *n);
    return error_set(err, EINVAL, "--cpu %.40s: no such model; there are:%s", v, names);
}

static int take_paravirt(void *into, char *v, struct error *err)
{
    struct run_options *o = into;
    o->no_paravirt = !strcmp(v, "off");
    return o->no_paravirt || !strcmp(v, "on") ? 0 : error_set(err, EINVAL, "--paravirt %.40s: on or off", v);
}

static int take_name(void *into, char *v, struct error *err)
{
    struct run_options *o = into;
    if (!state_name_valid(v))
        return error_set(
            err, EINVAL,
            "--name %.40s: must be 1 to 32 letters, digits, dots, dashes or underscores; first a letter or digit", v);
    o->name = v;
    return 0;
}

#define FLAG(field) OPTION_SET(struct run_options, field)
#define TEXT(field) OPTION_TEXT(struct run_options, field)

static const struct option boot_options[] = {
    {"kernel", "FILE",
     "Linux bzImage, ELF kernel with a PVH entry, or multiboot image to start (default: found in the disk)",
     TEXT(kernel)},
    {"initrd", "FILE", "initial RAM disk (multiboot: the module)", TEXT(initrd)},
    {"agent", NULL, "put the agent for exec, cp and ssh into the initial RAM disk of a Linux guest", FLAG(agent)},
    {"append", "STRING", "the kernel's command line; what is added to it where the kernel is found in the disk",
     TEXT(append)},
};

static const struct option guest_options[] = {
    {"cpus", "N", "virtual CPUs (default 1; 2 for an image where the host has several)", OPTION_TAKE(take_cpus)},
    {"memory", "SIZE", "such as 512M or 2G (default 1G; a bare number is MiB)", OPTION_TAKE(take_memory)},
    {"cpu", "MODEL",
     "x86-64-v2, x86-64-v3 or host, and changes such as ,+la57,-avx2 (default: v3 if possible, else v2)",
     OPTION_TAKE(take_cpu)},
    {"paravirt", "on|off", "whether the guest is offered KVM's paravirtual interface (default on)",
     OPTION_TAKE(take_paravirt)},
    {"no-reboot", NULL, "end when the guest resets instead of starting it again", FLAG(no_reboot)},
};

static const struct option life_options[] = {
    {"detach", NULL, "start in the background and print the machine's name", FLAG(detach), .letter = 'd'},
    {"name", "NAME", "the machine's name (default: vm1, vm2, ...: the first that is free)", OPTION_TAKE(take_name)},
    {"keep", NULL, "keep its directory when it has ended, so that it can be started again (in the background: always)",
     FLAG(keep)},
    {"rm", NULL, "with -d: remove its directory when it has ended", FLAG(remove)},
};

const struct option_group options_boot = OPTION_GROUP("What starts", boot_options);
const struct option_group options_guest = OPTION_GROUP("The guest's machine", guest_options);
const struct option_group options_life = OPTION_GROUP("Life", life_options);
