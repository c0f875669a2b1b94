// RESET, INIT and the startup IPI: the three ways in which a CPU's life begins (Intel SDM vol. 3, table 10-1).
//
// RESET puts everything into its first state. INIT does the same for what the instruction stream sees (general
// registers, segments, control registers) and leaves the x87/SSE/AVX state, XCR0, the model-specific registers other
// than EFER, and the cache-control bits CR0.CD and CR0.NW. Both start at FFFF:FFF0 seen through the unreal segment
// F000 with base FFFF0000, except that a CPU that is not the bootstrap one waits for its startup IPI.
//
// RDX is left 0 here: hardware puts its signature there, which is the model's (cpu_model_signature), so whoever knows
// the model fills it in.
#include "cpu/state.h"
#include <string.h>

enum {
    RESET_CODE = CPU_SEG_P | CPU_SEG_S | CPU_SEG_CODE | CPU_SEG_WRITE | CPU_SEG_ACCESSED,
    RESET_DATA = CPU_SEG_P | CPU_SEG_S | CPU_SEG_WRITE | CPU_SEG_ACCESSED,
    RESET_LDT = CPU_SEG_P | 0x2,
    RESET_TSS = CPU_SEG_P | 0xb,
};

#define RESET_PAT 0x0007040600070406ull // Intel SDM vol. 3, 11.12.4

static void reset_registers(struct cpu_state *s, bool bootstrap)
{
    memset(s->gpr, 0, sizeof s->gpr);
    s->rip = 0xfff0;
    s->rflags = RFLAGS_FIXED;
    for (int i = 0; i < CPU_SEG_COUNT; i++)
        s->seg[i] = (struct cpu_segment){.attr = RESET_DATA, .limit = 0xffff};
    s->seg[CPU_CS] = (struct cpu_segment){.selector = 0xf000, .attr = RESET_CODE, .limit = 0xffff, .base = 0xffff0000};
    s->ldtr = (struct cpu_segment){.attr = RESET_LDT, .limit = 0xffff};
    s->tr = (struct cpu_segment){.attr = RESET_TSS, .limit = 0xffff};
    s->gdtr = s->idtr = (struct cpu_table){.limit = 0xffff};
    s->cr0 = CR0_CD | CR0_NW | CR0_ET;
    s->cr2 = s->cr3 = s->cr4 = s->efer = 0;
    memset(s->pdpte, 0, sizeof s->pdpte);
    memset(s->dr, 0, sizeof s->dr);
    s->dr6 = 0xffff0ff0;
    s->dr7 = 0x400;
    memset(&s->ev, 0, sizeof s->ev);
    s->ev.activity = bootstrap ? CPU_RUNNING : CPU_WAIT_SIPI;
}

void cpu_reset(struct cpu_state *s, bool bootstrap)
{
    memset(s, 0, sizeof *s);
    reset_registers(s, bootstrap);
    s->xcr0 = XSTATE_X87;
    s->msr.pat = RESET_PAT;
    s->msr.misc_enable = 1; // fast strings
    // The legacy area: FCW 0040H (not FNINIT's 037FH), every tag valid, MXCSR 1F80H. The x87 component is therefore not
    // in its initial state.
    uint16_t fcw = 0x40;
    uint32_t mxcsr = 0x1f80;
    uint64_t xstate_bv = XSTATE_X87;
    memcpy(s->xsave, &fcw, sizeof fcw);
    s->xsave[4] = 0xff; // abridged tag word
    memcpy(s->xsave + 24, &mxcsr, sizeof mxcsr);
    memcpy(s->xsave + 512, &xstate_bv, sizeof xstate_bv);
}

void cpu_init(struct cpu_state *s, bool bootstrap)
{
    uint64_t cache = s->cr0 & (CR0_CD | CR0_NW);
    reset_registers(s, bootstrap);
    s->cr0 = (s->cr0 & ~(CR0_CD | CR0_NW)) | cache;
}

void cpu_startup(struct cpu_state *s, uint8_t vector)
{
    if (s->ev.activity != CPU_WAIT_SIPI)
        return;
    s->seg[CPU_CS].selector = (uint16_t)(vector << 8);
    s->seg[CPU_CS].base = (uint64_t)vector << 12;
    s->rip = 0;
    s->ev.activity = CPU_RUNNING;
}
