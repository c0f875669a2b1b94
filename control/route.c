// See route.h.
#include "control/route.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { DEPTH = 16 }; // of JSON that is taken; the library's own limit is that of the stack's use, 2048

void control_refuse_text(struct control_reply *r, int negative_errno, const char *fmt, ...)
{
    char text[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    switch (-negative_errno) {
    case EINVAL:
        r->status = 400;
        break;
    case ENOENT:
        r->status = 404;
        break;
    case EBUSY:
    case EEXIST:
    case ESRCH:
        r->status = 409;
        break;
    default:
        r->status = 500;
    }
    json_decref(r->body);
    // A text that is no UTF-8 (somebody's file name) cannot be put into JSON.
    r->body = json_pack("{s:s}", "error", text);
    if (!r->body)
        r->body = json_pack("{s:s}", "error", "the reason cannot be told in UTF-8");
}

void control_refuse(struct control_reply *r, int negative_errno, const struct error *err)
{
    control_refuse_text(r, negative_errno, "%s", err->text);
}

static void list(const struct control_table *tables, struct control_reply *r)
{
    r->body = json_array();
    for (const struct control_table *t = tables; t->routes; t++)
        for (const struct control_route *o = t->routes; o->method; o++)
            json_array_append_new(r->body, json_pack("{s:s, s:s, s:s}", "method", o->method, "path", o->path, "about",
                                                     o->about ? o->about : ""));
}

static json_t *parse(const char *body, size_t size, struct control_reply *r)
{
    if (!size)
        return json_object();
    // Nesting is counted before it is parsed, roughly (brackets in strings count, too): a request of ours has little.
    unsigned depth = 0, most = 0;
    for (size_t i = 0; i < size; i++) {
        depth += body[i] == '{' || body[i] == '[';
        depth -= depth && (body[i] == '}' || body[i] == ']');
        most = depth > most ? depth : most;
    }
    json_error_t e;
    json_t *j = most <= DEPTH ? json_loadb(body, size, JSON_REJECT_DUPLICATES, &e) : NULL;
    if (!j)
        control_refuse_text(r, -EINVAL, "the body is no JSON: %s", most <= DEPTH ? e.text : "nested too deep");
    else if (!json_is_object(j)) {
        control_refuse_text(r, -EINVAL, "the body must be a JSON object");
        json_decref(j);
        j = NULL;
    }
    return j;
}

void control_dispatch(const struct control_table *tables, const char *method, const char *path, const char *body,
                      size_t size, bool *slow, struct control_reply *r)
{
    *r = (struct control_reply){.status = 200};
    if (slow)
        *slow = false;
    bool path_known = !strcmp(path, "/");
    if (path_known && !strcmp(method, "GET")) {
        list(tables, r);
        return;
    }
    for (const struct control_table *t = tables; t->routes; t++)
        for (const struct control_route *o = t->routes; o->method; o++) {
            if (strcmp(o->path, path))
                continue;
            path_known = true;
            if (strcmp(o->method, method))
                continue;
            if (slow && o->slow) {
                *slow = true;
                return;
            }
            json_t *j = parse(body, size, r);
            if (!j)
                return;
            const struct control_request q = {.body = j};
            o->handle(t->ctx, &q, r);
            json_decref(j);
            if (!r->body)
                r->body = json_object();
            return;
        }
    control_refuse_text(r, -ENOENT, path_known ? "%.16s %.100s: no such method here" : "%.16s %.100s: not found",
                        method, path);
    if (path_known)
        r->status = 405;
}
