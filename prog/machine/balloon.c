// See machine_balloon.h.
#include "prog/machine/balloon.h"
#include "virtio/balloon.h"
#include <errno.h>

static bool has_balloon(const struct machine_control *c, struct control_reply *r)
{
    if (c->m->balloon)
        return true;
    control_refuse_text(r, -EBUSY, "the machine has no balloon (--balloon off)");
    return false;
}

static void get_balloon(void *ctx, const struct control_request *q, struct control_reply *r)
{
    struct machine_control *c = ctx;
    struct virtio_balloon_state s;
    (void)q;
    if (!has_balloon(c, r))
        return;
    virtio_balloon_state(c->m->balloon, &s);
    r->body = json_pack("{s:I, s:I, s:I, s:I}", "memory", (json_int_t)s.memory, "target", (json_int_t)s.target,
                        "current", (json_int_t)s.current, "discarded", (json_int_t)s.discarded);
}

static void post_balloon(void *ctx, const struct control_request *q, struct control_reply *r)
{
    struct machine_control *c = ctx;
    const json_t *size = json_object_get(q->body, "size");
    if (!has_balloon(c, r))
        return;
    if (!json_is_integer(size) || json_integer_value(size) < 0) {
        control_refuse_text(r, -EINVAL, "\"size\" must be a number of bytes");
        return;
    }
    virtio_balloon_resize(c->m->balloon, (uint64_t)json_integer_value(size));
    get_balloon(ctx, q, r);
}

const struct control_route machine_balloon_routes[] = {
    {"GET", "/balloon", get_balloon, false, "memory: what it has, was asked to be content with, and has now"},
    {"POST", "/balloon", post_balloon, false, "{\"size\": bytes}: ask the guest to be content with so much memory"},
    {0},
};
