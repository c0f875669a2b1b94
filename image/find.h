// The kernel that an installed system would start, found in its disk: without starting it, and without its boot loader.
//
// Looked for in /boot and / of each ext2, ext3, ext4 and FAT file system: vmlinuz-VERSION with the initial RAM disk of
// the same version (under any of the names that distributions give it), of the newest version that has one. What boot
// loaders are configured to do is not read.
//
// The root file system is the one with the kernel if it has /etc; else another one that has; else the partition whose
// type says so (GPT); else it can't be told.
//
// Example:
//     struct boot_found b;
//     if (!find_boot("debian.qcow2", DISK_PROBE, &b, &err)) { ... b.root, b.kernel_fd ...; boot_found_close(&b); }
#pragma once
#include "image/reader.h"

enum { BOOT_PATH = 300, BOOT_ROOT = 80 };
#define BOOT_KERNEL_MAX (256ull << 20) // bytes
#define BOOT_INITRD_MAX (1024ull << 20)

struct boot_found {
    char kernel[BOOT_PATH], initrd[BOOT_PATH]; // paths in their file system; printable; initrd empty: there is none
    char root[BOOT_ROOT];                      // what goes after root=
    int kernel_fd, initrd_fd;                  // memory files (memfd_create) with their contents; -1: none
};

// In a process of its own with little memory, time and no system calls but those that it needs: a file system that
// breaks the reader makes one line of error. -ENOENT: no kernel there. -ETIMEDOUT. The caller closes what was found.
int find_boot(const char *path, enum disk_format format, struct boot_found *out, struct error *err);
void boot_found_close(struct boot_found *b);

// The same in this process and without limits. The files are given, or -1 if their contents are not wanted.
int find_boot_in(struct reader *r, int kernel_fd, int initrd_fd, struct boot_found *out, struct error *err);
