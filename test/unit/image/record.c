// image.json: what is written is read again, and a hostile one is refused by the key that is wrong.
#include "image/record.h"
#include "unit.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define HASH "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static int read_text(const char *text, struct image_record *r, struct error *e)
{
    int fd = memfd_create("json", MFD_CLOEXEC);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    lseek(fd, 0, SEEK_SET);
    int result = image_record_read(fd, "image.json", r, e);
    close(fd);
    return result;
}

static void round_trip(void **state)
{
    (void)state;
    struct image_record a = {.built = true,
                             .format = DISK_QCOW2,
                             .size = 4ull << 30,
                             .sha256 = HASH,
                             .created = 1700000000,
                             .source = "bookworm",
                             .kernel = "/boot/vmlinuz-6.1",
                             .root = "UUID=x"},
                        b;
    struct error e;
    int fd = memfd_create("json", MFD_CLOEXEC);
    assert_int_equal(image_record_write(fd, &a, "image.json", &e), 0);
    lseek(fd, 0, SEEK_SET);
    assert_int_equal(image_record_read(fd, "image.json", &b, &e), 0);
    close(fd);
    assert_memory_equal(&a, &b, sizeof a);
}

static void refused(void **state)
{
    (void)state;
    static const struct {
        const char *text, *why;
    } bad[] = {
        {"", "not a description"},
        {"[]", "not a description"},
        {"{\"kind\":\"built\",\"kind\":\"built\"}", "not a description"},
        {"{}", "\"kind\""},
        {"{\"kind\":\"made\"}", "\"kind\""},
        {"{\"kind\":\"built\",\"format\":7}", "\"format\""},
        {"{\"kind\":\"built\",\"format\":\"vmdk\"}", "\"format\""},
        {"{\"kind\":\"built\",\"format\":\"raw\",\"size\":513}", "\"size\""},
        {"{\"kind\":\"built\",\"format\":\"raw\",\"size\":-512}", "\"size\""},
        {"{\"kind\":\"built\",\"format\":\"raw\",\"size\":1e9}", "\"size\""},
        {"{\"kind\":\"built\",\"format\":\"raw\",\"size\":512}", "\"created\""},
        {"{\"kind\":\"built\",\"format\":\"raw\",\"size\":512,\"created\":1}", "\"sha256\""},
        {"{\"kind\":\"built\",\"format\":\"raw\",\"size\":512,\"created\":1,\"sha256\":\"ab\"}", "\"sha256\""},
        {"{\"kind\":\"built\",\"format\":\"raw\",\"size\":512,\"created\":1,\"sha256\":\"" HASH
         "\",\"source\":\"\\u001b[2J\"}",
         "\"source\""},
        {"{\"kind\":\"built\",\"format\":\"raw\",\"size\":512,\"created\":1,\"sha256\":\"" HASH "\",\"root\":{}}",
         "\"root\""},
    };
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct image_record r;
        struct error e;
        assert_int_equal(read_text(bad[i].text, &r, &e), -EINVAL);
        if (!strstr(e.text, bad[i].why))
            fail_msg("%s: %s", bad[i].text, e.text);
    }
}

static void names(void **state)
{
    (void)state;
    assert_true(image_name_good("debian-12.1_x"));
    assert_true(image_name_good("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"));
    assert_false(image_name_good("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"));
    assert_false(image_name_good(""));
    assert_false(image_name_good(".hidden"));
    assert_false(image_name_good("-option"));
    assert_false(image_name_good("a/b"));
    assert_false(image_name_good("\xc3\xa4"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(round_trip), cmocka_unit_test(refused),
                                       cmocka_unit_test(names)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
