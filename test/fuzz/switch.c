// A switch with ports that send anything: one of them after a proper introduction, one without.
#include "switch/bed.h"
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bed b;
    int fd[3];
    bed_open(&b);
    const uint8_t prefix[4] = {NET_MESSAGE_CONTROL, 0, 0, sizeof(struct switch_hello)};
    for (unsigned i = 0; i < 3; i++) {
        struct switch_hello h = {.type = SWITCH_HELLO,
                                 .version = SWITCH_VERSION,
                                 .magic = SWITCH_MAGIC,
                                 .mac = {2, 0, 0, 0, 0, (uint8_t)i},
                                 .network = "lan",
                                 .name = "vm",
                                 .flags = i == 1 ? SWITCH_ANY_MAC : 0};
        fd[i] = bed_plug(&b);
        if (i < 2 && (write(fd[i], prefix, sizeof prefix) < 0 || write(fd[i], &h, sizeof h) < 0))
            abort();
    }
    bed_work(&b);
    // Pieces: whose turn it is, how long it is, and whether it is a frame with header, then its bytes.
    while (size > 2) {
        unsigned who = data[0] % 3, kind = data[0] / 3 % 4;
        size_t length = data[1] * (data[0] & 0x80 ? 16u : 1u);
        data += 2;
        size -= 2;
        length = length < size ? length : size;
        const uint8_t before[4] = {(uint8_t)kind, 0, (uint8_t)(length >> 8), (uint8_t)length};
        // A port that was hung up on is told so by an error, or by SIGPIPE, which send() can do without.
        if (kind < 3)
            send(fd[who], before, sizeof before, MSG_NOSIGNAL);
        send(fd[who], data, length, MSG_NOSIGNAL);
        data += length;
        size -= length;
        bed_work(&b);
        char waste[4096];
        for (unsigned i = 0; i < 2; i++) // the third one never reads
            while (read(fd[i], waste, sizeof waste) > 0)
                ;
    }
    for (unsigned i = 0; i < 3; i++)
        close(fd[i]);
    bed_close(&b);
    return 0;
}
