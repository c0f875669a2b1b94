// Instructions that change little: NOP and prefetches, fences, cache lines, PAUSE; random numbers; RDPID.
#include "engine/interp/gp.h"

#define HANDLER(name) static enum interp_result name(struct interp_vcpu *v, const struct interp_insn *i)

HANDLER(nop)
{
    (void)v;
    (void)i;
    return INTERP_NEXT;
}

// The host must not let a later load pass an earlier store, either.
HANDLER(fence)
{
    (void)v;
    (void)i;
    atomic_thread_fence(memory_order_seq_cst);
    return INTERP_NEXT;
}

HANDLER(pause)
{
    (void)v;
    (void)i;
    __builtin_ia32_pause();
    return INTERP_NEXT;
}

// CLFLUSH, CLFLUSHOPT, CLWB: nothing to write back, but they fault like a load of a byte.
HANDLER(flush)
{
    uint64_t la;
    if (!interp_linear(v, i->seg, insn_ea(v, i), 1, CPU_READ, &la) || !interp_probe(v, la, 1, CPU_READ, false))
        return INTERP_FAULT;
    return INTERP_NEXT;
}

// The cache line (64 bytes, as CPUID tells guests) around rAX.
HANDLER(clzero)
{
    static const uint8_t zeros[64];
    uint64_t offset = i->addrsize == 8 ? v->s.gpr[CPU_RAX] : (uint32_t)v->s.gpr[CPU_RAX], la;
    if (!interp_linear(v, i->seg, offset & ~63ull, 64, CPU_WRITE, &la) || !interp_write_bytes(v, la, zeros, 64, false))
        return INTERP_FAULT;
    return INTERP_NEXT;
}

// CF says whether there was a number; the other status flags are cleared.
static void random_result(struct interp_vcpu *v, const struct interp_insn *i, uint64_t val, bool ok)
{
    interp_set_reg(v, &i->op[0], ok ? val : 0);
    v->s.rflags = (v->s.rflags & ~(uint64_t)RFLAGS_STATUS) | (ok ? RFLAGS_CF : 0);
}

HANDLER(rdrand)
{
    uint64_t val;
    bool ok;
    asm volatile("rdrand %0" : "=r"(val), "=@ccc"(ok));
    random_result(v, i, val, ok);
    return INTERP_NEXT;
}

HANDLER(rdseed)
{
    uint64_t val;
    bool ok;
    asm volatile("rdseed %0" : "=r"(val), "=@ccc"(ok));
    random_result(v, i, val, ok);
    return INTERP_NEXT;
}

HANDLER(rdpid)
{
    interp_set_reg(v, &i->op[0], (uint32_t)v->s.msr.tsc_aux);
    return INTERP_NEXT;
}

interp_fn gp_hint(const struct interp_insn *i)
{
    switch (i->mnemonic) {
    case ZYDIS_MNEMONIC_NOP:
    case ZYDIS_MNEMONIC_PREFETCH:
    case ZYDIS_MNEMONIC_PREFETCHNTA:
    case ZYDIS_MNEMONIC_PREFETCHT0:
    case ZYDIS_MNEMONIC_PREFETCHT1:
    case ZYDIS_MNEMONIC_PREFETCHT2:
    case ZYDIS_MNEMONIC_PREFETCHW:
    case ZYDIS_MNEMONIC_PREFETCHWT1:
        return nop;
    case ZYDIS_MNEMONIC_PAUSE:
        return pause;
    case ZYDIS_MNEMONIC_LFENCE:
    case ZYDIS_MNEMONIC_MFENCE:
    case ZYDIS_MNEMONIC_SFENCE:
    case ZYDIS_MNEMONIC_SERIALIZE:
        return fence;
    case ZYDIS_MNEMONIC_CLFLUSH:
    case ZYDIS_MNEMONIC_CLFLUSHOPT:
    case ZYDIS_MNEMONIC_CLWB:
        return flush;
    case ZYDIS_MNEMONIC_CLZERO:
        return clzero;
    case ZYDIS_MNEMONIC_RDRAND:
        return rdrand;
    case ZYDIS_MNEMONIC_RDSEED:
        return rdseed;
    case ZYDIS_MNEMONIC_RDPID:
        return rdpid;
    default:
        return NULL;
    }
}
