// See limits.h. A bare number of bytes is bytes here, not MiB as in sizes of memory: nobody writes bps=1 for 1 MiB.
#include "prog/option/limits.h"
#include "prog/option/command_line.h"
#include <errno.h>
#include <string.h>

#define OPERATIONS_MAX 1000000000ull
enum { BYTES_MIN = 1024 };

static bool take_bytes(const char *v, uint64_t *bytes)
{
    bool plain = *v && strspn(v, "0123456789") == strlen(v);
    return (plain ? option_number(v, 0, UINT64_MAX, bytes) : option_size(v, bytes)) && *bytes >= BYTES_MIN;
}

int limits_take(struct rate_limits *l, const char *operations, const char *word, const char *who, struct error *err)
{
    size_t length = strlen(operations);
    uint64_t n;
    if (!strncmp(word, operations, length) && word[length] == '=') {
        if (!option_number(word + length + 1, 1, OPERATIONS_MAX, &l->operations))
            return error_set(err, EINVAL, "%.60s: %.40s: must be a number per second", who, word);
        return 1;
    }
    if (!strncmp(word, "bps=", 4)) {
        if (!take_bytes(word + 4, &l->bytes))
            return error_set(err, EINVAL, "%.60s: %.40s: must be bytes per second, such as 10M, from 1K on", who, word);
        return 1;
    }
    if (!strncmp(word, "burst=", 6)) {
        if (!option_number(word + 6, 1, RATE_BURST_MS_MAX, &n))
            return error_set(err, EINVAL, "%.60s: %.40s: must be milliseconds, from 1 to %d", who, word,
                             RATE_BURST_MS_MAX);
        l->burst_ms = (uint32_t)n;
        return 1;
    }
    return 0;
}
