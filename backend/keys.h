// The escape keys of a raw terminal: Ctrl-A and a letter, as in GNU screen and QEMU.
//
// Example: keys_filter turns "ls\x01x" into "ls" and calls fn(ctx, KEY_QUIT); "\x01\x01" is one Ctrl-A for the guest.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum key_action { KEY_QUIT, KEY_BUTTON, KEY_HELP, KEY_DETACH };

struct keys {
    bool escaped; // the last byte was Ctrl-A
    void (*fn)(void *ctx, enum key_action action);
    void *ctx;
};

void keys_init(struct keys *k, void (*fn)(void *ctx, enum key_action), void *ctx);
// Takes the escapes out of data, in place; returns how many bytes are left for the guest (at most size).
size_t keys_filter(struct keys *k, uint8_t *data, size_t size);
