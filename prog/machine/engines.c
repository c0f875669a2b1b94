// See engines.h.
#include "prog/machine/engines.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

const struct engine_ops *const engines[] = {&engine_kvm, &engine_dbt, &engine_interp, NULL};

static int choose_auto(const struct engine_ops **out, struct error *why, struct error *err)
{
    struct error refusals = {""}, one;
    for (unsigned i = 0; engines[i]; i++) {
        const struct engine_ops *e = engines[i];
        if (e->probe(&one) == 0 && (!e->recommend || e->recommend(&one) == 0)) {
            error_set(why, 0, "%s%sthe best engine that works here", refusals.text, refusals.text[0] ? "; " : "");
            *out = e;
            return 0;
        }
        size_t n = strlen(refusals.text);
        snprintf(refusals.text + n, sizeof refusals.text - n, "%sno %s (%.100s)", n ? ", " : "", engines[i]->name,
                 one.text);
    }
    return error_set(err, ENOTSUP, "no engine works on this host: %.200s", refusals.text);
}

int engine_choose(const char *name, const struct engine_ops **out, struct error *why, struct error *err)
{
    if (!name)
        return choose_auto(out, why, err);
    char names[80] = "auto";
    for (unsigned i = 0; engines[i]; i++) {
        if (!strcmp(engines[i]->name, name)) {
            struct error reason;
            if (engines[i]->probe(&reason))
                return error_set(err, ENOTSUP, "engine %s: %.200s", name, reason.text);
            error_set(why, 0, "asked for");
            *out = engines[i];
            return 0;
        }
        snprintf(names + strlen(names), sizeof names - strlen(names), ", %s", engines[i]->name);
    }
    return error_set(err, EINVAL, "--engine %.40s: no such engine; there are: %s", name, names);
}
