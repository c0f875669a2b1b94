// See machine.h.
//
// Guest-physical memory:
//     0x1000..0x3ffff  page tables             0x45000  handlers, what follows the stubs
//     0x40000          GDT, TSS at 0x800       0x46000  parameters and the log of the handlers
//     0x41000          IDT                     0x48000  image.next
//     0x43000          stack of the handlers   0x50000  code, 0x58000 its twins
//     0x44000          stubs, 16 bytes each    0x60000  data, 0x70000 stack
//     0x80000..        ROM, the same for all programs
// The linear address of what lies from 0x40000 to 0x4ffff is SYSTEM more. Slot TABLES_SLOT of the top-level table is
// that table itself, so that programs can write page table entries.
#include "machine.h"
#include "cpu/exception.h"
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define SYSTEM 0x30000000ull
#define NX (1ull << 63)

enum {
    TABLES = 0x1000,
    GDT = 0x40000,
    TSS = 0x40800,
    IDT = 0x41000,
    STACK_TOP = 0x44000,
    STUBS = 0x44000,
    HANDLER = 0x45000,
    SYSCALL = 0x45800,
    PARAMETERS = 0x46000,
    LOG = 0x46100,
    NEXT = 0x48000,
    CODE = MAPPED_FIRST,
    TWINS = CODE + CODE_TWIN,
    DATA = MAPPED_DATA,
    OWN = DATA + 8 * PAGE,
    STACK = 0x70000,
    WHOLE = LARGE_PAGES * LARGE,
    DEVICE = 0x800000,
    P = 1,
    W = 2,
    U = 4,
    A = 0x20,
    PS = 0x80,
    G = 0x100,
    GDT_LIMIT = 0x7f,
    TSS_SELECTOR = 0x40,
    PATIENCE = 5, // seconds
};

// What the handlers find at PARAMETERS.
struct parameters {
    uint64_t log;   // where to write next, linear
    uint64_t left;  // entries
    uint64_t flags; // RFLAGS are anded with this
    uint64_t code, rsp;
    uint16_t recover[8]; // where to go on when RIP is nowhere
};

const char *const how_names[HOWS] = {"freely", "counted", "in steps", "singly"};
const char *const end_names[BROKEN + 1] = {"halts", "crashes", "is still running", "does not come to its end",
                                           "breaks the engine"};

// The stubs come here with error code and vector pushed. 30046000 is PARAMETERS, 30048000 NEXT.
extern const uint8_t sequence_handler[], sequence_handler_end[];
__asm__(".pushsection .rodata\n"
        "sequence_handler:\n"
        "push %rax\n push %rcx\n push %rdx\n"
        "mov 0x30046010, %rax\n and %rax, 56(%rsp)\n"
        "mov 0x30046000, %rcx\n"
        "mov 24(%rsp), %rax\n mov %rax, (%rcx)\n"   // vector
        "mov 32(%rsp), %rax\n mov %rax, 8(%rcx)\n"  // error code
        "mov 40(%rsp), %rax\n mov %rax, 16(%rcx)\n" // RIP
        "mov 56(%rsp), %rax\n mov %rax, 24(%rcx)\n" // RFLAGS
        "mov 64(%rsp), %rax\n mov %rax, 32(%rcx)\n" // RSP
        "mov %cr2, %rax\n cmpb $14, 24(%rsp)\n je 1f\n xor %eax, %eax\n 1: mov %rax, 40(%rcx)\n"
        "add $48, %rcx\n mov %rcx, 0x30046000\n"
        "decq 0x30046008\n js 8f\n"
        "mov 24(%rsp), %eax\n"
        "cmp $32, %eax\n jae 4f\n cmp $3, %eax\n je 4f\n cmp $1, %eax\n je 6f\n"
        "mov 40(%rsp), %rdx\n sub 0x30046018, %rdx\n cmp $0x4000, %rdx\n jae 7f\n"
        "movzwl 0x30048000(%rdx,%rdx), %edx\n cmp $0xffff, %edx\n je 8f\n"
        "3: add 0x30046018, %rdx\n mov %rdx, 40(%rsp)\n"
        "mov 0x30046020, %rdx\n test %rdx, %rdx\n je 4f\n mov %rdx, 64(%rsp)\n"
        "4: pop %rdx\n pop %rcx\n pop %rax\n add $16, %rsp\n iretq\n"
        "6: testb $7, 0x30046008\n jne 4b\n btrq $8, 56(%rsp)\n jmp 4b\n" // enough of single steps
        "7: mov 0x30046008, %rdx\n and $7, %edx\n movzwl 0x30046028(,%rdx,2), %edx\n jmp 3b\n"
        "8: hlt\n jmp 8b\n"
        "sequence_handler_end:\n"
        ".popsection");

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

// --- the owner

static void note(struct machine *m, char what, uint64_t address, unsigned size, uint64_t value)
{
    const uint64_t all[] = {(uint64_t)what, address, size, value};
    m->calls++;
    for (unsigned n = 0; n < 4; n++)
        m->hash = (m->hash ^ all[n]) * 0x9e3779b97f4a7c15ull;
}

static uint64_t port_read(void *owner, uint16_t port, unsigned size)
{
    note(owner, 'i', port, size, 0);
    return port * 0x01234567ull;
}

static void port_write(void *owner, uint16_t port, unsigned size, uint64_t val)
{
    struct machine *m = owner;
    note(m, 'o', port, size, val);
    if (port == PORT_INTERRUPT)
        engine_notify(m->cpu, ENGINE_INTR);
}

static uint64_t mmio_read(void *owner, uint64_t gpa, unsigned size)
{
    note(owner, 'r', gpa, size, 0);
    return gpa * 0x0123456789abcdefull;
}

static void mmio_write(void *owner, uint64_t gpa, unsigned size, uint64_t val)
{
    note(owner, 'w', gpa, size, val);
}

static int msr_read(void *owner, uint32_t msr, uint64_t *val)
{
    note(owner, 'm', msr, 8, 0);
    *val = 0;
    return -1;
}

static int msr_write(void *owner, uint32_t msr, uint64_t val)
{
    note(owner, 'n', msr, 8, val);
    return -1;
}

static uint64_t tpr_read(void *owner)
{
    note(owner, 't', 0, 0, 0);
    return 5;
}

static void tpr_write(void *owner, uint64_t tpr)
{
    note(owner, 'u', 0, 0, tpr);
}

static int interrupt_ack(void *owner)
{
    struct machine *m = owner;
    if (!m->interrupts)
        return -1;
    m->interrupts--;
    return VECTOR;
}

static uint64_t hypercall(void *owner, uint64_t nr, const uint64_t arg[4], bool wide)
{
    (void)wide;
    note(owner, 'h', nr, 0, arg[0]);
    return 7;
}

static void halt(void *owner, unsigned mask)
{
    (void)mask;
    engine_notify(((struct machine *)owner)->cpu, ENGINE_EXIT);
}

static uint64_t tsc(void *owner)
{
    return ((struct machine *)owner)->tsc++;
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
    .hypercall = hypercall,
    .halt = halt,
    .tsc = tsc,
};

// --- memory

struct tables {
    uint8_t *ram;
    uint64_t used;
};

static uint64_t new_table(struct tables *t)
{
    uint64_t at = t->used;
    t->used += PAGE;
    return at;
}

static void map_page(struct tables *t, uint64_t la, uint64_t pa, uint64_t flags, unsigned page_shift)
{
    uint64_t table = TABLES;
    for (unsigned shift = 39; shift > page_shift; shift -= 9) {
        uint64_t at = table + 8 * (la >> shift & 511), e = get64(t->ram, at);
        if (!e)
            put64(t->ram, at, e = new_table(t) | P | W | U);
        table = e & ~(uint64_t)(PAGE - 1);
    }
    put64(t->ram, table + 8 * (la >> page_shift & 511), pa | flags);
}

static void map(struct tables *t, uint64_t la, uint64_t pa, uint64_t flags)
{
    map_page(t, la, pa, flags, 12);
}

static void map_program(struct tables *t, const struct setup *s)
{
    uint64_t code_user = s->user || !s->smep ? U : 0, user = s->user || s->smap ? U : s->seed & 4;
    for (unsigned n = 0; n < CODE_PAGES; n++) {
        // In an order of their own, so that neighbours in linear memory are none in physical memory.
        uint64_t page = PAGE * ((n + s->seed) % CODE_PAGES);
        map(t, s->code + n * PAGE, CODE + page, P | code_user | (s->code_readonly ? 0 : W));
        map(t, s->alias + n * PAGE, CODE + page, P | W | code_user | NX);
    }
    static const uint64_t rights[DATA_PAGES] = {
        [DATA_FIRST] = P | W | U,  [DATA_SECOND] = P | W | U, [DATA_READONLY] = P | U, [DATA_ALIAS] = P | W | U,
        [DATA_DEVICE] = P | W | U, [DATA_KERNEL] = P | W,     [DATA_OWN] = P | W | U};
    static const uint64_t place[DATA_PAGES] = {DATA, DATA + 2 * PAGE, DATA + 4 * PAGE, 0,
                                               DATA, DEVICE,          DATA + 6 * PAGE, OWN};
    for (unsigned n = 0; n < DATA_PAGES; n++)
        if (rights[n])
            map(t, s->data + n * PAGE, place[n], (rights[n] & ~(uint64_t)U) | (rights[n] & user) | NX);
    for (unsigned n = 0; n < STACK_PAGES; n++)
        map(t, s->stack + (1 + n) * PAGE, STACK + 2 * n * PAGE, P | W | user | NX);
}

// Random vectors; a piece of a pool that is made once.
static void fill(uint8_t *p, size_t size, uint64_t seed)
{
    enum { POOL = 1 << 18 };
    static uint8_t pool[POOL];
    static bool made;
    struct random r = {seed}, first = {0};
    for (size_t n = 0; n < POOL && !made; n += 32)
        random_vector(&first, pool + n, 32);
    made = true;
    for (size_t n = 0; n < size; n += PAGE)
        memcpy(p + n, pool + 64 * random_below(&r, (POOL - PAGE) / 64), PAGE);
}

static void load_system(uint8_t *ram, const struct program *p, const struct image *image)
{
    const struct setup *s = &p->setup;
    // Null, kernel's code and data, user's 32-bit code, data, 64-bit code.
    static const uint64_t descriptor[] = {
        0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cffb000000ffff, 0x00cff3000000ffff, 0x00affb000000ffff};
    memcpy(ram + GDT, descriptor, sizeof descriptor);
    uint64_t tss = SYSTEM + TSS;
    put64(ram, GDT + TSS_SELECTOR, 0x00008b0000000067 | (tss & 0xffffff) << 16 | (tss >> 24 & 0xff) << 56);
    put64(ram, GDT + TSS_SELECTOR + 8, tss >> 32);
    put64(ram, TSS + 4, SYSTEM + STACK_TOP);  // RSP0
    put64(ram, TSS + 36, SYSTEM + STACK_TOP); // IST1
    ram[TSS + 0x66] = 0x68;
    for (unsigned n = 0; n < 256; n++) {
        uint64_t stub = SYSTEM + STUBS + 16 * n;
        put64(ram, IDT + 16 * n,
              (stub & 0xffff) | 0x8 << 16 | 1ull << 32 | (n < 32 ? 0x8e00ull : 0xee00ull) << 32 |
                  (stub >> 16 & 0xffff) << 48);
        put64(ram, IDT + 16 * n + 8, stub >> 32);
        uint8_t *at = ram + STUBS + 16 * n;
        if (n >= 32 || !cpu_exception_has_error((uint8_t)n)) {
            *at++ = 0x6a; // push 0
            *at++ = 0;
        }
        *at++ = 0x68; // push n
        *at++ = (uint8_t)n;
        at += 3;
        *at++ = 0xe9; // jmp
        uint32_t away = (uint32_t)(HANDLER - (uint64_t)(at + 4 - ram));
        memcpy(at, &away, 4);
    }
    memcpy(ram + HANDLER, sequence_handler, (size_t)(sequence_handler_end - sequence_handler));
    static const uint8_t sysret[] = {0x48, 0x0f, 0x07};
    memcpy(ram + SYSCALL, sysret, sizeof sysret);
    struct parameters param = {.log = SYSTEM + LOG,
                               .left = s->faults,
                               .flags = s->exact_flags ? ~0ull : ~(uint64_t)RFLAGS_STATUS,
                               .code = s->code,
                               .rsp = s->good_rsp};
    for (unsigned n = 0; n < 8; n++)
        param.recover[n] = image->piece_at[(s->seed + 7 * n) % p->pieces];
    memcpy(ram + PARAMETERS, &param, sizeof param);
    memcpy(ram + NEXT, image->next, sizeof image->next);
}

void machine_memory(uint8_t *ram, const struct program *p, const struct image *image)
{
    const struct setup *s = &p->setup;
    memset(ram, 0, STUBS);
    fill(ram + DATA, RAM - DATA, s->seed);
    load_system(ram, p, image);
    for (unsigned n = 0; n < CODE_PAGES; n++) {
        uint64_t page = PAGE * ((n + s->seed) % CODE_PAGES);
        memcpy(ram + CODE + page, image->code + n * PAGE, PAGE);
        memcpy(ram + TWINS + page, image->code + n * PAGE, PAGE);
    }
    struct tables t = {ram, TABLES + PAGE};
    for (uint64_t at = GDT; at < CODE; at += PAGE)
        map(&t, SYSTEM + at, at, P | W);
    map_program(&t, s);
    for (uint64_t at = 0; at < WHOLE; at += LARGE)
        map_page(&t, DIRECT_MAP + at, at, NX | G | PS | A | W | P, 21);
    put64(ram, TABLES + 8 * TABLES_SLOT, TABLES | P | W);
    // Counters of loops are small; targets of jumps are where pieces are.
    for (unsigned n = 0; n < 64; n++) {
        put64(ram, OWN + COUNTERS + 8 * n, 1 + (s->seed >> n % 32) % 12);
        put64(ram, OWN + TARGETS + 8 * n, s->code + image->piece_at[n % p->pieces]);
    }
}

// --- registers

static void set_registers(struct cpu_state *c, const struct program *p, const struct cpu_model *model)
{
    const struct setup *s = &p->setup;
    const struct cpu_segment data = {.selector = s->user ? 0x23 : 0x10, .attr = s->user ? 0xcf3 : 0xc93, .limit = ~0u};
    cpu_reset(c, true);
    memcpy(c->gpr, s->gpr, sizeof s->gpr);
    c->rflags = s->rflags;
    for (unsigned n = 0; n < CPU_SEG_COUNT; n++)
        c->seg[n] = data;
    c->seg[CPU_CS] =
        (struct cpu_segment){.selector = s->user ? 0x2b : 8, .attr = s->user ? 0xafb : 0xa9b, .limit = ~0u};
    c->seg[CPU_FS].base = s->data + 0x100;
    c->seg[CPU_GS].base = s->data + 0xf80;
    c->ldtr = (struct cpu_segment){0};
    c->tr = (struct cpu_segment){.selector = TSS_SELECTOR, .attr = 0x08b, .limit = 0x67, .base = SYSTEM + TSS};
    c->gdtr = (struct cpu_table){.base = SYSTEM + GDT, .limit = GDT_LIMIT};
    c->idtr = (struct cpu_table){.base = SYSTEM + IDT, .limit = 0xfff};
    c->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_AM | CR0_PG | (s->write_protect ? CR0_WP : 0);
    c->cr3 = TABLES;
    c->cr4 = CR4_PAE | CR4_PGE | CR4_OSXSAVE | CR4_OSXMMEXCPT | CR4_FSGSBASE | (s->no_sse ? 0 : CR4_OSFXSR) |
             (s->smap ? CR4_SMAP : 0) | (s->smep ? CR4_SMEP : 0);
    c->cr4 &= model->cr4_mask;
    c->efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
    c->xcr0 = XSTATE_X87 | XSTATE_SSE | XSTATE_AVX;
    c->msr.star = 8ull << 32 | 0x1bull << 48;
    c->msr.lstar = SYSTEM + SYSCALL;
    c->msr.sfmask = RFLAGS_IF | RFLAGS_TF;
    memcpy(c->xsave, s->xsave, sizeof s->xsave);
}

// --- a watch on engines that run freely

static struct watch {
    pthread_mutex_t lock;
    struct machine *m; // what runs, and until when it may
    time_t until;
    bool started;
} watch = {.lock = PTHREAD_MUTEX_INITIALIZER};

static time_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec;
}

static void *watching(void *arg)
{
    for (;; usleep(200000)) {
        pthread_mutex_lock(&watch.lock);
        if (watch.m && now() > watch.until) {
            watch.m->end = HUNG;
            engine_notify(watch.m->cpu, ENGINE_EXIT);
        }
        pthread_mutex_unlock(&watch.lock);
    }
    return arg;
}

static void watch_set(struct machine *m)
{
    pthread_t thread;
    pthread_mutex_lock(&watch.lock);
    if (!watch.started)
        watch.started = !pthread_create(&thread, NULL, watching, NULL) && !pthread_detach(thread);
    watch.m = m;
    watch.until = now() + PATIENCE;
    pthread_mutex_unlock(&watch.lock);
}

// --- running

void machine_begin(struct machine *m, const struct program *p, const uint8_t *memory, const struct cpu_model *model)
{
    struct error err = {""};
    memcpy(m->ram, memory, RAM);
    m->ops->invalidate(m->vm, 0, RAM);
    set_registers(&m->s, p, model);
    m->s.rip = p->setup.code + p->setup.start;
    m->interrupts = p->setup.interrupts;
    m->calls = m->hash = m->tsc = 0;
    m->end = LIMIT;
    m->cpu->pending = m->interrupts ? ENGINE_INTR : 0;
    if (m->ops->set_state(m->cpu, &m->s, CPU_GROUP_ALL, &err))
        m->end = BROKEN;
}

static void go_on(struct machine *m, uint64_t count)
{
    struct error err = {""};
    enum engine_exit how = count == UINT64_MAX ? m->ops->run(m->cpu, &err) : m->ops->step(m->cpu, count, &err);
    m->ops->get_state(m->cpu, &m->s, CPU_GROUP_ALL);
    if (how == ENGINE_EXIT_ERROR)
        m->end = BROKEN;
    else if (how == ENGINE_EXIT_SHUTDOWN)
        m->end = CRASHED;
    else if (m->s.ev.activity != CPU_RUNNING && m->end != HUNG)
        m->end = HALTED;
}

bool machine_step(struct machine *m)
{
    if (m->end == LIMIT)
        go_on(m, 1);
    return m->end == LIMIT;
}

int machine_vector(const struct machine *m)
{
    uint64_t at = m->s.rip - (SYSTEM + STUBS);
    return at < 16 * 256 ? (int)(at / 16) : -1;
}

// Where a linear address lies in memory; RAM: nowhere.
static uint64_t physical(const struct machine *m, uint64_t la)
{
    uint64_t at = TABLES;
    for (unsigned shift = 39; shift >= 12; shift -= 9) {
        uint64_t e = get64(m->ram, at + 8 * (la >> shift & 511));
        at = e & ~(NX | (PAGE - 1));
        if (!(e & P) || at >= RAM)
            return RAM;
    }
    return at | (la & (PAGE - 1));
}

unsigned machine_code(const struct machine *m, uint8_t bytes[LONGEST])
{
    unsigned n = 0;
    for (uint64_t at; n < LONGEST && (at = physical(m, m->s.rip + n)) < RAM; n++)
        bytes[n] = m->ram[at];
    return n;
}

void machine_run(struct machine *m, const struct program *p, const uint8_t *memory, const struct cpu_model *model,
                 enum how how, uint64_t limit, uint64_t steps)
{
    struct random r = {steps};
    machine_begin(m, p, memory, model);
    switch (how) {
    case FREELY:
        watch_set(m);
        go_on(m, UINT64_MAX);
        watch_set(NULL);
        break;
    case COUNTED:
        go_on(m, limit);
        break;
    case IN_STEPS:
        while (limit && m->end == LIMIT) {
            uint64_t n = 1 + random_below(&r, random_chance(&r, 50) ? 4 : 60);
            n = n < limit ? n : limit;
            go_on(m, n);
            limit -= n;
        }
        break;
    default:
        while (limit-- && machine_step(m))
            ;
    }
}

int machine_open(struct machine *m, const char *name, const struct engine_ops *ops, const struct cpu_model *model,
                 bool cells, struct error *err)
{
    memset(m, 0, sizeof *m);
    m->name = name;
    m->ops = ops;
    m->fd = memfd_create("sequence", MFD_CLOEXEC);
    m->ram = MAP_FAILED;
    if (m->fd >= 0 && !ftruncate(m->fd, WHOLE))
        m->ram = mmap(NULL, WHOLE, PROT_READ | PROT_WRITE, MAP_SHARED, m->fd, 0);
    if (m->ram == MAP_FAILED)
        return error_set(err, ENOMEM, "no memory");
    fill(m->ram + RAM, WHOLE - RAM, 1);
    struct engine_vm_config config = {.model = model, .up = &upcalls};
    struct engine_tuning tuning = {.code_cache = 1,
                                   .translate_always = true,
                                   .cells = cells ? ENGINE_CELLS_ALWAYS : ENGINE_CELLS_OFF,
                                   .memory_fd = m->fd,
                                   .memory = m->ram,
                                   .memory_size = RAM};
    int e = ops->probe(err);
    if (!e)
        e = ops->vm_create(&config, &m->vm, err);
    if (!e && ops->tune)
        ops->tune(m->vm, &tuning);
    if (!e)
        e = ops->map(m->vm, 0, RAM, m->ram, 0, err);
    if (!e)
        e = ops->map(m->vm, RAM, WHOLE - RAM, m->ram + RAM, ENGINE_MAP_READONLY, err);
    if (!e)
        e = ops->vcpu_create(m->vm, 0, m, &m->cpu, err);
    return e;
}

void machine_close(struct machine *m)
{
    if (m->cpu)
        m->ops->vcpu_destroy(m->cpu);
    if (m->vm)
        m->ops->vm_destroy(m->vm);
    if (m->ram && m->ram != MAP_FAILED)
        munmap(m->ram, WHOLE);
    if (m->fd > 0)
        close(m->fd);
}
