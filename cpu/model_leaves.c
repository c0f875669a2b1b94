// The CPUID leaves of a model that are not feature bits: who the CPU says it is, cores and caches, the XSAVE area,
// clocks, and the hypervisor's own leaves.
//
// Topology: every vCPU is one core with one thread, all in one package, APIC ids 0..N-1. Every core has its own L1 and
// L2 caches, all share one L3. An example for 6 cores: leaf 0xb says level 0 (SMT) shift 0, 1 thread; level 1 (core)
// shift 3, 6 threads.
//
// Sources: Intel SDM vol. 2, CPUID; AMD APM vol. 3, appendix E; Linux's Documentation/virt/kvm/x86/cpuid.rst for what
// guests read at 0x40000000.
#include "cpu/model_table.h"
#include <string.h>

static void set(struct cpu_model *m, uint32_t leaf, uint32_t subleaf, uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
    struct cpuid_regs *r = cpu_model_leaf(m, leaf, subleaf);
    r->eax |= a;
    r->ebx |= b;
    r->ecx |= c;
    r->edx |= d;
}

// Four bytes of a text as a register holds them.
static uint32_t four(const char *s)
{
    uint32_t v;
    memcpy(&v, s, sizeof v);
    return v;
}

static unsigned bits_for(unsigned n) // least b with 1 << b >= n
{
    unsigned b = 0;
    while (1u << b < n)
        b++;
    return b;
}

// MAXPHYADDR of our own models: 1 TiB, which every server of the last fifteen years reaches, so that a VM saved on one
// can resume under hardware virtualization on another.
enum { PHYS_BITS = 40 };

void cpu_model_add_identity(struct cpu_model *m, const char *name, cpu_host_cpuid host)
{
    bool amd = m->vendor == CPU_VENDOR_AMD;
    const char *vendor = amd ? "AuthenticAMD" : "GenuineIntel";
    uint32_t max_ext = amd ? 0x80000021 : 0x80000008;
    set(m, 0, CPUID_ANY, 0x1f, four(vendor), four(vendor + 8), four(vendor + 4));
    if (amd)
        set(m, 0x80000000, CPUID_ANY, max_ext, four(vendor), four(vendor + 8), four(vendor + 4));
    else
        set(m, 0x80000000, CPUID_ANY, max_ext, 0, 0, 0);

    uint32_t signature = 0x00a00f11; // family 19h, model 1, stepping 1
    char brand[48] = {0};
    m->phys_bits = PHYS_BITS;
    if (host) {
        signature = host(1, 0).eax & 0x0fff3fff;
        for (unsigned i = 0; i < 3; i++) {
            struct cpuid_regs r = host(0x80000002 + i, 0);
            memcpy(brand + 16 * i, &r, 16);
        }
        unsigned host_bits = host(0x80000000, 0).eax >= 0x80000008 ? host(0x80000008, 0).eax & 0xff : 36;
        m->phys_bits = host_bits < 36 ? 36 : host_bits > 52 ? 52 : host_bits;
    } else {
        static const char maker[] = "Trapeze virtual CPU ";
        memcpy(brand, maker, sizeof maker - 1);
        size_t room = sizeof brand - sizeof maker, length = strlen(name);
        memcpy(brand + sizeof maker - 1, name, length < room ? length : room);
    }
    for (unsigned i = 0; i < 3; i++)
        set(m, 0x80000002 + i, CPUID_ANY, four(brand + 16 * i), four(brand + 16 * i + 4), four(brand + 16 * i + 8),
            four(brand + 16 * i + 12));
    set(m, 1, 0, signature, 0, 0, 0);
    if (amd) { // AMD repeats the signature and the old feature bits (APM vol. 3, E.4.2)
        uint32_t edx = cpu_model_leaf(m, 1, 0)->edx;
        set(m, 0x80000001, CPUID_ANY, signature, 4u << 28, 0, edx & 0x0183f3ff); // package type: SP3
        if (edx & 1u << 25)
            set(m, 0x80000001, CPUID_ANY, 0, 0, 0, 1u << 22); // SSE brings AMD's MMX extensions
    }
    set(m, 7, 0, 1, 0, 0, 0); // the highest subleaf
    bool la57 = cpu_model_has(m, 7, 0, REG_ECX, 16);
    set(m, 0x80000008, CPUID_ANY, m->phys_bits | (la57 ? 57u : 48u) << 8, 0, 0, 0);
}

struct cache {
    uint8_t type, level; // 1 data, 2 instructions, 3 both
    uint8_t ways;
    bool shared;
    uint32_t kib;
};

static const struct cache caches[] = {
    {1, 1, 8, false, 32}, {2, 1, 8, false, 32}, {3, 2, 8, false, 512}, {3, 3, 16, true, 16384}};

enum { CACHE_LINE = 64 };

static void add_caches(struct cpu_model *m, bool amd)
{
    unsigned cpus = m->config.cpus;
    for (unsigned i = 0; i < sizeof caches / sizeof caches[0]; i++) {
        const struct cache *c = &caches[i];
        unsigned sharing = c->shared ? cpus : 1;
        uint32_t sets = c->kib * 1024 / (CACHE_LINE * c->ways);
        uint32_t geometry = (c->ways - 1u) << 22 | (CACHE_LINE - 1);
        uint32_t eax = c->type | (uint32_t)c->level << 5 | 1u << 8;
        if (amd) {
            // Both fields say the same here: sharing threads minus one (APM vol. 3, E.4.15).
            set(m, 0x8000001d, i, eax | (sharing - 1) << 14, geometry, sets - 1, 0);
        } else {
            // Intel counts addressable ids, a power of two.
            uint32_t ids = 1u << bits_for(sharing), cores = 1u << bits_for(cpus);
            set(m, 4, i, eax | (ids - 1) << 14 | (cores - 1) << 26, geometry, sets - 1, 0);
        }
    }
    // L2: 512 KiB, 8 ways (code 6); L3: 16 MiB in units of 512 KiB, 16 ways (code 8).
    uint32_t l2 = 512u << 16 | 6u << 12 | 1u << 8 | CACHE_LINE;
    if (amd) {
        uint32_t l1 = 32u << 24 | 8u << 16 | 1u << 8 | CACHE_LINE;
        set(m, 0x80000005, CPUID_ANY, 0xff40ff40, 0xff40ff40, l1, l1); // 64-entry TLBs, fully associative
        set(m, 0x80000006, CPUID_ANY, 0, 0, l2, 32u << 18 | 8u << 12 | 1u << 8 | CACHE_LINE);
    } else {
        set(m, 0x80000006, CPUID_ANY, 0, 0, l2, 0);
    }
}

void cpu_model_add_topology(struct cpu_model *m)
{
    bool amd = m->vendor == CPU_VENDOR_AMD;
    unsigned cpus = m->config.cpus, width = bits_for(cpus);
    // CLFLUSH line in units of 8 bytes; addressable ids of the package, HTT if more than one.
    set(m, 1, 0, 0, CACHE_LINE / 8 << 8 | (amd ? cpus : 1u << width) << 16, 0, cpus > 1 ? 1u << 28 : 0);
    for (unsigned i = 0; i < 2; i++) {
        uint32_t leaf = i ? 0x1f : 0xb;
        set(m, leaf, 0, 0, 1, 0 | 1u << 8, 0);        // SMT: one thread
        set(m, leaf, 1, width, cpus, 1 | 2u << 8, 0); // cores
    }
    if (amd) {
        if (cpus > 1)
            set(m, 0x80000001, CPUID_ANY, 0, 0, 1u << 1, 0); // CmpLegacy
        set(m, 0x80000008, CPUID_ANY, 0, 0, (cpus - 1) | width << 12, 0);
        set(m, 0x8000001e, CPUID_ANY, 0, 0, 0, 0);
    }
    add_caches(m, amd);
}

void cpu_model_add_xsave(struct cpu_model *m, cpu_host_cpuid host)
{
    m->xcr0_mask = XSTATE_X87 | XSTATE_SSE;
    if (!cpu_model_has(m, 1, 0, REG_ECX, 26))
        return;
    if (cpu_model_has(m, 1, 0, REG_ECX, 28)) {
        m->xcr0_mask |= XSTATE_AVX;
        set(m, 0xd, 2, 256, 576, 0, 0); // the same on every CPU
    }
    if (cpu_model_has(m, 7, 0, REG_EBX, 16)) { // only in `host`, or asked for: laid out as the host does
        m->xcr0_mask |= XSTATE_AVX512;
        for (unsigned i = 5; i <= 7; i++) {
            struct cpuid_regs r = host(0xd, i);
            set(m, 0xd, i, r.eax, r.ebx, r.ecx & 2, 0);
        }
    }
    set(m, 0xd, 0, (uint32_t)m->xcr0_mask, 0, cpu_xsave_size(m, m->xcr0_mask), 0);
    set(m, 0xd, 1, 0, 0, 0, 0);
}

// The TSC is crystal * EBX / EAX, exactly. Except on Intel, if EBX would be large: Linux (which believes this leaf only
// there) multiplies the crystal in kHz by EBX in 32 bits, so there it is the nearest fraction that allows that, at
// worst 0.02 % off (leaf 0x40000010 is exact).
void cpu_model_add_clock(struct cpu_model *m)
{
    uint64_t khz = m->config.tsc_khz;
    if (!khz)
        return;
    uint64_t a = khz, b = CPU_CRYSTAL_KHZ;
    while (b) {
        uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    uint64_t times = khz / a, by = CPU_CRYSTAL_KHZ / a;
    const uint64_t times_max = 0xffffffff / CPU_CRYSTAL_KHZ;
    if (m->vendor == CPU_VENDOR_INTEL && times > times_max) {
        uint64_t best = ~0ull; // how far from khz, in Hz
        for (uint64_t d = 1; d <= CPU_CRYSTAL_KHZ; d++) {
            uint64_t n = (khz * d + CPU_CRYSTAL_KHZ / 2) / CPU_CRYSTAL_KHZ;
            if (n > times_max)
                break;
            uint64_t here = n * CPU_CRYSTAL_KHZ * 1000 / d, want = khz * 1000;
            uint64_t off = here > want ? here - want : want - here;
            if (n && off < best)
                times = n, by = d, best = off;
        }
    }
    set(m, 0x15, CPUID_ANY, (uint32_t)by, (uint32_t)times, CPU_CRYSTAL_KHZ * 1000u, 0);
    set(m, 0x16, CPUID_ANY, (uint32_t)(khz / 1000), (uint32_t)(khz / 1000), 100, 0);
}

// What kernels know from KVM, beside the features that have names (model_features.c): a paravirtual clock that is
// stable over all CPUs, both generations of its MSRs, and no need to wait after port I/O.
void cpu_model_add_paravirt(struct cpu_model *m)
{
    if (!m->config.paravirt)
        return;
    static const char who[12] = "KVMKVMKVM";
    set(m, 0x40000000, CPUID_ANY, m->config.tsc_khz ? 0x40000010 : 0x40000001, four(who), four(who + 4), four(who + 8));
    set(m, CPU_LEAF_PARAVIRT, CPUID_ANY,
        1u << CPU_PV_CLOCK | 1u << CPU_PV_NO_IO_DELAY | 1u << CPU_PV_CLOCK2 | 1u << CPU_PV_CLOCK_STABLE, 0, 0, 0);
    if (m->config.tsc_khz) // TSC and local APIC timer in kHz
        set(m, 0x40000010, CPUID_ANY, m->config.tsc_khz, CPU_CRYSTAL_KHZ, 0, 0);
}
