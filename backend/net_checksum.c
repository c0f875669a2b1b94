// Checksums in software: see net_checksum.h. The Internet checksum is RFC 1071's; what it covers in TCP, RFC 9293, 3.1.
//
// Example: 45 00 00 1c ... summed as 16-bit words; carries are added back in; the complement is the checksum.
#include "backend/net_checksum.h"
#include <string.h>

enum { ETHERTYPE_IP4 = 0x0800, ETHERTYPE_IP6 = 0x86dd, PROTOCOL_TCP = 6 };
enum { IP4_HEADER = 20, IP6_HEADER = 40, TCP_HEADER = 20, TCP_FLAGS = 13, TCP_CHECKSUM = 16 };
enum { TCP_FIN = 1, TCP_PSH = 8, TCP_CWR = 0x80 };

static unsigned get16(const uint8_t *p)
{
    return (unsigned)p[0] << 8 | p[1];
}

static void put16(uint8_t *p, unsigned val)
{
    p[0] = (uint8_t)(val >> 8);
    p[1] = (uint8_t)val;
}

// The sum of the bytes as they lie in memory, in ones' complement and 64 bits; any byte order will do (RFC 1071, 2 B).
static uint64_t sum(const uint8_t *p, size_t size, uint64_t total)
{
    for (; size >= 8; p += 8, size -= 8) {
        uint32_t a, b;
        memcpy(&a, p, 4);
        memcpy(&b, p + 4, 4);
        total += (uint64_t)a + b; // 2^31 of these before it could overflow
    }
    uint64_t rest = 0;
    memcpy(&rest, p, size);
    return total + (rest & 0xffffffff) + (rest >> 32);
}

// The checksum, as bytes in memory order.
static uint16_t fold(uint64_t total)
{
    total = (total & 0xffffffff) + (total >> 32);
    total = (total & 0xffffffff) + (total >> 32);
    total = (total & 0xffff) + (total >> 16);
    total = (total & 0xffff) + (total >> 16);
    return (uint16_t)~total;
}

void net_complete_checksum(const struct net_header *h, uint8_t *frame, size_t size)
{
    uint16_t checksum = fold(sum(frame + h->csum_start, size - h->csum_start, 0));
    if (!checksum)
        checksum = 0xffff; // the same number; in UDP, zero would say that there is none (RFC 768)
    memcpy(frame + h->csum_start + h->csum_offset, &checksum, 2);
}

// Sets the lengths of the IP header at `ip`, of `size` bytes in all; returns its own length, or 0.
static size_t set_length(uint8_t *ip, size_t size, unsigned type)
{
    if (type == ETHERTYPE_IP6) {
        if (size < IP6_HEADER + TCP_HEADER || ip[0] >> 4 != 6 || ip[6] != PROTOCOL_TCP || size - IP6_HEADER > 0xffff)
            return 0;
        put16(ip + 4, (unsigned)(size - IP6_HEADER));
        return IP6_HEADER;
    }
    size_t header = 4ul * (ip[0] & 0xf);
    if (type != ETHERTYPE_IP4 || ip[0] >> 4 != 4 || header < IP4_HEADER || size < header + TCP_HEADER ||
        ip[9] != PROTOCOL_TCP || size > 0xffff)
        return 0;
    put16(ip + 2, (unsigned)size);
    memset(ip + 10, 0, 2);
    uint16_t checksum = fold(sum(ip, header, 0));
    memcpy(ip + 10, &checksum, 2);
    return header;
}

bool net_unite_segments(uint8_t *frame, size_t size)
{
    if (size < NET_ETHERNET + IP4_HEADER + TCP_HEADER)
        return false;
    unsigned type = get16(frame + 12);
    uint8_t *ip = frame + NET_ETHERNET;
    size_t length = size - NET_ETHERNET, header = set_length(ip, length, type);
    if (!header)
        return false;
    // The pseudo header: both addresses, the protocol, TCP's length.
    uint8_t pseudo[4] = {0, PROTOCOL_TCP};
    put16(pseudo + 2, (unsigned)(length - header));
    uint64_t total = sum(pseudo, sizeof pseudo, 0);
    total = type == ETHERTYPE_IP6 ? sum(ip + 8, 32, total) : sum(ip + 12, 8, total);
    uint8_t *tcp = ip + header;
    memset(tcp + TCP_CHECKSUM, 0, 2);
    uint16_t checksum = fold(sum(tcp, length - header, total));
    memcpy(tcp + TCP_CHECKSUM, &checksum, 2);
    return true;
}

// Where the TCP payload begins; 0 if the frame is no whole TCP packet.
static size_t payload_of(const uint8_t *frame, size_t size, size_t *tcp)
{
    if (size < NET_ETHERNET + IP4_HEADER + TCP_HEADER)
        return 0;
    unsigned type = get16(frame + 12);
    const uint8_t *ip = frame + NET_ETHERNET;
    size_t header = type == ETHERTYPE_IP6 ? IP6_HEADER : 4ul * (ip[0] & 0xf);
    *tcp = NET_ETHERNET + header;
    if (header < IP4_HEADER || size < *tcp + TCP_HEADER)
        return 0;
    size_t payload = *tcp + 4ul * (frame[*tcp + 12] >> 4);
    return payload >= *tcp + TCP_HEADER && payload < size ? payload : 0;
}

unsigned net_cut_segments(const struct net_header *h, const uint8_t *frame, size_t size, uint8_t *work,
                          void (*emit)(void *ctx, const uint8_t *frame, size_t size), void *ctx)
{
    size_t tcp, payload = payload_of(frame, size, &tcp);
    unsigned n = 0;
    if (!payload)
        return 0;
    bool ip4 = get16(frame + 12) == ETHERTYPE_IP4;
    uint32_t sequence = (uint32_t)get16(frame + tcp + 4) << 16 | get16(frame + tcp + 6);
    for (size_t at = payload; at < size; at += h->gso_size, n++) {
        size_t piece = size - at < h->gso_size ? size - at : h->gso_size;
        uint32_t now = sequence + (uint32_t)(at - payload);
        memcpy(work, frame, payload);
        memcpy(work + payload, frame + at, piece);
        put16(work + tcp + 4, now >> 16);
        put16(work + tcp + 6, now & 0xffff);
        if (at + piece < size)
            work[tcp + TCP_FLAGS] &= (uint8_t) ~(TCP_FIN | TCP_PSH); // the last one's alone
        if (n)
            work[tcp + TCP_FLAGS] &= (uint8_t)~TCP_CWR; // the first one's (RFC 3168, 6.1.2)
        if (ip4)
            put16(work + NET_ETHERNET + 4, get16(frame + NET_ETHERNET + 4) + n);
        if (!net_unite_segments(work, payload + piece))
            return n;
        emit(ctx, work, payload + piece);
    }
    return n;
}
