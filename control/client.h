// Asking a control socket: one request on one connection.
//
// Example:
//     json_t *vm;
//     if (control_ask(&address, "GET", "/vm", NULL, CONTROL_PATIENCE_MS, &vm, &err) == 0) ... json_decref(vm);
#pragma once
#include "report/error.h"
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/un.h>

enum { CONTROL_PATIENCE_MS = 10000, CONTROL_HEAD_MAX = 8 << 10, CONTROL_REPLY_MAX = 16 << 20 };

// body may be NULL, and stays the caller's. timeout_ms is for each wait for the other side; -1: as long as it takes.
// *reply is the caller's. -ECONNREFUSED or -ENOENT where nobody listens; -ETIMEDOUT; -EPROTO for an answer that is
// none; for a refusal what its status means (control_refuse), with the server's reason as the text.
int control_ask(const struct sockaddr_un *a, const char *method, const char *path, const json_t *body, int timeout_ms,
                json_t **reply, struct error *err);

// A connected socket (blocking), with the timeouts set.
int control_connect(const struct sockaddr_un *a, int timeout_ms, struct error *err);

// The head of a response that has come so far: 0 if it isn't complete yet, -EPROTO if it is none, else its size.
// length: of the body that follows, -1 if the head doesn't say.
struct control_head {
    int status;
    long long length;
    bool upgraded; // 101, to a WebSocket
};
int control_head_parse(const char *data, size_t size, struct control_head *h);
