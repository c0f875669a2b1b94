// echo PORT: answers one UDP datagram with its own words, prints it and ends; busybox has nothing that listens for
// these.
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons((uint16_t)(argc > 1 ? atoi(argv[1]) : 7))}, peer;
    socklen_t length = sizeof peer;
    char words[1500];
    int s = socket(AF_INET, SOCK_DGRAM, 0);
    if (s < 0 || bind(s, (struct sockaddr *)&own, sizeof own))
        return 1;
    ssize_t n = recvfrom(s, words, sizeof words, 0, (struct sockaddr *)&peer, &length);
    if (n < 0 || sendto(s, words, (size_t)n, 0, (struct sockaddr *)&peer, length) != n)
        return 1;
    printf("guest: got %.*s\n", (int)n, words);
    return 0;
}
