// trapeze: the program. It finds the command and lets it work; what each does is in its own file.
#include "prog/command/commands.h"
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name, *help;
    int (*run)(int argc, char **argv);
} commands[] = {
    {"run", "start a virtual machine; stay with it until it ends, or leave it in the background (-d)", command_run},
    {"start", "start machines again that have ended", command_start},
    {"restart", "stop machines, and start them again", command_restart},
    {"ps", "list machines", command_ps},
    {"logs", "show what a machine has printed", command_logs},
    {"console", "sit down at a machine's console", command_console},
    {"stats", "show what machines use", command_stats},
    {"stop", "press the power button, and kill what has not powered off in time", command_stop},
    {"kill", "end machines at once", command_kill},
    {"pause", "stop the CPUs and the clock of machines", command_pause},
    {"resume", "let paused machines go on", command_resume},
    {"balloon", "ask a guest to be content with less memory", command_balloon},
    {"rm", "remove machines that have ended", command_rm},
    {"inspect", "tell all about a machine, in JSON", command_inspect},
    {"image", "make, list and remove the images that machines start from", command_image},
    {"snapshot", "save running machines, and tell of what was saved", command_snapshot},
    {"migrate", "move a running machine to another process or host", command_migrate},
    {"receive", "wait for a machine that migrate sends, and run it", command_receive},
    {"restore", "make a machine go on from a snapshot", command_restore},
    {"clone", "start copies of a machine or a snapshot", command_clone},
    {"export", "put a machine that has ended into one file", command_export},
    {"import", "make a machine of such a file", command_import},
    {"switch", "connect the network cards of many machines", command_switch},
    {"exec", "run a program in a machine's guest", command_exec},
    {"cp", "copy files to a machine's guest or from there", command_cp},
    {"ssh", "log in to a machine's guest, with nothing to set up", command_ssh},
    {"connect", "connect standard input and output to a port in a machine's guest", command_connect},
    {"doctor", "tell what this host offers and which engine is taken", command_doctor},
};

enum { COMMANDS = sizeof commands / sizeof *commands };

static void help(FILE *f)
{
    fprintf(f, "Usage: trapeze COMMAND [OPTION]...\n"
               "Run any x86-64 operating system in a virtual machine, with or without hardware virtualization.\n\n");
    for (unsigned i = 0; i < COMMANDS; i++)
        fprintf(f, "  %-8s  %s\n", commands[i].name, commands[i].help);
    fprintf(f, "\n  trapeze COMMAND --help tells more; trapeze --version tells the version.\n"
               "\nExample: trapeze run --kernel vmlinuz --initrd initrd.img --append console=ttyS0\n");
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        help(stderr);
        return STATUS_USAGE;
    }
    if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "version")) {
        printf("trapeze %s\n", TRAPEZE_VERSION);
        return STATUS_OK;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
        help(stdout);
        return STATUS_OK;
    }
    for (unsigned i = 0; i < COMMANDS; i++)
        if (!strcmp(argv[1], commands[i].name))
            return commands[i].run(argc - 2, argv + 2);
    fprintf(stderr, "trapeze: %.80s: unknown command (see trapeze --help)\n", argv[1]);
    return STATUS_USAGE;
}
