// The control socket's entry: a request's body and what handlers get of it, a response's head, and WebSocket frames.
// The first byte chooses, the rest is the input.
#include "control/client.h"
#include "control/route.h"
#include "control/websocket.h"
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void handle(void *ctx, const struct control_request *q, struct control_reply *r)
{
    (void)ctx;
    if (!json_is_object(q->body))
        abort();
    const char *action = json_string_value(json_object_get(q->body, "action"));
    control_refuse_text(r, -22, "%s", action ? action : "none");
    if (!r->body)
        abort();
}

static void request(const uint8_t *data, size_t size)
{
    static const struct control_route routes[] = {{"POST", "/p", handle}, {"GET", "/g", handle, true}, {0}};
    static const struct control_table tables[] = {{routes, NULL}, {0}};
    struct control_reply r;
    bool slow;
    control_dispatch(tables, "POST", "/p", (const char *)data, size, NULL, &r);
    if (!r.body || r.status < 300)
        abort();
    char *text = json_dumps(r.body, JSON_COMPACT); // it must be possible to tell the answer
    if (!text)
        abort();
    free(text);
    json_decref(r.body);
    char path[32] = "/";
    memcpy(path + 1, data, size < 30 ? size : 30);
    control_dispatch(tables, "GET", path, "", 0, &slow, &r);
    json_decref(r.body);
}

static void head(const uint8_t *data, size_t size)
{
    struct control_head h;
    int n = control_head_parse((const char *)data, size, &h);
    if (n > (int)size || (n > 0 && h.length > CONTROL_REPLY_MAX * 11ll))
        abort();
}

static size_t given;

static void count(void *ctx, const void *data, size_t size)
{
    (void)ctx;
    if (size && ((const volatile uint8_t *)data)[size - 1])
        given++;
    given += size;
}

// In two pieces it is the same as in one.
static void frames(const uint8_t *data, size_t size)
{
    struct websocket one = {0}, two = {0};
    size_t cut = size ? data[0] % (size + 1) : 0;
    int whole = websocket_feed(&one, data, size, count, NULL);
    int parts = websocket_feed(&two, data, cut, count, NULL);
    if (!parts)
        parts = websocket_feed(&two, data + cut, size - cut, count, NULL);
    if (whole != parts || one.closed != two.closed || one.control_size > sizeof one.control)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const targets[])(const uint8_t *data, size_t size) = {request, head, frames};
    if (size)
        targets[data[0] % 3](data + 1, size - 1);
    return 0;
}
