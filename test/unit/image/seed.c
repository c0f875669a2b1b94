// The disk for cloud-init: what xorriso finds in it is what was put in, and keys that are none are refused.
#include "image/seed.h"
#include "unit.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define KEY "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJl it's me"

static void keys(void **state)
{
    (void)state;
    struct seed s = {0};
    struct error e;
    static const char good[] = "# mine\n" KEY "\r\n\necdsa-sha2-nistp256 AAAA x";
    assert_int_equal(seed_keys(&s, good, sizeof good - 1, "file", &e), 0);
    assert_int_equal(s.keys, 2);
    assert_string_equal(s.key[0], KEY);
    static const char *const bad[] = {"",        "# nothing\n",           "-----BEGIN OPENSSH PRIVATE KEY-----\n",
                                      "ssh-rsa", "ssh-rsa AAAA\x1b[2J\n", "ssh-rsa AAAA\tx\n"};
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(seed_keys(&s, bad[i], strlen(bad[i]), "file", &e), -EINVAL);
    assert_int_equal(s.keys, 2);
    char many[SEED_KEYS_MAX * 14 + 14];
    size_t n = 0;
    for (unsigned i = 0; i <= SEED_KEYS_MAX; i++)
        n += (size_t)sprintf(many + n, "ssh-rsa AAAA\n");
    assert_int_equal(seed_keys(&s, many, n, "file", &e), -E2BIG);
    seed_free(&s);
}

static void label_and_bounds(void **state)
{
    (void)state;
    struct seed s = {.instance = "iid-1", .hostname = "web", .user_data = "x", .user_data_size = SEED_FILE_MAX + 1};
    struct error e;
    void *image;
    size_t size;
    assert_int_equal(seed_make(&s, &image, &size, &e), -E2BIG);
    s.user_data_size = 1;
    assert_int_equal(seed_make(&s, &image, &size, &e), 0);
    assert_int_equal(size % 2048, 0);
    const char *descriptor = (const char *)image + 16 * 2048; // ECMA-119, 8.4
    assert_memory_equal(descriptor + 1, "CD001", 5);
    assert_memory_equal(descriptor + 40, "cidata                          ", 32);
    free(image);
}

static char *file(const char *folder, const char *name)
{
    char path[200];
    static char text[8192];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "r");
    if (!f)
        fail_msg("%s is not there", path);
    text[fread(text, 1, sizeof text - 1, f)] = 0;
    fclose(f);
    return text;
}

static void unpacked_by_xorriso(void **state)
{
    (void)state;
    if (system("xorriso --version >/dev/null 2>&1"))
        skip();
    char folder[] = "/tmp/trapeze-seed-XXXXXX", path[100], command[400], long_text[5000];
    memset(long_text, 'u', sizeof long_text); // several sectors
    struct seed s = {.instance = "iid-1",
                     .hostname = "web",
                     .user_data = long_text,
                     .user_data_size = sizeof long_text,
                     .mac = {{2, 0, 0, 0, 0, 1}},
                     .macs = 1};
    struct error e;
    void *image;
    size_t size;
    assert_int_equal(seed_keys(&s, KEY, strlen(KEY), "key", &e), 0);
    assert_int_equal(seed_make(&s, &image, &size, &e), 0);
    seed_free(&s);
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/seed.iso", folder);
    FILE *f = fopen(path, "w");
    assert_int_equal(fwrite(image, 1, size, f), size);
    fclose(f);
    free(image);
    snprintf(command, sizeof command,
             "xorriso -indev stdio:%s -osirrox on -extract / %s/out >%s/log 2>&1 && chmod -R u+w %s", path, folder,
             folder, folder);
    if (system(command))
        fail_msg("%s", file(folder, "log"));
    assert_string_equal(file(folder, "out/meta-data"), "instance-id: 'iid-1'\nlocal-hostname: 'web'\npublic-keys:\n"
                                                       "  - 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJl it''s me'\n");
    assert_string_equal(file(folder, "out/network-config"),
                        "version: 2\nethernets:\n  eth0:\n    match: {macaddress: '02:00:00:00:00:01'}\n"
                        "    set-name: eth0\n    dhcp4: true\n");
    assert_int_equal(strlen(file(folder, "out/user-data")), sizeof long_text);
    snprintf(command, sizeof command, "rm -rf %s", folder);
    assert_int_equal(system(command), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(keys), cmocka_unit_test(label_and_bounds),
                                       cmocka_unit_test(unpacked_by_xorriso)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
