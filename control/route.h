// What a control socket offers: a table of resources, each a method, a path and a function.
//
// A function gets the request's JSON body, already parsed and bounded, and gives back a status and a JSON value. It
// runs on the control server's thread, one at a time, and must be quick; a `slow` one gets a thread of its own instead
// (one slow request at a time: another one is told 503), so that others may look at the machine meanwhile.
//
// Example:
//     static void pause_machine(void *ctx, const struct control_request *q, struct control_reply *r)
//     {
//         (void)q;
//         vm_pause(ctx);
//         r->body = json_pack("{s:s}", "state", "paused");          a status of 200 is what r comes with
//     }
//     static const struct control_route routes[] = {{"POST", "/pause", pause_machine}, {0}};
#pragma once
#include "report/error.h"
#include <jansson.h>
#include <stdbool.h>

struct control_request {
    const json_t *body; // an object; an empty one where the request has no body
};

struct control_reply {
    int status;   // of HTTP; 200 at first
    json_t *body; // the server takes it; NULL becomes {}
};

struct control_route {
    const char *method; // "GET", "POST", "PUT", "DELETE"; NULL: end of the table
    const char *path;   // "/snapshot"
    void (*handle)(void *ctx, const struct control_request *q, struct control_reply *r);
    bool slow;
    const char *about; // one line, for who asks for "/"
};

// The answer is an error: {"error": text}. Status 400 for -EINVAL, 404 for -ENOENT, 409 for -EBUSY, -EEXIST and -ESRCH,
// else 500.
void control_refuse(struct control_reply *r, int negative_errno, const struct error *err);
// The same with a text made here.
void control_refuse_text(struct control_reply *r, int negative_errno, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

// Finds the route and calls it: all of a request but its transport. The body need not end with a 0. For tables of
// tables: `tables` ends with NULL; each has its own ctx.
struct control_table {
    const struct control_route *routes;
    void *ctx;
};

// 404 for a path that isn't there, 405 for another method, 400 for what is no JSON object. *r is filled in any case.
// *slow (may be NULL) stops before a slow route is called, and tells it: then *r is not filled.
void control_dispatch(const struct control_table *tables, const char *method, const char *path, const char *body,
                      size_t size, bool *slow, struct control_reply *r);
