// The pair of 8259A interrupt controllers of a PC, with the edge/level registers of later ones (ELCR).
//
// Lines are 0..15; line 2 is the cascade and has no input of its own. Ports: 0x20, 0x21 (master), 0xa0, 0xa1 (slave),
// 0x4d0, 0x4d1 (ELCR). dev.lock guards everything; the output callback is called with it held.
//
// Example: pic_set(pic, 4, true) when COM1 raises its line; the CPU's acknowledge cycle is pic_ack(pic).
#pragma once
#include "vm/vm.h"

struct pic_chip {
    uint8_t irr;   // requests: latched edges, or the level of level-triggered lines
    uint8_t isr;   // in service
    uint8_t imr;   // masked
    uint8_t lines; // levels of the inputs
    uint8_t elcr;  // 1: level-triggered
    uint8_t icw1, icw2, icw4;
    uint8_t step;        // initialization: which ICW is next (1 after power-on, 2, 3, 4), 0 when done; else quiet
    uint8_t lowest;      // line with the lowest priority; 7 without rotation
    uint8_t read_isr;    // OCW3: a read gives ISR instead of IRR
    uint8_t poll;        // OCW3: the next read is a poll
    uint8_t special;     // OCW3: special mask mode
    uint8_t auto_rotate; // OCW2: rotate in automatic EOI mode
};

struct pic {
    struct device dev;
    struct pic_chip chip[2]; // master, slave
    bool output;
    void *ctx;
    void (*intr)(void *ctx, bool level); // INT of the master
};

int pic_create(struct vm *vm, void *ctx, void (*intr)(void *ctx, bool level), struct pic **out, struct error *err);
void pic_set(struct pic *p, unsigned line, bool level);
int pic_ack(struct pic *p); // the vector, whose line is now in service; -1 if nothing is requested any more
