// virtiofsd, the process that serves a folder of the host to a guest (vhost-user, virtio-fs): starting it in a cage,
// and ending it.
//
// It is the one of Debian's qemu-system-common. It works as root of namespaces of its own, with the folder as its root
// directory, few capabilities and a filter of system calls, so whatever a guest makes it do it does in that folder. For
// a user who is not root, a user namespace makes it root of nothing else; files then belong to that user, and further
// owners exist only as far as /etc/subuid and /etc/subgid give the user some. A folder that is to be read only is
// mounted read-only where virtiofsd sees it: the kernel refuses, not virtiofsd.
//
// It ends with us, however we end.
//
// Example: virtiofsd_start(&(struct virtiofsd_options){.folder = "/srv/src", .readonly = true}, &daemon, &socket,
// &err);
//          vhost_user_open(&(struct vhost_user_options){.socket = socket, .end = virtiofsd_end, .ctx = daemon, ...});
#pragma once
#include "report/error.h"
#include <stdbool.h>
#include <stddef.h>

struct virtiofsd;

struct virtiofsd_options {
    const char *program; // NULL: where Debian has it
    const char *folder;
    bool readonly;
};

// Whether there is such a program (NULL: where Debian has it): 0, or err says what is missing.
int virtiofsd_probe(const char *program, struct error *err);
// *socket is connected to it, and the caller's. On failure nothing is left running.
int virtiofsd_start(const struct virtiofsd_options *o, struct virtiofsd **out, int *socket, struct error *err);
// Ends it at once, and returns when it is gone. Any thread, any number of times; has the type that others call it by.
void virtiofsd_end(void *daemon);
// The last line that it has written to its standard error, or "" if there is none; each line is told once.
void virtiofsd_last_words(struct virtiofsd *d, char *text, size_t size);
void virtiofsd_free(struct virtiofsd *d); // ends it, if it is still there; NULL: nothing
