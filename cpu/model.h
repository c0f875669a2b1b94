// CPU models: what a guest reads from CPUID, as data.
//
// A model is a name and a set of CPUID leaves with feature bits. Every engine presents the same model bit for bit: the
// table is made once, when the VM is made, and no engine ever asks the host's CPUID itself. Dynamic bits (OSXSAVE, APIC
// id, XSAVE sizes) are filled in at the time of the CPUID instruction from the CPU's state, by cpu_cpuid().
//
// Example: cpu_model_make(&m, "x86-64-v3", &host, &(struct cpu_config){.cpus = 2, .tsc_khz = 2600000}, &err)
#pragma once
#include "cpu/state.h"
#include "report/error.h"

struct cpuid_regs {
    uint32_t eax, ebx, ecx, edx;
};

struct cpuid_leaf {
    uint32_t leaf, subleaf; // subleaf is CPUID_ANY where the leaf has none
    struct cpuid_regs r;
};

#define CPUID_ANY 0xffffffffu

enum { CPU_MODEL_LEAVES = 96 };

// The host's own CPUID instruction, given by whoever knows the host.
typedef struct cpuid_regs (*cpu_host_cpuid)(uint32_t leaf, uint32_t subleaf);

struct cpu_config {
    unsigned cpus;    // 1..CPU_MAX, all cores of one package
    uint32_t tsc_khz; // told to the guest by leaves 0x15, 0x16, 0x40000010
    bool paravirt;    // KVM-compatible leaves at 0x40000000
    // What hardware virtualization can give a guest here (engine_ops.cpuid). NULL under engines that do without. Only
    // looked at while the model is made.
    const struct cpuid_leaf *hardware;
    unsigned hardware_leaves;
};

enum { CPU_MAX = 64 };

// KVM's paravirtual features: bits of EAX of this leaf (Linux, Documentation/virt/kvm/x86/cpuid.rst).
enum { CPU_LEAF_PARAVIRT = 0x40000001 };
enum {
    CPU_PV_CLOCK = 0,
    CPU_PV_NO_IO_DELAY = 1,
    CPU_PV_CLOCK2 = 3,
    CPU_PV_ASYNC_PF = 4,
    CPU_PV_STEAL_TIME = 5,
    CPU_PV_EOI = 6,
    CPU_PV_UNHALT = 7,
    CPU_PV_TLB_FLUSH = 9,
    CPU_PV_SEND_IPI = 11,
    CPU_PV_SCHED_YIELD = 13,
    CPU_PV_ASYNC_PF_INT = 14,
    CPU_PV_CLOCK_STABLE = 24,
};

// The core crystal clock (leaf 0x15 ECX, in Hz there), which also drives the local APIC's timer (leaf 0x40000010 EBX).
enum { CPU_CRYSTAL_KHZ = 1000000 };

enum cpu_vendor { CPU_VENDOR_AMD, CPU_VENDOR_INTEL };

struct cpu_model {
    char name[160];
    enum cpu_vendor vendor; // whose rules hold where the two differ (SYSCALL and SYSENTER outside of 64-bit mode, ...)
    unsigned count;
    struct cpuid_leaf leaf[CPU_MODEL_LEAVES];
    unsigned phys_bits; // MAXPHYADDR
    uint64_t xcr0_mask; // XCR0 bits that the guest may set
    uint64_t cr4_mask;  // CR4 bits that the guest may set
    uint64_t efer_mask;
    struct cpu_config config;
};

// Makes the table. `name` is one of cpu_model_names, with changes if one likes ("x86-64-v3,+la57,-avx2"), or NULL for
// the default: the best that the host can give, under hardware virtualization without the features that its CPU lacks
// (m->name then tells them: "x86-64-v3,-pcid"). Returns 0; -EINVAL for an unknown name or feature, or a number of CPUs
// that is not 1..CPU_MAX; -ENOTSUP where the host lacks features: err names them.
int cpu_model_make(struct cpu_model *m, const char *name, cpu_host_cpuid host, const struct cpu_config *config,
                   struct error *err);

extern const char *const cpu_model_names[]; // NULL-terminated

// The CPUID instruction: fills r for leaf/subleaf as seen by the CPU `apic_id` in state s. Out-of-range leaves behave
// as the vendor's do: zeros on AMD, the highest basic leaf's data on Intel (Intel SDM vol. 2, CPUID).
void cpu_cpuid(const struct cpu_model *m, const struct cpu_state *s, unsigned apic_id, uint32_t leaf, uint32_t subleaf,
               struct cpuid_regs *r);

// True if the guest was offered this paravirtual feature (CPU_PV_*).
bool cpu_model_has_paravirt(const struct cpu_model *m, unsigned feature);

// What RDX holds after RESET and INIT: family, model, stepping.
uint32_t cpu_model_signature(const struct cpu_model *m);

// True if the model's CPUID has the feature (a bit of a register of a leaf).
bool cpu_model_has(const struct cpu_model *m, uint32_t leaf, uint32_t subleaf, unsigned reg, unsigned bit);

// Size in bytes of a standard-format XSAVE area for these components, and offset of one component in it (0 if not in
// the model).
uint32_t cpu_xsave_size(const struct cpu_model *m, uint64_t components);
uint32_t cpu_xsave_offset(const struct cpu_model *m, unsigned component);
