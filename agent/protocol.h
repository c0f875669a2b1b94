// What the host and the program in the guest (trapeze-agent) say to each other.
//
// The agent listens at port AGENT_PORT of the guest's vsock and serves the host alone (CID 2). Each connection is one
// session: a program that runs, a tree of files that is copied, a TCP connection. It is a sequence of frames in both
// directions, each of 8 bytes and a payload of at most AGENT_PAYLOAD bytes, everything little-endian:
//
//     type (1 byte)   stream (1)   0 (2)   length of the payload (4)   payload
//
//     host                                     agent
//                                         <-   HELLO "TrpA", version
//     HELLO "TrpA", version               ->
//     EXEC argv, environment, ...         ->
//                                         <-   STARTED                              or ERROR code, text
//     DATA 0 "input"                      ->
//                                         <-   DATA 1 "output"
//     WINDOW 1 6                          ->
//     EOF 0                               ->
//                                         <-   EOF 1, EOF 2
//                                         <-   EXIT 0, status
//
// Streams are those of a program: 0 goes to the guest, 1 and 2 come from there. A sender may have AGENT_WINDOW bytes of
// a stream under way that the receiver has not said by WINDOW to have handed on: so a stream that nobody reads stops
// neither the others nor signals and changes of the terminal's size.
//
// A request's payload is a list of items: tag (1 byte), length (4), bytes. Tags are those of AGENT_ITEM_*; unknown ones
// are an error, so that nothing that was asked for is left out in silence. A newer version says so in its HELLO; either
// side refuses another version than its own.
#pragma once

enum { AGENT_PORT = 5555, AGENT_VERSION = 1 };
enum { AGENT_HEAD = 8, AGENT_PAYLOAD = 32 << 10, AGENT_WINDOW = 256 << 10, AGENT_STREAMS = 3 };

#define AGENT_MAGIC "TrpA" // 4 bytes; then the version, 2 bytes

enum agent_frame {
    AGENT_HELLO = 1,
    // Requests.
    AGENT_EXEC = 2,    // runs a program
    AGENT_PACK = 3,    // sends a file or a tree of files as an archive (agent/archive.h) on stream 1
    AGENT_UNPACK = 4,  // receives one on stream 0
    AGENT_CONNECT = 5, // leads streams 0 and 1 to a TCP port of the guest's 127.0.0.1
    AGENT_PING = 6,    // does nothing but to be answered by STARTED and EXIT
    // Answers.
    AGENT_STARTED = 16,
    AGENT_ERROR = 17, // exit status for the host's program (4 bytes), text: the session is over
    AGENT_EXIT = 18,  // exit status (4 bytes; 128 + the signal that killed it): the session is over
    // On the way.
    AGENT_DATA = 32,
    AGENT_EOF = 33,
    AGENT_WINDOW_MORE = 34, // bytes (4)
    AGENT_SIGNAL = 35,      // Linux' number (4), to the program and those it has started
    AGENT_RESIZE = 36,      // rows, columns (2 each)
};

enum agent_item {
    AGENT_ITEM_ARGUMENT = 1,    // EXEC: one word of the command; none: the user's shell
    AGENT_ITEM_ENVIRONMENT = 2, // NAME=VALUE
    AGENT_ITEM_FOLDER = 3,      // to work in; default: the user's own
    AGENT_ITEM_USER = 4,        // name or number, with :GROUP if wanted; default: who the agent is
    AGENT_ITEM_TERMINAL = 5,    // rows, columns (2 each): the program gets a terminal
    AGENT_ITEM_PATH = 6,        // PACK, UNPACK
    AGENT_ITEM_TCP_PORT = 7,    // 2 bytes
};

// Exit statuses for failures that are not the program's own.
enum { AGENT_STATUS_FAILED = 125, AGENT_STATUS_CANNOT_RUN = 126, AGENT_STATUS_NOT_FOUND = 127 };
