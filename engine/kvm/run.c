// The loop: into the guest and out of it, and what happens between two instructions.
//
// Interrupts. Where the local APIC is ours, KVM is handed one vector at a time (KVM_INTERRUPT), when it says that the
// guest is open for it. While it is not, KVM is asked to come back as soon as it is (request_interrupt_window), and
// ENGINE_INTR stays set meanwhile. With local APICs in the kernel that is how the PIC's vectors get in, and nothing
// else: the kernel then says that the guest is open if its LINT0 is, too.
//
// Kicking. Somebody sets a bit in `pending` and then calls kvm_kick(). The vCPU's thread sets `inside`, then looks at
// pending, then goes in; so one of the two sees the other. A kick of a vCPU that is inside sets immediate_exit, which
// the kernel looks at last before the guest runs, and sends a signal, which gets it out if it was running already. A
// vCPU that is inside until it is open for what is pending (`waiting`) comes out and looks by itself: it is left alone.
// The signal's handler does nothing; it exists because a signal without one would end the process. It is the process's
// by nature, as the translator's is.
//
// Order of events at an instruction boundary: Intel SDM vol. 3, table 6-2.
// Source: api.rst [4.10] KVM_RUN, [4.16] KVM_INTERRUPT, [4.64] KVM_NMI, and section 5 on struct kvm_run.
#include "engine/kvm/kvm.h"
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define KICK SIGRTMIN

static void on_kick(int number)
{
    (void)number;
}

int kvm_kick_prepare(struct error *err)
{
    struct sigaction a = {.sa_handler = on_kick, .sa_flags = SA_RESTART};
    sigemptyset(&a.sa_mask);
    return sigaction(KICK, &a, NULL) < 0 ? error_set(err, errno, "engine kvm: signal: %s", strerror(errno)) : 0;
}

static bool is_pending(const struct kvm_vcpu *v, uint32_t bits)
{
    return v->base.pending & bits;
}

void kvm_kick(struct engine_vcpu *e)
{
    struct kvm_vcpu *v = KVM_VCPU(e);
    if (!v->inside || !is_pending(v, ~v->waiting))
        return;
    __atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_RELAXED);
    syscall(SYS_tgkill, getpid(), v->tid, KICK);
}

static bool take(struct kvm_vcpu *v, uint32_t bit)
{
    return is_pending(v, bit) && atomic_fetch_and(&v->base.pending, ~bit) & bit;
}

// --- in and out

// `finish`: only the access that is under way.
static enum kvm_outcome enter(struct kvm_vcpu *v, bool finish, struct error *err)
{
    struct kvm_run *run = v->run;
    bool own_apic = v->base.vm->own_apic;
    if (v->tpr_stale && !own_apic) {
        v->tpr_stale = false;
        run->cr8 = v->cr8 = KVM_UP(v)->tpr_read(v->base.owner);
    }
    __atomic_store_n(&run->immediate_exit, finish, __ATOMIC_RELAXED);
    v->inside = true;
    if (!finish && is_pending(v, ~v->waiting)) {
        v->inside = false;
        return KVM_GO_ON;
    }
    v->unfinished = false;
    v->runs++;
    int e = ioctl(v->fd, KVM_RUN, 0) < 0 ? errno : 0;
    v->inside = false;
    if (run->cr8 != v->cr8 && !own_apic) { // by MOV to CR8
        v->cr8 = run->cr8;
        KVM_UP(v)->tpr_write(v->base.owner, v->cr8);
    }
    if (!e)
        return kvm_exit(v, err);
    if (e != EINTR && e != EAGAIN)
        return kvm_fail(v, err, "KVM cannot run: %s", strerror(e));
    if (finish)
        v->finishes++;
    else
        v->exits[KVM_EXIT_INTR]++;
    return KVM_GO_ON;
}

// Each round finishes one access. An instruction has at most a handful; of a repeated one, the iteration.
enum kvm_outcome kvm_settle(struct kvm_vcpu *v, struct error *err)
{
    enum kvm_outcome o = KVM_GO_ON;
    while (v->unfinished && o == KVM_GO_ON)
        o = enter(v, true, err);
    return o;
}

// --- events

static enum kvm_outcome change_state(struct kvm_vcpu *v, const struct cpu_state *s, struct error *err)
{
    return kvm_set_state(&v->base, s, CPU_GROUP_ALL, err) ? KVM_FAILED : KVM_GO_ON;
}

static enum kvm_outcome reset_by_init(struct kvm_vcpu *v, struct error *err)
{
    struct cpu_state s;
    kvm_get_state(&v->base, &s, CPU_GROUP_ALL);
    cpu_init(&s, v->base.id == 0);
    s.gpr[CPU_RDX] = cpu_model_signature(v->base.vm->config.model);
    enum kvm_outcome o = change_state(v, &s, err);
    if (KVM_UP(v)->init) // its local APIC takes the INIT too
        KVM_UP(v)->init(v->base.owner);
    return o;
}

static enum kvm_outcome start_up(struct kvm_vcpu *v, struct error *err)
{
    struct cpu_state s;
    kvm_get_state(&v->base, &s, CPU_GROUP_ALL);
    cpu_startup(&s, v->base.sipi_vector);
    return change_state(v, &s, err);
}

// KVM delivers it when the guest is open for it. A CPU in HLT wakes up unless it is in an NMI's handler.
static void nmi(struct kvm_vcpu *v)
{
    v->nmis++;
    ioctl(v->fd, KVM_NMI, 0);
    if (v->activity != CPU_HALTED)
        return;
    struct kvm_vcpu_events k = {0};
    ioctl(v->fd, KVM_GET_VCPU_EVENTS, &k);
    if (!k.nmi.masked)
        v->activity = CPU_RUNNING;
}

static bool interrupts_open(const struct kvm_vcpu *v)
{
    return v->run->ready_for_interrupt_injection && v->run->if_flag;
}

static enum kvm_outcome interrupts(struct kvm_vcpu *v, struct error *err)
{
    v->run->request_interrupt_window = 0;
    v->waiting = 0;
    if (!is_pending(v, ENGINE_INTR))
        return KVM_GO_ON;
    // What is said to be closed, though it may be open once the access is finished, opens a window: no need to look.
    enum kvm_outcome o = interrupts_open(v) ? kvm_settle(v, err) : KVM_GO_ON;
    if (o != KVM_GO_ON)
        return o;
    if (interrupts_open(v) && take(v, ENGINE_INTR)) {
        int vector = KVM_UP(v)->interrupt_ack(v->base.owner);
        if (vector >= 0) {
            struct kvm_interrupt irq = {.irq = (uint32_t)vector};
            if (ioctl(v->fd, KVM_INTERRUPT, &irq) < 0)
                return kvm_fail(v, err, "KVM: interrupt 0x%02x: %s", (unsigned)vector, strerror(errno));
            v->activity = CPU_RUNNING;
            v->injected++;
            v->run->ready_for_interrupt_injection = 0; // it has one now
        }
        if (!is_pending(v, ENGINE_INTR))
            return KVM_GO_ON;
    }
    v->run->request_interrupt_window = 1;
    v->waiting = ENGINE_INTR;
    return KVM_GO_ON;
}

// What was loaded from another engine may be on its way to be told that its HLT is over, or that translations are to be
// forgotten, which KVM does by itself.
static void forget_software(struct kvm_vcpu *v)
{
    struct kvm_mp_state running = {.mp_state = KVM_MP_STATE_RUNNABLE};
    if (take(v, ENGINE_UNHALT) && v->base.vm->own_apic && kvm_activity(v) == CPU_HALTED)
        ioctl(v->fd, KVM_SET_MP_STATE, &running);
    take(v, ENGINE_TLB_FLUSH);
}

static void sleep_until(struct kvm_vcpu *v, uint32_t mask)
{
    KVM_UP(v)->halt(v->base.owner, mask | ENGINE_INIT | ENGINE_EXIT);
}

// True in *ready: the guest can go on. False: look again.
static enum kvm_outcome events(struct kvm_vcpu *v, bool *ready, struct error *err)
{
    enum kvm_outcome o = KVM_GO_ON;
    *ready = false;
    if (is_pending(v, ENGINE_INIT)) {
        o = kvm_settle(v, err);
        if (o == KVM_GO_ON && take(v, ENGINE_INIT))
            o = reset_by_init(v, err);
    }
    if (o == KVM_GO_ON && take(v, ENGINE_SIPI) && kvm_activity(v) == CPU_WAIT_SIPI)
        o = start_up(v, err);
    if (o != KVM_GO_ON)
        return o;
    if (v->activity == CPU_WAIT_SIPI) {
        sleep_until(v, ENGINE_SIPI);
        return KVM_GO_ON;
    }
    if (take(v, ENGINE_NMI))
        nmi(v);
    forget_software(v);
    o = interrupts(v, err);
    if (o != KVM_GO_ON)
        return o;
    if (v->activity != CPU_HALTED) { // it never is where the kernel keeps that
        *ready = true;
        return KVM_GO_ON;
    }
    o = kvm_settle(v, err); // if the state was set: is it open for interrupts?
    if (o == KVM_GO_ON && v->activity == CPU_HALTED)
        sleep_until(v, ENGINE_NMI | (interrupts_open(v) ? ENGINE_INTR : 0));
    return o;
}

static enum kvm_outcome loop(struct kvm_vcpu *v, struct error *err)
{
    for (;;) {
        enum kvm_outcome o;
        bool ready;
        if (take(v, ENGINE_EXIT))
            return kvm_settle(v, err);
        if (v->activity == CPU_SHUTDOWN)
            return KVM_SHUT_DOWN;
        o = events(v, &ready, err);
        if (o == KVM_GO_ON && ready)
            o = enter(v, false, err);
        if (o != KVM_GO_ON)
            return o;
    }
}

enum engine_exit kvm_run(struct engine_vcpu *e, struct error *err)
{
    static const enum engine_exit how[] = {
        [KVM_GO_ON] = ENGINE_EXIT_REQUESTED, [KVM_FAILED] = ENGINE_EXIT_ERROR, [KVM_SHUT_DOWN] = ENGINE_EXIT_SHUTDOWN};
    struct kvm_vcpu *v = KVM_VCPU(e);
    sigset_t kick, before;
    sigemptyset(&kick);
    sigaddset(&kick, KICK);
    v->tid = (int)syscall(SYS_gettid);
    pthread_sigmask(SIG_UNBLOCK, &kick, &before);
    kvm_clock_sync(v);
    enum kvm_outcome o = loop(v, err);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return how[o];
}
