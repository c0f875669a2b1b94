// A program in the guest that connects to a port of the host and sends back what it gets.
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    struct sockaddr_vm a = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST};
    static char data[65536];
    int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
    a.svm_port = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 0;
    if (fd < 0 || connect(fd, (const struct sockaddr *)&a, sizeof a)) {
        perror("connect");
        return 1;
    }
    for (ssize_t n; (n = read(fd, data, sizeof data)) > 0;)
        for (ssize_t at = 0, done; at < n; at += done)
            if ((done = write(fd, data + at, (size_t)(n - at))) < 0) {
                perror("write");
                return 1;
            }
    return 0;
}
