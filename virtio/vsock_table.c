// The connections of a socket device: see vsock_table.h.
//
// What a connection has for the guest is told by `owed` (packets without data) and `readable`; one that has any of it
// is in the list `ready` and takes turns with the others there, VSOCK_READ_MAX bytes at a time. Data that was read from
// a peer waits in the table's one buffer until the guest has taken it: while the guest offers no buffers there is
// nothing to be done for anybody.
//
// The end of a connection. A host that closes its socket is told to the guest by SHUTDOWN of both ways, after all that
// it had written, and then we forget the connection: whatever the guest still sends there is answered by RST, which is
// how it would have ended in any case. A guest that shuts both ways down gets a RST when its last byte is written.
#include "virtio/vsock_table.h"
#include "vm/alloc.h"
#include <errno.h>
#include <string.h>

enum { FIRST_PORT = 1 << 30 }; // of calls from the host; up to twice that
enum { OWE_RST = 1, OWE_REQUEST = 2, OWE_RESPONSE = 4, OWE_SHUTDOWN = 8, OWE_CREDIT = 16, OWE_ASK = 32 };

struct vsock_connection {
    struct vsock_connection *next;       // in its bucket
    struct vsock_connection *next_ready; // in the table's list
    bool listed;                         // is in that list
    struct vsock_peer *peer;             // NULL: closed already
    uint32_t guest_port, host_port;
    unsigned owed;     // OWE_*
    unsigned shutdown; // VSOCK_SHUTDOWN_*: what the SHUTDOWN that is owed says
    bool calling;      // the guest has not answered yet
    bool guest_ended;  // it sends no more
    bool guest_deaf;   // it receives no more
    bool host_ended;   // all that the peer wrote has been read
    bool readable;     // the peer has something to read, or has ended
    bool hung_up;      // the peer is closed on the other side
    // To the guest: sent by us; buffered and handed on by the guest.
    uint32_t sent, guest_alloc, guest_forwarded;
    bool asked; // for credit, and none has come yet
    // From the guest: received, handed on, and how much of that the guest knows.
    uint32_t received, forwarded, told;
    uint8_t *buffer; // VSOCK_BUFFER bytes; NULL: not needed yet
    uint32_t start, kept;
};

static struct vsock_connection **bucket(struct vsock_table *t, uint32_t guest_port, uint32_t host_port)
{
    return &t->bucket[(guest_port * 31 + host_port) % VSOCK_BUCKETS];
}

static struct vsock_connection *find(struct vsock_table *t, uint32_t guest_port, uint32_t host_port)
{
    struct vsock_connection *c = *bucket(t, guest_port, host_port);
    while (c && (c->guest_port != guest_port || c->host_port != host_port))
        c = c->next;
    return c;
}

static struct vsock_connection *add(struct vsock_table *t, uint32_t guest_port, uint32_t host_port)
{
    struct vsock_connection *c = t->count < VSOCK_CONNECTIONS ? vm_alloc(sizeof *c) : NULL;
    if (!c)
        return NULL;
    c->guest_port = guest_port;
    c->host_port = host_port;
    struct vsock_connection **b = bucket(t, guest_port, host_port);
    c->next = *b;
    *b = c;
    t->count++;
    return c;
}

static void list(struct vsock_table *t, struct vsock_connection *c)
{
    if (c->listed)
        return;
    c->listed = true;
    c->next_ready = NULL;
    *t->ready_end = c;
    t->ready_end = &c->next_ready;
}

static void unlist(struct vsock_table *t, struct vsock_connection *c)
{
    if (!c->listed)
        return;
    struct vsock_connection **link = &t->ready;
    while (*link != c)
        link = &(*link)->next_ready;
    *link = c->next_ready;
    if (t->ready_end == &c->next_ready)
        t->ready_end = link;
    c->listed = false;
}

static void close_peer(struct vsock_table *t, struct vsock_connection *c)
{
    if (c->peer)
        t->vsock->ops->close_peer(c->peer);
    c->peer = NULL;
    if (t->owner == c)
        t->owner = NULL;
}

static void forget(struct vsock_table *t, struct vsock_connection *c)
{
    close_peer(t, c);
    unlist(t, c);
    struct vsock_connection **link = bucket(t, c->guest_port, c->host_port);
    while (*link != c)
        link = &(*link)->next;
    *link = c->next;
    t->count--;
    vm_free(c->buffer);
    vm_free(c);
}

static void owe(struct vsock_table *t, struct vsock_connection *c, unsigned what)
{
    c->owed |= what;
    list(t, c);
}

// The guest gets a RST, and that is the end.
static void reset(struct vsock_table *t, struct vsock_connection *c)
{
    close_peer(t, c);
    c->owed = 0;
    owe(t, c, OWE_RST);
}

// The peer is gone, and the guest has all that came from it.
static void hang_up(struct vsock_table *t, struct vsock_connection *c)
{
    close_peer(t, c);
    c->shutdown = VSOCK_SHUTDOWN_RECEIVE | VSOCK_SHUTDOWN_SEND;
    owe(t, c, OWE_SHUTDOWN);
}

static uint32_t credit(const struct vsock_connection *c)
{
    uint32_t under_way = c->sent - c->guest_forwarded;
    return under_way < c->guest_alloc ? c->guest_alloc - under_way : 0;
}

static bool reading(const struct vsock_connection *c)
{
    return c->peer && !c->calling && !c->guest_deaf && !c->host_ended;
}

static void tell_wants(struct vsock_table *t, struct vsock_connection *c)
{
    if (c->peer)
        t->vsock->ops->want(c->peer, (reading(c) && !c->readable ? VSOCK_READ : 0u) | (c->kept ? VSOCK_WRITE : 0u));
}

// ---- from the guest

static void handed_on(struct vsock_table *t, struct vsock_connection *c, uint32_t size)
{
    c->forwarded += size;
    // The guest believes that the rest of the buffer is taken: it hears of it before it has to stop.
    if (c->received - c->told > VSOCK_BUFFER / 2 && c->forwarded != c->told)
        owe(t, c, OWE_CREDIT);
}

// Writes what was kept. What the guest has shut down is shut when all of it is out.
static void flush(struct vsock_table *t, struct vsock_connection *c)
{
    while (c->kept) {
        uint32_t end = c->start + c->kept < VSOCK_BUFFER ? c->start + c->kept : VSOCK_BUFFER;
        int64_t n = t->vsock->ops->write(c->peer, c->buffer + c->start, end - c->start);
        if (n == -EAGAIN)
            return;
        if (n <= 0) {
            reset(t, c);
            return;
        }
        c->start = (c->start + (uint32_t)n) % VSOCK_BUFFER;
        c->kept -= (uint32_t)n;
        handed_on(t, c, (uint32_t)n);
    }
    if (c->guest_ended && (c->guest_deaf || c->hung_up))
        reset(t, c);
    else if (c->guest_ended)
        t->vsock->ops->shut(c->peer, VSOCK_WRITE);
}

static void keep(struct vsock_table *t, struct vsock_connection *c, const uint8_t *data, uint32_t size)
{
    if (!c->buffer)
        c->buffer = vm_alloc(VSOCK_BUFFER);
    if (!c->buffer) {
        reset(t, c);
        return;
    }
    uint32_t at = (c->start + c->kept) % VSOCK_BUFFER, first = VSOCK_BUFFER - at < size ? VSOCK_BUFFER - at : size;
    memcpy(c->buffer + at, data, first);
    memcpy(c->buffer, data + first, size - first);
    c->kept += size;
}

static void take_data(struct vsock_table *t, struct vsock_connection *c, const uint8_t *data, uint32_t size)
{
    if (c->calling || c->guest_ended || size > VSOCK_BUFFER - (c->received - c->forwarded)) {
        reset(t, c);
        return;
    }
    c->received += size;
    while (size && !c->kept) {
        int64_t n = t->vsock->ops->write(c->peer, data, size);
        if (n == -EAGAIN)
            break;
        if (n <= 0) {
            reset(t, c);
            return;
        }
        data += n;
        size -= (uint32_t)n;
        handed_on(t, c, (uint32_t)n);
    }
    if (size)
        keep(t, c, data, size);
}

static void take_shutdown(struct vsock_table *t, struct vsock_connection *c, uint32_t flags)
{
    if (c->calling) {
        reset(t, c);
        return;
    }
    bool ended = c->guest_ended;
    c->guest_ended |= (flags & VSOCK_SHUTDOWN_SEND) != 0;
    if ((flags & VSOCK_SHUTDOWN_RECEIVE) && !c->guest_deaf) {
        c->guest_deaf = true;
        c->readable = false;
        if (t->owner == c)
            t->owner = NULL; // nobody will read it
        t->vsock->ops->shut(c->peer, VSOCK_READ);
    }
    if (!c->kept && c->guest_ended && (!ended || c->guest_deaf))
        flush(t, c);
}

static void take_response(struct vsock_table *t, struct vsock_connection *c)
{
    if (!c->calling || (c->owed & OWE_REQUEST)) {
        reset(t, c);
        return;
    }
    c->calling = false;
    t->vsock->ops->opened(c->peer, c->host_port);
}

// The answer to a packet of no connection.
static void refuse(struct vsock_table *t, const struct vsock_header *h)
{
    if (h->op == VSOCK_OP_RST)
        return;
    t->reset[t->resets++] = (struct vsock_header){.src_cid = h->dst_cid,
                                                  .dst_cid = t->cid,
                                                  .src_port = h->dst_port,
                                                  .dst_port = h->src_port,
                                                  .type = h->type,
                                                  .op = VSOCK_OP_RST};
}

static void take_request(struct vsock_table *t, const struct vsock_header *h)
{
    struct vsock_connection *c = add(t, h->src_port, h->dst_port);
    if (c)
        c->peer = t->vsock->ops->connect(t->vsock, h->dst_port, c);
    if (!c || !c->peer) {
        if (c)
            forget(t, c);
        refuse(t, h);
        return;
    }
    c->guest_alloc = h->buf_alloc;
    c->guest_forwarded = h->fwd_cnt;
    owe(t, c, OWE_RESPONSE);
    tell_wants(t, c);
}

bool vsock_table_takes(const struct vsock_table *t)
{
    return t->resets < VSOCK_RESETS;
}

void vsock_table_take(struct vsock_table *t, const struct vsock_header *h, const uint8_t *data)
{
    if (h->src_cid != t->cid)
        return; // not who it says it is
    struct vsock_connection *c = NULL;
    if (h->dst_cid == VSOCK_CID_HOST && h->type == VSOCK_TYPE_STREAM) {
        c = find(t, h->src_port, h->dst_port);
        if (!c && h->op == VSOCK_OP_REQUEST) {
            take_request(t, h);
            return;
        }
        if (!c && h->op == VSOCK_OP_CREDIT_UPDATE)
            return; // a reader who is not through yet with what a peer that is gone has written
    }
    if (!c) {
        refuse(t, h);
        return;
    }
    if (!c->peer) { // only our last packet is still to go out
        if (h->op == VSOCK_OP_RST)
            forget(t, c);
        return;
    }
    c->guest_alloc = h->buf_alloc;
    c->guest_forwarded = h->fwd_cnt;
    if (credit(c))
        c->asked = false;
    switch (h->op) {
    case VSOCK_OP_RST:
        forget(t, c);
        return;
    case VSOCK_OP_RESPONSE:
        take_response(t, c);
        break;
    case VSOCK_OP_SHUTDOWN:
        take_shutdown(t, c, h->flags);
        break;
    case VSOCK_OP_RW:
        take_data(t, c, data, h->len);
        break;
    case VSOCK_OP_CREDIT_UPDATE:
        break;
    case VSOCK_OP_CREDIT_REQUEST:
        owe(t, c, OWE_CREDIT);
        break;
    default: // a REQUEST, when there is a connection already, too
        reset(t, c);
    }
    if (c->peer && c->hung_up && !reading(c))
        hang_up(t, c);
    else if (c->readable)
        list(t, c); // there may be credit now
    tell_wants(t, c);
}

// ---- to the guest

static void describe(struct vsock_table *t, struct vsock_connection *c, struct vsock_header *h, uint16_t op)
{
    *h = (struct vsock_header){.src_cid = VSOCK_CID_HOST,
                               .dst_cid = t->cid,
                               .src_port = c->host_port,
                               .dst_port = c->guest_port,
                               .type = VSOCK_TYPE_STREAM,
                               .op = op,
                               .flags = op == VSOCK_OP_SHUTDOWN ? c->shutdown : 0,
                               .buf_alloc = VSOCK_BUFFER,
                               .fwd_cnt = c->forwarded};
}

static uint16_t next_op(unsigned owed)
{
    return owed & OWE_RST        ? VSOCK_OP_RST
           : owed & OWE_REQUEST  ? VSOCK_OP_REQUEST
           : owed & OWE_RESPONSE ? VSOCK_OP_RESPONSE
           : owed & OWE_CREDIT   ? VSOCK_OP_CREDIT_UPDATE
           : owed & OWE_ASK      ? VSOCK_OP_CREDIT_REQUEST
                                 : VSOCK_OP_SHUTDOWN;
}

// Reads from the connection's peer into the table's buffer. False: there is nothing to send now.
static bool fetch(struct vsock_table *t, struct vsock_connection *c)
{
    if (!reading(c) || !c->readable)
        return false;
    uint32_t room = credit(c);
    if (!room) {
        if (!c->asked)
            owe(t, c, OWE_ASK);
        c->asked = true;
        return c->owed;
    }
    int64_t n = t->vsock->ops->read(c->peer, t->in, room < VSOCK_READ_MAX ? room : VSOCK_READ_MAX);
    if (n > 0) {
        t->owner = c;
        t->in_start = 0;
        t->in_end = (uint32_t)n;
        return true;
    }
    c->readable = false;
    if (n == 0) {
        c->host_ended = true;
        if (c->hung_up) {
            hang_up(t, c);
        } else {
            c->shutdown = VSOCK_SHUTDOWN_SEND;
            owe(t, c, OWE_SHUTDOWN);
        }
    } else if (n != -EAGAIN) {
        reset(t, c);
    }
    tell_wants(t, c);
    return c->owed;
}

bool vsock_table_next(struct vsock_table *t, struct vsock_header *h, const uint8_t **data)
{
    *data = NULL;
    if (t->resets) {
        *h = t->reset[t->resets - 1];
        return true;
    }
    struct vsock_connection *c;
    // Once data was read it goes out before anybody else's, so that the buffer is free again.
    while ((c = t->owner ? t->owner : t->ready)) {
        if (!t->owner && !c->owed && !fetch(t, c)) {
            unlist(t, c);
            continue;
        }
        if (!c->owed) {
            describe(t, c, h, VSOCK_OP_RW);
            h->len = t->in_end - t->in_start;
            *data = t->in + t->in_start;
        } else {
            describe(t, c, h, next_op(c->owed));
        }
        return true;
    }
    return false;
}

void vsock_table_sent(struct vsock_table *t, const struct vsock_header *h)
{
    if (t->resets) {
        t->resets--;
        return;
    }
    struct vsock_connection *c = t->owner ? t->owner : t->ready;
    c->told = h->fwd_cnt;
    switch (h->op) {
    case VSOCK_OP_RW:
        c->sent += h->len;
        t->in_start += h->len;
        if (t->in_start == t->in_end) { // it is others' turn
            t->owner = NULL;
            unlist(t, c);
            list(t, c);
        }
        break;
    case VSOCK_OP_RST:
        forget(t, c);
        break;
    case VSOCK_OP_SHUTDOWN:
        c->owed &= ~(unsigned)OWE_SHUTDOWN;
        if (!c->peer)
            forget(t, c);
        break;
    case VSOCK_OP_REQUEST:
        c->owed &= ~(unsigned)OWE_REQUEST;
        break;
    case VSOCK_OP_RESPONSE:
        c->owed &= ~(unsigned)OWE_RESPONSE;
        break;
    case VSOCK_OP_CREDIT_REQUEST:
        c->owed &= ~(unsigned)OWE_ASK;
        break;
    default:
        c->owed &= ~(unsigned)OWE_CREDIT;
    }
}

// ---- from the host

struct vsock_connection *vsock_table_call(struct vsock_table *t, uint32_t port, struct vsock_peer *p)
{
    uint32_t host_port;
    do
        host_port = FIRST_PORT + (t->next_port++ & (FIRST_PORT - 1));
    while (find(t, port, host_port)); // ends: there are few connections
    struct vsock_connection *c = add(t, port, host_port);
    if (!c)
        return NULL;
    c->peer = p;
    c->calling = true;
    owe(t, c, OWE_REQUEST);
    return c;
}

void vsock_table_ready(struct vsock_table *t, struct vsock_connection *c, unsigned ready)
{
    if (ready & VSOCK_HANGUP)
        c->hung_up = true;
    if (c->hung_up && c->calling) {
        if (c->owed & OWE_REQUEST)
            forget(t, c); // the guest has never heard of it
        else
            reset(t, c);
        return;
    }
    if ((ready & VSOCK_WRITE) && c->kept) {
        flush(t, c);
        if (!c->peer)
            return;
    }
    if (c->hung_up && !reading(c)) {
        hang_up(t, c);
        return;
    }
    if ((ready & (VSOCK_READ | VSOCK_HANGUP)) && reading(c)) {
        c->readable = true;
        list(t, c);
    }
    tell_wants(t, c);
}

void vsock_table_init(struct vsock_table *t, struct vsock *vsock, uint32_t cid)
{
    t->vsock = vsock;
    t->cid = cid;
    t->ready_end = &t->ready;
}

void vsock_table_drop(struct vsock_table *t)
{
    for (unsigned i = 0; i < VSOCK_BUCKETS; i++)
        while (t->bucket[i])
            forget(t, t->bucket[i]);
    t->resets = 0;
}
