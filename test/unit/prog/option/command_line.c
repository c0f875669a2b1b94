// Command lines by tables: names, letters, values, words; and that what is wrong is named.
#include "prog/option/command_line.h"
#include "unit.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct taken {
    bool all, follow;
    const char *time;
    unsigned verbose, words;
    uint64_t number;
    const char *word[4];
};

static int take_verbose(void *into, char *v, struct error *err)
{
    (void)v, (void)err;
    ((struct taken *)into)->verbose++;
    return 0;
}

static int take_number(void *into, char *v, struct error *err)
{
    struct taken *t = into;
    return option_number(v, 1, 100, &t->number) ? 0 : error_set(err, EINVAL, "--number %.40s: from 1 to 100", v);
}

static int take_word(void *into, char *word, struct error *err)
{
    struct taken *t = into;
    if (t->words == 4)
        return error_set(err, EINVAL, "%.80s: one word too many", word);
    t->word[t->words++] = word;
    return 0;
}

static const struct option some[] = {
    {"all", NULL, "everything", OPTION_SET(struct taken, all), .letter = 'a'},
    {"time", "SECONDS", "how long", OPTION_TEXT(struct taken, time), .letter = 't'},
    {"number", "N", "a number", OPTION_TAKE(take_number)},
};
static const struct option others[] = {
    {"follow", NULL, "go on", OPTION_SET(struct taken, follow), .letter = 'f'},
    {"verbose", NULL, "say more", OPTION_TAKE(take_verbose), .letter = 'v'},
};
static const struct option_group first = OPTION_GROUP("Some", some), second = OPTION_GROUP(NULL, others);
static const struct option_group *const groups[] = {&first, &second, NULL};

static struct taken t;
static struct error err;

static int parse(const struct command_line *c, char *const *words)
{
    static char copy[16][64];
    char *argv[16];
    int n = 0;
    for (; words[n]; n++) {
        strcpy(copy[n], words[n]);
        argv[n] = copy[n];
    }
    t = (struct taken){0};
    err.text[0] = 0;
    return command_line_parse(c, &t, n, argv, &err);
}

#define WORDS(...) ((char *const[]){__VA_ARGS__, NULL})

#define TRY .command = "try", .usage = "try", .groups = groups

static const struct command_line with_words = {TRY, .word = take_word},
                                 with_command = {TRY, .word = take_word, .rest_is_words = true},
                                 in_a_machine = {TRY, .word = take_word, .rest_is_words = true, .names = 1},
                                 without_words = {TRY};

static void names_and_letters(void **state)
{
    (void)state;
    assert_int_equal(parse(&with_words, WORDS("--all", "--time", "5", "--number=7", "-vvf")), 0);
    assert_true(t.all && t.follow);
    assert_string_equal(t.time, "5");
    assert_int_equal(t.number, 7);
    assert_int_equal(t.verbose, 2);
    assert_int_equal(parse(&with_words, WORDS("-vt", "9", "one")), 0);
    assert_string_equal(t.time, "9");
    assert_string_equal(t.word[0], "one");
    assert_int_equal(parse(&with_words, WORDS("-t12")), 0);
    assert_string_equal(t.time, "12");
}

static void words(void **state)
{
    (void)state;
    assert_int_equal(parse(&with_words, WORDS("one", "-a", "--", "--all", "-")), 0);
    assert_int_equal(t.words, 3);
    assert_string_equal(t.word[1], "--all");
    assert_string_equal(t.word[2], "-");
    assert_int_equal(parse(&with_command, WORDS("-v", "ls", "-a", "--color")), 0);
    assert_int_equal(t.words, 3);
    assert_false(t.all);
    // Options may stand behind the name, too, but not behind the command.
    assert_int_equal(parse(&in_a_machine, WORDS("web", "-v", "ls", "-a")), 0);
    assert_int_equal(t.words, 3);
    assert_int_equal(t.verbose, 1);
    assert_false(t.all);
}

static void wrong(void **state)
{
    (void)state;
    static const struct {
        char *words[6];
        const char *text;
    } cases[] = {
        {{"--al"}, "--al: unknown option (see trapeze try --help)"},
        {{"-vx"}, "-vx: unknown option (see trapeze try --help)"},
        {{"--all=1"}, "--all: takes no value (see trapeze try --help)"},
        {{"--time"}, "--time: SECONDS is missing (see trapeze try --help)"},
        {{"-t"}, "-t: SECONDS is missing (see trapeze try --help)"},
        {{"--number", "101"}, "--number 101: from 1 to 100 (see trapeze try --help)"},
        {{"--number=-1"}, "--number -1: from 1 to 100 (see trapeze try --help)"},
        {{"1", "2", "3", "4", "5"}, "5: one word too many (see trapeze try --help)"},
    };
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(parse(&with_words, cases[i].words), -EINVAL);
        assert_string_equal(err.text, cases[i].text);
    }
    assert_int_equal(parse(&without_words, WORDS("vm")), -EINVAL);
    assert_string_equal(err.text, "vm: unexpected argument (see trapeze try --help)");
}

static void help(void **state)
{
    (void)state;
    char *text;
    size_t size;
    FILE *f = open_memstream(&text, &size);
    command_line_help(&with_words, f);
    fclose(f);
    assert_non_null(strstr(text, "Usage: trapeze try\n\nSome:\n  -a, --all "));
    assert_non_null(strstr(text, "  -t, --time SECONDS "));
    free(text);
}

static void sizes(void **state)
{
    (void)state;
    uint64_t n;
    assert_true(option_size("3", &n) && n == 3 << 20);
    assert_true(option_size("3k", &n) && n == 3 << 10);
    assert_true(option_size("2GiB", &n) && n == 2ull << 30);
    assert_false(option_size("", &n) || option_size("-1", &n) || option_size("1X", &n) || option_size("1MM", &n));
    assert_false(option_size("99999999999T", &n));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_and_letters),
        cmocka_unit_test(words),
        cmocka_unit_test(wrong),
        cmocka_unit_test(help),
        cmocka_unit_test(sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
