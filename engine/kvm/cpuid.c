// CPUID: what KVM can give, and the model told to a vCPU.
//
// KVM answers the instruction from the table it is given and fills in what depends on the CPU's state: OSXSAVE and the
// sizes in leaf 0xd. So the table is the model's with the state of a CPU after reset, and each vCPU's own APIC id. For
// leaves that are not in the table KVM does as the vendor in leaf 0 does, as cpu_cpuid() does.
//
// Source: api.rst [4.20], [4.46]; Documentation/virt/kvm/x86/errata.rst.
#include "engine/kvm/kvm.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { ENTRIES = 256 }; // KVM takes no more

// Where the local APIC is ours, the TSC deadline timer is, too, so it can be had whatever KVM says; but the guest's
// writes to its register must reach us. On VMX KVM has a shortcut that takes them before the filter is asked, for a
// timer of its own that is not there; it is not taken for guests whose MWAIT does not exit. So such a guest is made one
// (keep_mwait() in engine.c), although its CPUID has no MWAIT; and where KVM cannot do that, there is no TSC deadline.
static bool can_have_deadline(const struct kvm_host *h)
{
    if (h->base.own_apic)
        return true;
    int dev = h->dev, exits = ioctl(dev, KVM_CHECK_EXTENSION, KVM_CAP_X86_DISABLE_EXITS);
    return !kvm_on_vmx() || (exits > 0 && exits & KVM_X86_DISABLE_EXITS_MWAIT);
}

static struct kvm_cpuid2 *table(unsigned entries)
{
    struct kvm_cpuid2 *t = calloc(1, sizeof *t + entries * sizeof t->entries[0]);
    if (t)
        t->nent = entries;
    return t;
}

struct kvm_cpuid2 *kvm_cpuid_ask(int dev, struct error *err)
{
    struct kvm_cpuid2 *t = table(ENTRIES);
    if (!t)
        error_set(err, ENOMEM, "engine kvm: no memory");
    if (!t || ioctl(dev, KVM_GET_SUPPORTED_CPUID, t) == 0)
        return t;
    error_set(err, errno, "KVM: supported CPUID: %s", strerror(errno));
    free(t);
    return NULL;
}

// Of the paravirtual features KVM tells those that it has itself. Most of them need its own local APICs.
int kvm_cpuid_supported(struct engine_host *host, struct cpuid_leaf *leaf, unsigned room, struct error *err)
{
    const struct kvm_host *h = KVM_HOST(host);
    const struct kvm_cpuid2 *t = h->supported;
    const uint32_t deadline = 1u << 24;
    bool has_deadline = can_have_deadline(h);
    unsigned count = 0;
    (void)err;
    for (unsigned n = 0; n < t->nent && count < room; n++) {
        const struct kvm_cpuid_entry2 *k = &t->entries[n];
        bool any = !(k->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX);
        uint32_t ecx = k->function == 1 ? (k->ecx & ~deadline) | (has_deadline ? deadline : 0) : k->ecx;
        uint32_t eax = k->function == CPU_LEAF_PARAVIRT && !h->base.own_apic ? 0 : k->eax;
        leaf[count++] = (struct cpuid_leaf){
            .leaf = k->function, .subleaf = any ? CPUID_ANY : k->index, .r = {eax, k->ebx, ecx, k->edx}};
    }
    return (int)count;
}

int kvm_cpuid_set(struct kvm_vcpu *v, struct error *err)
{
    const struct cpu_model *m = v->base.vm->config.model;
    struct kvm_cpuid2 *t = table(m->count);
    struct cpu_state *s = calloc(1, sizeof *s);
    int e = t && s ? 0 : ENOMEM;
    if (!e) {
        cpu_reset(s, v->base.id == 0);
        for (unsigned n = 0; n < m->count; n++) {
            const struct cpuid_leaf *l = &m->leaf[n];
            bool any = l->subleaf == CPUID_ANY;
            struct cpuid_regs r;
            cpu_cpuid(m, s, v->base.id, l->leaf, any ? 0 : l->subleaf, &r);
            t->entries[n] = (struct kvm_cpuid_entry2){.function = l->leaf,
                                                      .index = any ? 0 : l->subleaf,
                                                      .flags = any ? 0 : KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
                                                      .eax = r.eax,
                                                      .ebx = r.ebx,
                                                      .ecx = r.ecx,
                                                      .edx = r.edx};
        }
        if (ioctl(v->fd, KVM_SET_CPUID2, t) < 0)
            e = errno;
    }
    free(s);
    free(t);
    return e ? error_set(err, e, "vCPU %u: KVM refuses CPU model %s: %s", v->base.id, m->name, strerror(e)) : 0;
}
