// A virtio device without its transport: features, status, queues, configuration (Virtio 1.2, chapters 2 and 3).
//
// A kind of device (blk, rng, console) is one short file: it embeds struct virtio_device first, describes itself in a
// const struct virtio_kind, and does its work in kick(), with the verbs virtio_pop, virtio_push and virtio_notify. A
// transport (virtio/pci.h, virtio/mmio.h) is what the driver sees; it calls the second half of this header.
//
//     driver writes            transport               here                        kind
//     queue_notify        ->   virtio_kick        ->   budget, one at a time  ->   kick(): pop, work, push, notify
//     status = 0          ->   virtio_set_status  ->   queues and features gone -> reset()
//
// Reset while requests are under way. The queues are reset at once: what is given back later belongs to an older epoch
// and touches no ring. But its data may still be on the way into guest memory, so until the last one is done, status
// reads as ACKNOWLEDGE instead of 0; drivers wait for the 0 (2.4.1). One that does not wait and writes a new status
// simply goes on.
//
// Rogue drivers. Whatever breaks a rule of the ring sets DEVICE_NEEDS_RESET (2.1.1) and stops the queues until the
// driver resets the device. kick() works off a bounded number of chains; if more wait, a timer goes on with them, so
// that no guest can keep a host thread to itself.
//
// Paused. While the VM is paused nothing is taken out of a queue, whoever kicks it: memory and rings stand still and
// can be saved. The timer goes on with what was left when the VM does.
//
// Lock: dev.lock guards everything; the transport's registers and interrupts too. Kinds are called with it held.
#pragma once
#include "virtio/queue.h"
#include "vm/device.h"
#include "vm/timer.h"
#include "vm/vm.h"

enum { VIRTIO_QUEUES_MAX = 16 };

// Device status bits (2.1).
enum {
    VIRTIO_ACKNOWLEDGE = 1,
    VIRTIO_DRIVER = 2,
    VIRTIO_DRIVER_OK = 4,
    VIRTIO_FEATURES_OK = 8,
    VIRTIO_NEEDS_RESET = 64,
    VIRTIO_FAILED = 128,
};

// Feature bits that belong to no kind (chapter 6).
#define VIRTIO_F_INDIRECT_DESC (1ull << 28)
#define VIRTIO_F_EVENT_IDX (1ull << 29)
#define VIRTIO_F_VERSION_1 (1ull << 32)

struct virtio_device;

struct virtio_kind {
    struct device_ops device; // name, state and destroy are the kind's, the others may be the virtio_device_* below
    uint16_t id;              // chapter 5
    uint32_t pci_class;       // 24 bits
    // The driver has made chains available in a queue. Never called twice at once for one queue. May let the lock go
    // and take it again, if it copes with a reset meanwhile.
    void (*kick)(struct virtio_device *d, unsigned queue);
    // The driver wrote to the configuration space (offset + size is within it). May let the lock go. NULL: read-only.
    void (*config_write)(struct virtio_device *d, unsigned offset, unsigned size, uint32_t val);
    void (*reset)(struct virtio_device *d); // by the driver or with the machine; may be NULL
};

// How the transport raises its interrupts; called with the lock held.
struct virtio_transport {
    void *ctx;
    void (*queue_interrupt)(void *ctx, unsigned queue);
    void (*config_interrupt)(void *ctx);
    void (*reset)(void *ctx); // the driver reset the device
    void (*ready)(void *ctx); // the driver has begun to work with it: bells may be hung
};

struct virtio_queue {
    struct virtq ring;
    bool busy, again; // kick() is running; it shall run once more
    int budget;       // chains that this run may still take
};

struct virtio_device {
    struct device dev;
    const struct virtio_kind *kind;
    uint64_t offered, accepted; // features
    uint8_t status;
    uint8_t resetting; // reset, but chains are still in flight
    uint8_t config_generation;
    unsigned queues;
    struct virtio_queue queue[VIRTIO_QUEUES_MAX];
    uint8_t *config; // device-specific configuration, little-endian; the kind's
    unsigned config_size;
    unsigned in_flight; // chains taken and not given back, of all epochs
    uint32_t waiting;   // queues that the timer shall kick
    struct vm_timer timer;
    struct virtio_transport transport;
    uint64_t requests, interrupts; // chains taken, queue interrupts raised: for statistics
};

// For kinds.

// Enters the device into the VM. `features` beyond the ring's own; all queues may have `queue_size` entries.
void virtio_init(struct virtio_device *d, struct vm *vm, const struct virtio_kind *kind, const char *name,
                 uint64_t features, unsigned queues, uint16_t queue_size, void *config, unsigned config_size);
// Takes the next chain; false if there is none, the device is not in operation, or this kick's budget is used up.
bool virtio_pop(struct virtio_device *d, unsigned queue, struct virtq_chain *c);
// Gives it back, on any thread that holds the lock, in any order.
void virtio_push(struct virtio_device *d, unsigned queue, const struct virtq_chain *c, uint64_t written);
// Gives several back that were popped from one queue in one epoch, so that the driver sees all of them or none.
void virtio_push_together(struct virtio_device *d, unsigned queue, uint32_t epoch, const struct virtq_used *used,
                          unsigned count);
// Leaves the last `count` chains in the ring as if they had not been popped; the lock was held since the first of them.
void virtio_unpop(struct virtio_device *d, unsigned queue, unsigned count);
// Interrupts the driver if it wants to hear of what was pushed.
void virtio_notify(struct virtio_device *d, unsigned queue);
// Makes a kick's budget smaller where chains are more work than usual.
void virtio_spend(struct virtio_device *d, unsigned queue, unsigned chains);
// The driver broke a rule: device needs reset.
void virtio_broken(struct virtio_device *d, const char *why);
// The device itself can't go on, whoever is to blame (the caller has said so): it needs a reset.
void virtio_failed(struct virtio_device *d);
void virtio_config_changed(struct virtio_device *d);
static inline bool virtio_has(const struct virtio_device *d, uint64_t feature)
{
    return d->accepted & feature;
}

// For device_ops of kinds: what of these is common to all.
void virtio_device_reset(struct device *d);
int virtio_device_loaded(struct device *d);
void virtio_device_stats(struct device *d, void (*emit)(void *ctx, const char *name, uint64_t value), void *ctx);
#define VIRTIO_STATE(type, member)                                                                                     \
    STATE_U64(type, member.accepted, 1), STATE_U8(type, member.status, 1),                                             \
        STATE_U8(type, member.config_generation, 1), STATE_EACH(type, member.queue, ring.size, 1),                     \
        STATE_EACH(type, member.queue, ring.enabled, 1), STATE_EACH(type, member.queue, ring.desc, 1),                 \
        STATE_EACH(type, member.queue, ring.avail, 1), STATE_EACH(type, member.queue, ring.used, 1),                   \
        STATE_EACH(type, member.queue, ring.next_avail, 1), STATE_EACH(type, member.queue, ring.next_used, 1),         \
        STATE_EACH(type, member.queue, ring.told, 1)

// Without the lock, for a kind's drain(): whether chains are taken and not given back.
bool virtio_has_in_flight(struct virtio_device *d);

// For transports; with the lock held.

// The driver works with the device: its kicks come often.
bool virtio_in_operation(const struct virtio_device *d);
// vm_bell.rung for a device whose bell's number is a queue's; without the lock.
void virtio_rung(struct device *virtio_device, unsigned queue);

// A name for the transport's own device: the prefix and the device's. Returns buf.
const char *virtio_transport_name(const struct virtio_device *d, const char *prefix, char buf[sizeof d->dev.name]);
void virtio_kick(struct virtio_device *d, unsigned queue); // queue notification; any number
uint8_t virtio_status(const struct virtio_device *d);
void virtio_set_status(struct virtio_device *d, uint8_t status);
// Features in windows of 32 bits; windows beyond the second read zero.
uint32_t virtio_offered(const struct virtio_device *d, uint32_t window);
uint32_t virtio_accepted(const struct virtio_device *d, uint32_t window);
void virtio_accept(struct virtio_device *d, uint32_t window, uint32_t bits);
// The queue's registers; NULL if there is no such queue.
struct virtq *virtio_queue(struct virtio_device *d, unsigned queue);
void virtio_queue_set_size(struct virtio_device *d, unsigned queue, uint16_t size);
enum virtio_area { VIRTIO_DESC, VIRTIO_AVAIL, VIRTIO_USED };
void virtio_queue_set_address(struct virtio_device *d, unsigned queue, enum virtio_area area, unsigned half,
                              uint32_t val);
void virtio_queue_enable(struct virtio_device *d, unsigned queue);
void virtio_queue_disable(struct virtio_device *d, unsigned queue);
uint32_t virtio_config_read(const struct virtio_device *d, uint64_t offset, unsigned size); // beyond the end: zero
void virtio_config_write(struct virtio_device *d, uint64_t offset, unsigned size, uint32_t val);
