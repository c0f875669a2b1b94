// See machine_snapshot.h.
#include "prog/machine/snapshot.h"
#include "prog/machine/snapshot_take.h"
#include "prog/state/record.h"
#include <errno.h>

static void post_snapshot(void *ctx, const struct control_request *q, struct control_reply *r)
{
    struct machine_control *c = ctx;
    const char *to = json_string_value(json_object_get(q->body, "to"));
    struct record *record;
    struct error err;
    struct snapshot_taken taken;
    if (!to || to[0] != '/') {
        control_refuse_text(r, -EINVAL, "\"to\" must be an absolute path");
        return;
    }
    int e = record_read(c->dir, &record, &err);
    if (!e) {
        e = snapshot_take(c->m, record->arguments, record->directory, to, &taken, &err);
        record_free(record);
    }
    if (e) {
        control_refuse(r, e, &err);
        return;
    }
    r->body = json_pack("{s:s, s:I, s:I, s:I, s:I}", "path", to, "paused_ns", (json_int_t)taken.paused_ns, "total_ns",
                        (json_int_t)taken.total_ns, "memory_bytes", (json_int_t)taken.memory_bytes, "memory_stored",
                        (json_int_t)taken.memory_stored);
}

const struct control_route machine_snapshot_routes[] = {
    {"POST", "/snapshot", post_snapshot, true, "{\"to\": path}: save the machine there, while it runs on"},
    {0},
};
