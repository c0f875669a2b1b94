// Which instructions may be executed on the host as they are.
//
// An instruction is innocuous if what it does follows from the registers and the memory that its operands name, the
// arithmetic flags and the vector and x87 state alone, is the same in every ring, and touches no other state. Whatever
// else there is (privileged and system instructions; those that tell of the host or of its descriptor tables, like
// CPUID and LAR; those whose memory operand is not all that they access, like BT with a register; those that this
// program's author has never heard of) is the interpreter's. So this is a list of what is allowed, and nothing is
// allowed for looking harmless: general-purpose and x87 instructions are listed one by one, vector instructions by
// instruction set and category. Operands are the caller's business (scan.c).
//
// Example: INVPCID has two ordinary operands, and Zydis counts it among the miscellaneous like LFENCE. It is on no
// list.
#include "engine/dbt/translate.h"

static bool listed(const ZydisDecodedInstruction *z)
{
    switch (z->mnemonic) {
    // Arithmetic and logic.
    case ZYDIS_MNEMONIC_ADC:
    case ZYDIS_MNEMONIC_ADCX:
    case ZYDIS_MNEMONIC_ADD:
    case ZYDIS_MNEMONIC_ADOX:
    case ZYDIS_MNEMONIC_AND:
    case ZYDIS_MNEMONIC_ANDN:
    case ZYDIS_MNEMONIC_BEXTR:
    case ZYDIS_MNEMONIC_BLSI:
    case ZYDIS_MNEMONIC_BLSMSK:
    case ZYDIS_MNEMONIC_BLSR:
    case ZYDIS_MNEMONIC_BSF:
    case ZYDIS_MNEMONIC_BSR:
    case ZYDIS_MNEMONIC_BSWAP:
    case ZYDIS_MNEMONIC_BZHI:
    case ZYDIS_MNEMONIC_CBW:
    case ZYDIS_MNEMONIC_CDQ:
    case ZYDIS_MNEMONIC_CDQE:
    case ZYDIS_MNEMONIC_CMP:
    case ZYDIS_MNEMONIC_CQO:
    case ZYDIS_MNEMONIC_CRC32:
    case ZYDIS_MNEMONIC_CWD:
    case ZYDIS_MNEMONIC_CWDE:
    case ZYDIS_MNEMONIC_DEC:
    case ZYDIS_MNEMONIC_DIV:
    case ZYDIS_MNEMONIC_IDIV:
    case ZYDIS_MNEMONIC_IMUL:
    case ZYDIS_MNEMONIC_INC:
    case ZYDIS_MNEMONIC_LZCNT:
    case ZYDIS_MNEMONIC_MUL:
    case ZYDIS_MNEMONIC_MULX:
    case ZYDIS_MNEMONIC_NEG:
    case ZYDIS_MNEMONIC_NOT:
    case ZYDIS_MNEMONIC_OR:
    case ZYDIS_MNEMONIC_PDEP:
    case ZYDIS_MNEMONIC_PEXT:
    case ZYDIS_MNEMONIC_POPCNT:
    case ZYDIS_MNEMONIC_RCL:
    case ZYDIS_MNEMONIC_RCR:
    case ZYDIS_MNEMONIC_ROL:
    case ZYDIS_MNEMONIC_ROR:
    case ZYDIS_MNEMONIC_RORX:
    case ZYDIS_MNEMONIC_SAR:
    case ZYDIS_MNEMONIC_SARX:
    case ZYDIS_MNEMONIC_SBB:
    case ZYDIS_MNEMONIC_SHL:
    case ZYDIS_MNEMONIC_SHLD:
    case ZYDIS_MNEMONIC_SHLX:
    case ZYDIS_MNEMONIC_SHR:
    case ZYDIS_MNEMONIC_SHRD:
    case ZYDIS_MNEMONIC_SHRX:
    case ZYDIS_MNEMONIC_SUB:
    case ZYDIS_MNEMONIC_TEST:
    case ZYDIS_MNEMONIC_TZCNT:
    case ZYDIS_MNEMONIC_XOR:
    // Moves; MOV to and from segment, control and debug registers fails by its operands.
    case ZYDIS_MNEMONIC_CMPXCHG:
    case ZYDIS_MNEMONIC_CMPXCHG16B:
    case ZYDIS_MNEMONIC_CMPXCHG8B:
    case ZYDIS_MNEMONIC_LEA:
    case ZYDIS_MNEMONIC_MOV:
    case ZYDIS_MNEMONIC_MOVBE:
    case ZYDIS_MNEMONIC_MOVNTI:
    case ZYDIS_MNEMONIC_MOVSX:
    case ZYDIS_MNEMONIC_MOVSXD:
    case ZYDIS_MNEMONIC_MOVZX:
    case ZYDIS_MNEMONIC_XADD:
    case ZYDIS_MNEMONIC_XCHG:
    case ZYDIS_MNEMONIC_CMOVB:
    case ZYDIS_MNEMONIC_CMOVBE:
    case ZYDIS_MNEMONIC_CMOVL:
    case ZYDIS_MNEMONIC_CMOVLE:
    case ZYDIS_MNEMONIC_CMOVNB:
    case ZYDIS_MNEMONIC_CMOVNBE:
    case ZYDIS_MNEMONIC_CMOVNL:
    case ZYDIS_MNEMONIC_CMOVNLE:
    case ZYDIS_MNEMONIC_CMOVNO:
    case ZYDIS_MNEMONIC_CMOVNP:
    case ZYDIS_MNEMONIC_CMOVNS:
    case ZYDIS_MNEMONIC_CMOVNZ:
    case ZYDIS_MNEMONIC_CMOVO:
    case ZYDIS_MNEMONIC_CMOVP:
    case ZYDIS_MNEMONIC_CMOVS:
    case ZYDIS_MNEMONIC_CMOVZ:
    // Arithmetic flags.
    case ZYDIS_MNEMONIC_CLC:
    case ZYDIS_MNEMONIC_CMC:
    case ZYDIS_MNEMONIC_LAHF:
    case ZYDIS_MNEMONIC_SAHF:
    case ZYDIS_MNEMONIC_STC:
    case ZYDIS_MNEMONIC_SETB:
    case ZYDIS_MNEMONIC_SETBE:
    case ZYDIS_MNEMONIC_SETL:
    case ZYDIS_MNEMONIC_SETLE:
    case ZYDIS_MNEMONIC_SETNB:
    case ZYDIS_MNEMONIC_SETNBE:
    case ZYDIS_MNEMONIC_SETNL:
    case ZYDIS_MNEMONIC_SETNLE:
    case ZYDIS_MNEMONIC_SETNO:
    case ZYDIS_MNEMONIC_SETNP:
    case ZYDIS_MNEMONIC_SETNS:
    case ZYDIS_MNEMONIC_SETNZ:
    case ZYDIS_MNEMONIC_SETO:
    case ZYDIS_MNEMONIC_SETP:
    case ZYDIS_MNEMONIC_SETS:
    case ZYDIS_MNEMONIC_SETZ:
    // Order of memory accesses.
    case ZYDIS_MNEMONIC_LFENCE:
    case ZYDIS_MNEMONIC_MFENCE:
    case ZYDIS_MNEMONIC_PAUSE:
    case ZYDIS_MNEMONIC_SFENCE:
    // Vectors' control register.
    case ZYDIS_MNEMONIC_LDMXCSR:
    case ZYDIS_MNEMONIC_STMXCSR:
    // A register as bit number reaches any place around the operand: see access_bits() in operand.c.
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTS:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTC:
        return true;
    // x87. Not those that save or load the environment: the interpreter knows the last instruction's addresses as the
    // guest sees them (dbt_park).
    case ZYDIS_MNEMONIC_F2XM1:
    case ZYDIS_MNEMONIC_FABS:
    case ZYDIS_MNEMONIC_FADD:
    case ZYDIS_MNEMONIC_FADDP:
    case ZYDIS_MNEMONIC_FBLD:
    case ZYDIS_MNEMONIC_FBSTP:
    case ZYDIS_MNEMONIC_FCHS:
    case ZYDIS_MNEMONIC_FCMOVB:
    case ZYDIS_MNEMONIC_FCMOVBE:
    case ZYDIS_MNEMONIC_FCMOVE:
    case ZYDIS_MNEMONIC_FCMOVNB:
    case ZYDIS_MNEMONIC_FCMOVNBE:
    case ZYDIS_MNEMONIC_FCMOVNE:
    case ZYDIS_MNEMONIC_FCMOVNU:
    case ZYDIS_MNEMONIC_FCMOVU:
    case ZYDIS_MNEMONIC_FCOM:
    case ZYDIS_MNEMONIC_FCOMI:
    case ZYDIS_MNEMONIC_FCOMIP:
    case ZYDIS_MNEMONIC_FCOMP:
    case ZYDIS_MNEMONIC_FCOMPP:
    case ZYDIS_MNEMONIC_FCOS:
    case ZYDIS_MNEMONIC_FDECSTP:
    case ZYDIS_MNEMONIC_FDIV:
    case ZYDIS_MNEMONIC_FDIVP:
    case ZYDIS_MNEMONIC_FDIVR:
    case ZYDIS_MNEMONIC_FDIVRP:
    case ZYDIS_MNEMONIC_FFREE:
    case ZYDIS_MNEMONIC_FIADD:
    case ZYDIS_MNEMONIC_FICOM:
    case ZYDIS_MNEMONIC_FICOMP:
    case ZYDIS_MNEMONIC_FIDIV:
    case ZYDIS_MNEMONIC_FIDIVR:
    case ZYDIS_MNEMONIC_FILD:
    case ZYDIS_MNEMONIC_FIMUL:
    case ZYDIS_MNEMONIC_FINCSTP:
    case ZYDIS_MNEMONIC_FIST:
    case ZYDIS_MNEMONIC_FISTP:
    case ZYDIS_MNEMONIC_FISTTP:
    case ZYDIS_MNEMONIC_FISUB:
    case ZYDIS_MNEMONIC_FISUBR:
    case ZYDIS_MNEMONIC_FLD:
    case ZYDIS_MNEMONIC_FLD1:
    case ZYDIS_MNEMONIC_FLDCW:
    case ZYDIS_MNEMONIC_FLDL2E:
    case ZYDIS_MNEMONIC_FLDL2T:
    case ZYDIS_MNEMONIC_FLDLG2:
    case ZYDIS_MNEMONIC_FLDLN2:
    case ZYDIS_MNEMONIC_FLDPI:
    case ZYDIS_MNEMONIC_FLDZ:
    case ZYDIS_MNEMONIC_FMUL:
    case ZYDIS_MNEMONIC_FMULP:
    case ZYDIS_MNEMONIC_FNCLEX:
    case ZYDIS_MNEMONIC_FNINIT:
    case ZYDIS_MNEMONIC_FNOP:
    case ZYDIS_MNEMONIC_FNSTCW:
    case ZYDIS_MNEMONIC_FNSTSW:
    case ZYDIS_MNEMONIC_FPATAN:
    case ZYDIS_MNEMONIC_FPREM:
    case ZYDIS_MNEMONIC_FPREM1:
    case ZYDIS_MNEMONIC_FPTAN:
    case ZYDIS_MNEMONIC_FRNDINT:
    case ZYDIS_MNEMONIC_FSCALE:
    case ZYDIS_MNEMONIC_FSIN:
    case ZYDIS_MNEMONIC_FSINCOS:
    case ZYDIS_MNEMONIC_FSQRT:
    case ZYDIS_MNEMONIC_FST:
    case ZYDIS_MNEMONIC_FSTP:
    case ZYDIS_MNEMONIC_FSUB:
    case ZYDIS_MNEMONIC_FSUBP:
    case ZYDIS_MNEMONIC_FSUBR:
    case ZYDIS_MNEMONIC_FSUBRP:
    case ZYDIS_MNEMONIC_FTST:
    case ZYDIS_MNEMONIC_FUCOM:
    case ZYDIS_MNEMONIC_FUCOMI:
    case ZYDIS_MNEMONIC_FUCOMIP:
    case ZYDIS_MNEMONIC_FUCOMP:
    case ZYDIS_MNEMONIC_FUCOMPP:
    case ZYDIS_MNEMONIC_FXAM:
    case ZYDIS_MNEMONIC_FXCH:
    case ZYDIS_MNEMONIC_FXTRACT:
    case ZYDIS_MNEMONIC_FYL2X:
    case ZYDIS_MNEMONIC_FYL2XP1:
        return true;
    default:
        return false;
    }
}

// Vector instructions, which have many names: all there are of these kinds compute, convert or move data. Those with
// hidden or several memory operands (MASKMOVDQU, gathers) fail by their operands.
static bool listed_vector(const ZydisDecodedInstruction *z)
{
    static const struct {
        uint8_t isa_set, category;
    } list[] = {
        {ZYDIS_ISA_SET_PENTIUMMMX, ZYDIS_CATEGORY_DATAXFER},
        {ZYDIS_ISA_SET_PENTIUMMMX, ZYDIS_CATEGORY_LOGICAL},
        {ZYDIS_ISA_SET_PENTIUMMMX, ZYDIS_CATEGORY_MMX},
        {ZYDIS_ISA_SET_SSE, ZYDIS_CATEGORY_CONVERT},
        {ZYDIS_ISA_SET_SSE, ZYDIS_CATEGORY_DATAXFER},
        {ZYDIS_ISA_SET_SSE, ZYDIS_CATEGORY_LOGICAL_FP},
        {ZYDIS_ISA_SET_SSE, ZYDIS_CATEGORY_MMX},
        {ZYDIS_ISA_SET_SSE, ZYDIS_CATEGORY_SSE},
        {ZYDIS_ISA_SET_SSE2, ZYDIS_CATEGORY_CONVERT},
        {ZYDIS_ISA_SET_SSE2, ZYDIS_CATEGORY_DATAXFER},
        {ZYDIS_ISA_SET_SSE2, ZYDIS_CATEGORY_LOGICAL},
        {ZYDIS_ISA_SET_SSE2, ZYDIS_CATEGORY_LOGICAL_FP},
        {ZYDIS_ISA_SET_SSE2, ZYDIS_CATEGORY_SSE},
        {ZYDIS_ISA_SET_SSE2MMX, ZYDIS_CATEGORY_MMX},
        {ZYDIS_ISA_SET_SSE3, ZYDIS_CATEGORY_DATAXFER},
        {ZYDIS_ISA_SET_SSE3, ZYDIS_CATEGORY_SSE},
        {ZYDIS_ISA_SET_SSSE3, ZYDIS_CATEGORY_SSE},
        {ZYDIS_ISA_SET_SSSE3MMX, ZYDIS_CATEGORY_MMX},
        {ZYDIS_ISA_SET_SSE4, ZYDIS_CATEGORY_LOGICAL},
        {ZYDIS_ISA_SET_SSE4, ZYDIS_CATEGORY_SSE},
        {ZYDIS_ISA_SET_SSE42, ZYDIS_CATEGORY_SSE},
        {ZYDIS_ISA_SET_SSE4A, ZYDIS_CATEGORY_BITBYTE},
        {ZYDIS_ISA_SET_SSE4A, ZYDIS_CATEGORY_DATAXFER},
        {ZYDIS_ISA_SET_AES, ZYDIS_CATEGORY_AES},
        {ZYDIS_ISA_SET_PCLMULQDQ, ZYDIS_CATEGORY_PCLMULQDQ},
        {ZYDIS_ISA_SET_SHA, ZYDIS_CATEGORY_SHA},
        {ZYDIS_ISA_SET_GFNI, ZYDIS_CATEGORY_GFNI},
        {ZYDIS_ISA_SET_AVX, ZYDIS_CATEGORY_AVX},
        {ZYDIS_ISA_SET_AVX, ZYDIS_CATEGORY_BROADCAST},
        {ZYDIS_ISA_SET_AVX, ZYDIS_CATEGORY_CONVERT},
        {ZYDIS_ISA_SET_AVX, ZYDIS_CATEGORY_DATAXFER},
        {ZYDIS_ISA_SET_AVX, ZYDIS_CATEGORY_LOGICAL},
        {ZYDIS_ISA_SET_AVX, ZYDIS_CATEGORY_LOGICAL_FP},
        {ZYDIS_ISA_SET_AVX, ZYDIS_CATEGORY_STTNI},
        {ZYDIS_ISA_SET_AVX2, ZYDIS_CATEGORY_AVX2},
        {ZYDIS_ISA_SET_AVX2, ZYDIS_CATEGORY_BROADCAST},
        {ZYDIS_ISA_SET_AVX2, ZYDIS_CATEGORY_DATAXFER},
        {ZYDIS_ISA_SET_AVX2, ZYDIS_CATEGORY_LOGICAL},
        {ZYDIS_ISA_SET_FMA, ZYDIS_CATEGORY_VFMA},
        {ZYDIS_ISA_SET_F16C, ZYDIS_CATEGORY_CONVERT},
        {ZYDIS_ISA_SET_AVXAES, ZYDIS_CATEGORY_AES},
        {ZYDIS_ISA_SET_VAES, ZYDIS_CATEGORY_VAES},
        {ZYDIS_ISA_SET_VPCLMULQDQ, ZYDIS_CATEGORY_VPCLMULQDQ},
        {ZYDIS_ISA_SET_AVX_GFNI, ZYDIS_CATEGORY_GFNI},
        {ZYDIS_ISA_SET_AVX_VNNI, ZYDIS_CATEGORY_VEX},
    };
    for (unsigned n = 0; n < sizeof list / sizeof *list; n++)
        if (list[n].isa_set == z->meta.isa_set && list[n].category == z->meta.category)
            return true;
    return false;
}

bool dbt_innocuous(const ZydisDecodedInstruction *z)
{
    bool known = z->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY || z->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
    return known && !(z->attributes & ZYDIS_ATTRIB_IS_PRIVILEGED) && (listed(z) || listed_vector(z));
}
