// Debian, made into an image by programs that every Debian has: mmdebstrap installs it into a tar archive, mke2fs
// writes the tree as an ext4 file system into a file. Nothing is mounted.
//
//     mmdebstrap ... bookworm root.tar         as root; else in a user namespace, or by fakechroot
//     tar -xf root.tar; mke2fs -d root         as root; else by fakeroot, so that files have their owners
//
// The disk is the file system: no partitions, no boot loader, for trapeze finds the kernel in it. /etc/fstab names it
// by its UUID and lets it grow to the disk's size at boot, so a larger overlay is a larger system.
//
// What each machine must have alone (the ssh host's keys) is made at its first boot.
#include "image/make.h"
#include "image/program.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BASE_PACKAGES                                                                                                  \
    "systemd-sysv,systemd-resolved,udev,dbus,kmod,linux-image-cloud-amd64,initramfs-tools,zstd,iproute2,"              \
    "iputils-ping,openssh-server,cloud-init,ca-certificates,login,procps,less,nano,sudo"
enum { PACKAGES_MAX = 1024, UUID = 37 };

// Runs when the packages are installed; $1 is the new root. TRAPEZE_UUID, TRAPEZE_AGENT: see make.
static const char customize[] =
    "set -eu\n"
    "root=$1\n"
    "echo debian >\"$root/etc/hostname\"\n"
    "printf '127.0.0.1\\tlocalhost\\n127.0.1.1\\tdebian\\n::1\\tlocalhost ip6-localhost\\n' >\"$root/etc/hosts\"\n"
    "echo \"UUID=$TRAPEZE_UUID / ext4 errors=remount-ro,x-systemd.growfs 0 1\" >\"$root/etc/fstab\"\n"
    "chroot \"$root\" passwd -q -d root\n"
    // An address by DHCP, whatever the card is called.
    "printf '[Match]\\nName=en* eth*\\n\\n[Network]\\nDHCP=yes\\n' >\"$root/etc/systemd/network/80-dhcp.network\"\n"
    "for unit in systemd-networkd systemd-resolved; do\n"
    "    systemctl --root=\"$root\" enable -q $unit.service 2>/dev/null\n"
    "done\n"
    "ln -sf ../run/systemd/resolve/stub-resolv.conf \"$root/etc/resolv.conf\"\n"
    // Waiting for a network that nobody may have attached delays the boot by two minutes.
    "rm -f \"$root\"/etc/systemd/system/network-online.target.wants/systemd-networkd-wait-online.service\n"
    // Each machine has keys of its own.
    "rm -f \"$root\"/etc/ssh/ssh_host_*_key*\n"
    "mkdir -p \"$root/etc/systemd/system/ssh.service.d\"\n"
    "printf '[Service]\\nExecStartPre=\\nExecStartPre=/usr/bin/ssh-keygen -A\\nExecStartPre=/usr/sbin/sshd -t\\n' \\\n"
    "    >\"$root/etc/systemd/system/ssh.service.d/keys.conf\"\n"
    // cloud-init works where there is a disk for it, and costs nothing where there is none. Keys of ssh are good for
    // root, too. There are no locales to choose from.
    "printf 'datasource_list: [NoCloud, ConfigDrive, None]\\ndisable_root: false\\nlocale: false\\n' \\\n"
    "    >\"$root/etc/cloud/cloud.cfg.d/90_trapeze.cfg\"\n"
    // Chores of machines that live for months.
    "rm -f \"$root\"/etc/systemd/system/timers.target.wants/*.timer\n"
    "rm -f \"$root/etc/systemd/system/multi-user.target.wants/e2scrub_reap.service\"\n"
    // There is no screen to log in at.
    "rm -f \"$root/etc/systemd/system/getty.target.wants/getty@tty1.service\"\n"
    // systemd.generator(7): folders of the host, which the command line names, are mounted at /mnt.
    "generators=\"$root/usr/lib/systemd/system-generators\"\n"
    "mkdir -p \"$generators\"\n"
    "cat >\"$generators/trapeze-shares\" <<'END'\n"
    "#!/bin/sh\n"
    "for word in $(cat /proc/cmdline); do\n"
    "    tag=${word#trapeze.share=}\n"
    "    [ \"$tag\" != \"$word\" ] || continue\n"
    "    unit=$(systemd-escape --path --suffix=mount \"/mnt/$tag\")\n"
    "    printf '[Unit]\\nDescription=Folder %s of the host\\n[Mount]\\nWhat=%s\\nWhere=/mnt/%s\\nType=virtiofs\\n' "
    "\\\n"
    "        \"$tag\" \"$tag\" \"$tag\" >\"$1/$unit\"\n"
    "    mkdir -p \"$1/local-fs.target.wants\"\n"
    "    ln -s \"../$unit\" \"$1/local-fs.target.wants/\"\n"
    "done\n"
    "END\n"
    "chmod 755 \"$generators/trapeze-shares\"\n"
    "if [ -n \"${TRAPEZE_AGENT:-}\" ]; then\n"
    "    install -D -m 755 \"$TRAPEZE_AGENT/trapeze-agent\" \"$root/usr/lib/trapeze/trapeze-agent\"\n"
    "    install -m 644 \"$TRAPEZE_AGENT/trapeze-agent.service\" \"$root/etc/systemd/system/\"\n"
    "    systemctl --root=\"$root\" enable -q trapeze-agent.service 2>/dev/null\n"
    "fi\n"
    // fakechroot puts the path of the root before absolute links.
    "find \"$root\" -xdev -type l -lname \"$root/*\" -printf '%l\\t%p\\n' |\n"
    "    while IFS=\"$(printf '\\t')\" read -r to link; do ln -sfn \"${to#\"$root\"}\" \"$link\"; done\n"
    "rm -rf \"$root\"/var/cache/apt/*.bin \"$root\"/var/log/*.log \"$root\"/var/log/apt\n";

// $1: the draft's folder, $2: UUID, $3: MiB, the rest: options of tar.
static const char populate[] =
    "set -eu\n"
    "folder=$1 uuid=$2 size=$3\n"
    "shift 3\n"
    "mkdir \"$folder/root\"\n"
    "tar \"$@\" -xf \"$folder/root.tar\" -C \"$folder/root\"\n"
    "rm \"$folder/root.tar\"\n"
    // An identity that each machine's kernel command line replaces; an empty one would make each boot a first boot.
    "tr -d - </proc/sys/kernel/random/uuid >\"$folder/root/etc/machine-id\"\n"
    "mke2fs -q -F -t ext4 -L trapeze -U \"$uuid\" -d \"$folder/root\" \"$folder/disk.raw\" \"${size}M\"\n"
    "rm -rf \"$folder/root\"\n";

// Debian's suites and packages are words of few characters: nothing in them means anything to a shell or mmdebstrap.
static bool is_word(const char *s, const char *more)
{
    size_t n = strlen(s);
    if (!n || n > 512 || *s == '-')
        return false;
    for (; *s; s++)
        if (!((*s >= 'a' && *s <= 'z') || (*s >= '0' && *s <= '9') || strchr(more, *s)))
            return false;
    return true;
}

static int check(const struct build_options *o, struct error *err)
{
    if (!is_word(o->suite, "-"))
        return error_set(err, EINVAL, "suite %.40s: no suite of Debian (such as bookworm)", o->suite);
    if (o->packages && !is_word(o->packages, ",+.-:"))
        return error_set(err, EINVAL, "packages %.80s: must be names of packages with commas between", o->packages);
    if (o->mirror && strncmp(o->mirror, "http://", 7) && strncmp(o->mirror, "https://", 8) &&
        strncmp(o->mirror, "file:///", 8))
        return error_set(err, EINVAL, "mirror %.80s: must begin with http://, https:// or file:///", o->mirror);
    if (o->size < 1ull << 30 || o->size > 1ull << 44 || o->size % (1 << 20))
        return error_set(err, EINVAL, "size: must be at least 1G, and at most 16T");
    return 0;
}

static int make_uuid(char uuid[UUID], struct error *err)
{
    int fd = open("/proc/sys/kernel/random/uuid", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, uuid, UUID - 1);
    if (fd >= 0)
        close(fd);
    uuid[UUID - 1] = 0;
    return n == UUID - 1 ? 0 : error_set(err, EIO, "/proc/sys/kernel/random/uuid can't be read");
}

struct steps {
    const struct progress *progress;
    char what[120];
};

// mmdebstrap says "I: ..." what it does, and prints apt's and dpkg's lines.
static void on_line(void *ctx, const char *line)
{
    struct steps *s = ctx;
    if (strstr(line, "customize-hook")) { // mmdebstrap shows all of it
        snprintf(s->what, sizeof s->what, "configuring");
        return;
    }
    static const char *const parts[] = {"I: ", "Unpacking ", "Setting up ", "Get:"};
    for (unsigned i = 0; i < sizeof parts / sizeof *parts; i++)
        if (!strncmp(line, parts[i], strlen(parts[i])))
            snprintf(s->what, sizeof s->what, "%.100s", i ? line : line + 3);
}

static void on_tick(void *ctx)
{
    struct steps *s = ctx;
    progress_tell(s->progress, s->what, 0, 0);
}

static int install(const struct draft *d, const struct build_options *o, const char *uuid, struct steps *steps,
                   struct error *err)
{
    char id[UUID + 16], agent[PATH_MAX + 16];
    char include[PACKAGES_MAX], hook[sizeof customize + 64], tar[PATH_MAX + 16];
    snprintf(include, sizeof include, "--include=%s%s%s", BASE_PACKAGES, o->packages ? "," : "",
             o->packages ? o->packages : "");
    snprintf(hook, sizeof hook, "--customize-hook=%s", customize);
    snprintf(tar, sizeof tar, "%s/root.tar", d->path);
    snprintf(id, sizeof id, "TRAPEZE_UUID=%s", uuid);
    snprintf(agent, sizeof agent, "TRAPEZE_AGENT=%s", o->agent ? o->agent : "");
    struct program p = {.argv = {"mmdebstrap", geteuid() ? "--mode=auto" : "--mode=root", "--variant=minbase", include,
                                 "--aptopt=Acquire::Retries \"3\"", hook, o->suite, tar, o->mirror, NULL},
                        .package = "mmdebstrap",
                        .env = {id, agent, NULL},
                        .line = on_line,
                        .tick = on_tick,
                        .ctx = steps};
    snprintf(steps->what, sizeof steps->what, "installing Debian");
    return program_run(&p, err);
}

static int write_disk(const struct draft *d, const struct build_options *o, const char *uuid, struct steps *steps,
                      struct error *err)
{
    char size[24];
    snprintf(size, sizeof size, "%llu", (unsigned long long)(o->size >> 20));
    // Capabilities of files. Under fakeroot mke2fs can't read them.
    const char *xattrs = geteuid() ? NULL : "--xattrs";
    struct program p = {
        .argv = {"fakeroot", "sh", "-c", populate, "sh", d->path, uuid, size, xattrs, "--xattrs-include=*", NULL},
        .package = "fakeroot",
        .tick = on_tick,
        .ctx = steps};
    if (!geteuid())
        memmove(p.argv, p.argv + 1, sizeof p.argv - sizeof *p.argv);
    snprintf(steps->what, sizeof steps->what, "writing the disk");
    return program_run(&p, err);
}

int image_build_debian(const struct store *s, const struct build_options *o, const struct progress *progress,
                       struct image_record *out, struct error *err)
{
    struct draft d;
    struct steps steps = {.progress = progress};
    char uuid[UUID], disk[PATH_MAX];
    int e = check(o, err);
    if (!e)
        e = make_uuid(uuid, err);
    if (!e)
        e = store_begin(s, o->name, false, &d, err);
    if (e)
        return e;
    e = install(&d, o, uuid, &steps, err);
    if (!e)
        e = write_disk(&d, o, uuid, &steps, err);
    *out = (struct image_record){.built = true, .created = time(NULL)};
    snprintf(out->source, sizeof out->source, "Debian %s%s%s", o->suite, o->mirror ? " from " : "",
             o->mirror ? o->mirror : "");
    snprintf(out->packages, sizeof out->packages, "%s", o->packages ? o->packages : "");
    store_draft_disk(&d, DISK_RAW, disk);
    if (!e)
        e = image_examine(disk, DISK_RAW, out, err);
    if (!e && !out->kernel[0])
        e = error_set(err, EIO, "image %s: the system that was made has no kernel", o->name);
    if (e) {
        store_abort(&d);
        return e;
    }
    progress_tell(progress, "checking", 0, 0);
    return store_commit(&d, out, err);
}
