// What stands in a snapshot may be anything. Two kinds of input, by the first byte:
//   - snapshot.json, damaged or made up: it is refused, or is read, written and read again as the same;
//   - a CPU's state, damaged: it is refused, or the interpreter runs some instructions from it, whatever they are,
//   without
//     harm to us: no fault of ours, no endless loop.
// The other bytes are edits: position, value. (Devices' states are spoiled by the targets of the devices.)
#include "cpu/check.h"
#include "engine/engine.h"
#include "host/cpuid.h"
#include "snapshot/manifest.h"
#include "vm/save_cpu.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            __builtin_trap();                                                                                          \
    } while (0)

// --- snapshot.json

static const char good[] = "{\"format\":\"trapeze-snapshot\",\"version\":1,\"name\":\"web\",\"created\":\"now\","
                           "\"program\":\"0\",\"engine\":\"dbt\","
                           "\"append\":\"a\",\"directory\":\"/"
                           "\",\"options\":[\"--memory\",\"64\"],\"memory\":8192,\"cpus\":{\"model\":\"m\",\"count\":2,"
                           "\"tsc_khz\":1000000,\"paravirt\":true,\"vendor\":0,\"phys_bits\":48,\"xcr0_mask\":7,\"cr4_"
                           "mask\":4095,\"efer_mask\":3329,"
                           "\"cpuid\":[[0,4294967295,1,2,3,4],[7,0,5,6,7,8]]},\"disks\":[{\"path\":\"disk0\","
                           "\"readonly\":false,\"format\":\"raw\","
                           "\"serial\":\"\",\"size\":512,\"part\":{\"bytes\":512,\"stored\":512,\"xxh3\":"
                           "\"00000000000000000000000000000000\"}}],"
                           "\"nets\":[\"52:54:00:00:00:01\"],\"parts\":{\"state\":{\"bytes\":9,\"stored\":9,\"xxh3\":"
                           "\"00000000000000000000000000000000\"},\"memory\":{\"bytes\":8192,\"stored\":0,\"xxh3\":"
                           "\"00000000000000000000000000000000\"}}}";

static void read_manifest(const char *text, size_t length)
{
    struct snapshot_manifest m, again;
    struct error err = {.text = ""};
    int e = snapshot_manifest_read(&m, text, length, &err);
    CHECK(!e || err.text[0]);
    if (e)
        return;
    char *written = snapshot_manifest_write(&m);
    CHECK(written && !snapshot_manifest_read(&again, written, strlen(written), &err));
    CHECK(!snapshot_model_same(&m.model, &again.model, &err));
    char *twice = snapshot_manifest_write(&again);
    CHECK(twice && !strcmp(written, twice));
    free(written);
    free(twice);
    snapshot_manifest_free(&m);
    snapshot_manifest_free(&again);
}

static void manifest(const uint8_t *data, size_t size)
{
    char text[sizeof good];
    memcpy(text, good, sizeof good);
    for (; size >= 3; data += 3, size -= 3)
        text[(data[0] | data[1] << 8) % (sizeof good - 1)] = (char)data[2];
    read_manifest(text, sizeof good - 1);
}

// --- a CPU

enum { RAM = 1 << 20, STEPS = 200 };

static _Alignas(4096) uint8_t ram[RAM];

static uint64_t read_port(void *owner, uint16_t port, unsigned size)
{
    (void)owner, (void)size;
    return port;
}

static void write_port(void *owner, uint16_t port, unsigned size, uint64_t val)
{
    (void)owner, (void)port, (void)size, (void)val;
}

static uint64_t read_mmio(void *owner, uint64_t gpa, unsigned size)
{
    (void)owner, (void)size;
    return gpa * 0x9e3779b97f4a7c15;
}

static void write_mmio(void *owner, uint64_t gpa, unsigned size, uint64_t val)
{
    (void)owner, (void)gpa, (void)size, (void)val;
}

static int read_msr(void *owner, uint32_t msr, uint64_t *val)
{
    (void)owner, (void)msr, (void)val;
    return -1;
}

static int write_msr(void *owner, uint32_t msr, uint64_t val)
{
    (void)owner, (void)msr, (void)val;
    return -1;
}

static uint64_t read_tpr(void *owner)
{
    (void)owner;
    return 0;
}

static void write_tpr(void *owner, uint64_t tpr)
{
    (void)owner, (void)tpr;
}

static int no_interrupt(void *owner)
{
    (void)owner;
    return -1;
}

static uint64_t hypercall(void *owner, uint64_t nr, const uint64_t arg[4], bool wide)
{
    (void)owner, (void)nr, (void)arg, (void)wide;
    return 0;
}

static struct engine_vcpu *vcpu;

static void halt(void *owner, unsigned mask)
{
    (void)owner, (void)mask;
    engine_notify(vcpu, ENGINE_EXIT); // nothing will ever wake it
}

static uint64_t tsc(void *owner)
{
    static uint64_t now;
    (void)owner;
    return now += 1000;
}

static const struct engine_upcalls upcalls = {
    .port_read = read_port,
    .port_write = write_port,
    .mmio_read = read_mmio,
    .mmio_write = write_mmio,
    .msr_read = read_msr,
    .msr_write = write_msr,
    .tpr_read = read_tpr,
    .tpr_write = write_tpr,
    .interrupt_ack = no_interrupt,
    .hypercall = hypercall,
    .halt = halt,
    .tsc = tsc,
};

// In 64-bit mode with 1 MiB mapped at 0 by one large page, code at 64 KiB.
static void long_mode(struct cpu_state *s)
{
    static const uint64_t tables[3] = {0x2000 | 7, 0x3000 | 7, 0x87};
    memset(s, 0, sizeof *s);
    cpu_reset(s, true);
    for (unsigned i = 0; i < 3; i++)
        memcpy(ram + 0x1000 * (i + 1), &tables[i], 8);
    s->cr0 = CR0_PE | CR0_PG | CR0_ET | CR0_NE;
    s->cr3 = 0x1000;
    s->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
    s->efer = EFER_LME | EFER_LMA;
    s->xcr0 = XSTATE_X87 | XSTATE_SSE | XSTATE_AVX;
    s->rip = 0x10000;
    s->gpr[CPU_RSP] = 0x20000;
    s->seg[CPU_CS].attr = CPU_SEG_P | CPU_SEG_S | CPU_SEG_CODE | CPU_SEG_WRITE | CPU_SEG_L;
    s->seg[CPU_CS].base = 0;
}

static void run_cpu(const struct cpu_model *m, const struct cpu_state *s)
{
    struct engine_vm_config config = {.model = m, .up = &upcalls};
    struct engine_vm *vm;
    struct error err;
    CHECK(!engine_interp.vm_create(&config, &vm, &err));
    CHECK(!engine_interp.map(vm, 0, RAM, ram, 0, &err));
    CHECK(!engine_interp.vcpu_create(vm, 0, NULL, &vcpu, &err));
    if (!engine_interp.set_state(vcpu, s, CPU_GROUP_ALL, &err))
        engine_interp.step(vcpu, STEPS, &err);
    engine_interp.vcpu_destroy(vcpu);
    engine_interp.vm_destroy(vm);
}

static void cpu(const uint8_t *data, size_t size)
{
    static struct cpu_model model;
    struct cpu_state spoiled, s;
    struct state_buffer b = {0};
    struct error err = {.text = ""};
    if (!model.count)
        CHECK(!cpu_model_make(&model, NULL, host_cpuid, &(struct cpu_config){.cpus = 1, .tsc_khz = 1000000}, &err));
    memset(ram, 0, sizeof ram);
    long_mode(&spoiled);
    memcpy(ram + 0x10000, data, size < 4096 ? size : 4096); // the instructions are these bytes, too
    // Most edits go to what decides how the CPU works, not to the vectors.
    for (unsigned n = 0; size >= 3 && n < 16; data += 3, size -= 3, n++) {
        unsigned at = data[0] | data[1] << 8;
        at %= at & 0x8000 ? (unsigned)sizeof spoiled : (unsigned)offsetof(struct cpu_state, xsave) + 640;
        ((uint8_t *)&spoiled)[at] ^= data[2];
    }
    CHECK(!state_save(&b, &cpu_state_table, &spoiled, &err));
    memset(&s, 0, sizeof s);
    CHECK(!state_load(&b, &cpu_state_table, &s, &err));
    state_free(&b);
    if (!cpu_state_check(&s, &model, &err))
        run_cpu(&model, &s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size)
        return 0;
    if (data[0] & 1)
        cpu(data + 1, size - 1);
    else if (data[0] & 2)
        manifest(data + 1, size - 1);
    else
        read_manifest((const char *)data + 1, size - 1);
    return 0;
}
