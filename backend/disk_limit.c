// A disk that keeps to a rate: it stands before another one and lets requests through when they are due.
//
// Requests wait in the order in which they came, and an alarm lets them go; nothing is dropped and nobody waits busily.
// A request counts as one operation, and by its bytes if it moves any. drain() lets everything through at once: a
// machine that is to be paused or saved does not wait for its limits. What went is paid for all the same, by waiting
// afterwards.
//
// Invariant: a request is in the queue, counted in `passing`, or the inner disk's.
#include "backend/disk.h"
#include "host/alarm.h"
#include "host/clock.h"
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

struct limited_disk {
    struct disk disk;
    struct disk *inner;
    struct rate_limits limits;
    struct alarm *alarm;
    pthread_mutex_t lock; // guards all of the following
    pthread_cond_t passed;
    struct rate_pair rate;
    struct disk_request *first, **last;
    unsigned passing; // taken from the queue, not yet handed on
    uint64_t delayed; // requests that had to wait
};

static void charge(struct limited_disk *d, const struct disk_request *r, uint64_t now)
{
    rate_pair_take(&d->rate, now, 1, r->op == DISK_READ || r->op == DISK_WRITE ? r->length : 0);
}

// Hands a request on; the lock is let go meanwhile.
static void pass(struct limited_disk *d, struct disk_request *r)
{
    d->passing++;
    pthread_mutex_unlock(&d->lock);
    d->inner->ops->submit(d->inner, r);
    pthread_mutex_lock(&d->lock);
    if (--d->passing == 0)
        pthread_cond_broadcast(&d->passed);
}

// Lets go what is due, or all of it; with the lock held.
static void release(struct limited_disk *d, bool all)
{
    while (d->first) {
        uint64_t now = host_monotonic_ns(), ready = rate_pair_ready(&d->rate, now);
        if (ready > now && !all) {
            alarm_by(d->alarm, ready);
            return;
        }
        struct disk_request *r = d->first;
        d->first = r->next;
        if (!d->first)
            d->last = &d->first;
        charge(d, r, now);
        pass(d, r);
    }
}

static void on_alarm(void *ctx)
{
    struct limited_disk *d = ctx;
    pthread_mutex_lock(&d->lock);
    release(d, false);
    pthread_mutex_unlock(&d->lock);
}

static void limit_submit(struct disk *disk, struct disk_request *r)
{
    struct limited_disk *d = (struct limited_disk *)disk;
    pthread_mutex_lock(&d->lock);
    uint64_t now = host_monotonic_ns(), ready = rate_pair_ready(&d->rate, now);
    if (d->first || ready > now) {
        r->next = NULL;
        *d->last = r;
        d->last = &r->next;
        d->delayed++;
        alarm_by(d->alarm, ready);
    } else {
        charge(d, r, now);
        pass(d, r);
    }
    pthread_mutex_unlock(&d->lock);
}

static void limit_drain(struct disk *disk)
{
    struct limited_disk *d = (struct limited_disk *)disk;
    bool idle = false;
    while (!idle) {
        pthread_mutex_lock(&d->lock);
        release(d, true);
        while (d->passing)
            pthread_cond_wait(&d->passed, &d->lock);
        pthread_mutex_unlock(&d->lock);
        d->inner->ops->drain(d->inner);
        pthread_mutex_lock(&d->lock);
        idle = !d->first && !d->passing; // what was done may have brought new requests
        pthread_mutex_unlock(&d->lock);
    }
}

static void limit_stats(struct disk *disk, void (*emit)(void *ctx, const char *name, uint64_t value), void *ctx)
{
    struct limited_disk *d = (struct limited_disk *)disk;
    pthread_mutex_lock(&d->lock);
    uint64_t delayed = d->delayed;
    pthread_mutex_unlock(&d->lock);
    emit(ctx, "limit_iops", d->limits.operations);
    emit(ctx, "limit_bps", d->limits.bytes);
    emit(ctx, "delayed", delayed);
    if (d->inner->ops->stats)
        d->inner->ops->stats(d->inner, emit, ctx);
}

static void limit_close(struct disk *disk)
{
    struct limited_disk *d = (struct limited_disk *)disk;
    if (d->alarm) {
        limit_drain(disk);
        alarm_destroy(d->alarm);
    }
    d->inner->ops->close(d->inner);
    pthread_cond_destroy(&d->passed);
    pthread_mutex_destroy(&d->lock);
    free(d);
}

static int limit_hold(struct disk *disk, bool hold)
{
    struct disk *inner = ((struct limited_disk *)disk)->inner;
    return inner->ops->hold ? inner->ops->hold(inner, hold) : 0;
}

int disk_limit(struct disk **disk, const struct rate_limits *limits, struct error *err)
{
    static const struct disk_ops ops = {limit_submit, limit_drain, limit_close, limit_stats, limit_hold};
    if (!limits->operations && !limits->bytes)
        return 0;
    struct limited_disk *d = calloc(1, sizeof *d);
    if (!d)
        return error_set(err, ENOMEM, "limits of a disk: out of memory");
    d->disk = **disk;
    d->disk.ops = &ops;
    d->inner = *disk;
    d->limits = *limits;
    d->last = &d->first;
    rate_pair_init(&d->rate, limits);
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->passed, NULL);
    *disk = &d->disk;
    return alarm_create(&d->alarm, "disk limit", on_alarm, d, err);
}
