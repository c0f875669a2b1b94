// trapeze-agent: runs in a guest and does there what the host asks for (protocol.h): programs, copies, connections.
//
// It listens on vsock and listens to the host alone: whoever else may reach the port (a program in the guest, through
// the loopback of vsock) is turned away. Each session is a process.
//
// The kernel's driver may come later than we do (udev loads it when it finds the device), so a socket that cannot be
// had is asked for again and again.
//
// As the first process of an initial RAM disk (rdinit=/trapeze-agent, which `trapeze run --agent` sets) it leaves a
// child behind that serves and becomes /init. When init has gone on to the real root, the child is still in what was
// the root before; so it keeps a /proc of its own, through which it finds the root of process 1 for each session.
#include "agent/protocol.h"
#include "agent/session.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { THERE_IS_ANOTHER = 3 }; // exit status, which the unit takes for success: that agent serves as well
enum { BACKLOG = 128, RETRY_US = 100000, SESSIONS = 256 };

#define OWN_PROC "/.trapeze-agent"

static void complain(const char *what)
{
    fprintf(stderr, "trapeze-agent: %s: %s\n", what, strerror(errno));
}

static int listen_once(unsigned port)
{
    struct sockaddr_vm a = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = port};
    int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && !bind(fd, (const struct sockaddr *)&a, sizeof a) && !listen(fd, BACKLOG))
        return fd;
    int e = errno;
    if (fd >= 0)
        close(fd);
    errno = e;
    return -1;
}

// Waits for the driver, not for a port that another agent has.
static int listen_at(unsigned port)
{
    for (bool told = false;; told = true) {
        int fd = listen_once(port);
        if (fd >= 0 || errno == EADDRINUSE || errno == EACCES)
            return fd;
        if (!told)
            complain("waiting for vsock");
        usleep(RETRY_US);
    }
}

static int serve(unsigned port, int proc)
{
    int listener = listen_at(port);
    if (listener < 0) {
        bool other = errno == EADDRINUSE;
        complain("vsock port");
        return other ? THERE_IS_ANOTHER : 1;
    }
    unsigned sessions = 0;
    for (;;) {
        struct sockaddr_vm a;
        socklen_t size = sizeof a;
        while (sessions && waitpid(-1, NULL, sessions < SESSIONS ? WNOHANG : 0) > 0)
            sessions--;
        int fd = accept4(listener, (struct sockaddr *)&a, &size, SOCK_CLOEXEC);
        if (fd < 0) {
            usleep(errno == EINTR ? 0 : RETRY_US);
            continue;
        }
        if (a.svm_cid == VMADDR_CID_HOST) {
            pid_t child = fork();
            if (!child) {
                close(listener);
                session_serve(fd, proc);
                _exit(0);
            }
            sessions += child > 0;
        }
        close(fd);
    }
}

// Descriptors 0 to 2 are open, so that no other gets their numbers.
static void fill_standard(void)
{
    int fd;
    do
        fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= 2);
    if (fd > 2)
        close(fd);
}

static int own_proc(void)
{
    int fd = -1;
    mkdir(OWN_PROC, 0700);
    if (!mount("proc", OWN_PROC, "proc", 0, NULL)) {
        fd = open(OWN_PROC, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        umount2(OWN_PROC, MNT_DETACH);
    }
    rmdir(OWN_PROC);
    return fd;
}

// The kernel has started us as its first process: serve in a child, and become what it would have started.
static int first_process(char **argv, unsigned port)
{
    int proc = own_proc();
    pid_t child = fork();
    if (!child) {
        static char name[] = "@trapeze-agent"; // systemd spares those whose name begins so when it changes roots
        setsid();
        prctl(PR_SET_NAME, "trapeze-agent");
        if (strlen(argv[0]) >= sizeof name - 1)
            strcpy(argv[0], name);
        _exit(serve(port, proc));
    }
    argv[0] = "/init";
    execv("/init", argv);
    complain("/init");
    return 1;
}

static int usage(FILE *f, int status)
{
    fprintf(f,
            "Usage: trapeze-agent [--port N]\n"
            "Serves the host of this virtual machine: `trapeze exec`, `cp` and `ssh`. Listens at vsock port %d.\n",
            AGENT_PORT);
    return status;
}

int main(int argc, char **argv)
{
    unsigned port = AGENT_PORT;
    bool first = getpid() == 1;
    for (int i = 1; i < argc && !first; i++) { // as the first process we have the kernel's words, which are init's
        if (!strcmp(argv[i], "--help"))
            return usage(stdout, 0);
        if (strcmp(argv[i], "--port") || i + 1 == argc || !(port = (unsigned)strtoul(argv[++i], NULL, 10)))
            return usage(stderr, 2);
    }
    fill_standard();
    signal(SIGPIPE, SIG_IGN);
    return first ? first_process(argv, port) : serve(port, -1);
}
