// A stream of bytes in both directions: what stands behind a serial port or a console (terminal, pty, socket, file,
// nothing).
//
// write() does not wait for a slow peer: a backend buffers a bounded amount and then drops the oldest bytes. (Our own
// standard output is the exception: there a full pipe holds up the printing guest for some seconds, as it would any
// program.) Input flows by itself: receive() is called on the event loop's thread with what has come and returns how
// much it took; the rest is offered again after ready(), which never calls receive() itself: readers call it with their
// lock held.
#pragma once
#include <stddef.h>
#include <stdint.h>

struct stream;

struct stream_ops {
    void (*write)(struct stream *s, const void *data, size_t size); // any thread
    void (*ready)(struct stream *s);                                // any thread: the reader has room again
    void (*flush)(struct stream *s); // blocks until what was written is out, for a bounded time
    void (*close)(struct stream *s);
};

struct stream {
    const struct stream_ops *ops;
    size_t (*receive)(void *ctx, const uint8_t *data,
                      size_t size); // set by the reader before input can flow; NULL: input is dropped
    void *ctx;
};
