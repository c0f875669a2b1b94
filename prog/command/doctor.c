// trapeze doctor: what this host offers a hypervisor, and which engine `auto` takes for which reason.
//
// Whether KVM is worth having is decided by the CPU, not by /dev/kvm: without VMX or SVM behind it, a KVM device (there
// are such hosts) emulates every instruction.
#include "backend/aio.h"
#include "backend/virtiofsd.h"
#include "cpu/model.h"
#include "host/cpuid.h"
#include "prog/command/commands.h"
#include "prog/command/vm_options.h"
#include "prog/machine/engines.h"
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/utsname.h>
#include <unistd.h>

#ifndef HWCAP2_FSGSBASE
#define HWCAP2_FSGSBASE (1 << 1)
#endif

static void row(const char *what, bool yes, const char *note)
{
    printf("  %-26s %-4s %s\n", what, yes ? "yes" : "no", note);
}

static bool can_open(const char *path, int *error)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    *error = errno;
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

static void kvm_row(void)
{
    bool vmx = host_cpuid(1, 0).ecx & 1u << 5;
    bool svm = host_cpuid(0x80000000, 0).eax >= 0x80000001 && (host_cpuid(0x80000001, 0).ecx & 1u << 2);
    int error;
    bool device = can_open("/dev/kvm", &error);
    char note[120];
    if (device && (vmx || svm))
        snprintf(note, sizeof note, "KVM with %s", vmx ? "VMX" : "SVM");
    else if (device)
        snprintf(note, sizeof note, "/dev/kvm is there, but the CPU has neither VMX nor SVM: it can only emulate");
    else if (vmx || svm)
        snprintf(note, sizeof note, "the CPU has %s, but /dev/kvm: %s", vmx ? "VMX" : "SVM", strerror(error));
    else
        snprintf(note, sizeof note, "the CPU has neither VMX nor SVM, and /dev/kvm: %s", strerror(error));
    row("hardware virtualization", device && (vmx || svm), note);
}

static void model_rows(void)
{
    const struct cpu_config config = {.cpus = 1, .tsc_khz = 1000000};
    for (const char *const *name = cpu_model_names; *name; name++) {
        struct cpu_model m;
        struct error err;
        char what[48];
        bool yes = cpu_model_make(&m, *name, host_cpuid, &config, &err) == 0;
        snprintf(what, sizeof what, "CPU model %s", *name);
        row(what, yes, yes ? "" : err.text);
    }
}

int command_doctor(int argc, char **argv)
{
    static const struct option_group *const groups[] = {&vm_help_option, NULL};
    static const struct command_line line = {
        .command = "doctor",
        .usage = "doctor\nTell what this host offers and which engine is taken.",
        .after = "Example: trapeze doctor\n",
        .groups = groups,
    };
    struct vm_options o = {0};
    int status = vm_options_take(&line, &o, argc, argv, 0, 0);
    if (status >= 0)
        return status;
    struct utsname u;
    uname(&u);
    printf("trapeze %s on %s %s %s, %ld CPUs\n\n", TRAPEZE_VERSION, u.sysname, u.release, u.machine,
           sysconf(_SC_NPROCESSORS_ONLN));
    kvm_row();
    row("AVX2", host_cpuid(7, 0).ebx & 1u << 5, "");
    row("FSGSBASE", getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE, "");
    model_rows();
    struct aio *aio;
    struct error err = {""};
    bool uring = aio_create_uring(&aio, &err) == 0;
    if (uring)
        aio->ops->destroy(aio);
    row("io_uring", uring, uring ? "disks use it" : "disks use threads instead");
    int error;
    bool tun = can_open("/dev/net/tun", &error);
    row("tun", tun, tun ? "for --net tap" : strerror(error));
    bool virtiofsd = virtiofsd_probe(getenv("TRAPEZE_VIRTIOFSD"), &err) == 0;
    row("virtiofsd", virtiofsd, virtiofsd ? "for --share" : err.text);

    printf("\n");
    for (unsigned i = 0; engines[i]; i++) {
        char what[48];
        bool works = engines[i]->probe(&err) == 0;
        snprintf(what, sizeof what, "engine %s", engines[i]->name);
        row(what, works, works ? "" : err.text);
    }
    const struct engine_ops *chosen;
    struct error why;
    if (engine_choose(NULL, &chosen, &why, &err)) {
        printf("\nNo virtual machine can run here: %s.\n", err.text);
        return STATUS_FAILED;
    }
    printf("\nEngine auto takes %s: %s.\n", chosen->name, why.text);
    return STATUS_OK;
}
