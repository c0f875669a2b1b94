// The virtio console (Virtio 1.2, 5.3), one port.
//
// Out: what the driver puts into the transmit queue is written to the stream, without the device's lock because a
// stream may hold us up for a while. In: the stream offers bytes on the event loop's thread; as many are taken as fit
// into the buffers of the receive queue, and when the driver has made new ones available the stream is asked for the
// rest. So a guest that does not read slows its own input down and nothing is lost or stored here.
#include "virtio/console.h"
#include "vm/alloc.h"
#include <errno.h>

enum { RECEIVE, TRANSMIT, QUEUES, QUEUE_SIZE = 128 };
// Longest chain that is transmitted, as much as the largest pipe that Linux splices; and what counts as one chain's
// work.
enum { CHAIN_BYTES_MAX = 1 << 20, BYTES_PER_CHAIN = 4096 };

#define CONSOLE_F_SIZE (1ull << 0)
#define CONSOLE_F_EMERG_WRITE (1ull << 2)

struct console_config { // 5.3.4
    uint16_t columns, rows;
    uint32_t max_nr_ports, emerg_wr;
};
_Static_assert(sizeof(struct console_config) == 12, "Virtio 1.2, 5.3.4");

struct virtio_console {
    struct virtio_device virtio;
    struct stream *stream;
    struct console_config config;
    struct virtq_chain receiving, transmitting;
    const uint8_t *input; // while the stream offers: what is left of it
    size_t input_size;
};

static void receive_kick(struct virtio_console *c)
{
    struct virtio_device *d = &c->virtio;
    if (!c->input) { // there are new buffers, and the stream may have kept something for us
        c->stream->ops->ready(c->stream);
        return;
    }
    while (c->input_size && virtio_pop(d, RECEIVE, &c->receiving)) {
        size_t n = virtq_chain_write(d->dev.vm, &c->receiving, 0, c->input, c->input_size);
        virtio_push(d, RECEIVE, &c->receiving, n);
        c->input += n;
        c->input_size -= n;
    }
    virtio_notify(d, RECEIVE);
}

// The stream has input.
static size_t receive(void *ctx, const uint8_t *data, size_t size)
{
    struct virtio_console *c = ctx;
    vm_lock(&c->virtio.dev.lock);
    c->input = data;
    c->input_size = size;
    virtio_kick(&c->virtio, RECEIVE);
    size_t taken = size - c->input_size;
    c->input = NULL;
    c->input_size = 0;
    vm_unlock(&c->virtio.dev.lock);
    return taken;
}

static void transmit_kick(struct virtio_console *c)
{
    struct virtio_device *d = &c->virtio;
    struct virtq_chain *chain = &c->transmitting; // ours alone: kicks of a queue don't overlap
    while (virtio_pop(d, TRANSMIT, chain)) {
        if (chain->out_bytes > CHAIN_BYTES_MAX) {
            virtio_broken(d, "transmit buffer larger than 1 MiB");
        } else {
            vm_unlock(&d->dev.lock);
            for (unsigned i = 0; i < chain->out; i++)
                c->stream->ops->write(c->stream, chain->buffer[i].base, chain->buffer[i].len);
            vm_lock(&d->dev.lock);
            virtio_spend(d, TRANSMIT, (unsigned)(chain->out_bytes / BYTES_PER_CHAIN));
        }
        virtio_push(d, TRANSMIT, chain, 0);
    }
    virtio_notify(d, TRANSMIT);
}

static void console_kick(struct virtio_device *d, unsigned queue)
{
    struct virtio_console *c = (struct virtio_console *)d;
    if (queue == RECEIVE)
        receive_kick(c);
    else
        transmit_kick(c);
}

// Emergency write: a character for those who have no queues yet.
static void console_config_write(struct virtio_device *d, unsigned offset, unsigned size, uint32_t val)
{
    (void)size;
    struct virtio_console *c = (struct virtio_console *)d;
    if (offset != offsetof(struct console_config, emerg_wr))
        return;
    uint8_t character = (uint8_t)val;
    vm_unlock(&d->dev.lock);
    c->stream->ops->write(c->stream, &character, 1);
    vm_lock(&d->dev.lock);
}

void virtio_console_resize(struct virtio_device *d, uint16_t columns, uint16_t rows)
{
    struct virtio_console *c = (struct virtio_console *)d;
    vm_lock(&d->dev.lock);
    c->config.columns = columns;
    c->config.rows = rows;
    virtio_config_changed(d);
    vm_unlock(&d->dev.lock);
}

static void console_destroy(struct device *dev)
{
    struct virtio_console *c = (struct virtio_console *)dev;
    c->stream->receive = NULL;
    vm_free(c);
}

// The size is the terminal's, not the guest's: whoever restores a machine tells it anew.
static const struct state_field console_fields[] = {VIRTIO_STATE(struct virtio_console, virtio), STATE_END};
static const struct state_table console_state = {"virtio-console", 1, console_fields};

static const struct virtio_kind console_kind = {
    .device = {.name = "virtio-console",
               .reset = virtio_device_reset,
               .state = &console_state,
               .loaded = virtio_device_loaded,
               .stats = virtio_device_stats,
               .destroy = console_destroy},
    .id = 3,
    .pci_class = 0x078000,
    .kick = console_kick,
    .config_write = console_config_write,
};

int virtio_console_create(struct vm *vm, const char *name, struct stream *stream, struct virtio_device **out,
                          struct error *err)
{
    struct virtio_console *c = vm_alloc(sizeof *c);
    if (!c)
        return error_set(err, ENOMEM, "%s: out of memory", name);
    c->stream = stream;
    virtio_init(&c->virtio, vm, &console_kind, name, CONSOLE_F_SIZE | CONSOLE_F_EMERG_WRITE, QUEUES, QUEUE_SIZE,
                &c->config, sizeof c->config);
    stream->ctx = c;
    stream->receive = receive;
    *out = &c->virtio;
    return 0;
}
