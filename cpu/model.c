// Makes CPU models from the feature table and answers the CPUID instruction from them.
//
// Vendor. Our own models are AuthenticAMD, family 19h. Reasons: (1) the differences between the vendors lie in SYSCALL
// and SYSENTER outside of 64-bit mode, and only AMD's rules can be given on both vendors' hardware under hardware
// virtualization, because an AMD CPU lets SYSCALL in compatibility mode go through where an Intel guest expects #UD,
// while Intel raises the #UD that a monitor can turn into AMD's behaviour; (2) kernels never isolate page tables on AMD
// (no Meltdown), and family 19h is in no list of retbleed, MDS, L1TF and the like, while automatic IBRS replaces
// retpolines; (3) with the hypervisor bit set, kernels touch no model-specific register of this family without a guard
// other than those in msr.c. `host` takes vendor, family, model, stepping and name from the host.
//
// Names may carry changes: "x86-64-v3,+la57,-avx2". Taking away a feature takes away what needs it.
#include "cpu/model_table.h"
#include <errno.h>
#include <string.h>

const char *const cpu_model_names[] = {"x86-64-v2", "x86-64-v3", "host", NULL};

static const uint8_t model_in[] = {IN_V2, IN_V3, IN_HOST};
enum { MODEL_HOST = 2, MODEL_UNKNOWN = 3 };

uint32_t *cpuid_reg(struct cpuid_regs *r, unsigned reg)
{
    uint32_t *const regs[] = {&r->eax, &r->ebx, &r->ecx, &r->edx};
    return regs[reg & 3];
}

// Leaves for which CPUID looks at ECX; the others are the same whatever is in it.
static bool has_subleaves(uint32_t leaf)
{
    return leaf == 4 || leaf == 7 || leaf == 0xb || leaf == 0xd || leaf == 0x1f || leaf == 0x8000001d;
}

static const struct cpuid_leaf *find(const struct cpu_model *m, uint32_t leaf, uint32_t subleaf)
{
    if (!has_subleaves(leaf))
        subleaf = CPUID_ANY;
    for (unsigned i = 0; i < m->count; i++)
        if (m->leaf[i].leaf == leaf && (m->leaf[i].subleaf == subleaf || m->leaf[i].subleaf == CPUID_ANY))
            return &m->leaf[i];
    return NULL;
}

struct cpuid_regs *cpu_model_leaf(struct cpu_model *m, uint32_t leaf, uint32_t subleaf)
{
    struct cpuid_leaf *l = (struct cpuid_leaf *)find(m, leaf, subleaf);
    if (l)
        return &l->r;
    if (m->count == CPU_MODEL_LEAVES)
        return NULL;
    if (!has_subleaves(leaf))
        subleaf = CPUID_ANY;
    l = &m->leaf[m->count++];
    *l = (struct cpuid_leaf){.leaf = leaf, .subleaf = subleaf};
    return &l->r;
}

bool cpu_model_has(const struct cpu_model *m, uint32_t leaf, uint32_t subleaf, unsigned reg, unsigned bit)
{
    const struct cpuid_leaf *l = find(m, leaf, subleaf);
    if (!l)
        return false;
    struct cpuid_regs r = l->r;
    return *cpuid_reg(&r, reg) >> bit & 1;
}

bool cpu_model_has_paravirt(const struct cpu_model *m, unsigned feature)
{
    return cpu_model_has(m, CPU_LEAF_PARAVIRT, CPUID_ANY, REG_EAX, feature);
}

uint32_t cpu_model_signature(const struct cpu_model *m)
{
    const struct cpuid_leaf *l = find(m, 1, 0);
    return l ? l->r.eax : 0;
}

// --- which features
// -------------------------------------------------------------------------------------------------------------------------

enum { FEATURE_MAX = 128 };

struct choice {
    bool on[FEATURE_MAX];
    bool wanted[FEATURE_MAX]; // by the model or by +name: its absence on the host is an error
};

static int find_feature(const char *name, size_t length)
{
    for (unsigned i = 0; i < cpu_feature_count; i++)
        if (strlen(cpu_features[i].name) == length && !memcmp(cpu_features[i].name, name, length))
            return (int)i;
    return -1;
}

// What an operating system on the host has switched on, as far as CPUID alone tells: leaf 0xd gives the size of the
// XSAVE area for the components that are on now.
static bool host_enables(cpu_host_cpuid host, unsigned component)
{
    struct cpuid_regs max = host(0, 0), one = host(1, 0);
    if (max.eax < 0xd || !(one.ecx & 1u << 27))
        return false;
    struct cpuid_regs all = host(0xd, 0), c = host(0xd, component);
    return all.eax & 1u << component && all.ebx >= c.ebx + c.eax;
}

static bool host_has(cpu_host_cpuid host, const struct cpu_feature *f)
{
    uint32_t base = f->leaf & 0x80000000;
    if (host(base, 0).eax < f->leaf)
        return false;
    uint32_t subleaf = f->subleaf == CPUID_ANY ? 0 : f->subleaf;
    if (f->leaf == 7 && subleaf > host(7, 0).eax)
        return false;
    struct cpuid_regs r = host(f->leaf, subleaf);
    if (!(*cpuid_reg(&r, f->reg) >> f->bit & 1))
        return false;
    if (!strcmp(f->name, "avx"))
        return host_enables(host, 2);
    if (!strcmp(f->name, "avx512f"))
        return host_enables(host, 5) && host_enables(host, 6) && host_enables(host, 7);
    return true;
}

// Whether hardware virtualization can give it.
static bool hardware_has(const struct cpu_config *config, const struct cpu_feature *f)
{
    for (unsigned i = 0; i < config->hardware_leaves; i++) {
        const struct cpuid_leaf *l = &config->hardware[i];
        struct cpuid_regs r = l->r;
        if (l->leaf == f->leaf && (f->subleaf == CPUID_ANY || l->subleaf == CPUID_ANY || l->subleaf == f->subleaf))
            return *cpuid_reg(&r, f->reg) >> f->bit & 1;
    }
    return false;
}

// Whether a guest can have it here. What hardware virtualization gives, the host has; and in a virtual machine asking a
// CPU costs an exit.
static bool can_give(const struct cpu_feature *f, cpu_host_cpuid host, const struct cpu_config *config)
{
    if (f->kind == ENGINE)
        return true;
    if (config->hardware)
        return hardware_has(config, f);
    return f->kind != NATIVE || host_has(host, f);
}

// Switches off what needs something that is off.
static void close_over_needs(struct choice *c)
{
    for (bool changed = true; changed;) {
        changed = false;
        for (unsigned i = 0; i < cpu_feature_count; i++) {
            const char *needs = cpu_features[i].needs;
            if (c->on[i] && needs && !c->on[find_feature(needs, strlen(needs))])
                c->on[i] = false, changed = true;
        }
    }
}

static int apply_changes(struct choice *c, const char *changes, struct error *err)
{
    while (*changes) { // at a comma
        char sign = *++changes;
        const char *name = sign ? changes + 1 : changes;
        size_t length = strcspn(name, ",");
        if (sign != '+' && sign != '-')
            return error_set(err, EINVAL, "CPU model: a change begins with + or -, not '%.*s'", (int)(length + 1),
                             changes);
        int i = find_feature(name, length);
        if (i < 0)
            return error_set(err, EINVAL, "CPU model: unknown feature '%.*s'", (int)length, name);
        c->on[i] = c->wanted[i] = sign == '+';
        for (const char *needs = cpu_features[i].needs; sign == '+' && needs;) { // what it needs comes along
            int n = find_feature(needs, strlen(needs));
            c->on[n] = c->wanted[n] = true;
            needs = cpu_features[n].needs;
        }
        changes = name + length;
    }
    return 0;
}

static int check_host(const struct choice *c, const char *name, cpu_host_cpuid host, const struct cpu_config *config,
                      struct error *err)
{
    char missing[160];
    size_t used = 0;
    bool cut = false;
    for (unsigned i = 0; i < cpu_feature_count; i++) {
        const struct cpu_feature *f = &cpu_features[i];
        if (!c->on[i] || !c->wanted[i] || can_give(f, host, config))
            continue;
        size_t length = strlen(f->name);
        if (used + length + 3 > sizeof missing) {
            cut = true;
            break;
        }
        if (used) {
            missing[used++] = ',';
            missing[used++] = ' ';
        }
        memcpy(missing + used, f->name, length);
        used += length;
    }
    missing[used] = 0;
    if (!used)
        return 0;
    return error_set(err, ENOTSUP, "CPU model %s: this host lacks %s%s", name, missing, cut ? " and more" : "");
}

static void choose(struct choice *c, unsigned in, enum cpu_vendor vendor, cpu_host_cpuid host,
                   const struct cpu_config *config)
{
    memset(c, 0, sizeof *c);
    for (unsigned i = 0; i < cpu_feature_count; i++) {
        const struct cpu_feature *f = &cpu_features[i];
        if (!(f->in & in))
            continue;
        if ((f->in & ONLY_AMD && vendor != CPU_VENDOR_AMD) || (f->in & ONLY_INTEL && vendor != CPU_VENDOR_INTEL))
            continue;
        c->wanted[i] = in != IN_HOST;
        c->on[i] = in != IN_HOST || can_give(f, host, config);
    }
}

// --- the table
// ------------------------------------------------------------------------------------------------------------------------------

static void set_masks(struct cpu_model *m)
{
    m->cr4_mask = CR4_VME | CR4_PVI | CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE | CR4_PCE | CR4_OSFXSR |
                  CR4_OSXMMEXCPT;
    static const struct {
        uint64_t bit;
        uint32_t leaf;
        uint8_t reg, pos;
    } cr4[] = {
        {CR4_UMIP, 7, REG_ECX, 2},     {CR4_LA57, 7, REG_ECX, 16}, {CR4_FSGSBASE, 7, REG_EBX, 0},
        {CR4_PCIDE, 1, REG_ECX, 17},   {CR4_SMEP, 7, REG_EBX, 7},  {CR4_SMAP, 7, REG_EBX, 20},
        {CR4_OSXSAVE, 1, REG_ECX, 26},
    };
    for (unsigned i = 0; i < sizeof cr4 / sizeof cr4[0]; i++)
        if (cpu_model_has(m, cr4[i].leaf, 0, cr4[i].reg, cr4[i].pos))
            m->cr4_mask |= cr4[i].bit;
    m->efer_mask = EFER_SCE | EFER_LME | EFER_LMA;
    if (cpu_model_has(m, 0x80000001, CPUID_ANY, REG_EDX, 20))
        m->efer_mask |= EFER_NXE;
    if (cpu_model_has(m, 0x80000021, CPUID_ANY, REG_EAX, 8))
        m->efer_mask |= EFER_AIBRSE;
}

static int make(struct cpu_model *m, const char *base, unsigned index, const char *changes, cpu_host_cpuid host,
                const struct cpu_config *config, struct error *err)
{
    memset(m, 0, sizeof *m);
    size_t length = strlen(base) + strlen(changes);
    memcpy(m->name, base, strlen(base) + 1);
    if (length < sizeof m->name)
        memcpy(m->name + strlen(base), changes, strlen(changes) + 1);
    m->config = *config;
    m->config.hardware = NULL; // the caller's
    m->config.hardware_leaves = 0;
    m->vendor = CPU_VENDOR_AMD;
    struct cpuid_regs who = host(0, 0);
    if (index == MODEL_HOST && who.ebx == 0x756e6547) // "Genu"
        m->vendor = CPU_VENDOR_INTEL;

    struct choice c;
    choose(&c, model_in[index], m->vendor, host, config);
    int e = apply_changes(&c, changes, err);
    if (e)
        return e;
    close_over_needs(&c);
    e = check_host(&c, m->name, host, config, err);
    if (e)
        return e;
    for (unsigned i = 0; i < cpu_feature_count; i++) {
        const struct cpu_feature *f = &cpu_features[i];
        if (c.on[i] && (f->leaf != CPU_LEAF_PARAVIRT || config->paravirt))
            *cpuid_reg(cpu_model_leaf(m, f->leaf, f->subleaf), f->reg) |= 1u << f->bit;
    }
    if (!cpu_model_has(m, 1, 0, REG_EDX, 24) || !cpu_model_has(m, 0x80000001, 0, REG_EDX, 29))
        return error_set(err, EINVAL, "CPU model %s: an x86-64 CPU has lm and fxsr", m->name);
    cpu_model_add_identity(m, base, index == MODEL_HOST ? host : NULL);
    cpu_model_add_topology(m);
    cpu_model_add_xsave(m, host);
    cpu_model_add_clock(m);
    cpu_model_add_paravirt(m);
    set_masks(m);
    return 0;
}

// The changes that take from a model what cannot be given here: ",-pcid,-invpcid". Only features of one kind.
static void taken_away(char *changes, size_t size, unsigned index, unsigned kinds, cpu_host_cpuid host,
                       const struct cpu_config *config)
{
    struct choice c;
    size_t used = 0;
    choose(&c, model_in[index], CPU_VENDOR_AMD, host, config);
    changes[0] = 0;
    for (unsigned i = 0; i < cpu_feature_count; i++) {
        const struct cpu_feature *f = &cpu_features[i];
        size_t length = strlen(f->name);
        if (!c.on[i] || !(kinds >> f->kind & 1) || can_give(f, host, config) || used + length + 3 > size)
            continue;
        memcpy(changes + used, ",-", 2);
        memcpy(changes + used + 2, f->name, length + 1);
        used += length + 2;
    }
}

// The best model that can be given whole. Hardware virtualization is not refused for a system feature that its CPU
// lacks, nor, as a last resort, for a KVM that only emulates.
static int make_default(struct cpu_model *m, cpu_host_cpuid host, const struct cpu_config *config, struct error *err)
{
    static const struct {
        unsigned index, without;
    } best_first[] = {{1, 1 << SYSTEM}, {0, 1 << SYSTEM}, {0, 1 << SYSTEM | 1 << NATIVE}};
    int e = 0;
    for (unsigned i = 0; i < (config->hardware ? 3 : 2); i++) {
        unsigned index = best_first[i].index;
        char changes[400];
        taken_away(changes, sizeof changes, index, best_first[i].without, host, config);
        e = make(m, cpu_model_names[index], index, changes, host, config, err);
        if (!e)
            break;
    }
    return e;
}

int cpu_model_make(struct cpu_model *m, const char *name, cpu_host_cpuid host, const struct cpu_config *config,
                   struct error *err)
{
    if (!config->cpus || config->cpus > CPU_MAX)
        return error_set(err, EINVAL, "CPUs: %u is not from 1 to %d", config->cpus, CPU_MAX);
    if (!name)
        return make_default(m, host, config, err);
    size_t length = strcspn(name, ",");
    unsigned index = 0;
    while (cpu_model_names[index] &&
           (strlen(cpu_model_names[index]) != length || memcmp(cpu_model_names[index], name, length)))
        index++;
    if (index == MODEL_UNKNOWN)
        return error_set(err, EINVAL, "CPU model '%.*s' is unknown: take x86-64-v2, x86-64-v3 or host", (int)length,
                         name);
    return make(m, cpu_model_names[index], index, name + length, host, config, err);
}

// --- the instruction
// ------------------------------------------------------------------------------------------------------------------------

uint32_t cpu_xsave_offset(const struct cpu_model *m, unsigned component)
{
    const struct cpuid_leaf *l = component >= 2 && component < 63 ? find(m, 0xd, component) : NULL;
    return l ? l->r.ebx : 0;
}

uint32_t cpu_xsave_size(const struct cpu_model *m, uint64_t components)
{
    uint32_t size = 576; // legacy area and header
    for (unsigned i = 2; i < 63; i++) {
        const struct cpuid_leaf *l = components >> i & 1 ? find(m, 0xd, i) : NULL;
        if (l && l->r.ebx + l->r.eax > size)
            size = l->r.ebx + l->r.eax;
    }
    return size;
}

static uint32_t compacted_size(const struct cpu_model *m, uint64_t components)
{
    uint32_t size = 576;
    for (unsigned i = 2; i < 63; i++) {
        const struct cpuid_leaf *l = components >> i & 1 ? find(m, 0xd, i) : NULL;
        if (!l)
            continue;
        if (l->r.ecx & 2) // aligned to 64 bytes
            size = (size + 63) & ~63u;
        size += l->r.eax;
    }
    return size;
}

static bool in_range(const struct cpu_model *m, uint32_t leaf)
{
    uint32_t base = leaf & 0x80000000 ? 0x80000000 : leaf >= 0x40000000 ? 0x40000000 : 0;
    const struct cpuid_leaf *first = find(m, base, 0);
    return first && leaf <= first->r.eax;
}

void cpu_cpuid(const struct cpu_model *m, const struct cpu_state *s, unsigned apic_id, uint32_t leaf, uint32_t subleaf,
               struct cpuid_regs *r)
{
    *r = (struct cpuid_regs){0};
    if (!in_range(m, leaf)) {
        if (m->vendor == CPU_VENDOR_AMD)
            return;
        leaf = find(m, 0, 0)->r.eax;
    }
    const struct cpuid_leaf *l = find(m, leaf, subleaf);
    if (l)
        *r = l->r;
    switch (leaf) {
    case 1:
        r->ebx |= apic_id << 24;
        if (s->cr4 & CR4_OSXSAVE)
            r->ecx |= 1u << 27;
        break;
    case 0xb:
    case 0x1f:
        if (!l)
            r->ecx = subleaf & 0xff; // level type 0: no such level
        r->edx = apic_id;
        break;
    case 0xd:
        if (subleaf == 0 && l)
            r->ebx = cpu_xsave_size(m, s->xcr0);
        else if (subleaf == 1 && r->eax & 2)
            r->ebx = compacted_size(m, s->xcr0 | s->msr.xss);
        break;
    case 0x8000001e:
        if (m->vendor == CPU_VENDOR_AMD) {
            r->eax = apic_id;
            r->ebx |= apic_id & 0xff; // core id
        }
        break;
    }
}
