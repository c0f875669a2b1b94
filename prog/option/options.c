// The command line of trapeze run: its groups of options (devices.c and so on), and what must fit together.
#include "prog/option/options.h"
#include "prog/option/groups.h"
#include "vm/vsock.h"
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

static const struct option_group *const groups[] = {&options_boot, &options_image,  &options_guest,   &options_devices,
                                                    &options_life, &options_engine, &options_observe, NULL};

static int take_image(void *into, char *word, struct error *err)
{
    struct run_options *o = into;
    if (o->image.what || !*word)
        return error_set(err, EINVAL, "%.80s: unexpected argument", word);
    o->image.what = word;
    return 0;
}

static const struct command_line run_line = {
    .command = "run",
    .usage =
        "run [IMAGE] [OPTION]...\n"
        "Start a virtual machine and stay with it until it ends. IMAGE is an image's name (trapeze image), or a disk\n"
        "in a file, with a slash in its name; the machine writes into an overlay of its own. Its kernel is found in\n"
        "it, unless --kernel gives one. Where there is no image debian, it is built first.",
    .after = "On a terminal, Ctrl-A x switches the machine off, Ctrl-A p presses its power button, Ctrl-A h helps.\n"
             "SIGINT and SIGTERM press the power button; a second one ends the machine at once.\n\n"
             "Exit status: 0 the guest powered off, 2 wrong usage, 3 the guest crashed, 1 any other failure.\n\n"
             "Examples: trapeze run debian\n"
             "          trapeze run debian --name web --ssh-key ~/.ssh/id_ed25519.pub --publish 2222:22\n"
             "          trapeze run --kernel vmlinuz --initrd initrd.img --append 'console=ttyS0 root=/dev/vda' \\\n"
             "                      --disk debian.img --cpus 2 --memory 2G --net user --publish 2222:22\n",
    .groups = groups,
    .word = take_image,
};

// Who names an image wants a system to work with: a network, and another CPU where the host has some.
static void fill_in(struct run_options *o)
{
    if (o->image.what && !o->nets && !o->net_none)
        o->net[o->nets++] = (struct network_option){.kind = NETWORK_USER};
    // A disk that was named together with its machine is not thrown away.
    if (o->image.what && o->name && !o->detach)
        o->keep = true;
    if (!o->cpus)
        o->cpus = o->image.what && sysconf(_SC_NPROCESSORS_ONLN) > 1 ? 2 : 1;
}

// What no option can see alone.
static int check(const struct run_options *o, struct error *err)
{
    if (o->help)
        return 0;
    if (!o->kernel && !o->image.what && !o->disks)
        return error_set(err, EINVAL, "nothing to start: name an image (such as debian), or give --kernel or --disk");
    const struct image_option *i = &o->image;
    if (i->size && !i->what)
        return error_set(err, EINVAL, "--size: is for machines that start from an image");
    if (i->what && o->disks == MAX_DISKS)
        return error_set(err, EINVAL, "--disk: at most %d disks beside an image's", MAX_DISKS - 1);
    if (!o->kernel && o->initrd)
        return error_set(err, EINVAL, "--initrd: goes with --kernel");
    if (o->agent && o->kernel && !o->initrd)
        return error_set(err, EINVAL, "--agent: there is no --initrd to put it into");
    uint64_t least = (uint64_t)o->cpus * ENGINE_CODE_CACHE_MIN, most = (uint64_t)o->cpus * ENGINE_CODE_CACHE_MAX;
    if (o->code_cache && o->code_cache < least)
        return error_set(err, EINVAL, "--code-cache %" PRIu64 "K: %u vCPUs need %" PRIu64 "M at least",
                         o->code_cache >> 10, o->cpus, least >> 20);
    if (o->code_cache > most)
        return error_set(err, EINVAL, "--code-cache %" PRIu64 "M: %u vCPUs can use %" PRIu64 "G at most",
                         o->code_cache >> 20, o->cpus, most >> 30);
    unsigned users = 0;
    for (unsigned i = 0; i < o->nets; i++)
        users += o->net[i].kind == NETWORK_USER;
    if (users > 1)
        return error_set(err, EINVAL, "--net user: there can be only one user network");
    if (o->publishes && !users)
        return error_set(err, EINVAL, "--publish %.80s: needs --net user", o->publish[0].text);
    if (o->remove && !o->detach)
        return error_set(err, EINVAL, "--rm: needs --detach; in the foreground it is what happens without --keep");
    if (o->remove && o->keep)
        return error_set(err, EINVAL, "--rm: there is --keep, too");
    bool twice = !o->detach && o->hvc && !strcmp(o->hvc, "stdio") && !strcmp(o->console, "stdio");
    return twice ? error_set(err, EINVAL, "--hvc stdio: the serial port has stdio already; give it --console none") : 0;
}

int run_options_parse(struct run_options *o, int argc, char **argv, struct error *err)
{
    *o = (struct run_options){
        .bells = true, .memory = 1 << 30, .console = "stdio", .append = "", .vsock_cid = VSOCK_CID_FIRST};
    struct error why;
    int e = command_line_parse(&run_line, o, argc, argv, err);
    if (!e)
        fill_in(o);
    if (!e && check(o, &why))
        e = command_line_wrong(&run_line, err, "%s", why.text);
    // In the background there is no terminal: the console is there for who attaches.
    if (o->detach && !strcmp(o->console, "stdio"))
        o->console = "none";
    if (o->detach && o->hvc && !strcmp(o->hvc, "stdio"))
        o->hvc = "none";
    return e;
}

void run_options_help(FILE *f)
{
    command_line_help(&run_line, f);
}
