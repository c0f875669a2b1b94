// Ports for guests that are tests: one that ends the machine with a status and one that prints.
//
// Port 0xf4 (four bytes wide): writing v ends the machine with status v * 2 + 1, as QEMU's isa-debug-exit does, so that
// no value looks like success. Port 0xe9: a byte written goes to a stream; reading gives 0xe9, by which guests know
// that it is there (as Bochs does it). Both are off unless asked for: an ordinary guest has no such ports.
//
// Example: mov $0x10, %al; out %al, $0xf4 ends with status 33.
#pragma once
#include "vm/stream.h"
#include "vm/vm.h"

int debug_exit_create(struct vm *vm, struct error *err);
int debug_console_create(struct vm *vm, struct stream *stream, struct error *err); // the stream outlives the VM
