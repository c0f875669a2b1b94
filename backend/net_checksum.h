// Does in software what a frame's header asks the network to do, for backends that carry plain frames.
#pragma once
#include "vm/net.h"

// Completes the checksum that a header with NET_HEADER_NEEDS_CSUM names. The header must have been checked: the field
// lies within the frame.
void net_complete_checksum(const struct net_header *h, uint8_t *frame, size_t size);

// Makes of a TCP frame that is to be cut into segments (gso_type is not NONE) one large, valid IP packet, for receivers
// that take packets of any size. False if it is no such frame: then it may have been changed and is good for nothing.
bool net_unite_segments(uint8_t *frame, size_t size);

// Cuts a TCP frame into the segments that its header asks for (gso_type is not NONE, gso_size not 0), for receivers
// that take no large ones, and hands each to emit(), valid and complete; `work` is NET_FRAME_MAX bytes of memory for
// them. Returns how many there were; 0 if it is no such frame.
unsigned net_cut_segments(const struct net_header *h, const uint8_t *frame, size_t size, uint8_t *work,
                          void (*emit)(void *ctx, const uint8_t *frame, size_t size), void *ctx);
