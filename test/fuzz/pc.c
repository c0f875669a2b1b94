// A guest that does anything at all to the PC's registers and MSRs, while time goes on and interrupts are taken: no
// crash, no endless loop, and what a device saves it can load, even if the file was tampered with.
#include "machine/pc.h"
#include "guest.h"
#include "virtio/rng.h"
#include <string.h>

enum { RAM = 1 << 20, CPUS = 2 };

static const struct {
    uint64_t base, size;
} ports[] = {{0x20, 2}, {0x40, 4}, {0x60, 2},  {0x64, 1},  {0x70, 2},   {0x92, 1},  {0xa0, 2},
             {0xe9, 1}, {0xf4, 4}, {0x3f8, 8}, {0x4d0, 2}, {0x600, 16}, {0xcf8, 8}, {0, 0x10000}},
  pages[] = {{0xfee00000, 0x1000}, {0xfec00000, 0x50}, {0xe0000000, 0x10000}, {0xfeb00000, 0x200}};
static const uint32_t msrs[] = {0x1b, 0x6e0, 0x800, 0x820, 0x830, 0x11, 0x12, 0x4b564d00, 0x4b564d01};

static void on_write(struct stream *s, const void *data, size_t size)
{
    (void)s, (void)data, (void)size;
}

static void on_ready(struct stream *s)
{
    (void)s;
}

// What is not done by registers.
static void act(struct fuzz_guest *g, void *ctx)
{
    struct stream *stream = ctx;
    struct vm *vm = &g->f.vm;
    uint8_t what = fuzz_take(g, 1), bytes[16];
    unsigned cpu = what >> 7;
    uint32_t msr = msrs[(what >> 3 & 15) % (sizeof msrs / sizeof msrs[0])];
    uint64_t v;
    switch (what & 7) {
    case 0:
    case 1:
        vm_msr_write(vm, cpu, msr + fuzz_take(g, 1) % 64, fuzz_take(g, 8));
        break;
    case 2:
        vm_msr_write(vm, cpu, msr + fuzz_take(g, 1) % 64, fuzz_take(g, 1));
        break;
    case 3:
        vm_msr_read(vm, cpu, msr + fuzz_take(g, 1) % 64, &v);
        break;
    case 4:
    case 5: {
        int vector = vm->local_apic.ack(vm->local_apic_ctx, cpu);
        FUZZ_CHECK(vector >= -1 && vector <= 255);
        break;
    }
    case 6:
        memset(bytes, what, sizeof bytes);
        if (stream->receive)
            FUZZ_CHECK(stream->receive(stream->ctx, bytes, what >> 4) <= what >> 4);
        break;
    case 7:
        if (what & 0x40)
            vm_press_power_button(vm);
        else if (what & 0x20)
            vm->local_apic.init(vm->local_apic_ctx, cpu);
        else
            vm->local_apic.tpr_write(vm->local_apic_ctx, cpu, fuzz_take(g, 1));
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static _Alignas(4096) uint8_t ram[RAM];
    static const struct stream_ops ops = {.write = on_write, .ready = on_ready};
    struct stream stream = {.ops = &ops};
    struct fuzz_guest g;
    struct pc *pc;
    struct virtio_device *d;
    struct error err;
    fuzz_begin_bare(&g, data, size, ram);
    g.longest = 100000000; // a periodic timer may interrupt 10000 times a second
    g.f.model.config.paravirt = true;
    struct pc_config config = {
        .ram = ram, .ram_size = RAM, .cpus = CPUS, .serial = {&stream}, .debug_console = &stream, .debug_exit = true};
    FUZZ_CHECK(!pc_create(&g.f.vm, &config, &pc, &err));
    for (unsigned i = 0; i < 2; i++)
        FUZZ_CHECK(!virtio_rng_create(&g.f.vm, i ? "rng1" : "rng0", &d, &err) &&
                   !pc_attach_virtio(pc, d, i ? PC_VIRTIO_MMIO : PC_VIRTIO_PCI, &err));
    for (unsigned i = 0; i < sizeof ports / sizeof ports[0]; i++)
        fuzz_range(&g, &g.f.vm.ports, ports[i].base, ports[i].size);
    for (unsigned i = 0; i < sizeof pages / sizeof pages[0]; i++)
        fuzz_range(&g, &g.f.vm.mmio, pages[i].base, pages[i].size);
    fuzz_run(&g, act, &stream);
    g.f.ram = NULL; // ours
    fuzz_end(&g);
    return 0;
}
