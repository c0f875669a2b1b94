// The receiver's side of a live migration, step by step; the caller builds the machine between the steps.
//
// What comes is a stranger's: each message is bounded and checked, and after an error the caller ends, having told the
// source why (receive_refuse). Only when receive_take_over has returned 0 is the machine this side's.
//
// Example:
//     receive_hello(&r, &err); ...can this machine be made here?... receive_welcome(&r, &err);
//     receive_contents(&r, &sink, &err); ...build it, load r.state... receive_take_over(&r, &err);
//     ...start it... receive_started(&r);
#pragma once
#include "migrate/hello.h"
#include "migrate/owner.h"
#include "migrate/pages.h"
#include "migrate/wire.h"

struct receiving {
    struct wire c;
    struct hello hello;
    struct owner owner; // fd -1: no file in common
    uint8_t *state;     // of CPUs and devices
    size_t state_size;
    uint64_t stopped_ns; // when the machine stopped, by the source's wall clock: ns since 1970
    uint64_t pages;      // received
    bool complete;       // everything has come
};

struct receive_sink {
    struct pages_ram ram;
    void *ctx;
    // A piece of file or disk number `index` of the hello's; it lies within the size that was told there.
    int (*file)(void *ctx, unsigned index, uint64_t at, const void *data, size_t size, struct error *err);
    int (*disk)(void *ctx, unsigned index, uint64_t at, const void *data, size_t size, struct error *err);
};

void receive_init(struct receiving *r, int fd, const _Atomic bool *cancel); // takes fd
int receive_hello(struct receiving *r, struct error *err);
int receive_welcome(struct receiving *r, struct error *err);
// Until the machine's state has come.
int receive_contents(struct receiving *r, struct receive_sink *sink, struct error *err);
// The machine is complete. 0: it is ours to start. Whatever else: it must not run here.
int receive_take_over(struct receiving *r, struct error *err);
void receive_started(struct receiving *r);
void receive_refuse(struct receiving *r, const char *why); // harmless if the source is gone
// The owner's file stays open: the lock on it is this machine's claim. It ends with the process.
void receive_close(struct receiving *r);
