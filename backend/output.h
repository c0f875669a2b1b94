// A bounded buffer between a guest that prints and a file descriptor that may be slow: a thread of its own writes it
// out.
//
// Two manners of being full. OUTPUT_WAIT: the printing vCPU waits, as any program in a pipeline does, but only as long
// as the reader makes progress within STALL seconds; then it is treated as OUTPUT_DROP until the reader reads again.
// OUTPUT_DROP: the oldest bytes go, the newest stay (a console somebody may attach to later).
//
// The descriptor may change: -1 means nobody is there; what is printed meanwhile is kept and shown to the next one who
// comes.
#pragma once
#include "report/error.h"
#include <stddef.h>

enum output_manner { OUTPUT_WAIT, OUTPUT_DROP };

struct output;

int output_create(struct output **out, int fd, enum output_manner manner, struct error *err); // fd stays the caller's
void output_write(struct output *o, const void *data, size_t size);                           // any thread
void output_fd(struct output *o, int fd); // the old descriptor is not used any more when this returns
void output_flush(struct output *o);      // waits until all is out, two seconds at most
void output_destroy(struct output *o);    // flushes
