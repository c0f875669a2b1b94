// Error texts from hostile names: whatever a name holds and however long it is, the text stays within its bounds, keeps
// its order and ends.
#include "report/error.h"
#include <stdint.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char name[600];
    size_t length = size < sizeof name - 1 ? size : sizeof name - 1;
    memcpy(name, data, length);
    name[length] = 0;

    struct error error;
    if (error_set(&error, 5, "disk %s", name) != -5 || strncmp(error.text, "disk ", 5) != 0)
        __builtin_trap();
    error_prefix(&error, "%s", name);
    if (!memchr(error.text, 0, sizeof error.text))
        __builtin_trap();
    return 0;
}
