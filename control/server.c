// The control server. See server.h; libwebsockets does the protocol, on one thread, in one callback for all it has to
// say.
//
// Bounds: CONNECTIONS at a time (more are accepted and closed at once), the library's 4 KiB of headers, BODY bytes of
// body, TIMEOUT seconds for a request to come in, a write to go out, an idle connection to say something; one message
// of a stream that waits for room, after which the library reads no more from that peer.
//
// The listening socket is ours, not the library's: so it has the mode and the backlog we want, and connections are
// counted before the library hears of them.
//
// Most machines are never asked anything, and the library with what it needs takes its time to load and megabytes to
// stay: so nothing of it is touched until the first peer comes.
//
// A slow request runs on a thread that is made for it. Its job belongs to the server; a peer that leaves meanwhile only
// is not told of the result.
#include "control/server.h"
#include "host/thread.h"
#include <errno.h>
#include <fcntl.h>
#include <libwebsockets.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    CONNECTIONS = 64,
    DESCRIPTORS = CONNECTIONS + 16, // and the library's own
    BODY = 64 << 10,
    TIMEOUT = 20,
    CHUNK = 8 << 10, // of a stream, at a time
    MESSAGE = 4 << 10,
    PATH = 128
};

struct job {
    char *method, *path, *body;
    size_t size;
    struct control_reply reply;
    struct thread *thread;
    _Atomic bool done;
    struct session *session; // who waits; NULL: nobody any more
};

// What one connection is about; the library zeroes it at the start.
struct session {
    bool counted;
    // a request
    char method[8], path[PATH];
    char *body; // of BODY bytes
    size_t size, expected;
    bool waits; // for the job
    char *reply;
    size_t reply_size;
    int status;
    // a stream
    const struct control_stream *stream;
    struct session *next;
    struct lws *wsi;
    uint64_t position;
    bool blocked; // message[] waits for room
    size_t from, until;
    char message[MESSAGE];
};

struct control_server {
    const struct control_table *tables;
    const struct control_stream *streams;
    _Atomic(struct lws_context *) context; // NULL until the first peer has come; then for as long as the thread runs
    struct lws_vhost *vhost;
    struct thread *thread;
    int listener; // ours; the library watches a duplicate
    int wake;     // an eventfd that ends the wait for the first peer
    unsigned connections;
    struct session *attached; // those with a stream
    struct job *job;
    _Atomic bool stopping;
};

// --- requests

static int answer(struct session *n, struct lws *wsi, struct control_reply *r)
{
    char *text = json_dumps(r->body, JSON_COMPACT);
    json_decref(r->body);
    r->body = NULL;
    if (!text)
        return -1;
    n->status = r->status;
    n->reply_size = strlen(text) + 1;
    n->reply = malloc(LWS_PRE + n->reply_size);
    if (n->reply) {
        memcpy(n->reply + LWS_PRE, text, n->reply_size - 1);
        n->reply[LWS_PRE + n->reply_size - 1] = '\n';
        lws_callback_on_writable(wsi);
    }
    free(text);
    return n->reply ? 0 : -1;
}

static int refuse(struct session *n, struct lws *wsi, int status, const char *text)
{
    struct control_reply r = {.status = status, .body = json_pack("{s:s}", "error", text)};
    return answer(n, wsi, &r);
}

static void job_main(void *ctx)
{
    struct control_server *s = ctx;
    struct job *j = s->job;
    control_dispatch(s->tables, j->method, j->path, j->body, j->size, NULL, &j->reply);
    j->done = true;
    lws_cancel_service(s->context);
}

static void job_free(struct control_server *s)
{
    struct job *j = s->job;
    if (!j)
        return;
    if (j->thread)
        thread_join(j->thread);
    json_decref(j->reply.body);
    free(j->method);
    free(j->path);
    free(j->body);
    free(j);
    s->job = NULL;
}

static int start_job(struct control_server *s, struct session *n, struct lws *wsi)
{
    if (s->job)
        return refuse(n, wsi, 503, "another request that takes long is under way");
    struct job *j = s->job = calloc(1, sizeof *j);
    if (!j)
        return refuse(n, wsi, 500, "out of memory");
    j->method = strdup(n->method);
    j->path = strdup(n->path);
    j->body = n->body;
    j->size = n->size;
    j->session = n;
    n->body = NULL;
    n->wsi = wsi;
    n->waits = true;
    struct error err = {.text = "out of memory"};
    if (j->method && j->path && thread_create(&j->thread, "control-slow", job_main, s, &err) == 0) {
        lws_set_timeout(wsi, NO_PENDING_TIMEOUT, 0); // it takes as long as it takes
        return 0;
    }
    j->thread = NULL;
    n->waits = false;
    job_free(s);
    return refuse(n, wsi, 500, err.text);
}

static int perform(struct control_server *s, struct session *n, struct lws *wsi)
{
    bool slow;
    struct control_reply r;
    control_dispatch(s->tables, n->method, n->path, n->body ? n->body : "", n->size, &slow, &r);
    return slow ? start_job(s, n, wsi) : answer(n, wsi, &r);
}

static void forget_request(struct control_server *s, struct session *n)
{
    if (s->job && s->job->session == n)
        s->job->session = NULL;
    free(n->body);
    free(n->reply);
    n->body = n->reply = NULL;
    n->size = n->expected = n->reply_size = 0;
    n->waits = false;
}

// The headers have come.
static int begin(struct control_server *s, struct session *n, struct lws *wsi, const char *path)
{
    static const struct {
        enum lws_token_indexes token;
        const char *name;
    } methods[] = {{WSI_TOKEN_GET_URI, "GET"},
                   {WSI_TOKEN_POST_URI, "POST"},
                   {WSI_TOKEN_PUT_URI, "PUT"},
                   {WSI_TOKEN_DELETE_URI, "DELETE"}};
    forget_request(s, n);
    n->method[0] = 0;
    for (unsigned i = 0; i < sizeof methods / sizeof *methods; i++)
        if (lws_hdr_total_length(wsi, methods[i].token))
            strcpy(n->method, methods[i].name);
    if (!n->method[0])
        return refuse(n, wsi, 405, "only GET, POST, PUT and DELETE are known here");
    if (strlen(path) >= sizeof n->path)
        return refuse(n, wsi, 414, "the path is too long");
    strcpy(n->path, path);
    char length[20] = "";
    int have = lws_hdr_total_length(wsi, WSI_TOKEN_HTTP_CONTENT_LENGTH);
    if (lws_hdr_total_length(wsi, WSI_TOKEN_HTTP_TRANSFER_ENCODING))
        return refuse(n, wsi, 411, "a body needs a Content-Length");
    if (have > 0 && lws_hdr_copy(wsi, length, sizeof length, WSI_TOKEN_HTTP_CONTENT_LENGTH) <= 0)
        return refuse(n, wsi, 413, "the body is too large");
    if (strspn(length, "0123456789") != strlen(length))
        return refuse(n, wsi, 400, "Content-Length is no number");
    unsigned long long expected = strtoull(length, NULL, 10);
    if (expected > BODY)
        return refuse(n, wsi, 413, "the body is too large: at most 65536 bytes");
    n->expected = (size_t)expected;
    if (!expected)
        return perform(s, n, wsi);
    n->body = malloc(n->expected);
    return n->body ? 0 : refuse(n, wsi, 500, "out of memory");
}

static int more_body(struct session *n, const void *data, size_t size)
{
    if (n->reply || n->waits)
        return 0; // answered before it has come: dropped
    if (!n->body || size > n->expected - n->size)
        return -1;
    memcpy(n->body + n->size, data, size);
    n->size += size;
    return 0;
}

static int whole_body(struct control_server *s, struct session *n, struct lws *wsi)
{
    return n->reply || n->waits || !n->body ? 0 : perform(s, n, wsi);
}

static int send_reply(struct control_server *s, struct session *n, struct lws *wsi)
{
    unsigned char headers[LWS_PRE + 512], *at = headers + LWS_PRE, *end = headers + sizeof headers - 1;
    if (!n->reply)
        return 0;
    // What is left of a body that was refused would pass for the next request.
    bool last = n->size < n->expected;
    if (lws_add_http_common_headers(wsi, (unsigned)n->status, "application/json", n->reply_size, &at, end) ||
        lws_finalize_write_http_header(wsi, headers + LWS_PRE, &at, end))
        return -1;
    int sent = lws_write(wsi, (unsigned char *)n->reply + LWS_PRE, n->reply_size, LWS_WRITE_HTTP_FINAL);
    forget_request(s, n);
    return sent < 0 || last || lws_http_transaction_completed(wsi) ? -1 : 0;
}

// --- streams

static int choose_stream(struct control_server *s, struct session *n, struct lws *wsi)
{
    char path[PATH] = "";
    if (lws_hdr_copy(wsi, path, sizeof path, WSI_TOKEN_GET_URI) <= 0)
        return -1;
    for (const struct control_stream *t = s->streams; t && t->path; t++)
        if (!strcmp(t->path, path)) {
            n->stream = t;
            return 0;
        }
    lws_return_http_status(wsi, 404, NULL);
    return -1;
}

static void attach(struct control_server *s, struct session *n, struct lws *wsi)
{
    n->wsi = wsi;
    n->position = n->stream->begin(n->stream->ctx);
    n->next = s->attached;
    s->attached = n;
    lws_set_timeout(wsi, NO_PENDING_TIMEOUT, 0); // a console may be silent for days
    lws_callback_on_writable(wsi);
}

static void detach(struct control_server *s, struct session *n)
{
    for (struct session **p = &s->attached; *p; p = &(*p)->next)
        if (*p == n) {
            *p = n->next;
            return;
        }
}

static int send_stream(struct session *n, struct lws *wsi)
{
    char data[LWS_PRE + CHUNK];
    size_t size = n->stream->read(n->stream->ctx, &n->position, data + LWS_PRE, CHUNK);
    if (!size)
        return 0;
    if (lws_write(wsi, (unsigned char *)data + LWS_PRE, size, LWS_WRITE_BINARY) < 0)
        return -1;
    lws_callback_on_writable(wsi);
    return 0;
}

static void offer(struct session *n)
{
    size_t taken = 1;
    while (n->from < n->until && taken) {
        taken = n->stream->write(n->stream->ctx, n->message + n->from, n->until - n->from);
        n->from += taken;
    }
    bool blocked = n->from < n->until;
    if (blocked != n->blocked)
        lws_rx_flow_control(n->wsi, !blocked);
    n->blocked = blocked;
}

// The library hands out at most MESSAGE bytes at a time (rx_buffer_size), and nothing while it is held off.
static int receive(struct session *n, const char *data, size_t size)
{
    size_t left = n->until - n->from;
    if (size > sizeof n->message - left)
        return -1;
    memmove(n->message, n->message + n->from, left);
    memcpy(n->message + left, data, size);
    n->from = 0;
    n->until = left + size;
    offer(n);
    return 0;
}

// --- connections

static void accept_one(struct control_server *s)
{
    int fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    if (s->connections >= CONNECTIONS || !lws_adopt_socket_vhost(s->vhost, fd)) {
        if (s->connections >= CONNECTIONS) // else the library has closed it
            close(fd);
        return;
    }
}

static void woken(struct control_server *s)
{
    struct session *next;
    for (struct session *n = s->attached; n; n = next) {
        next = n->next;
        if (n->blocked)
            offer(n);
        lws_callback_on_writable(n->wsi);
    }
    if (s->job && s->job->done) {
        struct session *n = s->job->session;
        if (n) {
            n->waits = false;
            if (answer(n, n->wsi, &s->job->reply) < 0)
                lws_set_timeout(n->wsi, PENDING_TIMEOUT_USER_OK, LWS_TO_KILL_ASYNC);
        }
        job_free(s);
    }
}

static int callback(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in, size_t size)
{
    struct control_server *s = lws_context_user(lws_get_context(wsi));
    struct session *n = user;
    switch (reason) {
    case LWS_CALLBACK_RAW_RX_FILE:
        accept_one(s);
        return 0;
    case LWS_CALLBACK_EVENT_WAIT_CANCELLED:
        woken(s);
        return 0;
    case LWS_CALLBACK_HTTP:
        return n ? begin(s, n, wsi, in) : -1;
    case LWS_CALLBACK_HTTP_BODY:
        return n ? more_body(n, in, size) : -1;
    case LWS_CALLBACK_HTTP_BODY_COMPLETION:
        return n ? whole_body(s, n, wsi) : -1;
    case LWS_CALLBACK_HTTP_WRITEABLE:
        return n ? send_reply(s, n, wsi) : -1;
    case LWS_CALLBACK_CLOSED_HTTP:
        if (n)
            forget_request(s, n);
        return 0;
    case LWS_CALLBACK_FILTER_PROTOCOL_CONNECTION:
        return n ? choose_stream(s, n, wsi) : -1;
    case LWS_CALLBACK_ESTABLISHED:
        attach(s, n, wsi);
        return 0;
    case LWS_CALLBACK_SERVER_WRITEABLE:
        return send_stream(n, wsi);
    case LWS_CALLBACK_RECEIVE:
        return receive(n, in, size);
    case LWS_CALLBACK_CLOSED:
        detach(s, n);
        return 0;
    case LWS_CALLBACK_WSI_CREATE:
        s->connections++;
        return 0;
    case LWS_CALLBACK_WSI_DESTROY:
        s->connections--;
        return 0;
    default:
        return lws_callback_http_dummy(wsi, reason, user, in, size);
    }
}

// --- the server

static const struct lws_protocols protocols[] = {
    {.name = "trapeze",
     .callback = callback,
     .per_session_data_size = sizeof(struct session),
     .rx_buffer_size = MESSAGE},
    {.name = NULL},
};

static bool make_context(struct control_server *s)
{
    lws_set_log_level(0, NULL);
    const struct lws_context_creation_info info = {
        .port = CONTEXT_PORT_NO_LISTEN_SERVER,
        .protocols = protocols,
        .user = s,
        .fd_limit_per_thread = DESCRIPTORS,
        .timeout_secs = TIMEOUT,
        .keepalive_timeout = TIMEOUT,
        .options = LWS_SERVER_OPTION_EXPLICIT_VHOSTS,
        .vhost_name = "trapeze",
    };
    struct lws_context *context = lws_create_context(&info);
    s->vhost = context ? lws_create_vhost(context, &info) : NULL;
    lws_sock_file_fd_type fd = {.filefd = s->vhost ? fcntl(s->listener, F_DUPFD_CLOEXEC, 0) : -1};
    // (If it does not take the descriptor, it closes it.)
    if (fd.filefd >= 0 && lws_adopt_descriptor_vhost(s->vhost, LWS_ADOPT_RAW_FILE_DESC, fd, protocols[0].name, NULL)) {
        s->context = context;
        return true;
    }
    if (context)
        lws_context_destroy(context);
    return false;
}

// True: there is a peer. False: it is over.
static bool wait_for_the_first(struct control_server *s)
{
    struct pollfd fds[] = {{.fd = s->listener, .events = POLLIN}, {.fd = s->wake, .events = POLLIN}};
    while (!s->stopping)
        if (poll(fds, 2, -1) > 0 && fds[0].revents)
            return !s->stopping;
    return false;
}

// Without memory for the library: peers are told so, and may come again.
static void refuse_one(struct control_server *s)
{
    static const char text[] = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    int fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0 && send(fd, text, sizeof text - 1, MSG_NOSIGNAL) < 0)
        shutdown(fd, SHUT_RDWR);
    if (fd >= 0)
        close(fd);
}

static void server_main(void *ctx)
{
    struct control_server *s = ctx;
    while (wait_for_the_first(s)) {
        if (!make_context(s)) {
            refuse_one(s);
            continue;
        }
        while (!s->stopping && lws_service(s->context, 0) >= 0)
            ;
        return;
    }
}

static int open_listener(const struct sockaddr_un *address, struct error *err)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return error_set(err, errno, "control socket: %s", strerror(errno));
    struct stat st;
    if (lstat(address->sun_path, &st) == 0 && S_ISSOCK(st.st_mode))
        unlink(address->sun_path);
    fchmod(fd, 0600); // what the file gets, whatever the umask: bind makes it of the socket's own mode
    if (bind(fd, (const struct sockaddr *)address, sizeof *address) || chmod(address->sun_path, 0600) ||
        listen(fd, CONNECTIONS)) {
        int e = errno;
        close(fd);
        return error_set(err, e, "control socket %s: %s", address->sun_path, strerror(e));
    }
    return fd;
}

int control_server_start(struct control_server **out, const struct sockaddr_un *address,
                         const struct control_table *tables, const struct control_stream *streams, struct error *err)
{
    struct control_server *s = calloc(1, sizeof *s);
    if (!s)
        return error_set(err, ENOMEM, "control socket: out of memory");
    s->tables = tables;
    s->streams = streams;
    s->listener = open_listener(address, err);
    if (s->listener < 0) {
        int e = s->listener;
        free(s);
        return e;
    }
    s->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int e = s->wake < 0 ? error_set(err, errno, "control socket: %s", strerror(errno))
                        : thread_create(&s->thread, "control", server_main, s, err);
    if (e) {
        control_server_stop(s);
        return e;
    }
    *out = s;
    return 0;
}

void control_server_wake(struct control_server *s)
{
    if (s->context) // else nobody is there to be told
        lws_cancel_service(s->context);
}

void control_server_stop(struct control_server *s)
{
    s->stopping = true;
    if (s->thread) {
        eventfd_write(s->wake, 1);
        control_server_wake(s);
        thread_join(s->thread);
    }
    job_free(s);
    if (s->context)
        lws_context_destroy(s->context);
    close(s->listener);
    if (s->wake >= 0)
        close(s->wake);
    free(s);
}
