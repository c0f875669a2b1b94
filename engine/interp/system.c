// Which handler an instruction that only an operating system cares about has.
//
// The mnemonic decides; for MOV, PUSH, POP, JMP, CALL and RET the operands tell the system's forms from the ordinary
// ones, which are gp_*.c's. VMX and SVM instructions, MONITOR, MWAIT and RSM have no handler: they are #UD, because no
// model announces them (and RSM is #UD outside of SMM, which does not exist here).
#include "engine/interp/system.h"
#include <Zydis/Zydis.h>

static interp_fn by_operand(const struct interp_insn *i, unsigned kind_to, interp_fn to, unsigned kind_from,
                            interp_fn from)
{
    if (i->op[0].kind == kind_to)
        return to;
    return i->op[1].kind == kind_from ? from : NULL;
}

static interp_fn mov(const struct interp_insn *i)
{
    interp_fn fn = by_operand(i, OPERAND_SEG, sys_mov_to_seg, OPERAND_SEG, sys_mov_from_seg);
    if (!fn)
        fn = by_operand(i, OPERAND_CR, sys_mov_to_cr, OPERAND_CR, sys_mov_from_cr);
    if (!fn)
        fn = by_operand(i, OPERAND_DR, sys_mov_to_dr, OPERAND_DR, sys_mov_from_dr);
    return fn;
}

interp_fn interp_system_handler(const struct interp_insn *i)
{
    switch (i->mnemonic) {
    case ZYDIS_MNEMONIC_MOV:
        return mov(i);
    case ZYDIS_MNEMONIC_PUSH:
        return i->op[0].kind == OPERAND_SEG ? sys_push_seg : NULL;
    case ZYDIS_MNEMONIC_POP:
        return i->op[0].kind == OPERAND_SEG ? sys_pop_seg : NULL;
    case ZYDIS_MNEMONIC_JMP:
        return i->far ? sys_far_jmp : NULL;
    case ZYDIS_MNEMONIC_CALL:
        return i->far ? sys_far_call : NULL;
    case ZYDIS_MNEMONIC_RET:
        return i->far ? sys_far_ret : NULL;
    case ZYDIS_MNEMONIC_IRET:
    case ZYDIS_MNEMONIC_IRETD:
    case ZYDIS_MNEMONIC_IRETQ:
        return sys_iret;
    case ZYDIS_MNEMONIC_INT:
        return sys_int;
    case ZYDIS_MNEMONIC_INT1:
        return sys_int1;
    case ZYDIS_MNEMONIC_INT3:
        return sys_int3;
    case ZYDIS_MNEMONIC_INTO:
        return sys_into;
    case ZYDIS_MNEMONIC_SYSCALL:
        return sys_syscall;
    case ZYDIS_MNEMONIC_SYSRET:
        return sys_sysret;
    case ZYDIS_MNEMONIC_SYSENTER:
        return sys_sysenter;
    case ZYDIS_MNEMONIC_SYSEXIT:
        return sys_sysexit;
    case ZYDIS_MNEMONIC_PUSHF:
    case ZYDIS_MNEMONIC_PUSHFD:
    case ZYDIS_MNEMONIC_PUSHFQ:
        return sys_pushf;
    case ZYDIS_MNEMONIC_POPF:
    case ZYDIS_MNEMONIC_POPFD:
    case ZYDIS_MNEMONIC_POPFQ:
        return sys_popf;
    case ZYDIS_MNEMONIC_CLI:
        return sys_cli;
    case ZYDIS_MNEMONIC_STI:
        return sys_sti;
    case ZYDIS_MNEMONIC_CLAC:
        return sys_clac;
    case ZYDIS_MNEMONIC_STAC:
        return sys_stac;
    case ZYDIS_MNEMONIC_LDS:
        return sys_lds;
    case ZYDIS_MNEMONIC_LES:
        return sys_les;
    case ZYDIS_MNEMONIC_LSS:
        return sys_lss;
    case ZYDIS_MNEMONIC_LFS:
        return sys_lfs;
    case ZYDIS_MNEMONIC_LGS:
        return sys_lgs;
    case ZYDIS_MNEMONIC_LGDT:
        return sys_lgdt;
    case ZYDIS_MNEMONIC_LIDT:
        return sys_lidt;
    case ZYDIS_MNEMONIC_SGDT:
        return sys_sgdt;
    case ZYDIS_MNEMONIC_SIDT:
        return sys_sidt;
    case ZYDIS_MNEMONIC_LLDT:
        return sys_lldt;
    case ZYDIS_MNEMONIC_LTR:
        return sys_ltr;
    case ZYDIS_MNEMONIC_SLDT:
        return sys_sldt;
    case ZYDIS_MNEMONIC_STR:
        return sys_str;
    case ZYDIS_MNEMONIC_LAR:
        return sys_lar;
    case ZYDIS_MNEMONIC_LSL:
        return sys_lsl;
    case ZYDIS_MNEMONIC_VERR:
        return sys_verr;
    case ZYDIS_MNEMONIC_VERW:
        return sys_verw;
    case ZYDIS_MNEMONIC_ARPL:
        return sys_arpl;
    case ZYDIS_MNEMONIC_CLTS:
        return sys_clts;
    case ZYDIS_MNEMONIC_LMSW:
        return sys_lmsw;
    case ZYDIS_MNEMONIC_SMSW:
        return sys_smsw;
    case ZYDIS_MNEMONIC_RDTSC:
        return sys_rdtsc;
    case ZYDIS_MNEMONIC_RDTSCP:
        return sys_rdtscp;
    case ZYDIS_MNEMONIC_RDPMC:
        return sys_rdpmc;
    case ZYDIS_MNEMONIC_RDMSR:
        return sys_rdmsr;
    case ZYDIS_MNEMONIC_WRMSR:
        return sys_wrmsr;
    case ZYDIS_MNEMONIC_CPUID:
        return sys_cpuid;
    case ZYDIS_MNEMONIC_XGETBV:
        return sys_xgetbv;
    case ZYDIS_MNEMONIC_XSETBV:
        return sys_xsetbv;
    case ZYDIS_MNEMONIC_RDFSBASE:
        return sys_rdfsbase;
    case ZYDIS_MNEMONIC_RDGSBASE:
        return sys_rdgsbase;
    case ZYDIS_MNEMONIC_WRFSBASE:
        return sys_wrfsbase;
    case ZYDIS_MNEMONIC_WRGSBASE:
        return sys_wrgsbase;
    case ZYDIS_MNEMONIC_SWAPGS:
        return sys_swapgs;
    case ZYDIS_MNEMONIC_INVLPG:
        return sys_invlpg;
    case ZYDIS_MNEMONIC_INVPCID:
        return sys_invpcid;
    case ZYDIS_MNEMONIC_INVD:
    case ZYDIS_MNEMONIC_WBINVD:
        return sys_cache;
    case ZYDIS_MNEMONIC_HLT:
        return sys_hlt;
    case ZYDIS_MNEMONIC_VMCALL:
    case ZYDIS_MNEMONIC_VMMCALL:
        return sys_hypercall;
    case ZYDIS_MNEMONIC_IN:
        return sys_in;
    case ZYDIS_MNEMONIC_OUT:
        return sys_out;
    case ZYDIS_MNEMONIC_INSB:
        return sys_insb;
    case ZYDIS_MNEMONIC_INSW:
        return sys_insw;
    case ZYDIS_MNEMONIC_INSD:
        return sys_insd;
    case ZYDIS_MNEMONIC_OUTSB:
        return sys_outsb;
    case ZYDIS_MNEMONIC_OUTSW:
        return sys_outsw;
    case ZYDIS_MNEMONIC_OUTSD:
        return sys_outsd;
    default:
        return NULL;
    }
}
