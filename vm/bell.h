// Doorbells of devices: addresses that a guest writes to only to say "look".
//
// Where the engine can tell of such a write by itself, the vCPU goes on at once, and a thread of the VM's does what the
// device would have done. Where it cannot, nothing is different: the write comes to the device on the vCPU's thread. So
// a device hangs a bell beside its register, not in its place; and must not mind a bell that rings once too often.
//
// Example: vm_bell_hang(&q->bell, &(struct vm_bell_at){.gpa = 0xfeb00050, .size = 4, .value = 1}, dev, kick, 1);
#pragma once
#include <stdbool.h>
#include <stdint.h>

struct device;
struct vm;

struct vm_bell_at {
    uint64_t gpa;
    unsigned size;  // of the write, in bytes; 0: any
    uint32_t value; // that is written; any where size is 0
};

struct vm_bell { // all zero: it hangs nowhere
    struct device *dev;
    void (*rung)(struct device *dev, unsigned arg); // without the device's lock, on the bells' thread
    unsigned arg;
    int fd;    // once made, kept
    bool hung; // with the device's lock held, as all else
    struct vm_bell_at at;
};

// Hangs it there, or leaves it there. Lives as long as the VM, where it is once hung.
void vm_bell_hang(struct vm_bell *b, const struct vm_bell_at *at, struct device *dev,
                  void (*rung)(struct device *dev, unsigned arg), unsigned arg);
void vm_bell_take_down(struct vm_bell *b);
