// See machine_control.h.
#include "prog/machine/control.h"
#include "host/clock.h"
#include "prog/machine/balloon.h"
#include "prog/machine/json.h"
#include "prog/machine/move.h"
#include "prog/machine/snapshot.h"
#include <errno.h>
#include <string.h>
#include <unistd.h>

static json_t *state(const struct machine_control *c)
{
    return json_pack("{s:s}", "state", c->paused ? "paused" : "running");
}

static void get_vm(void *ctx, const struct control_request *q, struct control_reply *r)
{
    struct machine_control *c = ctx;
    (void)q;
    r->body = machine_describe(c->m);
    json_object_update_new(r->body, state(c));
    json_object_set_new(r->body, "pid", json_integer(getpid()));
    json_object_set_new(r->body, "uptime_ns", json_integer((json_int_t)(host_monotonic_ns() - c->started_ns)));
}

static void get_stats(void *ctx, const struct control_request *q, struct control_reply *r)
{
    struct machine_control *c = ctx;
    (void)q;
    r->body = machine_usage(c->m);
    json_object_update_new(r->body, state(c));
    json_object_set_new(r->body, "uptime_ns", json_integer((json_int_t)(host_monotonic_ns() - c->started_ns)));
}

void machine_control_pause(struct machine_control *c)
{
    if (!c->paused)
        vm_pause(&c->m->vm);
    c->paused = true;
}

static void post_pause(void *ctx, const struct control_request *q, struct control_reply *r)
{
    (void)q;
    machine_control_pause(ctx);
    r->body = state(ctx);
}

static void post_resume(void *ctx, const struct control_request *q, struct control_reply *r)
{
    struct machine_control *c = ctx;
    (void)q;
    if (!machine_move_take_back(c->move) && c->paused)
        vm_resume(&c->m->vm);
    c->paused = false;
    r->body = state(c);
}

static void post_power(void *ctx, const struct control_request *q, struct control_reply *r)
{
    struct machine_control *c = ctx;
    const char *action = json_string_value(json_object_get(q->body, "action"));
    if (action && !strcmp(action, "button")) {
        vm_press_power_button(&c->m->vm);
        r->body = state(c);
    } else if (action && !strcmp(action, "kill")) {
        vm_kill(&c->m->vm);
        r->body = json_pack("{s:s}", "state", "ending");
    } else {
        control_refuse_text(r, -EINVAL, "\"action\" must be \"button\" or \"kill\"");
    }
}

static const struct control_route routes[] = {
    {"GET", "/vm", get_vm, false, "what the machine is, and its state"},
    {"GET", "/stats", get_stats, false, "time, processor time, memory, counters"},
    {"POST", "/pause", post_pause, false, "stop the CPUs and their clock"},
    {"POST", "/resume", post_resume, false, "go on"},
    {"POST", "/power", post_power, false, "{\"action\": \"button\" or \"kill\"}"},
    {0},
};

// --- consoles

static uint64_t begin_hub(void *ctx)
{
    enum { SCREEN = 80 * 25 };
    return hub_tail(ctx, SCREEN);
}

static size_t read_hub(void *ctx, uint64_t *position, void *data, size_t size)
{
    return hub_read(ctx, position, data, size);
}

static size_t write_hub(void *ctx, const void *data, size_t size)
{
    return hub_type(ctx, data, size);
}

static void on_hub(void *ctx)
{
    control_server_wake(((struct machine_control *)ctx)->server);
}

static void watch_hubs(struct machine_control *c, void (*fn)(void *ctx))
{
    if (c->m->console_hub)
        hub_watch(c->m->console_hub, fn, c);
    if (c->m->hvc_hub)
        hub_watch(c->m->hvc_hub, fn, c);
}

int machine_control_start(struct machine_control *c, struct machine *m, const struct state_dir *dir, struct error *err)
{
    struct sockaddr_un address;
    c->m = m;
    c->dir = dir;
    c->started_ns = host_monotonic_ns();
    const struct control_table tables[] = {
        {routes, c}, {machine_snapshot_routes, c}, {machine_balloon_routes, c}, {machine_move_routes, c}, {0}};
    c->move = machine_move_new(c);
    if (!c->move)
        return error_set(err, ENOMEM, "control socket: out of memory");
    _Static_assert(sizeof tables <= sizeof c->tables, "one more area: make room for it");
    memcpy(c->tables, tables, sizeof tables);
    unsigned n = 0;
    if (m->console_hub)
        c->streams[n++] = (struct control_stream){"/console", m->console_hub, begin_hub, read_hub, write_hub};
    if (m->hvc_hub)
        c->streams[n++] = (struct control_stream){"/hvc", m->hvc_hub, begin_hub, read_hub, write_hub};
    state_dir_socket(dir, "control.sock", &address);
    int e = control_server_start(&c->server, &address, c->tables, c->streams, err);
    if (e)
        return e;
    watch_hubs(c, on_hub);
    control_server_wake(c->server); // who attached before that
    return 0;
}

void machine_control_stop(struct machine_control *c)
{
    if (!c->server) {
        machine_move_free(c->move);
        c->move = NULL;
        return;
    }
    watch_hubs(c, NULL);
    control_server_stop(c->server);
    c->server = NULL;
    machine_move_free(c->move);
    c->move = NULL;
}
