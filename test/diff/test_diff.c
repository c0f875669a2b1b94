// The differential test: an engine against the CPU that it runs on.
//
//     test_diff [--engine NAME] [--model MODEL] [--cases N] [--seed N] [--case N] [--only MNEMONIC] [--keep-going]
//               [--show N] [--forms]
//
// Each case is one instruction with random operands, executed natively and by the engine in ring 3 of a small guest;
// registers, flags, x87, SSE and AVX state, memory and faults must be the same. Cases go through all instruction forms
// in turn (forms.h), so 100,000 of them are a dozen of each. Case N of a seed is the same in every run: a failure names
// it, and --seed S --case N runs it alone. --engine native compares the CPU with itself: that tests the test.
//
// Exit status: 0 all equal, 1 differences, 2 usage, 77 this machine can't (said in the last line).
#include "compare.h"
#include "cpu/model.h"
#include "engine/engine.h"
#include "generate.h"
#include <cpuid.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct options {
    const char *engine, *model, *only;
    uint64_t cases, seed, single, shown;
    bool one, keep_going, list;
};

static struct cpuid_regs host_cpuid(uint32_t leaf, uint32_t subleaf)
{
    struct cpuid_regs r;
    __cpuid_count(leaf, subleaf, r.eax, r.ebx, r.ecx, r.edx);
    return r;
}

// The forms of both modes that are tested.
struct selection {
    struct forms all[2];
    const struct form **form;
    size_t count, excluded;
    uint64_t *tested; // cases of each
};

static bool select_forms(struct selection *s, const struct cpu_model *model, const char *only)
{
    for (unsigned mode = 0; mode < 2; mode++)
        if (!forms_enumerate(&s->all[mode], !mode))
            return false;
    size_t most = s->all[0].count + s->all[1].count;
    s->form = calloc(most, sizeof(struct form *));
    s->tested = calloc(most, sizeof *s->tested);
    for (unsigned mode = 0; mode < 2 && s->form && s->tested; mode++)
        for (size_t n = 0; n < s->all[mode].count; n++) {
            const struct form *f = &s->all[mode].form[n];
            if (form_excluded(f, model))
                s->excluded++;
            else if (!only || !strcmp(ZydisMnemonicGetString(f->mnemonic), only))
                s->form[s->count++] = f;
        }
    return s->form && s->tested;
}

static void free_selection(struct selection *s)
{
    forms_free(&s->all[0]);
    forms_free(&s->all[1]);
    free(s->form);
    free(s->tested);
}

static size_t mnemonics_tested(const struct selection *s)
{
    uint8_t seen[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {0};
    size_t n = 0;
    for (size_t k = 0; k < s->count; k++)
        if (s->tested[k] && !seen[s->form[k]->mnemonic]++)
            n++;
    return n;
}

static bool make_case(struct diff_case *c, const struct selection *s, uint64_t seed, uint64_t number)
{
    // Some encodings of a form come to nothing: a few attempts each.
    for (unsigned attempt = 0; attempt < 16; attempt++)
        if (case_generate(c, s->form[number % s->count], (seed << 40) + (number << 4) + attempt)) {
            c->number = number;
            return true;
        }
    return false;
}

static bool differ_once(const struct diff_case *c, struct runner *native, struct runner *other, struct diff_result *a,
                        struct diff_result *b, char *why, size_t size)
{
    native->run(native, c, a);
    other->run(other, c, b);
    return compare_results(c, a, b, other->translates, why, size);
}

static int run(const struct options *o, struct selection *s, struct runner *native, struct runner *other)
{
    struct diff_case *c = malloc(sizeof *c);
    struct diff_result *a = malloc(sizeof *a), *b = malloc(sizeof *b);
    uint64_t failures = 0, skipped = 0, done = 0, faults = 0;
    uint64_t first = o->one ? o->single : 0, last = o->one ? o->single + 1 : o->cases;
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (uint64_t n = first; n < last && c && a && b && (o->keep_going || !failures); n++) {
        char why[2048];
        if (!make_case(c, s, o->seed, n)) {
            skipped++;
            continue;
        }
        // Twice: a machine that is itself a virtual one was seen to run a case's code before it saw it, once in
        // 100,000.
        bool differ = differ_once(c, native, other, a, b, why, sizeof why) &&
                      differ_once(c, native, other, a, b, why, sizeof why);
        s->tested[n % s->count]++;
        done++;
        faults += a->vector >= 0;
        if (differ && failures++ < o->shown)
            printf("case %" PRIu64 " of seed %" PRIu64 " (%s): %s and %s differ in\n%s", n, o->seed,
                   ZydisMnemonicGetString(s->form[n % s->count]->mnemonic), native->name, other->name, why);
        if ((differ && failures <= o->shown) || o->one)
            print_case(stdout, c, native->name, a, other->name, b);
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    free(c);
    free(a);
    free(b);
    size_t forms = 0;
    for (size_t k = 0; k < s->count; k++)
        forms += s->tested[k] != 0;
    printf("%" PRIu64 " cases (%" PRIu64 " of them faults, %" PRIu64
           " not made) of %zu forms of %zu mnemonics, %zu forms left out, "
           "%.1f s: %" PRIu64 " differences\n",
           done, faults, skipped, forms, mnemonics_tested(s), s->excluded,
           (double)(end.tv_sec - start.tv_sec) + 1e-9 * (double)(end.tv_nsec - start.tv_nsec), failures);
    return failures ? 1 : 0;
}

static int usage(void)
{
    fprintf(stderr, "usage: test_diff [--engine NAME] [--model MODEL] [--cases N] [--seed N] [--case N] "
                    "[--only MNEMONIC] [--keep-going] [--show N] [--forms]\n");
    return 2;
}

static bool parse(struct options *o, int argc, char **argv)
{
    for (int n = 1; n < argc; n++) {
        const char *value = n + 1 < argc ? argv[n + 1] : NULL;
        if (!strcmp(argv[n], "--keep-going")) {
            o->keep_going = true;
            continue;
        }
        if (!strcmp(argv[n], "--forms")) {
            o->list = true;
            continue;
        }
        if (!value)
            return false;
        if (!strcmp(argv[n], "--engine"))
            o->engine = value;
        else if (!strcmp(argv[n], "--model"))
            o->model = value;
        else if (!strcmp(argv[n], "--only"))
            o->only = value;
        else if (!strcmp(argv[n], "--cases"))
            o->cases = strtoull(value, NULL, 0);
        else if (!strcmp(argv[n], "--show"))
            o->shown = strtoull(value, NULL, 0);
        else if (!strcmp(argv[n], "--seed"))
            o->seed = strtoull(value, NULL, 0);
        else if (!strcmp(argv[n], "--case")) {
            o->single = strtoull(value, NULL, 0);
            o->one = true;
        } else
            return false;
        n++;
    }
    return true;
}

static void list_forms(const struct selection *s, const struct cpu_model *model)
{
    for (unsigned mode = 0; mode < 2; mode++)
        for (size_t n = 0; n < s->all[mode].count; n++) {
            const struct form *f = &s->all[mode].form[n];
            const char *excluded = form_excluded(f, model);
            printf("%s %-14s %s map %u opcode %02x %s%s%s\n", f->long64 ? "64" : "32",
                   ZydisMnemonicGetString(f->mnemonic), f->vex ? "vex   " : "legacy", f->map, f->opcode,
                   f->mem ? "memory" : "register", excluded ? "  -- " : "", excluded ? excluded : "");
        }
}

static const struct engine_ops *engine_by_name(const char *name)
{
    static const struct engine_ops *const engines[] = {&engine_interp, &engine_dbt};
    for (unsigned n = 0; n < sizeof engines / sizeof *engines; n++)
        if (!strcmp(engines[n]->name, name))
            return engines[n];
    return NULL;
}

int main(int argc, char **argv)
{
    struct options o = {.engine = "interp", .model = "host", .cases = 100000, .seed = 1, .shown = 20};
    if (!parse(&o, argc, argv))
        return usage();
    struct error err = {""};
    static struct cpu_model model;
    const struct cpu_config config = {.cpus = 1, .tsc_khz = 1000000};
    if (cpu_model_make(&model, o.model, host_cpuid, &config, &err)) {
        fprintf(stderr, "test_diff: %s\n", err.text);
        return 2;
    }
    struct selection s = {0};
    if (!select_forms(&s, &model, o.only)) {
        fprintf(stderr, "test_diff: no memory\n");
        return 2;
    }
    if (o.list || !s.count) {
        list_forms(&s, &model);
        free_selection(&s);
        return o.list ? 0 : usage();
    }
    char why[256];
    struct runner *native = native_runner(why, sizeof why), *other = native;
    if (!native) {
        printf("%s\n", why);
        return 77;
    }
    if (strcmp(o.engine, "native")) {
        const struct engine_ops *ops = engine_by_name(o.engine);
        if (!ops) {
            fprintf(stderr, "test_diff: no engine '%s'\n", o.engine);
            return 2;
        }
        other = guest_runner(ops, &model, why, sizeof why);
        if (!other) {
            fprintf(stderr, "test_diff: %s\n", why);
            return 1;
        }
    }
    int status = run(&o, &s, native, other);
    if (other != native)
        other->destroy(other);
    native->destroy(native);
    free_selection(&s);
    return status;
}
