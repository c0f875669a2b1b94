// Kernels in file systems that others have made: mke2fs (ext4), mtools (FAT); in whole disks and partitions, over a
// qcow2 image; then the same with bytes of it changed.
#include "image/find.h"
#include "backend/qcow2/qcow2.h"
#include "unit.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { KERNEL = 300000, HARM = 40 };

struct bed {
    char folder[64], disk[100];
};

static void sh(const struct bed *b, const char *command)
{
    char line[1024];
    snprintf(line, sizeof line, "cd %s && PATH=$PATH:/usr/sbin:/sbin && %s", b->folder, command);
    if (system(line))
        fail_msg("%s", line);
}

static int setup(void **state)
{
    struct bed *b = calloc(1, sizeof *b);
    strcpy(b->folder, "/tmp/trapeze-find-XXXXXX");
    if (!mkdtemp(b->folder))
        return -1;
    snprintf(b->disk, sizeof b->disk, "%s/disk", b->folder);
    *state = b;
    return 0;
}

static int teardown(void **state)
{
    struct bed *b = *state;
    sh(b, "rm -rf $PWD");
    free(b);
    return 0;
}

// A root with three kernels: the newest is being installed and has no RAM disk yet.
#define TREE                                                                                                           \
    "mkdir -p root/boot root/etc && cd root/boot && head -c 300000 /dev/zero | tr '\\0' k > vmlinuz-6.1.0-10 && "      \
    "echo old > vmlinuz-6.1.0-9 && echo new > vmlinuz-6.1.0-11 && echo r > vmlinuz-9-rescue && "                       \
    "echo i9 > initrd.img-6.1.0-9 && echo i10 > initrd.img-6.1.0-10 && cd ../.. && "

static void ext4(struct bed *b)
{
    sh(b, TREE "mke2fs -q -t ext4 -U 11223344-5566-7788-99aa-bbccddeeff00 -d root disk 8M >/dev/null 2>&1");
}

static void check(struct bed *b, const char *kernel, const char *initrd, const char *root)
{
    struct boot_found f;
    struct error e;
    struct stat st;
    char text[8] = "";
    if (find_boot(b->disk, DISK_PROBE, &f, &e))
        fail_msg("%s", e.text);
    assert_string_equal(f.kernel, kernel);
    assert_string_equal(f.initrd, initrd);
    assert_string_equal(f.root, root);
    assert_int_equal(fstat(f.kernel_fd, &st), 0);
    assert_int_equal(st.st_size, KERNEL);
    assert_int_equal(pread(f.kernel_fd, text, 1, KERNEL - 1), 1);
    assert_string_equal(text, "k");
    assert_int_equal(pread(f.initrd_fd, text, 7, 0), 4);
    assert_string_equal(text, "i10\n");
    boot_found_close(&f);
}

static void whole_disk(void **state)
{
    ext4(*state);
    check(*state, "/boot/vmlinuz-6.1.0-10", "/boot/initrd.img-6.1.0-10", "UUID=11223344-5566-7788-99aa-bbccddeeff00");
}

static void partition_of_qcow2_overlay(void **state)
{
    struct bed *b = *state;
    struct error e;
    char path[120];
    ext4(b);
    // One MBR partition from 1 MiB on.
    sh(b,
       "{ head -c 446 /dev/zero; printf '\\0\\0\\0\\0\\203\\0\\0\\0\\0\\10\\0\\0\\0\\100\\0\\0'; head -c 48 /dev/zero; "
       "printf '\\125\\252'; head -c $((1048576 - 512)) /dev/zero; cat disk; } > base && rm disk");
    snprintf(path, sizeof path, "%s/disk", b->folder);
    if (qcow2_create(&(struct qcow2_options){.path = path, .backing = "base", .backing_format = "raw"}, &e))
        fail_msg("%s", e.text);
    check(b, "/boot/vmlinuz-6.1.0-10", "/boot/initrd.img-6.1.0-10", "UUID=11223344-5566-7788-99aa-bbccddeeff00");
}

// The kernel is in a FAT file system of its own, the root elsewhere.
static void kernel_in_fat(void **state)
{
    struct bed *b = *state;
    if (system("mformat --version >/dev/null 2>&1"))
        skip();
    ext4(b);
    sh(b, "mv disk root.img && truncate -s 8M fat && mformat -i fat -v BOOT :: && mmd -i fat ::/loader && "
          "mcopy -i fat root/boot/vmlinuz-6.1.0-10 ::/vmlinuz-6.1.0-12 && "
          "cp root/boot/initrd.img-6.1.0-10 initramfs && mcopy -i fat initramfs ::/initramfs-6.1.0-12.img && "
          "{ head -c 446 /dev/zero; printf '\\0\\0\\0\\0\\014\\0\\0\\0\\0\\10\\0\\0\\0\\100\\0\\0'; "
          "printf '\\0\\0\\0\\0\\203\\0\\0\\0\\0\\110\\0\\0\\0\\100\\0\\0'; head -c 32 /dev/zero; printf '\\125\\252'; "
          "head -c $((1048576 - 512)) /dev/zero; cat fat root.img; } > disk");
    check(b, "/vmlinuz-6.1.0-12", "/initramfs-6.1.0-12.img", "UUID=11223344-5566-7788-99aa-bbccddeeff00");
}

static void says_what_is_missing(void **state)
{
    struct bed *b = *state;
    struct boot_found f;
    struct error e;
    sh(b, "truncate -s 1M disk");
    assert_int_equal(find_boot(b->disk, DISK_PROBE, &f, &e), -ENOENT);
    assert_non_null(strstr(e.text, "no ext4 or FAT file system"));
    sh(b, "rm disk && mke2fs -q -t ext4 disk 1M >/dev/null 2>&1");
    assert_int_equal(find_boot(b->disk, DISK_PROBE, &f, &e), -ENOENT);
    assert_non_null(strstr(e.text, "no kernel"));
    sh(b, "rm disk");
    assert_int_equal(find_boot(b->disk, DISK_PROBE, &f, &e), -ENOENT);
    assert_non_null(strstr(e.text, b->disk));
}

// Whatever is changed in the file system's own blocks, an answer comes soon, and an error is one line.
static void damaged(void **state)
{
    struct bed *b = *state;
    ext4(b);
    int fd = open(b->disk, O_RDWR);
    uint64_t x = 88172645463325252;
    for (unsigned n = 0; n < HARM; n++) {
        uint8_t kept[16], bad[16];
        // The superblock, the descriptors, bitmaps and inodes of the first group, folders.
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        off_t at = n % 2 ? 1024 + (off_t)(x >> 20) % 1024 : (off_t)(x >> 20) % (400 << 10);
        for (unsigned i = 0; i < sizeof bad; i++)
            bad[i] = (uint8_t)(x >> (i * 7 % 56));
        assert_int_equal(pread(fd, kept, sizeof kept, at), sizeof kept);
        assert_int_equal(pwrite(fd, bad, 1 + x % 16, at), 1 + x % 16);
        struct boot_found f;
        struct error e;
        time_t start = time(NULL);
        if (!find_boot(b->disk, DISK_RAW, &f, &e))
            boot_found_close(&f);
        else
            assert_true(e.text[0] && !strchr(e.text, '\n'));
        assert_in_range(time(NULL) - start, 0, 60);
        assert_int_equal(pwrite(fd, kept, sizeof kept, at), sizeof kept);
    }
    close(fd);
    check(b, "/boot/vmlinuz-6.1.0-10", "/boot/initrd.img-6.1.0-10", "UUID=11223344-5566-7788-99aa-bbccddeeff00");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(whole_disk, setup, teardown),
        cmocka_unit_test_setup_teardown(partition_of_qcow2_overlay, setup, teardown),
        cmocka_unit_test_setup_teardown(kernel_in_fat, setup, teardown),
        cmocka_unit_test_setup_teardown(says_what_is_missing, setup, teardown),
        cmocka_unit_test_setup_teardown(damaged, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
