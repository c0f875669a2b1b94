// The architectural state of one x86-64 logical processor.
//
// This is the common language of all engines: whatever executes a vCPU (interpreter, binary translator, KVM) can give
// and take its state in exactly this form, so a machine stopped under one engine goes on under another. Nothing in here
// says how an engine works: no TLB, no caches, no host pointers.
//
// Invariants between two instructions:
//   - rflags bit 1 is set, bits 3, 5, 15 and 22..63 are clear.
//   - A segment whose attr has CPU_SEG_P clear is unusable (null selector); its base is still meaningful for FS/GS in
//   64-bit mode.
//   - seg[].limit is in bytes, already scaled by G. The CPL is the DPL of SS (AMD APM vol. 2, 4.7; see cpu_cpl()).
//   - xsave is a standard-format (not compacted) XSAVE area. XSTATE_BV bit i clear means component i is in its initial
//   state.
//
// Example: a CPU after RESET (Intel SDM vol. 3, table 10-1) is made by cpu_reset(&s, is_bootstrap).
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum cpu_gpr {
    CPU_RAX,
    CPU_RCX,
    CPU_RDX,
    CPU_RBX,
    CPU_RSP,
    CPU_RBP,
    CPU_RSI,
    CPU_RDI,
    CPU_R8,
    CPU_R9,
    CPU_R10,
    CPU_R11,
    CPU_R12,
    CPU_R13,
    CPU_R14,
    CPU_R15,
    CPU_GPR_COUNT,
};

// In the order of the instruction encodings (ModRM.reg of MOV Sreg).
enum cpu_seg_name { CPU_ES, CPU_CS, CPU_SS, CPU_DS, CPU_FS, CPU_GS, CPU_SEG_COUNT };

// Segment attributes: bits 0..7 are descriptor bits 40..47, bits 8..11 are descriptor bits 52..55 (as in an AMD VMCB).
enum {
    CPU_SEG_TYPE = 0x00f,
    CPU_SEG_ACCESSED = 0x001,
    CPU_SEG_WRITE = 0x002, // data: writable; code: readable
    CPU_SEG_DOWN = 0x004,  // data: expand-down; code: conforming
    CPU_SEG_CODE = 0x008,
    CPU_SEG_S = 0x010, // 0 system, 1 code or data
    CPU_SEG_DPL = 0x060,
    CPU_SEG_DPL_SHIFT = 5,
    CPU_SEG_P = 0x080,
    CPU_SEG_AVL = 0x100,
    CPU_SEG_L = 0x200,  // 64-bit code
    CPU_SEG_DB = 0x400, // 32-bit
    CPU_SEG_G = 0x800,
};

struct cpu_segment {
    uint16_t selector;
    uint16_t attr;
    uint32_t limit;
    uint64_t base;
};

struct cpu_table { // GDTR, IDTR
    uint64_t base;
    uint16_t limit;
};

enum {
    RFLAGS_CF = 1u << 0,
    RFLAGS_FIXED = 1u << 1,
    RFLAGS_PF = 1u << 2,
    RFLAGS_AF = 1u << 4,
    RFLAGS_ZF = 1u << 6,
    RFLAGS_SF = 1u << 7,
    RFLAGS_TF = 1u << 8,
    RFLAGS_IF = 1u << 9,
    RFLAGS_DF = 1u << 10,
    RFLAGS_OF = 1u << 11,
    RFLAGS_IOPL = 3u << 12,
    RFLAGS_IOPL_SHIFT = 12,
    RFLAGS_NT = 1u << 14,
    RFLAGS_RF = 1u << 16,
    RFLAGS_VM = 1u << 17,
    RFLAGS_AC = 1u << 18,
    RFLAGS_VIF = 1u << 19,
    RFLAGS_VIP = 1u << 20,
    RFLAGS_ID = 1u << 21,
    RFLAGS_STATUS = RFLAGS_CF | RFLAGS_PF | RFLAGS_AF | RFLAGS_ZF | RFLAGS_SF | RFLAGS_OF,
};

#define CR0_PE (1ull << 0)
#define CR0_MP (1ull << 1)
#define CR0_EM (1ull << 2)
#define CR0_TS (1ull << 3)
#define CR0_ET (1ull << 4)
#define CR0_NE (1ull << 5)
#define CR0_WP (1ull << 16)
#define CR0_AM (1ull << 18)
#define CR0_NW (1ull << 29)
#define CR0_CD (1ull << 30)
#define CR0_PG (1ull << 31)

#define CR4_VME (1ull << 0)
#define CR4_PVI (1ull << 1)
#define CR4_TSD (1ull << 2)
#define CR4_DE (1ull << 3)
#define CR4_PSE (1ull << 4)
#define CR4_PAE (1ull << 5)
#define CR4_MCE (1ull << 6)
#define CR4_PGE (1ull << 7)
#define CR4_PCE (1ull << 8)
#define CR4_OSFXSR (1ull << 9)
#define CR4_OSXMMEXCPT (1ull << 10)
#define CR4_UMIP (1ull << 11)
#define CR4_LA57 (1ull << 12)
#define CR4_FSGSBASE (1ull << 16)
#define CR4_PCIDE (1ull << 17)
#define CR4_OSXSAVE (1ull << 18)
#define CR4_SMEP (1ull << 20)
#define CR4_SMAP (1ull << 21)
#define CR4_PKE (1ull << 22)

#define EFER_SCE (1ull << 0)
#define EFER_LME (1ull << 8)
#define EFER_LMA (1ull << 10)
#define EFER_NXE (1ull << 11)
#define EFER_FFXSR (1ull << 14)
#define EFER_AIBRSE (1ull << 21) // automatic IBRS

// XCR0 and XSTATE_BV components.
#define XSTATE_X87 (1ull << 0)
#define XSTATE_SSE (1ull << 1)
#define XSTATE_AVX (1ull << 2)
#define XSTATE_AVX512 (7ull << 5)

enum {
    CPU_XSAVE_SIZE = 4096, // room for every component we let a guest use, standard format
    CPU_MTRR_VARIABLE = 8,
};

// Model-specific registers that are part of the CPU itself. The local APIC's and the paravirtual ones belong to their
// devices.
struct cpu_msrs {
    uint64_t star, lstar, cstar, sfmask, kernel_gs_base;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t pat, tsc_aux, tsc_adjust;
    uint64_t spec_ctrl, misc_enable, xss, debugctl;
    uint64_t mtrr_def_type, mtrr_fixed[11], mtrr_base[CPU_MTRR_VARIABLE], mtrr_mask[CPU_MTRR_VARIABLE];
    uint64_t mcg_status, mcg_ctl;
};

enum cpu_activity {
    CPU_RUNNING,
    CPU_HALTED,    // after HLT: an interrupt (if IF), NMI, INIT wakes it
    CPU_WAIT_SIPI, // an application processor before its startup IPI
    CPU_SHUTDOWN,  // triple fault
};

enum { CPU_SHADOW_NONE, CPU_SHADOW_STI, CPU_SHADOW_MOV_SS };

// What is between two instructions and yet not in a register.
struct cpu_events {
    uint8_t activity; // enum cpu_activity
    uint8_t shadow;   // interrupts are held off for one instruction: CPU_SHADOW_*
    bool nmi_masked;  // from NMI delivery until IRET
    bool nmi_pending;
    // An exception that was raised but not delivered yet; vector 2 or above 31: an NMI or interrupt that the CPU has
    // taken from its controller but not delivered yet.
    bool exception_pending;
    uint8_t exception_vector;
    bool exception_has_error;
    uint32_t exception_error;
    uint64_t pending_debug; // DR6 bits of a trap that waits for the instruction boundary (Intel SDM vol. 3, 6.9)
};

struct cpu_state {
    uint64_t gpr[CPU_GPR_COUNT];
    uint64_t rip;
    uint64_t rflags;
    struct cpu_segment seg[CPU_SEG_COUNT];
    struct cpu_segment ldtr, tr;
    struct cpu_table gdtr, idtr;
    uint64_t cr0, cr2, cr3, cr4, efer, xcr0;
    uint64_t
        pdpte[4]; // PAE paging without long mode: loaded by MOV CR3, not re-read by walks (Intel SDM vol. 3, 4.4.1)
    uint64_t dr[4], dr6, dr7;
    struct cpu_msrs msr;
    struct cpu_events ev;
    _Alignas(64) uint8_t xsave[CPU_XSAVE_SIZE];
};

// Register groups: what engine get/set state moves at a time.
enum {
    CPU_GROUP_GPR = 1 << 0, // gpr, rip, rflags
    CPU_GROUP_SEG = 1 << 1, // seg, ldtr, tr, gdtr, idtr
    CPU_GROUP_CR = 1 << 2,  // cr0..cr4, efer, pdpte
    CPU_GROUP_DR = 1 << 3,
    CPU_GROUP_XSAVE = 1 << 4, // xcr0 and xsave
    CPU_GROUP_MSR = 1 << 5,
    CPU_GROUP_EVENTS = 1 << 6,
    CPU_GROUP_ALL = (1 << 7) - 1,
};

// The current privilege level.
static inline unsigned cpu_cpl(const struct cpu_state *s)
{
    return (s->seg[CPU_SS].attr & CPU_SEG_DPL) >> CPU_SEG_DPL_SHIFT;
}

// True in 64-bit mode (long mode active and CS.L); false in compatibility mode.
static inline bool cpu_is_64bit(const struct cpu_state *s)
{
    return (s->efer & EFER_LMA) && (s->seg[CPU_CS].attr & CPU_SEG_L);
}

// Number of linear-address bits: 48, or 57 with 5-level paging.
static inline unsigned cpu_linear_bits(const struct cpu_state *s)
{
    return s->cr4 & CR4_LA57 ? 57 : 48;
}

// True if `a` is canonical for the current paging mode (Intel SDM vol. 1, 3.3.7.1).
static inline bool cpu_is_canonical(const struct cpu_state *s, uint64_t a)
{
    unsigned shift = 64 - cpu_linear_bits(s);
    return (uint64_t)((int64_t)(a << shift) >> shift) == a;
}

// RESET or power-up (Intel SDM vol. 3, table 10-1). The bootstrap processor starts at F000:FFF0, others wait for a
// SIPI.
void cpu_reset(struct cpu_state *s, bool bootstrap);

// INIT: as reset, but x87/SSE state, most MSRs and CR0.CD/NW stay (Intel SDM vol. 3, table 10-1).
void cpu_init(struct cpu_state *s, bool bootstrap);

// Startup IPI: a CPU in CPU_WAIT_SIPI begins in real mode at vector << 12; ignored in other states.
void cpu_startup(struct cpu_state *s, uint8_t vector);
