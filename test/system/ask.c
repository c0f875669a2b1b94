// ask SOCKET METHOD RESOURCE [BODY]: one request to a control socket, for guests that have no other program for that.
// Prints the answer's body; exit status 0 if the machine said 200.
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char text[8192];
    if (argc < 4 || strlen(argv[1]) >= sizeof address.sun_path)
        return 2;
    strcpy(address.sun_path, argv[1]);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    const char *body = argc > 4 ? argv[4] : "";
    int size = snprintf(text, sizeof text,
                        "%s %s HTTP/1.1\r\nHost: trapeze\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s",
                        argv[2], argv[3], strlen(body), body);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) || write(fd, text, (size_t)size) != size) {
        perror(argv[1]);
        return 2;
    }
    size_t used = 0;
    for (ssize_t n; used < sizeof text - 1 && (n = read(fd, text + used, sizeof text - 1 - used)) > 0;)
        used += (size_t)n;
    text[used] = 0;
    const char *answer = strstr(text, "\r\n\r\n");
    printf("%s\n", answer ? answer + 4 : text);
    return strncmp(text, "HTTP/1.1 200", 12) != 0;
}
