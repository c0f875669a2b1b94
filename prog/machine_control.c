// See machine_control.h.
#include "prog/machine_control.h"
#include "host/clock.h"
#include "prog/machine_json.h"
#include "prog/machine_snapshot.h"
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

static void post_pause(void *ctx, const struct control_request *q, struct control_reply *r)
{
    struct machine_control *c = ctx;
    (void)q;
    if (!c->paused)
        vm_pause(&c->m->vm);
    c->paused = true;
    r->body = state(c);
}

static void post_resume(void *ctx, const struct control_request *q, struct control_reply *r)
{
    struct machine_control *c = ctx;
    (void)q;
    if (c->paused)
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

int machine_control_start(struct machine_control *c, struct machine *m, const struct state_dir *dir, struct error *err)
{
    struct sockaddr_un address;
    c->m = m;
    c->dir = dir;
    c->started_ns = host_monotonic_ns();
    const struct control_table tables[] = {{routes, c}, {machine_snapshot_routes, c}, {0}};
    _Static_assert(sizeof tables <= sizeof c->tables, "one more area: make room for it");
    memcpy(c->tables, tables, sizeof tables);
    state_dir_socket(dir, "control.sock", &address);
    return control_server_start(&c->server, &address, c->tables, NULL, err);
}

void machine_control_stop(struct machine_control *c)
{
    if (c->server)
        control_server_stop(c->server);
    c->server = NULL;
}
