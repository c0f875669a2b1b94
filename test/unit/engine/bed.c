// See bed.h.
#include "bed.h"
#include <cpuid.h>
#include <stdlib.h>

enum { HLT = 0xf4, INSTRUCTIONS = 100000 };

#define FREELY UINT64_MAX // not counted

static struct cpuid_regs host_cpuid(uint32_t leaf, uint32_t subleaf)
{
    struct cpuid_regs r;
    __cpuid_count(leaf, subleaf, r.eax, r.ebx, r.ecx, r.edx);
    return r;
}

// --- the owner

static void note(struct bed *b, char what, uint64_t address, unsigned size, uint64_t value)
{
    if (b->events < BED_LOG)
        b->log[b->events] = (struct bed_event){what, address, value, size};
    b->events++;
}

static uint64_t port_read(void *owner, uint16_t port, unsigned size)
{
    struct bed *b = owner;
    note(b, 'i', port, size, b->port_value);
    return b->port_value;
}

static void port_write(void *owner, uint16_t port, unsigned size, uint64_t val)
{
    struct bed *b = owner;
    if (port == BED_END && b->vm->own_apic) {
        b->halts++;
        engine_notify(b->cpu, ENGINE_EXIT);
        return;
    }
    note(b, 'o', port, size, val);
}

static uint64_t mmio_read(void *owner, uint64_t gpa, unsigned size)
{
    note(owner, 'r', gpa, size, 0);
    return ~0ull;
}

static void mmio_write(void *owner, uint64_t gpa, unsigned size, uint64_t val)
{
    note(owner, 'w', gpa, size, val);
}

static int msr_read(void *owner, uint32_t msr, uint64_t *val)
{
    (void)owner;
    *val = 0x1234;
    return msr >= 0x800 && msr < 0x900 ? 0 : msr == 0x6e0 ? 0 : -1;
}

static int msr_write(void *owner, uint32_t msr, uint64_t val)
{
    note(owner, 'm', msr, 8, val);
    return (msr >= 0x800 && msr < 0x900) || msr == 0x6e0 ? 0 : -1;
}

static uint64_t tpr_read(void *owner)
{
    (void)owner;
    return 5;
}

static void tpr_write(void *owner, uint64_t tpr)
{
    note(owner, 't', 0, 0, tpr);
}

static int interrupt_ack(void *owner)
{
    struct bed *b = owner;
    int vector = b->vector;
    b->vector = -1;
    return vector;
}

static void eoi(void *owner, uint8_t vector)
{
    note(owner, 'e', vector, 0, 0);
}

static uint64_t hypercall(void *owner, uint64_t nr, const uint64_t arg[4], bool wide)
{
    (void)wide;
    note(owner, 'h', nr, 0, arg[0] + arg[1] + arg[2] + arg[3]);
    return 0x77;
}

// HLT ends a run, for nobody would ever wake this CPU; unless the test has said what does.
static void halt(void *owner, unsigned mask)
{
    struct bed *b = owner;
    (void)mask;
    b->halts++;
    engine_notify(b->cpu, b->wake ? b->wake : ENGINE_EXIT);
    b->wake = 0;
}

static uint64_t tsc(void *owner)
{
    return ((struct bed *)owner)->tsc++;
}

static const struct engine_upcalls upcalls = {
    .port_read = port_read,
    .port_write = port_write,
    .mmio_read = mmio_read,
    .mmio_write = mmio_write,
    .msr_read = msr_read,
    .msr_write = msr_write,
    .tpr_read = tpr_read,
    .tpr_write = tpr_write,
    .interrupt_ack = interrupt_ack,
    .eoi = eoi,
    .hypercall = hypercall,
    .halt = halt,
    .tsc = tsc,
};

// --- memory

uint64_t bed_read(const struct bed *b, uint64_t gpa, unsigned size)
{
    uint64_t val = 0;
    assert_true(gpa + size <= BED_RAM);
    memcpy(&val, b->ram + gpa, size);
    return val;
}

void bed_write(struct bed *b, uint64_t gpa, uint64_t val, unsigned size)
{
    assert_true(gpa + size <= BED_RAM);
    memcpy(b->ram + gpa, &val, size);
    b->vm->ops->invalidate(b->vm, gpa, size);
}

uint64_t bed_descriptor(uint32_t base, uint32_t limit, uint16_t attr)
{
    uint64_t d = limit & 0xffff;
    d |= (uint64_t)(base & 0xffffff) << 16;
    d |= (uint64_t)(attr & 0xff) << 40;
    d |= (uint64_t)(limit >> 16 & 15) << 48;
    d |= (uint64_t)(attr >> 8 & 15) << 52;
    return d | (uint64_t)(base >> 24) << 56;
}

void bed_gdt(struct bed *b, unsigned sel, uint64_t low)
{
    bed_write(b, BED_GDT + (sel & ~7u), low, 8);
}

void bed_gate(struct bed *b, unsigned vector, uint16_t sel, uint64_t offset, uint8_t type_dpl_p, unsigned ist)
{
    uint64_t low = (offset & 0xffff) | (uint64_t)sel << 16 | (uint64_t)ist << 32 | (uint64_t)type_dpl_p << 40 |
                   (offset >> 16 & 0xffff) << 48;
    if (b->s.efer & EFER_LMA) {
        bed_write(b, BED_IDT + 16 * vector, low, 8);
        bed_write(b, BED_IDT + 16 * vector + 8, offset >> 32, 8);
    } else {
        bed_write(b, BED_IDT + 8 * vector, low, 8);
    }
}

uint64_t bed_stack(const struct bed *b, unsigned n, unsigned size)
{
    uint64_t rsp = b->s.gpr[CPU_RSP];
    if (!(b->s.efer & EFER_LMA))
        rsp = b->s.seg[CPU_SS].base + (b->s.seg[CPU_SS].attr & CPU_SEG_DB ? (uint32_t)rsp : (uint16_t)rsp);
    return bed_read(b, rsp + n * size, size);
}

// --- the modes

enum {
    CODE0 = 0x9b,
    DATA0 = 0x93,
    DPL3 = 0x60,
    G = CPU_SEG_G,
    DB = CPU_SEG_DB,
    L = CPU_SEG_L,
    TSS_BUSY = 0x8b,
    LDT = 0x82,
    GATE32 = 0x8e,
};

static void selector(struct cpu_segment *g, const struct bed *b, uint16_t sel)
{
    uint64_t d = bed_read(b, BED_GDT + (sel & ~7u), 8);
    uint32_t limit = (d & 0xffff) | (d >> 48 & 15) << 16;
    g->selector = sel;
    g->attr = (d >> 40 & 0xff) | (d >> 52 & 15) << 8;
    g->base = (d >> 16 & 0xffffff) | (d >> 56) << 24;
    g->limit = g->attr & CPU_SEG_G ? limit << 12 | 0xfff : limit;
}

static void tables(struct bed *b, enum bed_mode mode)
{
    uint16_t size = mode == BED_LONG ? G | L : mode == BED_PROT32 ? G | DB : 0;
    uint16_t data = mode == BED_PROT16 ? 0 : G | DB;
    uint32_t limit = mode == BED_PROT16 ? 0xffff : 0xfffff;
    bed_gdt(b, BED_CS, bed_descriptor(0, limit, CODE0 | size));
    bed_gdt(b, BED_DS, bed_descriptor(0, limit, DATA0 | data));
    bed_gdt(b, BED_CS3, bed_descriptor(0, limit, CODE0 | DPL3 | size));
    bed_gdt(b, BED_DS3, bed_descriptor(0, limit, DATA0 | DPL3 | data));
    bed_gdt(b, BED_CS32, bed_descriptor(0, 0xfffff, CODE0 | G | DB));
    bed_gdt(b, BED_CS32_3, bed_descriptor(0, 0xfffff, CODE0 | DPL3 | G | DB));
    bed_gdt(b, BED_TR, bed_descriptor(BED_TSS, BED_TSS_LIMIT, TSS_BUSY));
    bed_gdt(b, BED_LDTR, bed_descriptor(BED_LDT, 0xfff, LDT));
    for (unsigned n = 0; n < 256; n++)
        bed_gate(b, n, BED_CS, BED_HANDLERS + 16 * n, GATE32, 0);
    b->s.gdtr = (struct cpu_table){BED_GDT, BED_GDT_LIMIT};
    b->s.idtr = (struct cpu_table){BED_IDT, mode == BED_LONG ? 0xfff : 0x7ff};
    for (unsigned i = 0; i < CPU_SEG_COUNT; i++)
        selector(&b->s.seg[i], b, i == CPU_CS ? BED_CS : BED_DS);
    b->s.tr = (struct cpu_segment){BED_TR, TSS_BUSY, BED_TSS_LIMIT, BED_TSS};
    b->s.ldtr = (struct cpu_segment){BED_LDTR, LDT, 0xfff, BED_LDT};
    if (mode == BED_LONG) {
        bed_write(b, BED_TSS + 4, BED_STACK0, 8);
        for (unsigned n = 0; n < 7; n++)
            bed_write(b, BED_TSS + 36 + 8 * n, BED_IST + 0x400 * n, 8);
    } else {
        bed_write(b, BED_TSS + 4, BED_STACK0, 4);
        bed_write(b, BED_TSS + 8, BED_DS, 2);
    }
    bed_write(b, BED_TSS + 102, 104, 2);
}

static void long_mode(struct bed *b)
{
    // One PML4, one PDPT, one PD: 2 MiB pages, everything is anybody's.
    bed_write(b, BED_TABLES, (BED_TABLES + 0x1000) | 7, 8);
    bed_write(b, BED_TABLES + 0x1000, (BED_TABLES + 0x2000) | 7, 8);
    for (unsigned n = 0; n < 512; n++)
        bed_write(b, BED_TABLES + 0x2000 + 8 * n, (uint64_t)n << 21 | 0x87, 8);
    b->s.cr3 = BED_TABLES;
    b->s.cr4 = CR4_PAE;
    b->s.efer = EFER_LME | EFER_LMA;
    b->s.cr0 = CR0_PE | CR0_PG | CR0_ET | CR0_NE;
}

static void open_engine(struct bed *b, enum bed_mode mode, const char *model, const struct engine_ops *engine,
                        enum engine_apics apics, void (*change)(struct engine_host *host))
{
    struct error e = {""};
    memset(b, 0, sizeof *b);
    struct cpu_config config = {.cpus = 1, .tsc_khz = 1000000, .paravirt = true};
    struct cpuid_leaf hardware[256];
    struct engine_host *host = NULL;
    if (engine->open) {
        int leaves = engine->open(apics, &host, &e);
        leaves = leaves < 0 ? leaves : engine->cpuid(host, hardware, 256, &e);
        if (leaves < 0)
            fail_msg("%s", e.text);
        config.hardware = hardware;
        config.hardware_leaves = (unsigned)leaves;
        b->free = true; // it cannot count
    }
    if (host && change)
        change(host);
    if (cpu_model_make(&b->model, model, host_cpuid, &config, &e))
        fail_msg("%s", e.text);
    b->ram = aligned_alloc(4096, BED_RAM);
    assert_non_null(b->ram);
    memset(b->ram, 0, BED_RAM);
    b->vector = -1;
    struct engine_vm_config c = {.host = host, .model = &b->model, .up = &upcalls};
    struct engine_tuning tuning = {.cells = ENGINE_CELLS_OFF, .translate_always = true};
    if (engine->vm_create(&c, &b->vm, &e))
        fail_msg("%s", e.text);
    if (host)
        engine->close(host);
    if (engine->tune)
        engine->tune(b->vm, &tuning);
    if (b->vm->ops->map(b->vm, 0, BED_RAM, b->ram, 0, &e) || b->vm->ops->vcpu_create(b->vm, 0, b, &b->cpu, &e))
        fail_msg("%s", e.text);
    cpu_reset(&b->s, true);
    for (unsigned n = 0; n < 256; n++) {
        bed_write(b, BED_HANDLERS + 16 * n, HLT, 1);
        bed_write(b, BED_IVT + 4 * n, BED_HANDLERS + 16 * n, 4);
    }
    if (mode == BED_LONG)
        long_mode(b);
    else if (mode != BED_REAL)
        b->s.cr0 = CR0_PE | CR0_ET | CR0_NE;
    if (mode == BED_REAL) {
        b->s.idtr = (struct cpu_table){0, 0x3ff};
        b->s.seg[CPU_CS] = (struct cpu_segment){BED_CODE >> 4, CODE0, 0xffff, BED_CODE};
    } else {
        tables(b, mode);
    }
    b->s.gpr[CPU_RSP] = BED_STACK;
}

void bed_open_engine(struct bed *b, enum bed_mode mode, const char *model, const struct engine_ops *engine)
{
    open_engine(b, mode, model, engine, ENGINE_APICS_CHIPS, NULL);
}

void bed_open_changed(struct bed *b, enum bed_mode mode, const struct engine_ops *engine,
                      void (*change)(struct engine_host *host))
{
    open_engine(b, mode, NULL, engine, ENGINE_APICS_CHIPS, change);
}

void bed_open_own_apic(struct bed *b, enum bed_mode mode, const struct engine_ops *engine)
{
    open_engine(b, mode, NULL, engine, ENGINE_APICS_OWN, NULL);
}

void bed_open_model(struct bed *b, enum bed_mode mode, const char *model)
{
    bed_open_engine(b, mode, model, &engine_interp);
}

void bed_open(struct bed *b, enum bed_mode mode)
{
    bed_open_model(b, mode, NULL);
}

void bed_close(struct bed *b)
{
    b->vm->ops->vcpu_destroy(b->cpu);
    b->vm->ops->vm_destroy(b->vm);
    free(b->ram);
}

void bed_load(struct bed *b, const uint8_t *code, const uint8_t *end)
{
    for (const uint8_t *p = code; p < end; p++)
        bed_write(b, BED_CODE + (p - code), *p, 1);
    b->s.rip = BED_CODE - b->s.seg[CPU_CS].base;
}

static void run(struct bed *b, uint64_t count)
{
    struct error e = {""};
    b->s.ev.activity = CPU_RUNNING; // an earlier run has ended in HLT
    if (b->vm->ops->set_state(b->cpu, &b->s, CPU_GROUP_ALL, &e))
        fail_msg("%s", e.text);
    b->how = count == FREELY ? b->vm->ops->run(b->cpu, &e) : b->vm->ops->step(b->cpu, count, &e);
    b->vm->ops->get_state(b->cpu, &b->s, CPU_GROUP_ALL);
}

void bed_run(struct bed *b)
{
    b->halts = 0;
    run(b, b->free ? FREELY : INSTRUCTIONS);
    if (b->how == ENGINE_EXIT_REQUESTED && !b->halts)
        fail_msg("the guest did not come to its end: RIP %llx", (unsigned long long)b->s.rip);
}

void bed_step(struct bed *b, uint64_t count)
{
    run(b, count);
}

int bed_vector(const struct bed *b)
{
    uint64_t rip = b->s.seg[CPU_CS].base * !(b->s.efer & EFER_LMA) + b->s.rip;
    if (b->how != ENGINE_EXIT_REQUESTED || rip < BED_HANDLERS || rip >= BED_HANDLERS + 16 * 256)
        return -1;
    return (rip - BED_HANDLERS) / 16;
}
