// What stands behind a guest's serial port or console: the streams (vm/stream.h) that --console names.
//
//   - stdio: our own standard input and output. A terminal is made raw, and Ctrl-A is an escape (console_keys).
//   - stdout: output only
//   - pty: a new pseudo-terminal; its name is told by console_name()
//   - socket:PATH: a unix stream socket that we listen on, one peer at a time; what was printed before it came is kept
//     (the last 256 KiB)
//   - file:PATH: output only, appended
//   - none: nothing
//
// Example: console_open("socket:/run/vm.sock", loop, &keys, &console, &err); uart's stream is console_stream(console).
#pragma once
#include "host/loop.h"
#include "report/error.h"
#include "vm/stream.h"

struct console;

// What the escape keys of a raw terminal do; on the event loop's thread.
struct console_keys {
    void (*quit)(void *ctx);   // Ctrl-A x
    void (*button)(void *ctx); // Ctrl-A p
    void *ctx;
};

int console_open(const char *where, struct loop *loop, const struct console_keys *keys, struct console **out,
                 struct error *err);
struct stream *console_stream(struct console *c);
const char *console_name(const struct console *c); // for people: "pty /dev/pts/7"
// Writes out what is left, gives a terminal its old settings back, removes a socket. Loop thread (or when the loop has
// ended).
void console_close(struct console *c);
// Only the terminal's old settings: what may be called before _exit.
void console_restore_terminal(struct console *c);
