// Counters of a vCPU: ours, and those that the kernel keeps, where it tells them. With local APICs in the kernel many
// exits never come to user mode; `kernel_exits` counts them all.
//
// Source: api.rst [4.131] KVM_GET_STATS_FD: a header, then descriptors with names, then the values.
#include "engine/kvm/kvm.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool read_at(int fd, void *to, size_t size, uint32_t offset)
{
    return pread(fd, to, size, offset) == (ssize_t)size;
}

// Single cumulative numbers; histograms and states are left out.
static void emit_kernels(int fd, engine_stat_fn emit, void *ctx)
{
    struct kvm_stats_header h;
    if (!read_at(fd, &h, sizeof h, 0) || h.name_size > 256 || h.num_desc > 1024)
        return;
    struct kvm_stats_desc *d = malloc(sizeof *d + h.name_size);
    for (uint32_t n = 0; d && n < h.num_desc; n++) {
        size_t size = sizeof *d + h.name_size;
        uint64_t value;
        char name[64];
        if (!read_at(fd, d, size, h.desc_offset + n * (uint32_t)size))
            break;
        if ((d->flags & KVM_STATS_TYPE_MASK) != KVM_STATS_TYPE_CUMULATIVE || d->size != 1 ||
            !read_at(fd, &value, sizeof value, h.data_offset + d->offset) || !value)
            continue;
        snprintf(name, sizeof name, "kernel_%.*s", (int)h.name_size, d->name);
        emit(ctx, name, value);
    }
    free(d);
}

void kvm_vcpu_stats(struct engine_vcpu *e, engine_stat_fn emit, void *ctx)
{
    const struct kvm_vcpu *v = KVM_VCPU(e);
    emit(ctx, "kvm_runs", v->runs);
    emit(ctx, "kvm_finishes", v->finishes);
    emit(ctx, "kvm_injected", v->injected);
    emit(ctx, "kvm_windows", v->windows);
    emit(ctx, "nmis", v->nmis);
    for (unsigned n = 0; n < KVM_REASONS; n++) {
        char name[48] = "kvm_exits_";
        strncat(name, kvm_reason_name(n), sizeof name - sizeof "kvm_exits_");
        if (v->exits[n])
            emit(ctx, name, v->exits[n]);
    }
    int fd = ioctl(v->fd, KVM_GET_STATS_FD, 0); // Linux 5.14
    if (fd < 0)
        return;
    emit_kernels(fd, emit, ctx);
    close(fd);
}
