// Error texts: see error.h.
#include "report/error.h"
#include <stdio.h>
#include <string.h>

int error_set(struct error *err, int code, const char *fmt, ...)
{
    if (err) {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(err->text, sizeof err->text, fmt, ap);
        va_end(ap);
    }
    return -code;
}

void error_prefix(struct error *err, const char *fmt, ...)
{
    if (!err)
        return;
    char old[sizeof err->text];
    memcpy(old, err->text, sizeof old);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(err->text, sizeof err->text, fmt, ap);
    va_end(ap);
    size_t n = strlen(err->text);
    for (const char *part = ": "; *part && n < sizeof err->text - 1; part++)
        err->text[n++] = *part;
    for (const char *part = old; *part && n < sizeof err->text - 1; part++)
        err->text[n++] = *part;
    err->text[n] = 0;
}
