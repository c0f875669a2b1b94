// Random programs under two engines: the translator must end every one of them as the interpreter does.
//
//     test_sequences [--seed N] [--programs N] [--seconds N] [--from N] [--program N] [--keep-going]
//
// Program N of a seed is the same in every run (grammar.c). Each runs under the interpreter with its instructions
// counted, and under the translator freely, counted, in steps of random lengths, now and then one instruction at a
// time, and, if it is for ring 3, in cells. Programs that do not end are compared where their instructions are used up,
// but not run freely.
//
// Worker processes do that, so that an engine that crashes or hangs is a difference like any other. When there is one,
// the program is tried again in new processes with pieces taken out, until none can be spared, and what is left is
// printed; --program N does so for one.
//
// Exit status: 0 no difference, 1 differences, 2 usage, 77 the translator does not work here.
#include "compare.h"
#include "cpu/exception.h"
#include "host/cpuid.h"
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { INSTRUCTIONS = 4000, IN_CELLS = HOWS, WAYS, SAID = 4096, PROGRAMS_PER_WORKER = 4000 };
enum { SAME, DIFFER, BAD_PROGRAM }; // exit statuses of workers

struct options {
    uint64_t seed, programs, one;
    unsigned seconds;
    bool single, keep_going;
};

struct bench {
    struct cpu_model model;
    struct grammar *grammar;
    struct machine interp, dbt, cells;
    bool have_cells;
    uint8_t *memory;
    struct program p;
    struct image image;
};

// What a worker tells: lies in memory that all processes share.
struct told {
    uint64_t number, done, unended, cells;
    unsigned way;
    char why[SAID];
};

static struct bench bench;
static struct told *told;

static const char *way_name(unsigned way)
{
    return way == IN_CELLS ? "in cells" : how_names[way];
}

static uint64_t program_seed(const struct options *o, uint64_t number)
{
    return o->seed << 40 ^ number;
}

static void open_machines(void)
{
    struct error err = {""};
    if (machine_open(&bench.interp, "interp", &engine_interp, &bench.model, false, &err) ||
        machine_open(&bench.dbt, "dbt", &engine_dbt, &bench.model, false, &err)) {
        fprintf(stderr, "test_sequences: %s\n", err.text);
        _exit(BAD_PROGRAM);
    }
    bench.have_cells = !machine_open(&bench.cells, "dbt with cells", &engine_dbt, &bench.model, true, &err);
}

// --- one program

// Whether the interpreter is at an indirect call: in memory, which need not be what was written.
static bool calls_indirectly(const ZydisDecoder *decoder)
{
    uint8_t bytes[LONGEST];
    ZydisDecodedInstruction z;
    unsigned n = machine_code(&bench.interp, bytes);
    return ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(decoder, NULL, bytes, n, &z)) &&
           z.mnemonic == ZYDIS_MNEMONIC_CALL && !(z.attributes & ZYDIS_ATTRIB_IS_RELATIVE);
}

// Whether the interpreter goes through instructions as they were written. A jump into the middle of one can lead to
// instructions that programs are not made of, with results that nobody defines. Nor may an indirect call fault, because
// its target is not canonical: translated ones have written below the stack pointer by then. That call may be none that
// the program was made of: programs write over their code.
static bool runs_as_written(void)
{
    static bool starts[CODE_SIZE];
    ZydisDecoder decoder;
    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    memset(starts, 0, sizeof starts);
    for (unsigned n = 0; n < bench.p.pieces; n++) {
        const struct piece *piece = &bench.p.piece[n];
        unsigned at = bench.image.piece_at[n], end = at + (piece->gone ? 0 : piece->room ? 5 : piece->len);
        ZydisDecodedInstruction z;
        while (at < end &&
               ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, NULL, bench.image.code + at, end - at, &z))) {
            starts[at] = true;
            at += z.length;
        }
    }
    starts[bench.image.end] = true;
    machine_begin(&bench.interp, &bench.p, bench.memory, &bench.model);
    for (unsigned n = 0; n < INSTRUCTIONS; n++) {
        uint64_t at = bench.interp.s.rip - bench.p.setup.code;
        if (at < CODE_SIZE && !starts[at])
            return false;
        bool call = calls_indirectly(&decoder);
        if (!machine_step(&bench.interp))
            break;
        if (call && machine_vector(&bench.interp) == EXC_GP)
            return false;
    }
    return true;
}

static bool lay(void)
{
    if (!program_lay(&bench.p, &bench.image))
        return false;
    machine_memory(bench.memory, &bench.p, &bench.image);
    return true;
}

static bool way_is_open(unsigned way)
{
    bool ends = bench.interp.end != LIMIT;
    switch (way) {
    case FREELY:
        return ends && !bench.p.setup.exact_flags;
    case IN_CELLS:
        return ends && !bench.p.setup.exact_flags && bench.p.setup.user && bench.have_cells;
    case IN_STEPS: // each step is a dozen system calls
        return bench.p.setup.seed % 4 == 0;
    case SINGLY:
        return bench.p.setup.seed % 64 == 1;
    default:
        return true;
    }
}

static bool same_in(unsigned way)
{
    struct machine *m = way == IN_CELLS ? &bench.cells : &bench.dbt;
    told->way = way;
    machine_run(m, &bench.p, bench.memory, &bench.model, way == IN_CELLS ? FREELY : way, INSTRUCTIONS,
                bench.p.setup.seed);
    return machines_same(&bench.interp, m, told->why, SAID);
}

static void run_reference(void)
{
    machine_run(&bench.interp, &bench.p, bench.memory, &bench.model, COUNTED, INSTRUCTIONS, 0);
}

static int run_program(const struct options *o, uint64_t number)
{
    told->number = number;
    program_make(&bench.p, bench.grammar, program_seed(o, number));
    if (!lay())
        return SAME;
    run_reference();
    told->done++;
    told->unended += bench.interp.end == LIMIT;
    for (unsigned way = 0; way < WAYS; way++) {
        if (!way_is_open(way))
            continue;
        told->cells += way == IN_CELLS;
        if (same_in(way))
            continue;
        char why[SAID];
        memcpy(why, told->why, SAID);
        if (!runs_as_written())
            return SAME;
        memcpy(told->why, why, SAID);
        return DIFFER;
    }
    return SAME;
}

// --- workers

static time_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec;
}

// Programs from `first` on, until one shows a difference; told->number says how far it came.
static int work(const struct options *o, uint64_t first, time_t until)
{
    open_machines();
    for (uint64_t n = first; n < o->programs && n < first + PROGRAMS_PER_WORKER && now() < until; n++) {
        int result = run_program(o, n);
        if (result != SAME)
            return result;
        told->number = n + 1;
    }
    return SAME;
}

// The present program, one way.
static int try_once(unsigned way)
{
    open_machines();
    if (!lay())
        return BAD_PROGRAM;
    run_reference();
    if ((way == FREELY || way == IN_CELLS) && !way_is_open(way))
        return BAD_PROGRAM;
    if (same_in(way))
        return SAME;
    char why[SAID];
    memcpy(why, told->why, SAID);
    bool good = runs_as_written();
    memcpy(told->why, why, SAID);
    return good ? DIFFER : BAD_PROGRAM;
}

// The exit status of a child; DIFFER if it was ended by a signal.
static int wait_for(pid_t child)
{
    int status;
    if (child < 0 || waitpid(child, &status, 0) < 0)
        return BAD_PROGRAM;
    if (WIFEXITED(status))
        return WEXITSTATUS(status);
    snprintf(told->why, SAID, "    the process is ended by signal %d (%s)\n", WTERMSIG(status),
             strsignal(WTERMSIG(status)));
    return DIFFER;
}

static bool still_differs(unsigned way)
{
    fflush(NULL);
    pid_t child = fork();
    if (!child)
        _exit(try_once(way));
    return wait_for(child) == DIFFER;
}

// --- telling

static void shrink(unsigned way)
{
    struct program *p = &bench.p;
    for (unsigned size = p->pieces / 2; size; size = size > 1 ? (size + 1) / 2 : 0) {
        bool again = true;
        while (again) {
            again = false;
            for (unsigned at = 0; at < p->pieces; at += size) {
                struct program whole = *p;
                bool any = false;
                for (unsigned n = at; n < at + size && n < p->pieces; n++) {
                    any |= !p->piece[n].gone;
                    p->piece[n].gone = true;
                }
                if (any && still_differs(way))
                    again = size == 1;
                else
                    *p = whole;
            }
        }
    }
}

static void print_piece(unsigned n)
{
    unsigned at = bench.image.piece_at[n], end = at + (bench.p.piece[n].room ? 5 : bench.p.piece[n].len);
    while (at < end) {
        ZydisDisassembledInstruction d;
        uint64_t rip = bench.p.setup.code + at;
        if (!ZYAN_SUCCESS(ZydisDisassembleIntel(ZYDIS_MACHINE_MODE_LONG_64, rip, bench.image.code + at, end - at, &d)))
            break;
        printf("    %2u  %016" PRIx64 "  ", n, rip);
        for (unsigned k = 0; k < 15; k++)
            printf(k < d.info.length ? "%02x" : "  ", bench.image.code[(at + k) % CODE_SIZE]);
        printf("  %s\n", d.text);
        at += d.info.length;
    }
}

static void print_setup(const struct setup *s)
{
    static const char *const gpr[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                      "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
    printf("  ring %u%s%s%s%s%s%s, code %" PRIx64 ", alias %" PRIx64 ", data %" PRIx64 ", stack %" PRIx64 "\n",
           s->user ? 3 : 0, s->smap ? ", SMAP" : "", s->smep ? ", SMEP" : "", s->write_protect ? ", WP" : "",
           s->code_readonly ? ", code is read-only" : "", s->exact_flags ? ", exact flags" : "",
           s->no_sse ? ", no SSE" : "", s->code, s->alias, s->data, s->stack);
    printf("  rflags %" PRIx64 ", interrupts %u, RSP after faults %" PRIx64 "\n", s->rflags, s->interrupts,
           s->good_rsp);
    for (unsigned n = 0; n < GPRS; n++)
        printf("%s%3s %016" PRIx64 "%s", n % 4 ? "  " : "    ", gpr[n], s->gpr[n], n % 4 == 3 ? "\n" : "");
}

// A difference: shows the least program that has it.
static void tell(const struct options *o, uint64_t number, unsigned way)
{
    static char first[SAID];
    memcpy(first, told->why, SAID);
    program_make(&bench.p, bench.grammar, program_seed(o, number));
    printf("program %" PRIu64 " of seed %" PRIu64 ", run %s: ", number, o->seed, way_name(way));
    if (still_differs(way)) {
        shrink(way);
        still_differs(way); // for told->why
        printf("these pieces are enough\n");
    } else {
        printf("differs only after other programs\n");
        memcpy(told->why, first, SAID);
    }
    lay();
    print_setup(&bench.p.setup);
    for (unsigned n = 0; n < bench.p.pieces; n++)
        if (!bench.p.piece[n].gone)
            print_piece(n);
    printf("    --  %016" PRIx64 "  hlt\n", bench.p.setup.code + bench.image.end);
    printf("  interp and dbt differ in\n%s", told->why);
    fflush(stdout);
}

static int run_all(const struct options *o)
{
    time_t begin = now(), until = o->seconds ? begin + o->seconds : begin + (1 << 30);
    uint64_t next = o->one;
    unsigned differences = 0;
    while (next < o->programs && now() < until && (o->keep_going || !differences)) {
        fflush(NULL);
        pid_t child = fork();
        if (!child)
            _exit(work(o, next, until));
        int result = wait_for(child);
        uint64_t number = told->number;
        if (result == BAD_PROGRAM)
            return 1;
        if (result == DIFFER) {
            differences++;
            tell(o, number, told->way);
        }
        next = result == DIFFER ? number + 1 : number;
    }
    printf("%" PRIu64 " programs, %" PRIu64 " of them without end, %" PRIu64 " in cells, %ld s: %u differences\n",
           told->done, told->unended, told->cells, (long)(now() - begin), differences);
    return differences ? 1 : 0;
}

static bool parse(struct options *o, int argc, char **argv)
{
    for (int n = 1; n < argc; n++) {
        if (!strcmp(argv[n], "--keep-going")) {
            o->keep_going = true;
            continue;
        }
        if (n + 1 == argc)
            return false;
        uint64_t v = strtoull(argv[n + 1], NULL, 0);
        if (!strcmp(argv[n], "--seed"))
            o->seed = v;
        else if (!strcmp(argv[n], "--programs"))
            o->programs = v;
        else if (!strcmp(argv[n], "--seconds"))
            o->seconds = (unsigned)v;
        else if (!strcmp(argv[n], "--from"))
            o->one = v;
        else if (!strcmp(argv[n], "--program")) {
            o->single = true;
            o->one = v;
            o->programs = v + 1;
        } else
            return false;
        n++;
    }
    return true;
}

int main(int argc, char **argv)
{
    struct options o = {.seed = 1, .programs = UINT64_MAX, .seconds = 0};
    struct error err = {""};
    const struct cpu_config config = {.cpus = 1, .tsc_khz = 1000000};
    if (!parse(&o, argc, argv) || (!o.seconds && o.programs == UINT64_MAX)) {
        fprintf(
            stderr,
            "usage: test_sequences [--seed N] [--programs N] [--seconds N] [--from N] [--program N] [--keep-going]\n");
        return 2;
    }
    if (engine_dbt.probe(&err)) {
        printf("%s\n", err.text);
        return 77;
    }
    told = mmap(NULL, sizeof *told, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    bench.memory = malloc(RAM);
    if (told == MAP_FAILED || !bench.memory || cpu_model_make(&bench.model, "host", host_cpuid, &config, &err) ||
        !(bench.grammar = grammar_make(&bench.model))) {
        fprintf(stderr, "test_sequences: %s\n", err.text[0] ? err.text : "no memory");
        return 2;
    }
    int status = run_all(&o);
    grammar_free(bench.grammar);
    free(bench.memory);
    return status;
}
