// Every CPUID feature bit that a model of ours can have.
//
// NATIVE rows are user-mode instructions, which engines run on the host's own execution units: a model that has one can
// only be given where the host has it. ENGINE rows are what an operating system uses (paging, timers, system
// instructions) and what an engine does by itself; these are the same on every host. SYSTEM rows are those of them that
// hardware virtualization passes on and cannot make up: there the host's CPU must have them.
//
// What is deliberately not here: MONITOR (a guest that idles in MWAIT never tells us), a performance monitoring unit,
// MPX, CET, SVM and VMX, TSX, AMX, protection keys, XSAVES, and single oddities whose memory operand is implicit
// (CLZERO, MOVDIR64B).
//
// What the speculation rows say, and why a guest may believe them. Guest instructions do not run as such: an
// interpreter or a translator runs its own, and the guest's branch targets live in tables, not in its RET and
// JMP instructions. Retpolines, return thunks and VERW in the guest's kernel would thus protect nothing and cost a lot;
// what protection is needed is the engine's business. So the model says that a kernel need not use them: automatic IBRS
// (the kernel sets EFER.AIBRSE once), SRSO_NO, BTC_NO, TSA_*_NO. Speculative store bypass is different: translated
// loads and stores run side by side on the host's pipeline, so SSB_NO is not said.
// Sources: AMD APM vol. 3, appendix E; Intel SDM vol. 2, CPUID; AMD "Software techniques for managing speculation".
#include "cpu/model_table.h"

#define FEATURE(name, leaf, subleaf, reg, bit, kind, in, needs)                                                        \
    {                                                                                                                  \
        name, leaf, subleaf, REG_##reg, bit, kind, in, needs                                                           \
    }

// clang-format off
const struct cpu_feature cpu_features[] = {
    FEATURE("fpu",        1, 0, EDX, 0,  ENGINE, IN_ALL, NULL),
    FEATURE("vme",        1, 0, EDX, 1,  SYSTEM, IN_ALL, NULL),
    FEATURE("de",         1, 0, EDX, 2,  SYSTEM, IN_ALL, NULL),
    FEATURE("pse",        1, 0, EDX, 3,  SYSTEM, IN_ALL, NULL),
    FEATURE("tsc",        1, 0, EDX, 4,  ENGINE, IN_ALL, NULL),
    FEATURE("msr",        1, 0, EDX, 5,  ENGINE, IN_ALL, NULL),
    FEATURE("pae",        1, 0, EDX, 6,  ENGINE, IN_ALL, NULL),
    FEATURE("mce",        1, 0, EDX, 7,  ENGINE, IN_ALL, NULL),
    FEATURE("cx8",        1, 0, EDX, 8,  SYSTEM, IN_ALL, NULL),
    FEATURE("apic",       1, 0, EDX, 9,  ENGINE, IN_ALL, NULL),
    FEATURE("sep",        1, 0, EDX, 11, SYSTEM, IN_ALL, NULL),
    FEATURE("mtrr",       1, 0, EDX, 12, ENGINE, IN_ALL, NULL),
    FEATURE("pge",        1, 0, EDX, 13, SYSTEM, IN_ALL, NULL),
    FEATURE("mca",        1, 0, EDX, 14, ENGINE, IN_ALL, NULL),
    FEATURE("cmov",       1, 0, EDX, 15, SYSTEM, IN_ALL, NULL),
    FEATURE("pat",        1, 0, EDX, 16, SYSTEM, IN_ALL, NULL),
    FEATURE("pse36",      1, 0, EDX, 17, SYSTEM, IN_ALL, NULL),
    FEATURE("clflush",    1, 0, EDX, 19, SYSTEM, IN_ALL, NULL),
    FEATURE("mmx",        1, 0, EDX, 23, NATIVE, IN_ALL, NULL),
    FEATURE("fxsr",       1, 0, EDX, 24, NATIVE, IN_ALL, NULL),
    FEATURE("sse",        1, 0, EDX, 25, NATIVE, IN_ALL, NULL),
    FEATURE("sse2",       1, 0, EDX, 26, NATIVE, IN_ALL, "sse"),

    FEATURE("sse3",       1, 0, ECX, 0,  NATIVE, IN_ALL, "sse2"),
    FEATURE("pclmulqdq",  1, 0, ECX, 1,  NATIVE, IN_V3_UP, "sse2"),
    FEATURE("ssse3",      1, 0, ECX, 9,  NATIVE, IN_ALL, "sse3"),
    FEATURE("fma",        1, 0, ECX, 12, NATIVE, IN_V3_UP, "avx"),
    FEATURE("cx16",       1, 0, ECX, 13, SYSTEM, IN_ALL, NULL),
    FEATURE("pcid",       1, 0, ECX, 17, SYSTEM, IN_ALL, NULL),
    FEATURE("sse4.1",     1, 0, ECX, 19, NATIVE, IN_ALL, "ssse3"),
    FEATURE("sse4.2",     1, 0, ECX, 20, NATIVE, IN_ALL, "sse4.1"),
    FEATURE("x2apic",     1, 0, ECX, 21, ENGINE, IN_ALL, NULL),
    FEATURE("movbe",      1, 0, ECX, 22, NATIVE, IN_V3_UP, NULL),
    FEATURE("popcnt",     1, 0, ECX, 23, NATIVE, IN_ALL, NULL),
    FEATURE("tsc-deadline", 1, 0, ECX, 24, SYSTEM, IN_ALL, NULL),
    FEATURE("aes",        1, 0, ECX, 25, NATIVE, IN_V3_UP, "sse2"),
    FEATURE("xsave",      1, 0, ECX, 26, NATIVE, IN_V3_UP, "sse2"),
    FEATURE("avx",        1, 0, ECX, 28, NATIVE, IN_V3_UP, "xsave"),
    FEATURE("f16c",       1, 0, ECX, 29, NATIVE, IN_V3_UP, "avx"),
    FEATURE("rdrand",     1, 0, ECX, 30, NATIVE, IN_V3_UP, NULL),
    FEATURE("hypervisor", 1, 0, ECX, 31, ENGINE, IN_ALL, NULL),

    FEATURE("arat",       6, CPUID_ANY, EAX, 2, ENGINE, IN_ALL, NULL),

    FEATURE("fsgsbase",   7, 0, EBX, 0,  SYSTEM, IN_ALL, NULL),
    FEATURE("tsc-adjust", 7, 0, EBX, 1,  ENGINE, IN_ALL, NULL),
    FEATURE("bmi1",       7, 0, EBX, 3,  NATIVE, IN_V3_UP, NULL),
    FEATURE("avx2",       7, 0, EBX, 5,  NATIVE, IN_V3_UP, "avx"),
    FEATURE("smep",       7, 0, EBX, 7,  SYSTEM, IN_ALL, NULL),
    FEATURE("bmi2",       7, 0, EBX, 8,  NATIVE, IN_V3_UP, NULL),
    FEATURE("erms",       7, 0, EBX, 9,  ENGINE, IN_ALL, NULL),
    FEATURE("invpcid",    7, 0, EBX, 10, SYSTEM, IN_ALL, "pcid"),
    FEATURE("avx512f",    7, 0, EBX, 16, NATIVE, IN_HOST, "avx2"),
    FEATURE("avx512dq",   7, 0, EBX, 17, NATIVE, IN_HOST, "avx512f"),
    FEATURE("rdseed",     7, 0, EBX, 18, NATIVE, IN_HOST, NULL),
    FEATURE("adx",        7, 0, EBX, 19, NATIVE, IN_HOST, NULL),
    FEATURE("smap",       7, 0, EBX, 20, SYSTEM, IN_ALL, NULL),
    FEATURE("avx512ifma", 7, 0, EBX, 21, NATIVE, IN_HOST, "avx512f"),
    FEATURE("clflushopt", 7, 0, EBX, 23, NATIVE, IN_HOST, NULL),
    FEATURE("clwb",       7, 0, EBX, 24, NATIVE, IN_HOST, NULL),
    FEATURE("avx512cd",   7, 0, EBX, 28, NATIVE, IN_HOST, "avx512f"),
    FEATURE("sha",        7, 0, EBX, 29, NATIVE, IN_HOST, "sse2"),
    FEATURE("avx512bw",   7, 0, EBX, 30, NATIVE, IN_HOST, "avx512f"),
    FEATURE("avx512vl",   7, 0, EBX, 31, NATIVE, IN_HOST, "avx512f"),
    FEATURE("avx512vbmi", 7, 0, ECX, 1,  NATIVE, IN_HOST, "avx512f"),
    FEATURE("umip",       7, 0, ECX, 2,  SYSTEM, IN_ALL, NULL),
    FEATURE("avx512vbmi2", 7, 0, ECX, 6, NATIVE, IN_HOST, "avx512f"),
    FEATURE("gfni",       7, 0, ECX, 8,  NATIVE, IN_HOST, "sse2"),
    FEATURE("vaes",       7, 0, ECX, 9,  NATIVE, IN_HOST, "avx"),
    FEATURE("vpclmulqdq", 7, 0, ECX, 10, NATIVE, IN_HOST, "avx"),
    FEATURE("avx512vnni", 7, 0, ECX, 11, NATIVE, IN_HOST, "avx512f"),
    FEATURE("avx512bitalg", 7, 0, ECX, 12, NATIVE, IN_HOST, "avx512f"),
    FEATURE("avx512vpopcntdq", 7, 0, ECX, 14, NATIVE, IN_HOST, "avx512f"),
    // 57 linear address bits. Left to a request: where a kernel finds it, every walk has one level more for nothing.
    FEATURE("la57",       7, 0, ECX, 16, SYSTEM, ON_REQUEST, NULL),
    FEATURE("rdpid",      7, 0, ECX, 22, SYSTEM, IN_ALL, NULL),
    FEATURE("fsrm",       7, 0, EDX, 4,  ENGINE, IN_ALL, NULL),
    FEATURE("spec-ctrl",  7, 0, EDX, 26, ENGINE, IN_HOST | ONLY_INTEL, NULL),
    FEATURE("arch-capabilities", 7, 0, EDX, 29, ENGINE, IN_HOST | ONLY_INTEL, NULL),
    FEATURE("avxvnni",    7, 1, EAX, 4,  NATIVE, IN_HOST, "avx2"),
    FEATURE("avx512bf16", 7, 1, EAX, 5,  NATIVE, IN_HOST, "avx512f"),

    // What a guest may ask of the hypervisor, where config.paravirt says so (chip/steal_time.h, chip/lapic_paravirt.c,
    // vm/hypercall.h). SYSTEM is what begins with a hypercall, which hardware virtualization keeps to itself: KVM has it
    // where the local APICs are its own. All of that is on request: a guest is to find the same CPU under every engine, and but for unhalt
    // it was measured to bring nothing, or less than nothing (docs/BENCHMARKS.md).
    FEATURE("kvm-async-pf", CPU_LEAF_PARAVIRT, CPUID_ANY, EAX, CPU_PV_ASYNC_PF, SYSTEM, ON_REQUEST, NULL),
    FEATURE("kvm-async-pf-int", CPU_LEAF_PARAVIRT, CPUID_ANY, EAX, CPU_PV_ASYNC_PF_INT, SYSTEM, ON_REQUEST,
            "kvm-async-pf"),
    FEATURE("kvm-steal-time", CPU_LEAF_PARAVIRT, CPUID_ANY, EAX, CPU_PV_STEAL_TIME, ENGINE, IN_ALL, NULL),
    FEATURE("kvm-pv-eoi", CPU_LEAF_PARAVIRT, CPUID_ANY, EAX, CPU_PV_EOI, ENGINE, IN_ALL, NULL),
    FEATURE("kvm-pv-unhalt", CPU_LEAF_PARAVIRT, CPUID_ANY, EAX, CPU_PV_UNHALT, SYSTEM, ON_REQUEST, NULL),
    FEATURE("kvm-pv-tlb-flush", CPU_LEAF_PARAVIRT, CPUID_ANY, EAX, CPU_PV_TLB_FLUSH, SYSTEM, ON_REQUEST,
            "kvm-steal-time"),
    FEATURE("kvm-pv-ipi", CPU_LEAF_PARAVIRT, CPUID_ANY, EAX, CPU_PV_SEND_IPI, SYSTEM, ON_REQUEST, NULL),
    FEATURE("kvm-pv-sched-yield", CPU_LEAF_PARAVIRT, CPUID_ANY, EAX, CPU_PV_SCHED_YIELD, SYSTEM, ON_REQUEST,
            "kvm-steal-time"),

    FEATURE("xsaveopt",   0xd, 1, EAX, 0, SYSTEM, IN_V3_UP, "xsave"),
    FEATURE("xsavec",     0xd, 1, EAX, 1, SYSTEM, IN_V3_UP, "xsave"),
    FEATURE("xgetbv1",    0xd, 1, EAX, 2, SYSTEM, IN_V3_UP, "xsave"),

    FEATURE("lahf",       0x80000001, CPUID_ANY, ECX, 0,  SYSTEM, IN_ALL, NULL),
    FEATURE("lzcnt",      0x80000001, CPUID_ANY, ECX, 5,  NATIVE, IN_V3_UP, NULL),
    FEATURE("sse4a",      0x80000001, CPUID_ANY, ECX, 6,  NATIVE, IN_HOST, "sse3"),
    FEATURE("misalignsse", 0x80000001, CPUID_ANY, ECX, 7, NATIVE, IN_HOST | ONLY_AMD, "sse2"),
    FEATURE("prefetchw",  0x80000001, CPUID_ANY, ECX, 8,  ENGINE, IN_ALL, NULL),
    FEATURE("topoext",    0x80000001, CPUID_ANY, ECX, 22, ENGINE, IN_ALL | ONLY_AMD, NULL),
    FEATURE("syscall",    0x80000001, CPUID_ANY, EDX, 11, SYSTEM, IN_ALL, NULL),
    FEATURE("nx",         0x80000001, CPUID_ANY, EDX, 20, SYSTEM, IN_ALL, NULL),
    FEATURE("pdpe1gb",    0x80000001, CPUID_ANY, EDX, 26, SYSTEM, IN_ALL, NULL),
    FEATURE("rdtscp",     0x80000001, CPUID_ANY, EDX, 27, SYSTEM, IN_ALL, NULL),
    FEATURE("lm",         0x80000001, CPUID_ANY, EDX, 29, SYSTEM, IN_ALL, NULL),
    FEATURE("invtsc",     0x80000007, CPUID_ANY, EDX, 8,  ENGINE, IN_ALL, "tsc"),
    FEATURE("no-efer-lmsle", 0x80000008, CPUID_ANY, EBX, 20, ENGINE, IN_ALL | ONLY_AMD, NULL),
    FEATURE("btc-no",     0x80000008, CPUID_ANY, EBX, 29, ENGINE, IN_ALL | ONLY_AMD, NULL),
    FEATURE("lfence-rdtsc", 0x80000021, CPUID_ANY, EAX, 2, ENGINE, IN_ALL | ONLY_AMD, NULL),
    FEATURE("null-sel-clears-base", 0x80000021, CPUID_ANY, EAX, 6, ENGINE, IN_ALL | ONLY_AMD, NULL),
    FEATURE("autoibrs",   0x80000021, CPUID_ANY, EAX, 8,  ENGINE, IN_ALL | ONLY_AMD, NULL),
    FEATURE("srso-no",    0x80000021, CPUID_ANY, EAX, 29, ENGINE, IN_ALL | ONLY_AMD, NULL),
    FEATURE("tsa-sq-no",  0x80000021, CPUID_ANY, ECX, 1,  ENGINE, IN_ALL | ONLY_AMD, NULL),
    FEATURE("tsa-l1-no",  0x80000021, CPUID_ANY, ECX, 2,  ENGINE, IN_ALL | ONLY_AMD, NULL),
};
// clang-format on

const unsigned cpu_feature_count = sizeof cpu_features / sizeof cpu_features[0];
