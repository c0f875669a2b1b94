// The instructions C has no words for, one inline function each. Works for 32-bit and 64-bit guests: `ulong` is as wide
// as a register.

#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef unsigned long ulong;

#define FLAG_CF 0x1u
#define FLAG_ZF 0x40u
#define FLAG_TF 0x100u
#define FLAG_IF 0x200u
#define FLAG_DF 0x400u
#define FLAG_IOPL3 0x3000u
#define FLAG_NT 0x4000u
#define FLAG_RF 0x10000u
#define FLAG_AC 0x40000u

#define CR0_PE 0x1u
#define CR0_MP 0x2u
#define CR0_EM 0x4u
#define CR0_TS 0x8u
#define CR0_NE 0x20u
#define CR0_WP 0x10000u
#define CR0_AM 0x40000u
#define CR0_NW 0x20000000u
#define CR0_CD 0x40000000u
#define CR0_PG 0x80000000u

#define CR4_TSD 0x4u
#define CR4_DE 0x8u
#define CR4_PSE 0x10u
#define CR4_PAE 0x20u
#define CR4_PGE 0x80u
#define CR4_OSFXSR 0x200u
#define CR4_OSXMMEXCPT 0x400u
#define CR4_UMIP 0x800u
#define CR4_LA57 0x1000u
#define CR4_FSGSBASE 0x10000u
#define CR4_PCIDE 0x20000u
#define CR4_OSXSAVE 0x40000u
#define CR4_SMEP 0x100000u
#define CR4_SMAP 0x200000u

#define MSR_TSC 0x10u
#define MSR_APIC_BASE 0x1bu
#define MSR_TSC_ADJUST 0x3bu
#define MSR_SYSENTER_CS 0x174u
#define MSR_SYSENTER_ESP 0x175u
#define MSR_SYSENTER_EIP 0x176u
#define MSR_PAT 0x277u
#define MSR_TSC_DEADLINE 0x6e0u
#define MSR_EFER 0xc0000080u
#define MSR_STAR 0xc0000081u
#define MSR_LSTAR 0xc0000082u
#define MSR_CSTAR 0xc0000083u
#define MSR_SFMASK 0xc0000084u
#define MSR_FS_BASE 0xc0000100u
#define MSR_GS_BASE 0xc0000101u
#define MSR_KERNEL_GS_BASE 0xc0000102u
#define MSR_TSC_AUX 0xc0000103u
#define EFER_SCE 0x1u
#define EFER_LME 0x100u
#define EFER_LMA 0x400u
#define EFER_NXE 0x800u

#define REGISTER_ACCESS(name)                                                                                          \
    static inline ulong read_##name(void)                                                                              \
    {                                                                                                                  \
        ulong v;                                                                                                       \
        asm volatile("mov %%" #name ", %0" : "=r"(v)::"memory");                                                       \
        return v;                                                                                                      \
    }                                                                                                                  \
    static inline void write_##name(ulong v)                                                                           \
    {                                                                                                                  \
        asm volatile("mov %0, %%" #name ::"r"(v) : "memory");                                                          \
    }

REGISTER_ACCESS(cr0)
REGISTER_ACCESS(cr2)
REGISTER_ACCESS(cr3)
REGISTER_ACCESS(cr4)
REGISTER_ACCESS(dr0)
REGISTER_ACCESS(dr1)
REGISTER_ACCESS(dr2)
REGISTER_ACCESS(dr3)
REGISTER_ACCESS(dr6)
REGISTER_ACCESS(dr7)
#ifdef __x86_64__
REGISTER_ACCESS(cr8)
#endif

static inline u64 rdmsr(u32 msr)
{
    u32 lo, hi;
    asm volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr));
    return (u64)hi << 32 | lo;
}

static inline void wrmsr(u32 msr, u64 v)
{
    asm volatile("wrmsr" ::"c"(msr), "a"((u32)v), "d"((u32)(v >> 32)) : "memory");
}

static inline u64 rdtsc(void)
{
    u32 lo, hi;
    asm volatile("rdtsc" : "=a"(lo), "=d"(hi)::"memory");
    return (u64)hi << 32 | lo;
}

static inline void cpuid(u32 leaf, u32 subleaf, u32 r[4])
{
    asm volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(subleaf));
}

#define PORT_ACCESS(suffix, type)                                                                                      \
    static inline type in##suffix(u16 port)                                                                            \
    {                                                                                                                  \
        type v;                                                                                                        \
        asm volatile("in" #suffix " %1, %0" : "=a"(v) : "Nd"(port) : "memory");                                        \
        return v;                                                                                                      \
    }                                                                                                                  \
    static inline void out##suffix(u16 port, type v)                                                                   \
    {                                                                                                                  \
        asm volatile("out" #suffix " %0, %1" ::"a"(v), "Nd"(port) : "memory");                                         \
    }

PORT_ACCESS(b, u8)
PORT_ACCESS(w, u16)
PORT_ACCESS(l, u32)

static inline void invlpg(ulong va)
{
    asm volatile("invlpg (%0)" ::"r"(va) : "memory");
}

static inline ulong read_flags(void)
{
    ulong f;
    asm volatile("pushf; pop %0" : "=r"(f)::"memory");
    return f;
}

static inline void cli(void)
{
    asm volatile("cli" ::: "memory");
}

static inline void sti(void)
{
    asm volatile("sti" ::: "memory");
}

static inline void pause(void)
{
    asm volatile("pause" ::: "memory");
}

// Opens the door for pending interrupts for just long enough: STI holds them off for one more instruction.
static inline void sti_nop_cli(void)
{
    asm volatile("sti; nop; cli" ::: "memory");
}

// Sleeps until an interrupt: nothing can slip in between STI and HLT. Returns with interrupts off.
static inline void sti_hlt_cli(void)
{
    asm volatile("sti; hlt; cli" ::: "memory");
}
