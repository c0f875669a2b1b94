// What both runners of a case agree on. See case.h.
#include "case.h"
#include <cpuid.h>
#include <string.h>
#include <sys/auxv.h>

enum { HWCAP2_FSGSBASE = 1 << 1 };

void case_fill_readonly(uint8_t *page)
{
    for (unsigned n = 0; n < CASE_PAGE; n++)
        page[n] = (uint8_t)(n * 37 ^ n >> 5);
}

void case_take_xsave(uint8_t out[CASE_XSAVE], const uint8_t *area)
{
    uint64_t bv;
    memcpy(&bv, area + 512, 8);
    memcpy(out, area, CASE_XSAVE);
    if (!(bv & 1)) {
        memset(out, 0, 24);
        memset(out + 32, 0, 128);
        out[0] = 0x7f; // FCW
        out[1] = 0x03;
    }
    for (unsigned n = 0; n < 8; n++)
        memset(out + 32 + 16 * n + 10, 0, 6);
    memset(out + 28, 0, 4);
    if (!(bv & 2))
        memset(out + 160, 0, 256);
    memset(out + 416, 0, 160);
    if (!(bv & 4))
        memset(out + 576, 0, 256);
}

bool case_host_runs_32bit(void)
{
    bool present;
    uint32_t limit;
    __asm__("lsl %2, %1" : "=@ccz"(present), "=r"(limit) : "r"(CASE_CS32));
    return present;
}

bool case_host_has_fsgsbase(void)
{
    return getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE;
}

void case_decoder(ZydisDecoder *d, bool long64)
{
    static const ZydisDecoderMode off[] = {ZYDIS_DECODER_MODE_KNC, ZYDIS_DECODER_MODE_MPX, ZYDIS_DECODER_MODE_CET,
                                           ZYDIS_DECODER_MODE_CLDEMOTE};
    unsigned a, b, cx, dx;
    __cpuid(0, a, b, cx, dx);
    ZydisDecoderInit(d, long64 ? ZYDIS_MACHINE_MODE_LONG_64 : ZYDIS_MACHINE_MODE_LONG_COMPAT_32,
                     long64 ? ZYDIS_STACK_WIDTH_64 : ZYDIS_STACK_WIDTH_32);
    for (unsigned n = 0; n < sizeof off / sizeof *off; n++)
        ZydisDecoderEnableMode(d, off[n], ZYAN_FALSE);
    ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_AMD_BRANCHES, b != 0x756e6547);
}
