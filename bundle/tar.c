// See tar.h. Offsets are those of the ustar header.
#include "bundle/tar.h"
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum { MODE = 100, UID = 108, GID = 116, SIZE = 124, TIME = 136, SUM = 148, TYPE = 156, MAGIC = 257 };

// The sum of all bytes, with blanks where it stands itself.
static unsigned sum_of(const uint8_t *block)
{
    unsigned sum = 0;
    for (unsigned i = 0; i < TAR_BLOCK; i++)
        sum += i >= SUM && i < SUM + 8 ? ' ' : block[i];
    return sum;
}

void tar_header(uint8_t block[TAR_BLOCK], const char *name, uint64_t size)
{
    memset(block, 0, TAR_BLOCK);
    snprintf((char *)block, TAR_NAME, "%s", name);
    strcpy((char *)block + MODE, "0000600");
    strcpy((char *)block + UID, "0000000");
    strcpy((char *)block + GID, "0000000");
    strcpy((char *)block + TIME, "00000000000");
    if (size >> 33) {
        block[SIZE] = 0x80;
        for (unsigned i = 0; i < 8; i++)
            block[SIZE + 4 + i] = (uint8_t)(size >> (56 - 8 * i));
    } else {
        snprintf((char *)block + SIZE, 12, "%011llo", (unsigned long long)size);
    }
    block[TYPE] = '0';
    memcpy(block + MAGIC,
           "ustar\0"
           "00",
           8);
    snprintf((char *)block + SUM, 8, "%06o", sum_of(block));
    block[SUM + 7] = ' ';
}

// Octal digits up to a NUL, a blank or the end of the field.
static bool octal(const uint8_t *field, unsigned length, uint64_t *value)
{
    unsigned i = 0;
    *value = 0;
    while (i < length && field[i] == ' ')
        i++;
    unsigned first = i;
    for (; i < length && field[i] >= '0' && field[i] <= '7'; i++)
        *value = *value << 3 | (field[i] - '0');
    return i > first && (i == length || !field[i] || field[i] == ' ');
}

static bool size_read(const uint8_t *field, uint64_t *size)
{
    if (field[0] != 0x80)
        return octal(field, 12, size);
    *size = 0;
    for (unsigned i = 1; i < 4; i++)
        if (field[i])
            return false;
    for (unsigned i = 4; i < 12; i++)
        *size = *size << 8 | field[i];
    return !(*size >> 63);
}

int tar_header_read(const uint8_t block[TAR_BLOCK], char name[TAR_NAME + 1], uint64_t *size)
{
    uint64_t sum;
    if (!block[0] && !memcmp(block, block + 1, TAR_BLOCK - 1))
        return 0;
    if (!octal(block + SUM, 8, &sum) || sum != sum_of(block) || memcmp(block + MAGIC, "ustar", 5) ||
        (block[TYPE] != '0' && block[TYPE]) || !size_read(block + SIZE, size))
        return -EINVAL;
    memcpy(name, block, TAR_NAME);
    name[TAR_NAME] = 0;
    return 1;
}
