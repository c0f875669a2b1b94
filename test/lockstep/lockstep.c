// Two engines on the same guest, step by step: after each few instructions the architectural state must be the same.
//
//     lockstep --kernel FILE [--initrd FILE] [--append STRING] [--memory MIB] [--engine NAME] [--against NAME]
//              [--instructions N] [--seed N] [--cpu MODEL] [--console] [--registers]
//
// Two machines are built alike, one for each engine, with clocks that move only when told: one nanosecond for each
// instruction, so timers fire at the same instruction in both. Steps are of random lengths, so that an engine that
// makes code of several instructions at a time is seen at the ends of its pieces and in the middle of them. Memory is
// compared from time to time and at the end, unless --registers says not to.
//
// When something differs, the machine of the other engine is built once more, taken to where all was well, and led one
// instruction at a time over what went wrong, so that the report lists the instructions.
//
// Exit status: 0 all equal (to the guest's end or the given number of instructions), 1 not, 2 usage, 77 an engine does
// not work on this host.
#include "chip/generation.h"
#include "host/cpuid.h"
#include "host/memory.h"
#include "machine/pc.h"
#include "vm/life.h"
#include <Zydis/Zydis.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SHORT_STEP = 12, LONG_STEP = 2000, STEPS_BETWEEN_LOOKS_AT_MEMORY = 1 << 18, IDLE_NS = 50000, TSC_KHZ = 1000000 };
#define IDLE_LIMIT (60ull * 1000000000)

struct options {
    const char *kernel, *initrd, *append, *cpu;
    const struct engine_ops *engine, *against;
    uint64_t instructions, seed, memory;
    bool console, registers;
};

struct file {
    void *data;
    size_t size;
};

struct machine {
    struct stream stream; // first
    const struct options *o;
    struct engine_ops ops; // the engine's, with a HLT of ours
    struct log log;
    struct vm vm;
    struct pc *pc;
    struct host_ram ram;
    struct engine_vcpu *cpu;
    struct cpu_state s, before; // now; before the last step
    uint64_t done;              // instructions, as asked for
    bool print;
};

static struct file kernel, initrd;

// --- the machine

// HLT ends the step: time goes on outside of it.
static void halt(void *owner, unsigned mask)
{
    (void)mask;
    engine_notify(((struct vcpu *)owner)->engine, ENGINE_EXIT);
}

// An engine's vcpu_upcalls are those of vm/vcpu.c but for halt. The table is the same for all machines.
static int vm_create(const struct engine_vm_config *config, struct engine_vm **out, struct error *err,
                     const struct engine_ops *engine)
{
    static struct engine_upcalls up;
    up = *config->up;
    up.halt = halt;
    struct engine_vm_config c = *config;
    c.up = &up;
    return engine->vm_create(&c, out, err);
}

static int create_interp(const struct engine_vm_config *config, struct engine_vm **out, struct error *err)
{
    return vm_create(config, out, err, &engine_interp);
}

static int create_dbt(const struct engine_vm_config *config, struct engine_vm **out, struct error *err)
{
    return vm_create(config, out, err, &engine_dbt);
}

static const struct {
    const struct engine_ops *ops;
    int (*vm_create)(const struct engine_vm_config *config, struct engine_vm **out, struct error *err);
} engines[] = {{&engine_interp, create_interp}, {&engine_dbt, create_dbt}};
enum { ENGINES = sizeof engines / sizeof *engines };

static void on_write(struct stream *s, const void *data, size_t size)
{
    struct machine *m = (struct machine *)s;
    if (m->print)
        fwrite(data, 1, size, stdout);
}

static void on_ready(struct stream *s)
{
    (void)s;
}

static const struct stream_ops stream_ops = {.write = on_write, .ready = on_ready};

static void die(const char *text)
{
    fprintf(stderr, "lockstep: %s\n", text);
    exit(2);
}

static void log_sink(void *ctx, const char *line)
{
    (void)ctx;
    fprintf(stderr, "lockstep: %s\n", line);
}

static void machine_make(struct machine *m, const struct options *o, const struct engine_ops *engine,
                         const struct cpu_model *model)
{
    struct error err = {""};
    memset(m, 0, sizeof *m);
    m->o = o;
    m->stream.ops = &stream_ops;
    m->log = (struct log){.level = LOG_WARN, .sink = log_sink, .guest_budget = 10};
    m->ops = *engine;
    for (unsigned n = 0; n < ENGINES; n++)
        if (engines[n].ops == engine)
            m->ops.vm_create = engines[n].vm_create;
    struct boot_source source = {.kernel = kernel.data,
                                 .kernel_size = kernel.size,
                                 .kernel_name = o->kernel,
                                 .initrd = initrd.data,
                                 .initrd_size = initrd.size,
                                 .initrd_name = o->initrd,
                                 .cmdline = o->append};
    static struct boot_source kept;
    kept = source;
    if (host_ram_create(&m->ram, "lockstep", o->memory << 20, false, &err) ||
        vm_init(&m->vm, &(struct vm_config){.log = &m->log, .engine = &m->ops, .model = model}, &err))
        die(err.text);
    m->vm.no_reboot = true;
    struct pc_config config = {.ram = m->ram.base,
                               .ram_size = m->ram.size,
                               .cpus = 1,
                               .serial = {&m->stream},
                               .debug_console = &m->stream,
                               .debug_exit = true};
    if (pc_create(&m->vm, &config, &m->pc, &err))
        die(err.text);
    // Both are one machine, to the last bit.
    for (struct device *d = m->vm.devices; d; d = d->next)
        if (!strcmp(d->name, "generation"))
            memset(((struct generation *)d)->id, 0, GENERATION_BYTES);
    pc_boot(m->pc, &kept);
    if (vm_add_cpus(&m->vm, 1, &err) || vm_reset(&m->vm, &err))
        die(err.text);
    m->cpu = vm_engine_vcpu(&m->vm, 0);
    engine->get_state(m->cpu, &m->s, CPU_GROUP_ALL);
}

static void machine_free(struct machine *m)
{
    vm_destroy(&m->vm);
    host_ram_destroy(&m->ram);
}

static bool ended(const struct machine *m)
{
    return m->vm.end != VM_END_NONE;
}

// Runs `count` instructions and lets as much time pass. While the CPU sleeps, time passes until something wakes it.
static void step(struct machine *m, uint64_t count)
{
    struct error err = {""};
    m->before = m->s;
    enum engine_exit how = m->ops.step(m->cpu, count, &err);
    if (how == ENGINE_EXIT_ERROR)
        die(err.text);
    m->done += count;
    m->ops.get_state(m->cpu, &m->s, CPU_GROUP_ALL);
    if (how == ENGINE_EXIT_SHUTDOWN)
        vm_crash(&m->vm, "triple fault");
    vm_clock_advance(&m->vm, count);
    uint32_t wakes = ENGINE_NMI | ENGINE_INIT | (m->s.rflags & RFLAGS_IF ? ENGINE_INTR : 0);
    for (uint64_t slept = 0; m->s.ev.activity == CPU_HALTED && !ended(m) && !(m->cpu->pending & wakes);
         slept += IDLE_NS) {
        vm_clock_advance(&m->vm, IDLE_NS);
        if (slept > IDLE_LIMIT)
            vm_crash(&m->vm, "the guest sleeps for ever");
    }
}

// --- comparing

// The vector state in one form: a component whose bit in XSTATE_BV is clear is in its initial state. The opcode and
// addresses of the last x87 instruction are not kept by translated code, and MXCSR_MASK is no register.
static void normalize(uint8_t *x)
{
    static const uint8_t fcw[2] = {0x7f, 3};
    if (!(x[512] & XSTATE_X87)) {
        memset(x, 0, 24);
        memcpy(x, fcw, 2);
        memset(x + 32, 0, 128);
    }
    if (!(x[512] & XSTATE_SSE))
        memset(x + 160, 0, 256);
    if (!(x[512] & XSTATE_AVX))
        memset(x + 576, 0, 256);
    x[512] = 0;
    memset(x + 6, 0, 2 + 16);
    memset(x + 28, 0, 4);
    memset(x + 416, 0, 96);
}

static const struct {
    const char *name;
    size_t offset, size;
} fields[] = {
#define FIELD(name)                                                                                                    \
    {                                                                                                                  \
#name, offsetof(struct cpu_state, name), sizeof(((struct cpu_state *)0)->name)                                 \
    }
    {"rax", offsetof(struct cpu_state, gpr[0]), 8},
    {"rcx", offsetof(struct cpu_state, gpr[1]), 8},
    {"rdx", offsetof(struct cpu_state, gpr[2]), 8},
    {"rbx", offsetof(struct cpu_state, gpr[3]), 8},
    {"rsp", offsetof(struct cpu_state, gpr[4]), 8},
    {"rbp", offsetof(struct cpu_state, gpr[5]), 8},
    {"rsi", offsetof(struct cpu_state, gpr[6]), 8},
    {"rdi", offsetof(struct cpu_state, gpr[7]), 8},
    {"r8", offsetof(struct cpu_state, gpr[8]), 8},
    {"r9", offsetof(struct cpu_state, gpr[9]), 8},
    {"r10", offsetof(struct cpu_state, gpr[10]), 8},
    {"r11", offsetof(struct cpu_state, gpr[11]), 8},
    {"r12", offsetof(struct cpu_state, gpr[12]), 8},
    {"r13", offsetof(struct cpu_state, gpr[13]), 8},
    {"r14", offsetof(struct cpu_state, gpr[14]), 8},
    {"r15", offsetof(struct cpu_state, gpr[15]), 8},
    FIELD(rip),
    FIELD(rflags),
    FIELD(seg[CPU_ES]),
    FIELD(seg[CPU_CS]),
    FIELD(seg[CPU_SS]),
    FIELD(seg[CPU_DS]),
    FIELD(seg[CPU_FS]),
    FIELD(seg[CPU_GS]),
    FIELD(ldtr),
    FIELD(tr),
    FIELD(gdtr),
    FIELD(idtr),
    FIELD(cr0),
    FIELD(cr2),
    FIELD(cr3),
    FIELD(cr4),
    FIELD(efer),
    FIELD(xcr0),
    FIELD(pdpte),
    FIELD(dr),
    FIELD(dr6),
    FIELD(dr7),
    FIELD(msr),
    FIELD(ev),
#undef FIELD
    {"x87", offsetof(struct cpu_state, xsave), 160},
    {"xmm", offsetof(struct cpu_state, xsave) + 160, 256},
    {"ymm", offsetof(struct cpu_state, xsave) + 576, 256},
};

static bool same(const void *a, const void *b, unsigned n)
{
    return !memcmp((const char *)a + fields[n].offset, (const char *)b + fields[n].offset, fields[n].size);
}

static bool compare(struct machine *a, struct machine *b)
{
    bool equal = ended(a) == ended(b) && a->vm.end == b->vm.end && a->vm.end_status == b->vm.end_status &&
                 a->cpu->pending == b->cpu->pending;
    // Most of the time all is the same, but for what has to be normalized.
    if (equal && !memcmp(&a->s, &b->s, sizeof a->s))
        return true;
    normalize(a->s.xsave);
    normalize(b->s.xsave);
    for (unsigned n = 0; n < sizeof fields / sizeof *fields; n++)
        equal &= same(&a->s, &b->s, n);
    return equal;
}

static void hex(const void *data, size_t size)
{
    const uint8_t *p = data;
    if (size == 8) {
        uint64_t v;
        memcpy(&v, p, 8);
        printf(" %016" PRIx64, v);
        return;
    }
    printf(" ");
    for (size_t n = 0; n < size; n++)
        printf("%02x", p[n]);
}

static void report(const struct machine *a, const struct machine *b)
{
    printf("%-8s %s, then %s\n", "", a->ops.name, b->ops.name);
    for (unsigned n = 0; n < sizeof fields / sizeof *fields; n++) {
        if (same(&a->s, &b->s, n))
            continue;
        printf("%-8s", fields[n].name);
        hex((const char *)&a->s + fields[n].offset, fields[n].size);
        printf("%s", fields[n].size > 8 ? "\n        " : "");
        hex((const char *)&b->s + fields[n].offset, fields[n].size);
        printf("\n");
    }
    if (a->vm.end != b->vm.end || a->vm.end_status != b->vm.end_status)
        printf("end      %d (%s), %d (%s)\n", a->vm.end, a->vm.end_text, b->vm.end, b->vm.end_text);
    if (a->cpu->pending != b->cpu->pending)
        printf("pending  %x, %x\n", a->cpu->pending, b->cpu->pending);
}

static bool memory_same(const struct machine *a, const struct machine *b)
{
    if (a->o->registers || !memcmp(a->ram.base, b->ram.base, a->ram.size))
        return true;
    unsigned shown = 0;
    for (uint64_t at = 0; at < a->ram.size && shown < 16; at += 8)
        if (memcmp(a->ram.base + at, b->ram.base + at, 8)) {
            printf("memory %#" PRIx64 ":", at);
            hex(a->ram.base + at, 8);
            hex(b->ram.base + at, 8);
            printf("\n");
            shown++;
        }
    return false;
}

// --- telling what happened

static uint64_t table_entry(const struct machine *m, uint64_t gpa)
{
    uint64_t e = 0;
    if (gpa + 8 <= m->ram.size)
        memcpy(&e, m->ram.base + gpa, 8);
    return e;
}

// Bytes of guest code in long mode (or with paging off): a plain walk that looks at no rights.
static bool code_byte(const struct machine *m, uint64_t la, uint8_t *byte)
{
    uint64_t at = la;
    if (m->s.cr0 & CR0_PG) {
        if (!(m->s.efer & EFER_LMA))
            return false;
        uint64_t e = m->s.cr3;
        unsigned shift = m->s.cr4 & CR4_LA57 ? 48 : 39;
        for (;; shift -= 9) {
            e = table_entry(m, (e & 0xffffffffff000) + (la >> shift & 511) * 8);
            if (!(e & 1))
                return false;
            if (shift == 12 || (shift <= 30 && e & 0x80))
                break;
        }
        uint64_t mask = (1ull << shift) - 1;
        at = (e & 0xffffffffff000 & ~mask) | (la & mask);
    }
    if (at >= m->ram.size)
        return false;
    *byte = m->ram.base[at];
    return true;
}

static void print_instruction(const struct machine *m)
{
    uint8_t bytes[15];
    unsigned n = 0;
    bool long64 = cpu_is_64bit(&m->s), wide = m->s.seg[CPU_CS].attr & CPU_SEG_DB;
    uint64_t la = m->s.rip + (long64 ? 0 : m->s.seg[CPU_CS].base);
    while (n < sizeof bytes && code_byte(m, la + n, &bytes[n]))
        n++;
    ZydisDisassembledInstruction d;
    const char *text = "?";
    ZydisMachineMode mode = long64              ? ZYDIS_MACHINE_MODE_LONG_64
                            : wide              ? ZYDIS_MACHINE_MODE_LEGACY_32
                            : m->s.cr0 & CR0_PE ? ZYDIS_MACHINE_MODE_LEGACY_16
                                                : ZYDIS_MACHINE_MODE_REAL_16;
    unsigned length = n;
    if (n && ZYAN_SUCCESS(ZydisDisassembleATT(mode, m->s.rip, bytes, n, &d))) {
        text = d.text;
        length = d.info.length;
    }
    printf("  %016" PRIx64 "  ", m->s.rip);
    for (unsigned k = 0; k < 12; k++)
        printf(k < length ? "%02x " : "   ", bytes[k < n ? k : 0]);
    printf("%s\n", text);
}

struct schedule {
    uint64_t random;
};

static uint64_t next_step(struct schedule *s)
{
    s->random ^= s->random << 13;
    s->random ^= s->random >> 7;
    s->random ^= s->random << 17;
    // Often short, sometimes so long that whole blocks and loops fit in.
    return 1 + (s->random >> 20) % (s->random & 3 ? SHORT_STEP : LONG_STEP);
}

// The instructions of step number `index`.
static void explain(const struct options *o, const struct cpu_model *model, uint64_t index)
{
    struct machine *m = malloc(sizeof *m);
    if (!m)
        return;
    machine_make(m, o, o->against, model);
    struct schedule s = {o->seed * 2 + 1};
    for (uint64_t n = 0; n < index; n++)
        step(m, next_step(&s));
    uint64_t count = next_step(&s);
    printf("the %" PRIu64 " instructions of this step (as %s runs them):\n", count, o->against->name);
    for (uint64_t n = 0; n < count && m->s.ev.activity == CPU_RUNNING; n++) {
        struct error err;
        print_instruction(m);
        m->ops.step(m->cpu, 1, &err);
        m->ops.get_state(m->cpu, &m->s, CPU_GROUP_ALL);
    }
    machine_free(m);
    free(m);
}

static int run(const struct options *o, const struct cpu_model *model)
{
    struct machine *a = malloc(sizeof *a), *b = malloc(sizeof *b);
    if (!a || !b)
        die("no memory");
    machine_make(a, o, o->against, model);
    machine_make(b, o, o->engine, model);
    a->print = o->console;
    struct schedule s = {o->seed * 2 + 1};
    uint64_t index = 0;
    bool good = true;
    for (; good && !ended(a) && a->done < o->instructions; index++) {
        uint64_t count = next_step(&s);
        step(a, count);
        step(b, count);
        good = compare(a, b);
        if (!good) {
            fflush(stdout);
            printf("\n%s and %s differ after %" PRIu64 " instructions, in step %" PRIu64 " of seed %" PRIu64 ":\n",
                   o->against->name, o->engine->name, a->done, index, o->seed);
            report(a, b);
            explain(o, model, index);
        } else if (index % STEPS_BETWEEN_LOOKS_AT_MEMORY == 0 && !memory_same(a, b)) {
            good = false;
            printf("%s and %s differ in memory after %" PRIu64 " instructions (or up to %d steps before)\n",
                   o->against->name, o->engine->name, a->done, STEPS_BETWEEN_LOOKS_AT_MEMORY);
        }
    }
    if (good && !memory_same(a, b)) {
        good = false;
        printf("%s and %s differ in memory at the end\n", o->against->name, o->engine->name);
    }
    if (good)
        printf("%" PRIu64 " instructions in %" PRIu64 " steps: the same under %s and %s; %s\n", a->done, index,
               o->against->name, o->engine->name, ended(a) ? a->vm.end_text : "not at its end");
    machine_free(a);
    machine_free(b);
    free(a);
    free(b);
    return good ? 0 : 1;
}

// --- options

static struct file read_file(const char *path)
{
    struct file f = {0};
    if (!path)
        return f;
    int fd = open(path, O_RDONLY);
    struct stat st;
    if (fd < 0 || fstat(fd, &st)) {
        fprintf(stderr, "lockstep: %s: %s\n", path, strerror(errno));
        exit(2);
    }
    f.size = (size_t)st.st_size;
    f.data = mmap(NULL, f.size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (f.data == MAP_FAILED)
        die("cannot map a file");
    return f;
}

static const struct engine_ops *engine_named(const char *name)
{
    for (unsigned n = 0; n < ENGINES; n++)
        if (!strcmp(engines[n].ops->name, name))
            return engines[n].ops;
    die("no such engine");
    return NULL;
}

static void parse(struct options *o, int argc, char **argv)
{
    for (int n = 1; n < argc; n++) {
        const char *name = argv[n], *value = n + 1 < argc ? argv[n + 1] : NULL;
        if (!strcmp(name, "--console")) {
            o->console = true;
            continue;
        }
        if (!strcmp(name, "--registers")) {
            o->registers = true;
            continue;
        }
        if (!value)
            die("usage: lockstep --kernel FILE [--initrd FILE] [--append STRING] [--memory MIB] [--engine NAME] "
                "[--against NAME] [--instructions N] [--seed N] [--cpu MODEL] [--console] "
                "[--registers]");
        n++;
        if (!strcmp(name, "--kernel"))
            o->kernel = value;
        else if (!strcmp(name, "--initrd"))
            o->initrd = value;
        else if (!strcmp(name, "--append"))
            o->append = value;
        else if (!strcmp(name, "--cpu"))
            o->cpu = value;
        else if (!strcmp(name, "--engine"))
            o->engine = engine_named(value);
        else if (!strcmp(name, "--against"))
            o->against = engine_named(value);
        else if (!strcmp(name, "--instructions"))
            o->instructions = strtoull(value, NULL, 0);
        else if (!strcmp(name, "--seed"))
            o->seed = strtoull(value, NULL, 0);
        else if (!strcmp(name, "--memory"))
            o->memory = strtoull(value, NULL, 0);
        else
            die("unknown option");
    }
    if (!o->kernel)
        die("--kernel is missing");
}

int main(int argc, char **argv)
{
    struct options o = {.engine = &engine_dbt,
                        .against = &engine_interp,
                        .instructions = UINT64_MAX,
                        .seed = 1,
                        .memory = 64,
                        .append = ""};
    struct error err = {""};
    static struct cpu_model model;
    parse(&o, argc, argv);
    if (o.engine->probe(&err) || o.against->probe(&err)) {
        printf("%s\n", err.text);
        return 77;
    }
    struct cpu_config config = {.cpus = 1, .tsc_khz = TSC_KHZ, .paravirt = true};
    if (cpu_model_make(&model, o.cpu, host_cpuid, &config, &err))
        die(err.text);
    kernel = read_file(o.kernel);
    initrd = read_file(o.initrd);
    return run(&o, &model);
}
