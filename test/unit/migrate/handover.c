// Both sides of migrations as processes of their own, with a machine that is only memory and a thread that writes it:
// what arrives is what was sent; a cancel and a hostile receiver leave the source running; and whichever side is
// killed, at whatever moment, never do two run it, and never none while one that has all of it is left.
#include "host/clock.h"
#include "migrate/receive.h"
#include "migrate/send.h"
#include "unit.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PAGES = 2048, RAM = PAGES * PAGE_BYTES, KILLS = 60 };

static char folder[64], owner_path[80];

// What the test sees of its two processes.
struct seen {
    _Atomic uint64_t ticks[2];          // the machine lives: counted by whoever runs it (0: source, 1: receiver)
    _Atomic uint64_t ticks_at_takeover; // of the source's, when the receiver began to run it
    _Atomic bool complete, claimed;     // the receiver: it has everything; it has taken the machine over
    _Atomic bool wrong;                 // it is not what was sent
    _Atomic int outcome;                // of the source, + 1
} * seen;

// --- the machine: its pages hold their number and a count that only grows

struct toy {
    uint8_t *ram;
    pthread_t thread, canceller;
    pthread_mutex_t lock; // held for a write and its note in the log; whoever stops the machine keeps it
    _Atomic bool stop, logging;
    uint64_t dirty[PAGES / 64];
    unsigned side;
    uint64_t clock; // the machine's "device state"
};

static void *live(void *ctx)
{
    struct toy *t = ctx;
    for (unsigned n = 1; !t->stop; n = n * 1103515245 + 12345) {
        pthread_mutex_lock(&t->lock);
        unsigned page = n / 65536 % 64; // a few pages, again and again
        uint64_t *p = (uint64_t *)(t->ram + (size_t)page * PAGE_BYTES);
        p[0] = page;
        p[1] = ++t->clock;
        t->dirty[page / 64] |= 1ull << page % 64;
        seen->ticks[t->side]++;
        pthread_mutex_unlock(&t->lock);
        usleep(20);
    }
    return NULL;
}

static void start(struct toy *t)
{
    t->stop = false;
    pthread_create(&t->thread, NULL, live, t);
}

static int log_start(void *ctx, struct error *err)
{
    struct toy *t = ctx;
    (void)err;
    pthread_mutex_lock(&t->lock);
    memset(t->dirty, 0, sizeof t->dirty);
    pthread_mutex_unlock(&t->lock);
    return 0;
}

static void log_stop(void *ctx)
{
    (void)ctx;
}

static int log_fetch(void *ctx, uint64_t *bitmap, struct error *err)
{
    struct toy *t = ctx;
    bool stopped = t->stop;
    (void)err;
    if (!stopped)
        pthread_mutex_lock(&t->lock);
    for (unsigned i = 0; i < PAGES / 64; i++)
        bitmap[i] |= t->dirty[i];
    memset(t->dirty, 0, sizeof t->dirty);
    if (!stopped)
        pthread_mutex_unlock(&t->lock);
    return 0;
}

static void throttle(void *ctx, unsigned percent)
{
    (void)ctx;
    (void)percent;
}

static int stop(void *ctx, struct error *err)
{
    struct toy *t = ctx;
    (void)err;
    t->stop = true;
    pthread_join(t->thread, NULL);
    return 0;
}

static int get_state(void *ctx, uint8_t **data, size_t *size, struct error *err)
{
    struct toy *t = ctx;
    (void)err;
    *data = malloc(8);
    put_u64(*data, t->clock);
    *size = 8;
    return 0;
}

static int resume(void *ctx, struct error *err)
{
    (void)err;
    start(ctx);
    return 0;
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

// --- the two processes

static void *cancel_soon(void *ctx)
{
    struct migrate_source *s = ctx;
    while (s->progress.pages_sent < PAGES / 12)
        usleep(1000);
    s->cancel = true;
    return NULL;
}

static void source_process(int fd, bool cancel)
{
    static struct toy t = {.lock = PTHREAD_MUTEX_INITIALIZER};
    static struct migrate_source s;
    static uint8_t kernel[3 << 20];
    struct wire c;
    struct error err = {.text = ""};
    t.ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (unsigned n = 0; n < PAGES; n += 3) // and others stay zero
        *(uint64_t *)(t.ram + (size_t)n * PAGE_BYTES) = n;
    memset(kernel, 0x5a, sizeof kernel);
    start(&t);
    s = (struct migrate_source){.machine = &machine,
                                .ctx = &t,
                                .ram = t.ram,
                                .ram_size = RAM,
                                .ram_fd = -1,
                                .hello = {.owner = owner_path,
                                          .memory = RAM,
                                          .machine = "toy",
                                          .files = 1,
                                          .file = {{"kernel", sizeof kernel}}},
                                .file = {{kernel, sizeof kernel}},
                                .limits = {.downtime_ns = 300000000}};
    wire_init(&c, fd, &s.cancel);
    c.patience_ms = 2000; // for receivers that take nothing
    if (cancel) {         // when about a quarter has been sent
        s.limits.bandwidth = 20 << 20;
        pthread_create(&t.canceller, NULL, cancel_soon, &s);
    }
    enum migrate_outcome outcome = migrate_send(&s, &c, &err);
    seen->outcome = (int)outcome + 1;
    wire_close(&c);
    if (outcome != MIGRATE_KEPT)
        _exit(0);
    for (;;)
        pause();
}

static int take_file(void *ctx, unsigned index, uint64_t at, const void *data, size_t size, struct error *err)
{
    uint64_t *bytes = ctx;
    (void)err;
    if (index != 0 || at != *bytes || *(const uint8_t *)data != 0x5a)
        seen->wrong = true;
    *bytes += size;
    return 0;
}

static bool right(const struct toy *t)
{
    for (unsigned n = 0; n < PAGES; n++) {
        const uint64_t *p = (const uint64_t *)(t->ram + (size_t)n * PAGE_BYTES);
        if (p[1] > t->clock || p[0] != (n < 64 && p[1] ? n : n % 3 ? 0 : n))
            return false;
    }
    return t->clock == seen->ticks[0]; // nothing that happened there was lost
}

static bool blind; // the receivers of this test do not see the source's file

static int receive_machine(struct receiving *r, struct toy *t)
{
    struct error err = {.text = ""};
    uint64_t bytes = 0;
    struct receive_sink sink = {.ram = {.base = t->ram, .size = RAM}, .ctx = &bytes, .file = take_file};
    int e = receive_hello(r, &err);
    if (!e && blind)
        r->hello.owner[0] = 0;
    if (!e)
        e = receive_welcome(r, &err);
    if (!e)
        e = receive_contents(r, &sink, &err);
    if (e)
        return e;
    seen->complete = true;
    e = receive_take_over(r, &err);
    if (e)
        return e;
    seen->claimed = true;
    t->clock = r->state_size == 8 ? get_u64(r->state) : 0;
    seen->ticks_at_takeover = seen->ticks[0];
    if (bytes != 3 << 20 || !right(t))
        seen->wrong = true;
    return 0;
}

static void receiver_process(int fd)
{
    static struct toy t = {.lock = PTHREAD_MUTEX_INITIALIZER, .side = 1};
    struct receiving r;
    t.ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    receive_init(&r, fd, NULL);
    if (receive_machine(&r, &t))
        _exit(1);
    start(&t);
    receive_started(&r);
    for (;;)
        pause();
}

struct both {
    pid_t source, receiver;
};

static struct both begin(void (*receiver)(int fd), bool cancel)
{
    int fd[2];
    struct both b;
    memset(seen, 0, sizeof *seen);
    unlink(owner_path);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd), 0);
    if (!(b.receiver = fork())) {
        close(fd[0]);
        receiver(fd[1]);
        _exit(0);
    }
    if (!(b.source = fork())) {
        close(fd[1]);
        source_process(fd[0], cancel);
        _exit(0);
    }
    close(fd[0]);
    close(fd[1]);
    return b;
}

static void end(const struct both *b)
{
    kill(b->source, SIGKILL);
    kill(b->receiver, SIGKILL);
    waitpid(b->source, NULL, 0);
    waitpid(b->receiver, NULL, 0);
}

// Whether a side's machine is alive, within 100 ms.
static bool lives(unsigned side)
{
    uint64_t before = seen->ticks[side];
    for (unsigned i = 0; i < 100; i++) {
        if (seen->ticks[side] != before)
            return true;
        usleep(1000);
    }
    return false;
}

// Ends the wait when it comes true, or after 20 s.
#define WAIT_UNTIL(condition)                                                                                          \
    for (unsigned waited_ = 0; !(condition) && waited_ < 20000; waited_++)                                             \
    usleep(1000)

// --- tests

static void moves(void **state)
{
    (void)state;
    struct both b = begin(receiver_process, false);
    WAIT_UNTIL(seen->outcome && seen->ticks[1]);
    assert_int_equal(seen->outcome, MIGRATE_MOVED + 1);
    assert_true(lives(1));
    assert_false(lives(0));
    assert_false(seen->wrong);
    assert_int_equal(seen->ticks[0], seen->ticks_at_takeover);
    end(&b);
}

static void cancelled(void **state)
{
    (void)state;
    struct both b = begin(receiver_process, true);
    WAIT_UNTIL(seen->outcome);
    assert_int_equal(seen->outcome, MIGRATE_KEPT + 1);
    assert_true(lives(0));
    int status;
    waitpid(b.receiver, &status, 0);
    assert_int_equal(WEXITSTATUS(status), 1);
    assert_false(lives(1));
    end(&b);
}

// Receivers that mean harm: one that hangs up at once, one that says yes to everything in the wrong order, one that
// sends noise.
static void hangs_up(int fd)
{
    close(fd);
}

static void says_ready(int fd)
{
    struct wire c;
    wire_init(&c, fd, NULL);
    wire_send_small(&c, MESSAGE_WELCOME, "{\"owner\": false}", 16, NULL);
    wire_send_small(&c, MESSAGE_READY, NULL, 0, NULL);
    wire_send_small(&c, MESSAGE_STARTED, NULL, 0, NULL);
    pause();
}

static void says_noise(int fd)
{
    char noise[4096];
    memset(noise, 0xa5, sizeof noise);
    while (send(fd, noise, sizeof noise, MSG_NOSIGNAL) > 0)
        continue;
    pause();
}

static void refuses_at_the_end(int fd)
{
    struct receiving r;
    struct receive_sink sink = {.ctx = &(uint64_t){0}, .file = take_file};
    struct error err;
    sink.ram = (struct pages_ram){.base = calloc(1, RAM), .size = RAM};
    receive_init(&r, fd, NULL);
    if (!receive_hello(&r, &err) && !receive_welcome(&r, &err) && !receive_contents(&r, &sink, &err)) {
        seen->complete = true;
        receive_refuse(&r, "I do not want it");
    }
}

static void hostile(void **state)
{
    static void (*const receivers[])(int) = {hangs_up, says_ready, says_noise, refuses_at_the_end};
    (void)state;
    for (unsigned i = 0; i < sizeof receivers / sizeof *receivers; i++) {
        struct both b = begin(receivers[i], false);
        WAIT_UNTIL(seen->outcome);
        assert_int_equal(seen->outcome, MIGRATE_KEPT + 1);
        assert_true(lives(0));
        assert_int_equal(seen->complete, receivers[i] == refuses_at_the_end);
        end(&b);
    }
}

static void kill_source(const struct both *b)
{
    kill(b->source, SIGKILL);
    int status;
    waitpid(b->source, &status, 0);
    bool had_all = seen->complete; // it may have, a moment later: what was sent arrives
    WAIT_UNTIL(seen->ticks[1] || waitpid(b->receiver, &status, WNOHANG) == b->receiver);
    had_all |= seen->complete;
    assert_int_equal(lives(1), blind ? seen->claimed : had_all);
    assert_false(lives(0));
}

static void kill_receiver(const struct both *b)
{
    kill(b->receiver, SIGKILL);
    waitpid(b->receiver, NULL, 0);
    WAIT_UNTIL(seen->outcome);
    bool here = lives(0);
    assert_int_equal(here, seen->outcome == MIGRATE_KEPT + 1);
    // If the receiver had it, it was the machine that was killed; else it goes on.
    assert_true(here || seen->claimed || seen->outcome == MIGRATE_LOST + 1);
    assert_false(here && seen->claimed);
}

// The moments are spread over all of a migration, which the first of them measures.
static void killed(void **state)
{
    unsigned claimed = 0, complete = 0;
    (void)state;
    uint64_t from = host_monotonic_ns();
    struct both b = begin(receiver_process, false);
    WAIT_UNTIL(seen->claimed);
    uint64_t whole_us = (host_monotonic_ns() - from) / 1000;
    end(&b);
    srand(1);
    for (unsigned i = 0; i < KILLS; i++) {
        b = begin(receiver_process, false);
        // Half of them about the time when it changes hands.
        if (i % 2) {
            WAIT_UNTIL(seen->complete || seen->outcome);
            for (volatile int n = rand() % 200000; n > 0; n--)
                continue;
        } else {
            usleep((unsigned)((uint64_t)rand() % (whole_us + whole_us / 4 + 1)));
        }
        if (i / 2 % 2)
            kill_source(&b);
        else
            kill_receiver(&b);
        assert_false(seen->wrong);
        if (seen->claimed)
            assert_int_equal(seen->ticks[0], seen->ticks_at_takeover);
        claimed += seen->claimed;
        complete += seen->complete;
        end(&b);
    }
    print_message("%u kills: in %u the receiver had everything, in %u it had taken over\n", KILLS, complete, claimed);
}

// Two hosts that share no folder: a receiver that ends before it is ready leaves the machine where it was, one that
// ends after the source's last word leaves it stopped, never running twice; and if all goes well it moves.
static void ends_before_ready(int fd)
{
    struct receiving r;
    struct error err;
    receive_init(&r, fd, NULL);
    if (receive_hello(&r, &err))
        _exit(1);
    r.hello.owner[0] = 0;
    receive_welcome(&r, &err);
}

static void ends_without_a_word(int fd)
{
    static struct toy t = {.lock = PTHREAD_MUTEX_INITIALIZER, .side = 1};
    struct receiving r;
    t.ram = calloc(1, RAM);
    receive_init(&r, fd, NULL);
    receive_machine(&r, &t); // and does not say that it started
}

static void without_a_file_in_common(void **state)
{
    static const struct {
        void (*receiver)(int fd);
        enum migrate_outcome outcome;
    } tries[] = {
        {receiver_process, MIGRATE_MOVED}, {ends_before_ready, MIGRATE_KEPT}, {ends_without_a_word, MIGRATE_UNDECIDED}};
    (void)state;
    blind = true;
    for (unsigned i = 0; i < sizeof tries / sizeof *tries; i++) {
        struct both b = begin(tries[i].receiver, false);
        WAIT_UNTIL(seen->outcome);
        assert_int_equal(seen->outcome, tries[i].outcome + 1);
        assert_int_equal(lives(0), tries[i].outcome == MIGRATE_KEPT);
        assert_int_equal(lives(1), tries[i].outcome == MIGRATE_MOVED);
        assert_false(seen->wrong);
        end(&b);
    }
    // The source is killed: the receiver does not start on its own.
    for (unsigned i = 0; i < 10; i++) {
        struct both b = begin(receiver_process, false);
        WAIT_UNTIL(seen->complete || seen->outcome);
        kill_source(&b);
        end(&b);
    }
    blind = false;
}

static int set_up(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/trapeze-test-XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    snprintf(owner_path, sizeof owner_path, "%s/owner", folder);
    seen = mmap(NULL, sizeof *seen, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return seen == MAP_FAILED ? -1 : 0;
}

static int clean_up(void **state)
{
    (void)state;
    unlink(owner_path);
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(moves),
        cmocka_unit_test(cancelled),
        cmocka_unit_test(hostile),
        cmocka_unit_test(killed),
        cmocka_unit_test(without_a_file_in_common),
    };
    return cmocka_run_group_tests(tests, set_up, clean_up);
}
