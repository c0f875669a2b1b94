// Moving a machine: see machine_move.h.
//
// A thread of its own migrates. What needs the machine to stand still is done while the event loop's thread is held, as
// for snapshots: then no timer fires and no console brings input.
#include "prog/machine/move.h"
#include "host/clock.h"
#include "host/loop.h"
#include "host/thread.h"
#include "migrate/address.h"
#include "migrate/send.h"
#include "prog/machine/snapshot_take.h"
#include "prog/state/record.h"
#include "vm/save.h"
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MS 1000000ull

enum {
    DOWNTIME_MS = 300,
    LINGER_MS = 2000, // for somebody to ask how it went, before the process ends
    PERIOD_US = 20000 // of slowing down
};

struct machine_move {
    struct machine_control *c;
    pthread_mutex_t lock; // guards what follows
    pthread_cond_t change;
    enum { LOOP_FREE, LOOP_WANTED, LOOP_HELD, LOOP_GIVEN_UP } loop;
    bool running, ended; // a thread is at it; it has been
    bool asked;          // somebody has seen how it ended
    struct thread *thread;
    enum migrate_outcome outcome;
    struct error err;
    // The thread's.
    struct migrate_source source;
    struct snapshot_manifest manifest;
    struct address address;
    struct tls_options tls;
    char *tls_file[4];
    bool secure;
    struct thread *brake;
    _Atomic unsigned throttle; // percent
    _Atomic bool brake_off;
};

// --- standing still

static void wait_change(struct machine_move *v)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 50 * (long)MS;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_cond_timedwait(&v->change, &v->lock, &until);
}

static void on_loop(void *ctx)
{
    struct machine_move *v = ctx;
    struct vm *vm = &v->c->m->vm;
    pthread_mutex_lock(&v->lock);
    if (v->loop == LOOP_WANTED) {
        vm_pause(vm);
        v->loop = LOOP_HELD;
        pthread_cond_broadcast(&v->change);
        while (v->loop == LOOP_HELD && vm->end == VM_END_NONE)
            wait_change(v);
        v->loop = LOOP_FREE;
        pthread_cond_broadcast(&v->change);
        vm_resume(vm);
    }
    pthread_mutex_unlock(&v->lock);
}

static int stop(void *ctx, struct error *err)
{
    struct machine_move *v = ctx;
    struct machine *m = v->c->m;
    pthread_mutex_lock(&v->lock);
    v->loop = LOOP_WANTED;
    if (loop_post(m->loop, on_loop, v) < 0)
        v->loop = LOOP_GIVEN_UP;
    while (v->loop == LOOP_WANTED) {
        wait_change(v);
        if (v->loop == LOOP_WANTED && (m->vm.end != VM_END_NONE || v->source.cancel))
            v->loop = LOOP_GIVEN_UP;
    }
    bool held = v->loop == LOOP_HELD;
    pthread_mutex_unlock(&v->lock);
    return held ? 0 : error_set(err, ECANCELED, v->source.cancel ? "cancelled" : "the machine has ended");
}

static void let_loop_go(struct machine_move *v)
{
    pthread_mutex_lock(&v->lock);
    if (v->loop == LOOP_HELD)
        v->loop = LOOP_GIVEN_UP;
    pthread_cond_broadcast(&v->change);
    while (v->loop == LOOP_GIVEN_UP && v->c->m->vm.end == VM_END_NONE)
        wait_change(v);
    pthread_mutex_unlock(&v->lock);
}

static void flushed(struct disk_request *r, int result)
{
    *(int *)r->owner = result;
}

static int settle_disk(struct machine *m, unsigned n, struct error *err)
{
    struct disk *d = m->disk[n];
    int result = 0;
    struct disk_request r = {.op = DISK_FLUSH, .done = flushed, .owner = &result};
    if (!d->readonly) {
        d->ops->submit(d, &r);
        d->ops->drain(d);
    }
    if (!result && d->ops->hold)
        result = d->ops->hold(d, false);
    return result ? error_set(err, -result, "disk %s: %s", m->o->disk[n].path, strerror(-result)) : 0;
}

static int get_state(void *ctx, uint8_t **data, size_t *size, struct error *err)
{
    struct machine *m = ((struct machine_move *)ctx)->c->m;
    struct state_buffer b = {0};
    int e = vm_save(&m->vm, &b, err);
    for (unsigned n = 0; n < m->o->disks && !e; n++)
        e = settle_disk(m, n, err);
    if (e) {
        state_free(&b);
        return e;
    }
    *data = b.data;
    *size = b.size;
    return 0;
}

static int take_disks_back(struct machine *m, struct error *err)
{
    for (unsigned n = 0; n < m->o->disks; n++) {
        struct disk *d = m->disk[n];
        int e = d->ops->hold ? d->ops->hold(d, true) : 0;
        if (e)
            return error_set(err, -e, "disk %s: another machine has it", m->o->disk[n].path);
    }
    return 0;
}

static int resume(void *ctx, struct error *err)
{
    struct machine_move *v = ctx;
    int e = take_disks_back(v->c->m, err);
    if (!e)
        let_loop_go(v);
    return e;
}

// --- memory

static int log_start(void *ctx, struct error *err)
{
    struct vm *vm = &((struct machine_move *)ctx)->c->m->vm;
    return vm->engine_ops->log_start(vm->engine, err);
}

static void log_stop(void *ctx)
{
    struct vm *vm = &((struct machine_move *)ctx)->c->m->vm;
    vm->engine_ops->log_stop(vm->engine);
}

// From guest-physical ranges to where the RAM is in our memory. Ranges begin at multiples of 64 pages of RAM.
static int log_fetch(void *ctx, uint64_t *bitmap, struct error *err)
{
    struct machine *m = ((struct machine_move *)ctx)->c->m;
    for (unsigned i = 0; i < m->vm.memory.count; i++) {
        const struct vm_region *r = &m->vm.memory.region[i];
        uint64_t words = (r->size / 4096 + 63) / 64;
        if (r->host < m->ram.base || r->host >= m->ram.base + m->ram.size)
            continue;
        uint64_t *some = calloc(words, sizeof *some), first = (uint64_t)(r->host - m->ram.base) / 4096;
        if (!some)
            return error_set(err, ENOMEM, "migration: out of memory");
        int e = m->vm.engine_ops->log_fetch(m->vm.engine, r->gpa, r->size, some);
        for (uint64_t n = 0; !e && n < r->size / 4096; n++)
            if (some[n / 64] >> n % 64 & 1)
                bitmap[(first + n) / 64] |= 1ull << (first + n) % 64;
        free(some);
        if (e)
            return error_set(err, -e, "migration: the engine's log of written pages: %s", strerror(-e));
    }
    return 0;
}

// The vCPUs stand still for a part of each period; the clock goes on.
static void brake(void *ctx)
{
    struct machine_move *v = ctx;
    while (!v->brake_off) {
        unsigned us = v->throttle * PERIOD_US / 100;
        if (us) {
            vm_hold_cpus(&v->c->m->vm);
            nanosleep(&(struct timespec){.tv_nsec = us * 1000L}, NULL);
            vm_free_cpus(&v->c->m->vm);
        }
        nanosleep(&(struct timespec){.tv_nsec = (PERIOD_US - us) * 1000L}, NULL);
    }
}

static void throttle(void *ctx, unsigned percent)
{
    struct machine_move *v = ctx;
    v->throttle = percent;
    if (percent && !v->brake && thread_create(&v->brake, "brake", brake, v, NULL) < 0)
        v->brake = NULL; // then it goes on at full speed
}

static const struct migrate_machine machine = {
    .log_start = log_start,
    .log_stop = log_stop,
    .log_fetch = log_fetch,
    .throttle = throttle,
    .stop = stop,
    .state = get_state,
    .resume = resume,
};

// --- the thread

static enum migrate_outcome migrate(struct machine_move *v, struct error *err)
{
    struct wire c;
    int fd = address_connect(&v->address, &v->source.cancel, err);
    if (fd < 0)
        return MIGRATE_KEPT;
    wire_init(&c, fd, &v->source.cancel);
    enum migrate_outcome outcome = MIGRATE_KEPT;
    if (!v->secure || !wire_secure(&c, &v->tls, v->address.host, err))
        outcome = migrate_send(&v->source, &c, err);
    wire_close(&c);
    return outcome;
}

static void linger(struct machine_move *v)
{
    for (unsigned ms = 0; ms < LINGER_MS; ms += 20) {
        nanosleep(&(struct timespec){.tv_nsec = 20 * (long)MS}, NULL);
        pthread_mutex_lock(&v->lock);
        bool asked = v->asked;
        pthread_mutex_unlock(&v->lock);
        if (asked && ms < LINGER_MS - 200)
            ms = LINGER_MS - 200; // the answer is still on its way
    }
}

static void work(void *ctx)
{
    struct machine_move *v = ctx;
    struct machine *m = v->c->m;
    struct error err = {.text = ""};
    enum migrate_outcome outcome = migrate(v, &err);
    v->brake_off = true;
    if (v->brake)
        thread_join(v->brake);
    v->brake = NULL;
    if (outcome == MIGRATE_KEPT)
        log_info(m->log, "the machine stays here: %s", err.text);
    else if (outcome == MIGRATE_UNDECIDED || outcome == MIGRATE_LOST)
        log_warn(m->log, "%s", err.text);
    pthread_mutex_lock(&v->lock);
    v->outcome = outcome;
    v->err = err;
    v->ended = true;
    v->running = false;
    pthread_mutex_unlock(&v->lock);
    if (outcome != MIGRATE_MOVED && outcome != MIGRATE_LOST)
        return;
    linger(v);
    m->moved = outcome == MIGRATE_MOVED ? MACHINE_MOVED : MACHINE_LOST;
    vm_kill(&m->vm);
    let_loop_go(v);
}

// --- what is to be sent

static int add_disks(struct machine_move *v, struct error *err)
{
    const struct machine *m = v->c->m;
    struct snapshot_manifest *f = &v->manifest;
    for (unsigned n = 0; n < m->o->disks; n++) {
        struct snapshot_disk *d = &f->disk[n];
        const struct disk_option *o = &m->o->disk[n];
        if (snapshot_in_own_folder(m, o->path))
            return error_set(
                err, ENOTSUP,
                "disk %s: it lies in the machine's own directory and would go with it: only machines whose "
                "disks both sides can open can be moved",
                o->path);
        f->disks++;
        d->readonly = true; // to a manifest: it isn't copied; what it is to the machine is told beside it
        v->source.hello.writable |= (uint32_t)!o->readonly << n;
        d->size = m->disk[n]->size;
        strcpy(d->format, snapshot_disk_format(o));
        strcpy(d->serial, m->disk[n]->serial);
        d->path = realpath(o->path, NULL);
        if (!d->path)
            return error_set(err, errno, "disk %s: %s", o->path, strerror(errno));
    }
    return 0;
}

static void blank(struct snapshot_part *p, uint64_t bytes)
{
    p->bytes = bytes;
    memset(p->xxh3, '0', SNAPSHOT_DIGEST - 1);
}

static void add_file(struct machine_move *v, const char *name, const struct file *f)
{
    if (!f->size)
        return;
    struct hello *h = &v->source.hello;
    strcpy(h->file[h->files].name, name);
    h->file[h->files].bytes = f->size;
    v->source.file[h->files++] = (struct migrate_file){f->data, f->size};
}

// Everything that the other side is told first.
static int describe(struct machine_move *v, struct error *err)
{
    struct machine *m = v->c->m;
    struct record *record;
    if (m->o->shares)
        return error_set(err, ENOTSUP, "the machine has folders of this host (--share): it cannot leave it");
    int e = record_read(v->c->dir, &record, err);
    if (e)
        return e;
    snapshot_describe(&v->manifest, m, record->arguments, record->directory);
    e = add_disks(v, err);
    blank(&v->manifest.ram, m->ram.size);
    blank(&v->manifest.state, 0);
    struct hello *h = &v->source.hello;
    if (!e &&
        (asprintf(&h->owner, "%s/owner", v->c->dir->path) < 0 || !(h->machine = snapshot_manifest_write(&v->manifest))))
        e = error_set(err, ENOMEM, "migration: out of memory");
    v->manifest.options = NULL; // the record's
    record_free(record);
    h->memory = m->ram.size;
    h->paused = v->c->paused;
    add_file(v, "kernel", &m->kernel);
    add_file(v, "initrd", &m->initrd);
    return e;
}

static void forget(struct machine_move *v)
{
    free(v->source.hello.owner);
    free(v->source.hello.machine);
    snapshot_manifest_free(&v->manifest);
    memset(&v->manifest, 0, sizeof v->manifest);
    for (unsigned i = 0; i < 4; i++) {
        free(v->tls_file[i]);
        v->tls_file[i] = NULL;
    }
    v->source = (struct migrate_source){.ram_fd = -1};
}

// --- what is asked for

static bool take_number(const json_t *body, const char *key, uint64_t most, uint64_t otherwise, uint64_t *n)
{
    const json_t *j = json_object_get(body, key);
    *n = j ? (uint64_t)json_integer_value(j) : otherwise;
    return !j || (json_is_integer(j) && *n <= most);
}

static int take_tls(struct machine_move *v, const json_t *body, struct error *err)
{
    static const char *const keys[] = {"psk", "cert", "key", "ca"};
    const json_t *tls = json_object_get(body, "tls");
    v->secure = json_object_size(tls) > 0;
    for (unsigned i = 0; i < 4; i++) {
        const char *path = json_string_value(json_object_get(tls, keys[i]));
        v->tls_file[i] = path ? strdup(path) : NULL;
    }
    v->tls = (struct tls_options){v->tls_file[0], v->tls_file[1], v->tls_file[2], v->tls_file[3]};
    if (v->address.tcp && !v->secure && !json_is_true(json_object_get(body, "insecure")))
        return error_set(err, EINVAL,
                         "over tcp a machine's memory must be encrypted: --tls-psk or certificates (or --insecure, "
                         "if the network is to be trusted)");
    return 0;
}

static int take_request(struct machine_move *v, const json_t *body, struct error *err)
{
    const char *to = json_string_value(json_object_get(body, "to"));
    uint64_t downtime, bandwidth, most;
    if (!to || !take_number(body, "downtime_ms", 3600000, DOWNTIME_MS, &downtime) || !downtime ||
        !take_number(body, "bandwidth", INT64_MAX, 0, &bandwidth) ||
        !take_number(body, "max_time_s", 1000000, 0, &most))
        return error_set(err, EINVAL, "\"to\" must be an address, and numbers in their ranges");
    int e = address_parse(&v->address, to, err);
    if (!e)
        e = take_tls(v, body, err);
    v->source.machine = &machine;
    v->source.ctx = v;
    v->source.ram = v->c->m->ram.base;
    v->source.ram_size = v->c->m->ram.size;
    v->source.ram_fd = v->c->m->ram.fd;
    v->source.limits = (struct migrate_limits){.downtime_ns = downtime * MS,
                                               .max_time_ns = most * 1000 * MS,
                                               .bandwidth = bandwidth,
                                               .compress = json_is_true(json_object_get(body, "compress"))};
    return e;
}

static bool busy(struct machine_move *v)
{
    pthread_mutex_lock(&v->lock);
    bool b = v->running || (v->ended && v->outcome != MIGRATE_KEPT);
    if (!b)
        v->running = true;
    pthread_mutex_unlock(&v->lock);
    return b;
}

static void post_migrate(void *ctx, const struct control_request *q, struct control_reply *r)
{
    struct machine_move *v = ((struct machine_control *)ctx)->move;
    struct error err;
    if (busy(v)) {
        control_refuse_text(r, -EBUSY, "a migration is under way");
        return;
    }
    if (v->thread)
        thread_join(v->thread);
    v->thread = NULL;
    forget(v);
    v->brake_off = v->ended = v->asked = false;
    v->throttle = 0;
    int e = take_request(v, q->body, &err);
    if (!e)
        e = describe(v, &err);
    if (!e)
        e = thread_create(&v->thread, "migrate", work, v, &err);
    if (!e)
        return;
    v->running = false;
    control_refuse(r, e, &err);
}

static const char *state_of(const struct machine_move *v)
{
    static const char *const phases[] = {[MIGRATE_CONNECTING] = "connecting",
                                         [MIGRATE_COPYING] = "copying",
                                         [MIGRATE_STOPPED] = "stopped",
                                         [MIGRATE_HANDING_OVER] = "handing over",
                                         [MIGRATE_ENDED] = "handing over"};
    static const char *const outcomes[] = {
        [MIGRATE_KEPT] = "kept", [MIGRATE_MOVED] = "moved", [MIGRATE_LOST] = "lost", [MIGRATE_UNDECIDED] = "undecided"};
    return v->running ? phases[v->source.progress.phase] : v->ended ? outcomes[v->outcome] : "none";
}

static void get_migrate(void *ctx, const struct control_request *q, struct control_reply *r)
{
    struct machine_move *v = ((struct machine_control *)ctx)->move;
    const struct migrate_progress *p = &v->source.progress;
    (void)q;
    pthread_mutex_lock(&v->lock);
    r->body = json_pack("{s:s, s:s*, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:i, s:I}", "state", state_of(v), "error",
                        v->ended && v->err.text[0] ? v->err.text : NULL, "rounds", (json_int_t)p->rounds, "pages_sent",
                        (json_int_t)p->pages_sent, "zero_pages_sent", (json_int_t)p->zeros_sent, "bytes_sent",
                        (json_int_t)p->bytes_sent, "pages_left", (json_int_t)p->pages_left, "bandwidth",
                        (json_int_t)p->bandwidth, "down_ns", (json_int_t)p->down_ns, "throttle", (int)p->throttle,
                        "memory", (json_int_t)v->c->m->ram.size);
    v->asked |= v->ended;
    pthread_mutex_unlock(&v->lock);
}

static void delete_migrate(void *ctx, const struct control_request *q, struct control_reply *r)
{
    struct machine_move *v = ((struct machine_control *)ctx)->move;
    (void)q;
    pthread_mutex_lock(&v->lock);
    bool running = v->running;
    if (running)
        v->source.cancel = true;
    pthread_mutex_unlock(&v->lock);
    if (!running)
        control_refuse_text(r, -ENOENT, "no migration is under way");
}

const struct control_route machine_move_routes[] = {
    {"POST", "/migrate", post_migrate, false, "{\"to\": address, ...}: move the machine to another process"},
    {"GET", "/migrate", get_migrate, false, "how far the move is"},
    {"DELETE", "/migrate", delete_migrate, false, "the machine stays here"},
    {0},
};

struct machine_move *machine_move_new(struct machine_control *c)
{
    struct machine_move *v = calloc(1, sizeof *v);
    if (!v)
        return NULL;
    v->c = c;
    v->source.ram_fd = -1;
    pthread_mutex_init(&v->lock, NULL);
    pthread_cond_init(&v->change, NULL);
    return v;
}

void machine_move_free(struct machine_move *v)
{
    if (!v)
        return;
    v->source.cancel = true;
    if (v->thread)
        thread_join(v->thread);
    forget(v);
    pthread_cond_destroy(&v->change);
    pthread_mutex_destroy(&v->lock);
    free(v);
}

bool machine_move_take_back(struct machine_move *v)
{
    struct error err;
    pthread_mutex_lock(&v->lock);
    bool undecided = v->ended && v->outcome == MIGRATE_UNDECIDED;
    if (undecided)
        v->outcome = MIGRATE_KEPT;
    pthread_mutex_unlock(&v->lock);
    if (undecided && resume(v, &err)) {
        log_warn(v->c->m->log, "the machine cannot go on: %s", err.text);
        v->outcome = MIGRATE_UNDECIDED;
    } else if (undecided) {
        log_stop(v);
    }
    return undecided;
}
