// What leads out of a network: a backend of struct net (backend/net.h) whose card is the switch.
//
// The backend has a thread of its own; the switch has its loop. Between them lie two queues of frames, each bounded:
//
//     loop:   port_send -> uplink_send -> out -> wake()       backend's thread: transmit() -> send()
//     loop:   network_frame <- on_arrival <- in               backend's thread: receive(); refused while `in` is full
//
// What does not fit `out` is dropped and counted by the port. The backend keeps what is refused, and offers it again
// when the loop has made room. Invariant: if `in` is not empty, on_arrival is posted or running.
#include "backend/net.h"
#include "switch/parts.h"
#include <errno.h>
#include <net/if.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { QUEUE_BYTES = 2 << 20 };

struct frame {
    struct frame *next;
    struct net_header header;
    size_t size;
    uint8_t data[];
};

struct queue {
    struct frame *first, **last;
    size_t bytes;
};

struct lan_uplink {
    struct net *net;
    struct loop *loop;
    struct lan_port *port; // NULL: closed, and on_arrival is still to come
    pthread_mutex_t lock;  // guards all of the following
    struct queue in, out;
    bool posted; // on_arrival will come
    bool full;   // a frame was refused
};

// False if there is no room.
static bool push(struct queue *q, const struct net_header *h, const uint8_t *data, size_t size)
{
    struct frame *f = q->bytes + size <= QUEUE_BYTES ? malloc(sizeof *f + size) : NULL;
    if (!f)
        return false;
    f->next = NULL;
    f->header = *h;
    f->size = size;
    memcpy(f->data, data, size);
    q->bytes += size;
    *q->last = f;
    q->last = &f->next;
    return true;
}

static struct frame *pop(struct queue *q)
{
    struct frame *f = q->first;
    if (!f)
        return NULL;
    q->first = f->next;
    q->bytes -= f->size;
    if (!q->first)
        q->last = &q->first;
    return f;
}

static void empty(struct queue *q)
{
    for (struct frame *f; (f = pop(q));)
        free(f);
}

static void release(struct lan_uplink *u)
{
    empty(&u->in);
    empty(&u->out);
    pthread_mutex_destroy(&u->lock);
    free(u);
}

// ---- on the loop

static void on_arrival(void *ctx)
{
    struct lan_uplink *u = ctx;
    if (!u->port) {
        release(u);
        return;
    }
    pthread_mutex_lock(&u->lock);
    struct queue q = u->in;
    bool full = u->full;
    u->in = (struct queue){.last = &u->in.first};
    u->posted = u->full = false;
    pthread_mutex_unlock(&u->lock);
    if (!q.first)
        return;
    if (full)
        u->net->ops->wake(u->net);
    struct lan_switch *s = u->port->owner;
    // Frames must stay where they are until the ports have been flushed. The uplink may go meanwhile.
    for (const struct frame *f = q.first; f && u->port; f = f->next)
        if (!u->port->dead)
            network_frame(u->port,
                          &(struct net_message){
                              .kind = NET_MESSAGE_HEADED, .header = f->header, .data = f->data, .size = f->size});
    port_sweep(s);
    for (struct frame *f = q.first, *next; f; f = next) {
        next = f->next;
        free(f);
    }
}

bool uplink_send(struct lan_uplink *u, const struct net_header *h, const uint8_t *frame, size_t size)
{
    pthread_mutex_lock(&u->lock);
    bool sent = push(&u->out, h, frame, size);
    pthread_mutex_unlock(&u->lock);
    u->net->ops->wake(u->net);
    return sent;
}

// ---- on the backend's thread

static bool receive(void *ctx, const struct net_header *h, const uint8_t *frame, size_t size)
{
    struct lan_uplink *u = ctx;
    pthread_mutex_lock(&u->lock);
    bool taken = push(&u->in, h, frame, size);
    u->full |= !taken;
    bool post = !u->posted && u->in.first;
    u->posted |= post;
    pthread_mutex_unlock(&u->lock);
    if (post && loop_post(u->loop, on_arrival, u)) {
        pthread_mutex_lock(&u->lock);
        u->posted = false; // no memory: the next frame tries again
        pthread_mutex_unlock(&u->lock);
    }
    return taken;
}

static void transmit(void *ctx)
{
    struct lan_uplink *u = ctx;
    bool more = true;
    while (more) {
        pthread_mutex_lock(&u->lock);
        struct frame *f = u->out.first;
        pthread_mutex_unlock(&u->lock);
        if (!f)
            return;
        more = u->net->ops->send(u->net, &f->header, f->data, f->size); // nobody else takes from this queue
        if (!more)
            return;
        pthread_mutex_lock(&u->lock);
        free(pop(&u->out));
        pthread_mutex_unlock(&u->lock);
    }
}

static void link(void *ctx, bool up)
{
    (void)ctx, (void)up; // a network without its uplink is still a network
}

static int open_net(const struct lan_network *n, const struct lan_uplink_rule *rule, uint16_t mtu, struct net **net,
                    struct error *err)
{
    char device[IF_NAMESIZE];
    if (rule->kind == LAN_UPLINK_TAP)
        return net_tap_open(rule->tap, 0, device, net, err);
    return net_user_open(&(struct net_user_options){.hostname = n->name, .mtu = mtu}, net, err);
}

int uplink_open(const struct lan_network *n, const struct lan_uplink_rule *rule, uint16_t mtu, struct lan_port *port,
                struct lan_uplink **out, struct error *err)
{
    struct lan_uplink *u = calloc(1, sizeof *u);
    if (!u)
        return error_set(err, ENOMEM, "out of memory");
    u->in.last = &u->in.first;
    u->out.last = &u->out.first;
    u->loop = n->owner->loop;
    u->port = port;
    pthread_mutex_init(&u->lock, NULL);
    int e = open_net(n, rule, mtu, &u->net, err);
    if (e) {
        release(u);
        return e;
    }
    u->net->ctx = u;
    u->net->receive = receive;
    u->net->transmit = transmit;
    u->net->link = link;
    port->offloads = u->net->takes;
    e = u->net->ops->start(u->net, err);
    if (e) {
        u->net->ops->close(u->net);
        release(u);
        return e;
    }
    u->net->ops->accept(u->net, NET_CSUM | NET_TSO4 | NET_TSO6);
    *out = u;
    return 0;
}

void uplink_close(struct lan_uplink *u)
{
    u->net->ops->close(u->net);
    u->port = NULL;
    if (!u->posted)
        release(u);
}
