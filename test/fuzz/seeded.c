// Runs a fuzz target without a fuzzer, for compilers that have none: a number of inputs from a fixed seed, or the files
// that are named.
//
// Example: fuzz_virtio_blk 2000; fuzz_virtio_blk crash-0123
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { LONGEST = 4096 };

static uint64_t next(uint64_t *x) // xorshift64
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return *x;
}

static int run_file(const char *path)
{
    static uint8_t input[1 << 20];
    FILE *file = fopen(path, "rb");
    if (!file) {
        perror(path);
        return 1;
    }
    size_t n = fread(input, 1, sizeof input, file);
    fclose(file);
    return LLVMFuzzerTestOneInput(input, n);
}

int main(int argc, char **argv)
{
    char *end = NULL;
    unsigned long runs = argc > 1 ? strtoul(argv[1], &end, 10) : 1000;
    if (end && *end) {
        for (int i = 1; i < argc; i++)
            if (run_file(argv[i]))
                return 1;
        return 0;
    }
    uint64_t x = 0x9e3779b97f4a7c15;
    for (unsigned long run = 0; run < runs; run++) {
        static uint8_t input[LONGEST];
        size_t size = next(&x) % LONGEST;
        for (size_t i = 0; i < size; i++)
            input[i] = (uint8_t)(next(&x) >> 32);
        LLVMFuzzerTestOneInput(input, size);
    }
    printf("%lu inputs\n", runs);
    return 0;
}
