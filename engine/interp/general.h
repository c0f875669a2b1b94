// Included before everything else in files that may run while the guest's vector registers are live in the host's
// (engine/dbt): they are compiled for general registers only, and the C library's memcpy and memset are not.
#pragma once
#include <string.h>

static inline void *general_copy(void *to, const void *from, size_t n)
{
    void *begin = to;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
    return begin;
}

static inline void *general_fill(void *to, int byte, size_t n)
{
    void *begin = to;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(byte) : "memory");
    return begin;
}

// What is small is a few moves.
#define memcpy(to, from, n)                                                                                            \
    (__builtin_constant_p(n) && (n) <= 16 ? __builtin_memcpy(to, from, n) : general_copy(to, from, n))
#define memset(to, byte, n)                                                                                            \
    (__builtin_constant_p(n) && (n) <= 16 ? __builtin_memset(to, byte, n) : general_fill(to, byte, n))
