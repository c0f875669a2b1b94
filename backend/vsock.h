// What a guest's socket device leads to: unix sockets, by the convention that Firecracker began and others follow.
//
//     host to guest   connect to PATH, write "CONNECT 5555\n"; the answer "OK 1073741824\n" (the host's port) means
//     that
//                     a program in the guest has accepted; else the connection is closed. From there on it is the
//                     stream.
//     guest to host   a connection to CID 2, port 80, leads to the unix socket PATH_80, where the program that serves
//     it
//                     listens; if none does, the guest's connection is reset.
//
// Example: printf 'CONNECT 5555\n' | socat - UNIX-CONNECT:vsock.sock
#pragma once
#include "vm/vsock.h"

// Listens at `path` (which is copied); the socket is this user's alone. -EINVAL, -EADDRINUSE and so on name the path.
int vsock_unix_open(const char *path, struct vsock **out, struct error *err);
