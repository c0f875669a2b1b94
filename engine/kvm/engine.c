// KVM as an engine: struct engine_ops, the machine as a whole, and what is demanded of the host's kernel.
//
// Linux 5.16 or later. That is where a vCPU's TSC offset can be set as such (KVM_VCPU_TSC_CTRL), without which a clock
// that is paused and resumed could not be given to all vCPUs alike; everything else is older.
#include "engine/kvm/kvm.h"
#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct {
    unsigned cap;
    const char *what;
} demands[] = {
    {KVM_CAP_USER_MEMORY, "guest memory"},
    {KVM_CAP_SYNC_MMU, "shared page tables"},
    {KVM_CAP_DESTROY_MEMORY_REGION_WORKS, "memory that can be removed"},
    {KVM_CAP_READONLY_MEM, "read-only memory"},
    {KVM_CAP_EXT_CPUID, "CPUID models"},
    {KVM_CAP_IMMEDIATE_EXIT, "immediate exits"},
    {KVM_CAP_USER_NMI, "NMIs"},
    {KVM_CAP_VCPU_EVENTS, "pending events"},
    {KVM_CAP_DEBUGREGS, "debug registers"},
    {KVM_CAP_XSAVE, "the XSAVE area"},
    {KVM_CAP_SYNC_REGS, "shared registers"},
    {KVM_CAP_X86_USER_SPACE_MSR, "MSR exits"},
    {KVM_CAP_X86_MSR_FILTER, "MSR filters"},
    {KVM_CAP_VCPU_ATTRIBUTES, "TSC offsets"},
    {KVM_CAP_IOEVENTFD_ANY_LENGTH, "doorbells"},
};

static int open_device(struct error *err)
{
    int dev = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (dev < 0)
        return error_set(err, errno, "/dev/kvm: %s", strerror(errno));
    int version = ioctl(dev, KVM_GET_API_VERSION, 0);
    if (version != KVM_API_VERSION) {
        close(dev);
        return error_set(err, ENOTSUP, "/dev/kvm: API version %d, not %d", version, KVM_API_VERSION);
    }
    for (unsigned n = 0; n < sizeof demands / sizeof demands[0]; n++)
        if (ioctl(dev, KVM_CHECK_EXTENSION, demands[n].cap) <= 0) {
            close(dev);
            return error_set(err, ENOTSUP, "/dev/kvm: this kernel lacks %s (Linux 5.16 has it)", demands[n].what);
        }
    return dev;
}

static int probe(struct error *err)
{
    int dev = open_device(err);
    if (dev < 0)
        return dev;
    close(dev);
    return 0;
}

bool kvm_on_vmx(void)
{
    uint32_t a, b, c, d;
    __cpuid(1, a, b, c, d);
    return c & 1u << 5;
}

// A KVM device without VMX or SVM behind it emulates the guest's kernel instruction by instruction.
static int recommend(struct error *err)
{
    uint32_t a, b, c, d;
    __cpuid(0x80000001, a, b, c, d); // each 64-bit CPU has both leaves
    return c & 1u << 2 || kvm_on_vmx()
               ? 0
               : error_set(err, ENOTSUP, "the CPU has neither VMX nor SVM, so KVM only emulates");
}

// Where old habits of KVM depart from the manuals. The kernel may not have all of these switches [7.28].
static void drop_quirks(struct kvm_vm *vm)
{
    const uint64_t unwanted =
        KVM_X86_QUIRK_CD_NW_CLEARED | KVM_X86_QUIRK_OUT_7E_INC_RIP | KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS;
    int known = ioctl(vm->fd, KVM_CHECK_EXTENSION, KVM_CAP_DISABLE_QUIRKS2);
    struct kvm_enable_cap drop = {.cap = KVM_CAP_DISABLE_QUIRKS2, .args = {known > 0 ? (unsigned)known & unwanted : 0}};
    if (drop.args[0])
        ioctl(vm->fd, KVM_ENABLE_CAP, &drop);
}

// See kvm_cpuid_supported(): the TSC deadline.
static void keep_mwait(struct kvm_vm *vm)
{
    struct kvm_enable_cap keep = {.cap = KVM_CAP_X86_DISABLE_EXITS, .args = {KVM_X86_DISABLE_EXITS_MWAIT}};
    if (kvm_on_vmx())
        ioctl(vm->fd, KVM_ENABLE_CAP, &keep);
}

static void vm_destroy(struct engine_vm *e)
{
    struct kvm_vm *vm = KVM_VM(e);
    kvm_memory_destroy(vm);
    if (vm->fd >= 0)
        close(vm->fd);
    pthread_mutex_destroy(&vm->lock);
    free(vm);
}

static int create_machine(struct kvm_host *h, struct error *err)
{
    do
        h->vm = ioctl(h->dev, KVM_CREATE_VM, 0);
    while (h->vm < 0 && errno == EINTR);
    return h->vm < 0 ? error_set(err, errno, "KVM: cannot make a virtual machine: %s", strerror(errno)) : 0;
}

static void host_close(struct engine_host *e)
{
    struct kvm_host *h = KVM_HOST(e);
    if (h->vm >= 0)
        close(h->vm);
    if (h->dev >= 0)
        close(h->dev);
    free(h->supported);
    free(h);
}

// Where KVM only emulates it may do so with the local APICs, too: one was seen to lose what is in service.
static int choose_apics(struct kvm_host *h, enum engine_apics apics, struct error *err)
{
    struct error no;
    if (apics == ENGINE_APICS_CHIPS || (apics == ENGINE_APICS_AUTO && recommend(&no)))
        return 0;
    h->base.own_apic = kvm_apic_possible(h->dev, h->supported);
    if (!h->base.own_apic && apics == ENGINE_APICS_OWN)
        return error_set(err, ENOTSUP, "KVM: this kernel lacks local APICs with all that a guest expects of them");
    return 0;
}

static int host_open(enum engine_apics apics, struct engine_host **out, struct error *err)
{
    struct kvm_host *h = calloc(1, sizeof *h);
    struct error no;
    if (!h)
        return error_set(err, ENOMEM, "engine kvm: no memory");
    h->base.ops = &engine_kvm;
    h->vm = -1;
    // An emulator may run on past a ring's end before it looks.
    h->ring_entries = recommend(&no) ? 0 : KVM_RING_ENTRIES;
    h->dev = open_device(err);
    int e = h->dev < 0 ? h->dev : create_machine(h, err);
    if (!e && !(h->supported = kvm_cpuid_ask(h->dev, err)))
        e = -EIO;
    if (!e)
        e = choose_apics(h, apics, err);
    if (e < 0)
        host_close(&h->base);
    else
        *out = &h->base;
    return e;
}

static int create(struct kvm_vm *vm, struct kvm_host *h, struct error *err)
{
    int e = h->vm < 0 ? create_machine(h, err) : 0; // the first one is taken
    if (e < 0)
        return e;
    vm->fd = h->vm;
    h->vm = -1;
    int size = ioctl(h->dev, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (size < (int)sizeof(struct kvm_run))
        return error_set(err, ENOTSUP, "KVM: no shared page for vCPUs");
    vm->run_size = (size_t)size;
    vm->sregs2 = ioctl(vm->fd, KVM_CHECK_EXTENSION, KVM_CAP_SREGS2) > 0;
    // Intel CPUs that cannot run real mode natively keep a TSS and a page table in guest-physical memory. These four
    // pages lie between the IOAPIC and the local APIC, where this machine has nothing.
    uint64_t identity = 0xfeffc000;
    ioctl(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity);
    ioctl(vm->fd, KVM_SET_TSS_ADDR, identity + KVM_PAGE);
    drop_quirks(vm);
    if (h->ring_entries)
        kvm_rings_prepare(vm, h->ring_entries);
    if (vm->base.own_apic)
        e = kvm_apic_prepare(vm, err);
    else
        keep_mwait(vm);
    return e ? e : kvm_msr_prepare(vm, err);
}

static int vm_create(const struct engine_vm_config *config, struct engine_vm **out, struct error *err)
{
    struct engine_host *host = config->host;
    int e = kvm_kick_prepare(err);
    if (!e && !host)
        e = host_open(ENGINE_APICS_AUTO, &host, err);
    if (e)
        return e;
    struct kvm_vm *vm = calloc(1, sizeof *vm);
    if (vm) {
        vm->base = (struct engine_vm){.ops = &engine_kvm, .config = *config, .own_apic = host->own_apic};
        vm->base.config.host = NULL;
        pthread_mutex_init(&vm->lock, NULL);
        vm->fd = -1;
        e = create(vm, KVM_HOST(host), err);
        if (e < 0)
            vm_destroy(&vm->base);
    } else {
        e = error_set(err, ENOMEM, "engine kvm: no memory");
    }
    if (host != config->host)
        host_close(host);
    if (!e)
        *out = &vm->base;
    return e;
}

static int bell(struct engine_vm *e, uint64_t gpa, unsigned size, uint32_t value, int fd, bool on)
{
    const struct kvm_ioeventfd k = {.datamatch = value,
                                    .addr = gpa,
                                    .len = size,
                                    .fd = fd,
                                    .flags = (size ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0) |
                                             (on ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN)};
    return ioctl(KVM_VM(e)->fd, KVM_IOEVENTFD, &k) < 0 ? -errno : 0;
}

static void vm_stats(struct engine_vm *e, engine_stat_fn emit, void *ctx)
{
    unsigned used = 0;
    for (unsigned n = 0; n < KVM_SLOTS; n++)
        used += KVM_VM(e)->slot[n].size != 0;
    emit(ctx, "memory_regions", used);
    emit(ctx, "dirty_ring_entries", KVM_VM(e)->ring_entries);
    emit(ctx, "messages", KVM_VM(e)->messages);
    emit(ctx, "routings", KVM_VM(e)->routings);
}

const struct engine_ops engine_kvm = {
    .name = "kvm",
    .apic = &kvm_apic_ops,
    .probe = probe,
    .recommend = recommend,
    .open = host_open,
    .close = host_close,
    .cpuid = kvm_cpuid_supported,
    .tsc_khz = kvm_tsc_khz,
    .vm_create = vm_create,
    .vm_destroy = vm_destroy,
    .map = kvm_map,
    .unmap = kvm_unmap,
    .invalidate = kvm_invalidate,
    .log_start = kvm_log_start,
    .log_stop = kvm_log_stop,
    .log_fetch = kvm_log_fetch,
    .bell = bell,
    .vcpu_create = kvm_vcpu_create,
    .vcpu_destroy = kvm_vcpu_destroy,
    .run = kvm_run,
    .kick = kvm_kick,
    .get_state = kvm_get_state,
    .set_state = kvm_set_state,
    .vcpu_stats = kvm_vcpu_stats,
    .vm_stats = vm_stats,
};
