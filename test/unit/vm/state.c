// Saved state: what comes back is what was saved, older files load, and no file however damaged does harm.
#include "vm/state.h"
#include "unit.h"
#include <errno.h>

struct timer {
    uint64_t deadline;
    bool on;
};

struct thing {
    uint8_t small;
    bool flag, flags[4];
    uint16_t words[3];
    uint32_t index;
    uint64_t big;
    uint8_t ram[100];
    struct timer timer[3];
    uint32_t added; // since version 2
    uint32_t not_saved;
};

static const struct state_field fields[] = {
    STATE_U8(struct thing, small, 1),
    STATE_U8(struct thing, flag, 1),
    STATE_BYTES(struct thing, flags, 1),
    STATE_U16(struct thing, words, 1),
    STATE_U32(struct thing, index, 1),
    STATE_U64(struct thing, big, 1),
    STATE_BYTES(struct thing, ram, 1),
    STATE_EACH(struct thing, timer, deadline, 1),
    STATE_EACH(struct thing, timer, on, 1),
    STATE_U32(struct thing, added, 2),
    STATE_END,
};
static const struct state_table table = {"thing", 2, fields};

static const struct state_field old_fields[] = {
    STATE_U8(struct thing, small, 1),
    STATE_U8(struct thing, flag, 1),
    STATE_BYTES(struct thing, flags, 1),
    STATE_U32(struct thing, not_saved, 1), // dropped in version 2
    STATE_U64(struct thing, big, 1),
    STATE_U16(struct thing, words, 1), // another order
    STATE_BYTES(struct thing, ram, 1),
    STATE_U32(struct thing, index, 1),
    STATE_EACH(struct thing, timer, on, 1),
    STATE_EACH(struct thing, timer, deadline, 1),
    STATE_END,
};
static const struct state_table old_table = {"thing", 1, old_fields};

static struct thing sample(void)
{
    struct thing t = {.small = 200,
                      .flag = true,
                      .flags = {true, false, true, true},
                      .words = {1, 0xffff, 0x1234},
                      .index = 0xdeadbeef,
                      .big = 0x1122334455667788,
                      .added = 77,
                      .not_saved = 5};
    for (unsigned i = 0; i < sizeof t.ram; i++)
        t.ram[i] = (uint8_t)(i * 3);
    for (unsigned i = 0; i < 3; i++) {
        t.timer[i].deadline = UINT64_MAX - i;
        t.timer[i].on = i & 1;
    }
    return t;
}

static struct state_buffer saved(const struct state_table *t, const struct thing *o)
{
    struct state_buffer b = {0};
    struct error err;
    if (state_save(&b, t, o, &err) < 0)
        fail_msg("%s", err.text);
    return b;
}

static void same(const struct thing *a, const struct thing *b)
{
    assert_int_equal(a->small, b->small);
    assert_int_equal(a->flag, b->flag);
    assert_memory_equal(a->flags, b->flags, sizeof a->flags);
    assert_memory_equal(a->words, b->words, sizeof a->words);
    assert_int_equal(a->index, b->index);
    assert_true(a->big == b->big);
    assert_memory_equal(a->ram, b->ram, sizeof a->ram);
    for (unsigned i = 0; i < 3; i++) {
        assert_true(a->timer[i].deadline == b->timer[i].deadline);
        assert_int_equal(a->timer[i].on, b->timer[i].on);
    }
}

static void comes_back(void **state)
{
    (void)state;
    struct thing in = sample(), out = {.not_saved = 9};
    struct error err;
    struct state_buffer b = saved(&table, &in);
    assert_int_equal(state_save(&b, &table, &in, &err), 0); // a second one behind it
    for (int i = 0; i < 2; i++) {
        memset(&out, 0, sizeof out);
        assert_int_equal(state_load(&b, &table, &out, &err), 0);
        same(&in, &out);
        assert_int_equal(out.added, 77);
        assert_int_equal(out.not_saved, 0);
    }
    assert_int_equal(b.at, b.size);
    assert_int_equal(state_load(&b, &table, &out, &err), -EINVAL);
    state_free(&b);
}

static void the_format_is_as_described(void **state)
{
    (void)state;
    static const struct state_field two[] = {STATE_U16(struct thing, words, 3), STATE_U8(struct thing, flag, 1),
                                             STATE_END};
    static const struct state_table t = {"ab", 3, two};
    struct thing in = sample();
    struct state_buffer b = saved(&t, &in);
    static const uint8_t expected[] = "\x02"
                                      "ab"
                                      "\3\0\0\0"
                                      "\2\0"
                                      "\5words"
                                      "\2\3\0\0\0"
                                      "\1\0\xff\xff\x34\x12"
                                      "\4flag"
                                      "\1\1\0\0\0"
                                      "\1";
    assert_int_equal(b.size, sizeof expected - 1);
    assert_memory_equal(b.data, expected, b.size);
    state_free(&b);
}

static void an_older_file_loads(void **state)
{
    (void)state;
    struct thing in = sample(), out = {.added = 3, .not_saved = 4}; // as after reset
    struct error err;
    struct state_buffer b = saved(&old_table, &in);
    assert_int_equal(state_load(&b, &table, &out, &err), 0);
    same(&in, &out);
    assert_int_equal(out.added, 3);
    assert_int_equal(out.not_saved, 4);
    state_free(&b);
    // A newer one does not, nor one of something else.
    b = saved(&table, &in);
    assert_int_equal(state_load(&b, &old_table, &out, &err), -ENOTSUP);
    assert_string_equal(err.text, "saved state of thing: version 2, but only up to 1 is known");
    b.at = 0;
    static const struct state_table other = {"other", 2, fields};
    assert_int_equal(state_load(&b, &other, &out, &err), -EINVAL);
    assert_string_equal(err.text, "saved state of other: found that of thing");
    state_free(&b);
}

static void mistakes_are_told(void **state)
{
    (void)state;
    struct thing in = sample(), out;
    struct error err;
    // The same name with another size or number of elements, a field twice, a field missing.
    static const struct state_field many[] = {STATE_U16(struct thing, words, 1), STATE_END};
    static const struct state_field narrow[] = {
        {.name = "words", .offset = offsetof(struct thing, words), .size = 2, .count = 2, .since = 1}, STATE_END};
    static const struct state_field byte[] = {STATE_U8(struct thing, small, 1), STATE_END};
    static const struct state_field twice[] = {STATE_U8(struct thing, small, 1), STATE_U8(struct thing, small, 1),
                                               STATE_END};
    static const struct state_field both[] = {STATE_U8(struct thing, small, 1), STATE_U16(struct thing, words, 1),
                                              STATE_END};
    struct {
        const struct state_field *written, *known;
        const char *text;
    } cases[] = {
        {many, narrow, "saved state of t: field words has another size"},
        {narrow, many, "saved state of t: field words has another size"},
        {twice, byte, "saved state of t: field small twice"},
        {byte, both, "saved state of t: field words is missing"},
        {both, byte, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct state_table w = {"t", 1, cases[i].written}, k = {"t", 1, cases[i].known};
        struct state_buffer b = saved(&w, &in);
        assert_int_equal(state_load(&b, &k, &out, &err), cases[i].text ? -EINVAL : 0);
        if (cases[i].text)
            assert_string_equal(err.text, cases[i].text);
        state_free(&b);
    }
}

static void every_cut_is_noticed(void **state)
{
    (void)state;
    struct thing in = sample(), out;
    struct error err;
    struct state_buffer whole = saved(&table, &in);
    for (size_t size = 0; size < whole.size; size++) {
        uint8_t *copy = test_malloc(size + 1); // exactly as large, so that a read beyond it is noticed
        memcpy(copy, whole.data, size);
        struct state_buffer b = {.data = copy, .size = size};
        assert_int_equal(state_load(&b, &table, &out, &err), -EINVAL);
        state_free(&b); // does not free what is the caller's
        test_free(copy);
    }
    struct state_buffer beyond = {.data = whole.data, .size = 10, .at = 11};
    assert_int_equal(state_load(&beyond, &table, &out, &err), -EINVAL);
    struct state_buffer fixed = {.data = whole.data, .size = 10};
    assert_int_equal(state_save(&fixed, &table, &in, &err), -EINVAL);
    state_free(&whole);
}

static void a_bool_is_0_or_1(void **state)
{
    (void)state;
    struct thing in = sample(), out;
    struct error err;
    struct state_buffer b = saved(&table, &in);
    unsigned changed = 0;
    for (size_t i = 0; i + 9 < b.size; i++)
        if (!memcmp(b.data + i, "\4flag", 5)) { // the name, size 1, count, the value
            b.data[i + 10] = 0xfe;
            changed++;
        }
    assert_int_equal(changed, 1);
    assert_int_equal(state_load(&b, &table, &out, &err), 0);
    uint8_t byte;
    memcpy(&byte, &out.flag, 1);
    assert_int_equal(byte, 1);
    state_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(comes_back),           cmocka_unit_test(the_format_is_as_described),
        cmocka_unit_test(an_older_file_loads),  cmocka_unit_test(mistakes_are_told),
        cmocka_unit_test(every_cut_is_noticed), cmocka_unit_test(a_bool_is_0_or_1),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
