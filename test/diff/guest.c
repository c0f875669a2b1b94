// Executes a case on an engine: a guest that consists of page tables, descriptor tables and the case, in ring 3.
//
// Nothing of the engine is looked at but its registers: the guest has an interrupt descriptor table whose 32 handlers
// lie at known addresses in ring 0, so a fault is seen by where RIP is after one step, and what it pushed is on the
// stack.
//
// Guest-physical memory (linear addresses of code and data are those of case.h):
//     0x1000 PML4   0x2000 PDPT   0x3000 PD   0x4000 PT of code and data   0x5000 PT of the supervisor's pages
//     0x6000 GDT    0x7000 IDT    0x8000 TSS  0x9000 stack   0xa000 handlers   0x10000 code   0x20000 data
#include "case.h"
#include "cpu/exception.h"
#include "engine/engine.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
    PML4 = 0x1000,
    PDPT = 0x2000,
    PD = 0x3000,
    PT_USER = 0x4000,
    PT_SYSTEM = 0x5000,
    GDT = 0x6000,
    IDT = 0x7000,
    TSS = 0x8000,
    STACK = 0x9000,
    HANDLERS = 0xa000,
    CODE = 0x10000,
    DATA = 0x20000,
    RAM = 0x40000,
    PRESENT = 0x63, // present, writable, accessed, dirty
    USER = 4,
    WRITABLE = 2,
    GDT_LIMIT = 0x7f, // as large as Linux's
    TSS_SELECTOR = 0x40,
};

#define SYSTEM 0x30000000ull // linear address of the supervisor's pages
#define NX (1ull << 63)

struct guest {
    struct runner runner;
    const struct engine_ops *ops;
    struct engine_vm *vm;
    struct engine_vcpu *vcpu;
    struct cpu_state before, after;
    uint8_t *ram;
    bool started, long64;
};

// The guest is closed: it has no devices, and a case that reaches one is answered like an empty bus.
static uint64_t no_port_read(void *owner, uint16_t port, unsigned size)
{
    (void)owner, (void)port, (void)size;
    return ~0ull;
}

static void no_port_write(void *owner, uint16_t port, unsigned size, uint64_t val)
{
    (void)owner, (void)port, (void)size, (void)val;
}

static uint64_t no_mmio_read(void *owner, uint64_t gpa, unsigned size)
{
    (void)owner, (void)gpa, (void)size;
    return ~0ull;
}

static void no_mmio_write(void *owner, uint64_t gpa, unsigned size, uint64_t val)
{
    (void)owner, (void)gpa, (void)size, (void)val;
}

static int no_msr_read(void *owner, uint32_t msr, uint64_t *val)
{
    (void)owner, (void)msr, (void)val;
    return -1;
}

static int no_msr_write(void *owner, uint32_t msr, uint64_t val)
{
    (void)owner, (void)msr, (void)val;
    return -1;
}

static uint64_t no_tpr_read(void *owner)
{
    (void)owner;
    return 0;
}

static void no_tpr_write(void *owner, uint64_t tpr)
{
    (void)owner, (void)tpr;
}

static int no_interrupt(void *owner)
{
    (void)owner;
    return -1;
}

static uint64_t no_hypercall(void *owner, uint64_t nr, const uint64_t arg[4], bool wide)
{
    (void)wide;
    (void)owner, (void)nr, (void)arg;
    return ~0ull;
}

static void no_halt(void *owner, unsigned mask)
{
    (void)owner, (void)mask;
}

static uint64_t no_time(void *owner)
{
    (void)owner;
    return 0;
}

static const struct engine_upcalls upcalls = {
    .port_read = no_port_read,
    .port_write = no_port_write,
    .mmio_read = no_mmio_read,
    .mmio_write = no_mmio_write,
    .msr_read = no_msr_read,
    .msr_write = no_msr_write,
    .tpr_read = no_tpr_read,
    .tpr_write = no_tpr_write,
    .interrupt_ack = no_interrupt,
    .hypercall = no_hypercall,
    .halt = no_halt,
    .tsc = no_time,
};

static void put64(uint8_t *ram, uint64_t at, uint64_t val)
{
    memcpy(ram + at, &val, sizeof val);
}

static uint64_t get64(const uint8_t *ram, uint64_t at)
{
    uint64_t val;
    memcpy(&val, ram + at, sizeof val);
    return val;
}

static void build(uint8_t *ram)
{
    put64(ram, PML4, PDPT | PRESENT | USER);
    put64(ram, PDPT, PD | PRESENT | USER);
    put64(ram, PD + 8 * (CASE_CODE >> 21 & 511), PT_USER | PRESENT | USER);
    put64(ram, PD + 8 * (SYSTEM >> 21 & 511), PT_SYSTEM | PRESENT);
    put64(ram, PT_USER + 8 * (CASE_CODE >> 12 & 511), CODE | (PRESENT & ~WRITABLE) | USER);
    for (unsigned n = 0; n < CASE_WINDOW; n += CASE_PAGE) {
        uint64_t flags = n < CASE_WRITABLE ? PRESENT | USER : (PRESENT & ~WRITABLE) | USER;
        put64(ram, PT_USER + 8 * ((CASE_DATA + n) >> 12 & 511), (DATA + n) | flags | NX);
    }
    for (unsigned at = GDT; at <= HANDLERS; at += CASE_PAGE)
        put64(ram, PT_SYSTEM + 8 * (at >> 12), at | PRESENT);

    // The selectors of Linux, so that what they say about themselves is the same here and there.
    static const uint64_t descriptor[] = {
        [1] = 0x00cf9b000000ffff, [2] = 0x00af9b000000ffff, [3] = 0x00cf93000000ffff,
        [4] = 0x00cffb000000ffff, [5] = 0x00cff3000000ffff, [6] = 0x00affb000000ffff,
    };
    memcpy(ram + GDT, descriptor, sizeof descriptor);
    if (!case_host_runs_32bit())
        put64(ram, GDT + (CASE_CS32 & ~7), 0);
    uint64_t tss = SYSTEM + TSS;
    put64(ram, GDT + TSS_SELECTOR, 0x00008b0000000067 | (tss & 0xffffff) << 16 | (tss >> 24 & 0xff) << 56);
    put64(ram, GDT + TSS_SELECTOR + 8, tss >> 32);
    put64(ram, TSS + 4, SYSTEM + STACK + CASE_PAGE); // RSP0
    ram[TSS + 0x66] = 0x68;                          // no I/O permission bitmap: ports are forbidden
    for (unsigned n = 0; n < 32; n++) {
        uint64_t handler = SYSTEM + HANDLERS + 16 * n;
        put64(ram, IDT + 16 * n, (handler & 0xffff) | 0x10 << 16 | 0x8e00ull << 32 | (handler >> 16 & 0xffff) << 48);
        put64(ram, IDT + 16 * n + 8, handler >> 32);
    }
    // An engine need not count an instruction that faults: then it executes one more, here.
    memset(ram + HANDLERS, 0x90, CASE_PAGE);
    memset(ram + CODE, 0xcc, CASE_PAGE);
    case_fill_readonly(ram + DATA + CASE_WRITABLE);
}

static void set_segments(struct cpu_state *s, bool long64)
{
    const struct cpu_segment none = {0};
    const struct cpu_segment data = {.selector = CASE_DS, .attr = 0xcf3, .limit = 0xffffffff};
    for (unsigned n = 0; n < CPU_SEG_COUNT; n++)
        s->seg[n] = none;
    s->seg[CPU_ES] = s->seg[CPU_SS] = s->seg[CPU_DS] = data;
    s->seg[CPU_CS] = (struct cpu_segment){
        .selector = long64 ? CASE_CS64 : CASE_CS32, .attr = long64 ? 0xafb : 0xcfb, .limit = 0xffffffff};
    s->ldtr = none;
    s->tr = (struct cpu_segment){.selector = TSS_SELECTOR, .attr = 0x08b, .limit = 0x67, .base = SYSTEM + TSS};
    s->gdtr = (struct cpu_table){.base = SYSTEM + GDT, .limit = GDT_LIMIT};
    s->idtr = (struct cpu_table){.base = SYSTEM + IDT, .limit = 32 * 16 - 1};
}

static void set_control(struct cpu_state *s, const struct cpu_model *model)
{
    cpu_reset(s, true);
    s->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG;
    s->cr3 = PML4;
    s->cr4 = CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE | CR4_FSGSBASE | CR4_UMIP;
    s->cr4 &= model->cr4_mask;
    s->efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
    s->xcr0 = XSTATE_X87 | XSTATE_SSE | XSTATE_AVX;
}

static void take_fault(const struct guest *g, unsigned vector, struct diff_result *r)
{
    const uint8_t *stack = g->ram + STACK + CASE_PAGE - 40; // RIP, CS, RFLAGS, RSP, SS
    r->vector = (int)vector;
    r->out.rip = get64(stack, 0);
    r->out.rflags = get64(stack, 16) & ~(uint64_t)RFLAGS_RF;
    r->out.gpr[CPU_RSP] = get64(stack, 24);
    if (cpu_exception_has_error((uint8_t)vector))
        memcpy(&r->error, stack - 8, sizeof r->error);
    if (vector == EXC_PF)
        r->cr2 = g->after.cr2;
}

static void guest_run(struct runner *runner, const struct diff_case *c, struct diff_result *r)
{
    struct guest *g = (struct guest *)runner;
    struct cpu_state *s = &g->before;
    size_t at = c->in.rip - CASE_CODE;
    memcpy(g->ram + CODE + at, c->code, c->len);
    g->ops->invalidate(g->vm, CODE + at, c->len);
    memcpy(g->ram + DATA, c->data, CASE_WRITABLE);
    memcpy(s->gpr, c->in.gpr, sizeof s->gpr);
    s->rip = c->in.rip;
    s->rflags = c->in.rflags;
    set_segments(s, c->long64);
    s->seg[CPU_GS].base = c->in.gs_base;
    memset(s->xsave, 0, 1024);
    memcpy(s->xsave, c->in.xsave, CASE_XSAVE);
    memset(s->xsave + 512, 0, 64);
    s->xsave[512] = 7;
    memset(r, 0, sizeof *r);
    struct error err = {""};
    unsigned groups = CPU_GROUP_GPR | CPU_GROUP_SEG | CPU_GROUP_XSAVE | CPU_GROUP_EVENTS;
    if (!g->started || g->long64 != c->long64)
        groups |= CPU_GROUP_CR | CPU_GROUP_DR;
    g->started = true;
    g->long64 = c->long64;
    enum engine_exit exit = ENGINE_EXIT_ERROR;
    if (!g->ops->set_state(g->vcpu, s, groups, &err))
        exit = g->ops->step(g->vcpu, 1, &err);
    g->ops->get_state(g->vcpu, &g->after, CPU_GROUP_ALL);
    memcpy(r->out.gpr, g->after.gpr, sizeof r->out.gpr);
    r->out.rip = g->after.rip;
    r->out.rflags = g->after.rflags & ~(uint64_t)RFLAGS_RF;
    r->out.gs_base = g->after.seg[CPU_GS].base;
    case_take_xsave(r->out.xsave, g->after.xsave);
    memcpy(r->data, g->ram + DATA, CASE_WRITABLE);
    memset(g->ram + CODE + at, 0xcc, c->len);
    r->vector = -1;
    uint64_t handler = g->after.rip - (SYSTEM + HANDLERS);
    if (exit == ENGINE_EXIT_SHUTDOWN)
        r->vector = 256;
    else if (exit == ENGINE_EXIT_ERROR)
        r->vector = 257;
    else if (handler < 32 * 16)
        take_fault(g, (unsigned)handler / 16, r);
}

static void guest_destroy(struct runner *r)
{
    struct guest *g = (struct guest *)r;
    if (g->vcpu)
        g->ops->vcpu_destroy(g->vcpu);
    if (g->vm)
        g->ops->vm_destroy(g->vm);
    munmap(g->ram, RAM);
    free(g);
}

struct runner *guest_runner(const struct engine_ops *ops, const struct cpu_model *model, char *why, size_t size)
{
    struct error err = {""};
    struct guest *g = aligned_alloc(64, (sizeof *g + 63) & ~(size_t)63);
    uint8_t *ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (!g || ram == MAP_FAILED) {
        snprintf(why, size, "no memory");
        free(g);
        return NULL;
    }
    memset(g, 0, sizeof *g);
    g->runner = (struct runner){.name = ops->name, .run = guest_run, .destroy = guest_destroy};
    g->runner.translates = ops == &engine_dbt;
    g->ops = ops;
    g->ram = ram;
    build(g->ram);
    struct engine_vm_config config = {.model = model, .up = &upcalls};
    if (ops->probe(&err) || ops->vm_create(&config, &g->vm, &err) || ops->map(g->vm, 0, RAM, g->ram, 0, &err) ||
        ops->vcpu_create(g->vm, 0, NULL, &g->vcpu, &err)) {
        snprintf(why, size, "engine %s: %s", ops->name, err.text);
        guest_destroy(&g->runner);
        return NULL;
    }
    set_control(&g->before, model);
    return &g->runner;
}
