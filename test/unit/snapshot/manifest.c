// snapshot.json: what is written is read again; what is damaged, of another version or hostile is refused by name.
#include "snapshot/manifest.h"
#include "unit.h"
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

static char *words[] = {"--memory", "64", "--disk", "a b.qcow2", NULL};

static struct snapshot_manifest example(void)
{
    struct snapshot_manifest m = {
        .name = "web",
        .created = "2026-01-02T03:04:05Z",
        .program = "0.1.0",
        .engine = "dbt",
        .append = "console=ttyS0",
        .directory = "/home/eva",
        .options = words,
        .option_count = 4,
        .memory = 64 << 20,
        .model = {.name = "x86-64-v3",
                  .vendor = CPU_VENDOR_INTEL,
                  .count = 2,
                  .leaf = {{0, CPUID_ANY, {1, 0xffffffff, 3, 4}}, {7, 0, {5, 6, 7, 8}}},
                  .phys_bits = 48,
                  .xcr0_mask = 7,
                  .cr4_mask = 0x12345,
                  .efer_mask = 0xd01,
                  .config = {.cpus = 2, .tsc_khz = 2600000, .paravirt = true}},
        .disks = 2,
        .disk = {{.path = "disk0",
                  .format = "qcow2",
                  .size = 1 << 30,
                  .copied = true,
                  .serial = "s1",
                  .part = {7, 7, "0123456789abcdef0123456789abcdef"}},
                 {.path = "/isos/a.iso", .format = "raw", .size = 2048, .readonly = true}},
        .nets = 1,
        .mac = {{0x52, 0x54, 0, 0xab, 0xcd, 0xef}},
        .state = {100, 100, "00000000000000000000000000000001"},
        .ram = {64 << 20, 4096, "00000000000000000000000000000002"},
        .kernel = {1000, 1000, "00000000000000000000000000000003"},
    };
    return m;
}

static int reading(const char *text, struct error *err)
{
    struct snapshot_manifest m;
    int e = snapshot_manifest_read(&m, text, strlen(text), err);
    if (!e)
        snapshot_manifest_free(&m);
    return e;
}

static void round_trip(void **state)
{
    (void)state;
    struct snapshot_manifest m = example(), r;
    struct error err = {.text = ""};
    char *text = snapshot_manifest_write(&m);
    assert_non_null(text);
    if (snapshot_manifest_read(&r, text, strlen(text), &err))
        fail_msg("%s", err.text);
    assert_string_equal(r.name, "web");
    assert_string_equal(r.directory, "/home/eva");
    assert_int_equal(r.option_count, 4);
    assert_string_equal(r.options[3], "a b.qcow2");
    assert_null(r.options[4]);
    assert_int_equal(r.disks, 2);
    assert_string_equal(r.disk[0].part.xxh3, m.disk[0].part.xxh3);
    assert_string_equal(r.disk[1].path, "/isos/a.iso");
    assert_true(r.disk[1].readonly && !r.disk[1].copied);
    assert_string_equal(r.disk[0].serial, "s1");
    assert_string_equal(r.append, "console=ttyS0");
    assert_memory_equal(r.mac, m.mac, sizeof r.mac);
    assert_int_equal(r.ram.stored, 4096);
    assert_int_equal(r.initrd.bytes, 0);
    assert_int_equal(snapshot_model_same(&m.model, &r.model, &err), 0);
    char *again = snapshot_manifest_write(&r);
    assert_string_equal(text, again);
    snapshot_manifest_free(&r);
    free(text);
    free(again);
}

// Each member taken away, or made something else, is missed or harmless; the text cut anywhere is refused.
static void damaged(void **state)
{
    (void)state;
    struct snapshot_manifest m = example();
    struct error err;
    char *text = snapshot_manifest_write(&m);
    const char *key;
    json_t *value, *all = json_loads(text, 0, NULL);
    json_object_foreach(all, key, value)
    {
        json_t *less = json_deep_copy(all);
        json_object_del(less, key);
        char *t = json_dumps(less, 0);
        assert_int_equal(reading(t, &err), -EINVAL);
        free(t);
        json_object_set_new(less, key, json_pack("[[], -1, {}]"));
        t = json_dumps(less, 0);
        assert_int_equal(reading(t, &err), -EINVAL);
        free(t);
        json_decref(less);
    }
    for (size_t n = 0; n < strlen(text); n++) {
        struct snapshot_manifest r;
        assert_int_equal(snapshot_manifest_read(&r, text, n, &err), -EINVAL);
    }
    json_decref(all);
    free(text);
}

static void refused(void **state)
{
    (void)state;
    struct error err;
    struct snapshot_manifest m = example();
    char *text;
#define REFUSED(change, result, expected)                                                                              \
    do {                                                                                                               \
        m = example();                                                                                                 \
        change;                                                                                                        \
        text = snapshot_manifest_write(&m);                                                                            \
        assert_int_equal(reading(text, &err), result);                                                                 \
        assert_string_equal(err.text, expected);                                                                       \
        free(text);                                                                                                    \
    } while (0)
#define MISSING(what) "snapshot.json: " what " is missing or makes no sense"
    REFUSED(m.disk[0].path = "../../etc/shadow", -EINVAL, MISSING("path"));
    REFUSED(m.disk[0].path = ".ssh", -EINVAL, MISSING("path"));
    REFUSED(m.disk[1].path = "relative.iso", -EINVAL, MISSING("path"));
    REFUSED(strcpy(m.disk[0].format, "vmdk"), -EINVAL, MISSING("format"));
    REFUSED(m.memory = 12345, -EINVAL, MISSING("memory"));
    REFUSED(m.memory = 32 << 20, -EINVAL, MISSING("memory")); // not as long as the file
    REFUSED(m.model.config.cpus = CPU_MAX + 1, -EINVAL, MISSING("count"));
    REFUSED(m.model.count = 0, -EINVAL, MISSING("cpuid"));
    REFUSED(m.model.vendor = 7, -EINVAL, MISSING("vendor"));
    m = example();
    text = snapshot_manifest_write(&m);
    char *version = strstr(text, "\"version\": 1");
    assert_non_null(version);
    version[11] = '2';
    assert_int_equal(reading(text, &err), -ENOTSUP);
    assert_string_equal(err.text, "snapshot.json: version 2, but only up to 1 is known");
    free(text);
    assert_int_equal(reading("", &err), -EINVAL);
    assert_int_equal(reading("[]", &err), -EINVAL);
    assert_int_equal(reading("{\"a\": 1, \"a\": 2}", &err), -EINVAL);
}

static void other_cpu(void **state)
{
    (void)state;
    struct snapshot_manifest a = example(), b = example();
    struct error err;
    b.model.leaf[1].r.ecx = 0x17;
    assert_int_equal(snapshot_model_same(&a.model, &b.model, &err), -ENOTSUP);
    assert_string_equal(err.text,
                        "the saved machine's CPU (x86-64-v3) cannot be given here: CPUID leaf 0x7, ECX is 0x7 "
                        "there and 0x17 here");
    b = example();
    b.model.count = 1;
    assert_int_equal(snapshot_model_same(&a.model, &b.model, &err), -ENOTSUP);
    assert_int_equal(snapshot_model_same(&b.model, &a.model, &err), -ENOTSUP);
    b = example();
    b.model.cr4_mask = 1;
    assert_int_equal(snapshot_model_same(&a.model, &b.model, &err), -ENOTSUP);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(round_trip), cmocka_unit_test(damaged),
                                       cmocka_unit_test(refused), cmocka_unit_test(other_cpu)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
