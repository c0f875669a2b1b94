// Bundles: what is written is read again as the same; whatever else is in a file is refused.
#include "unit.h"

#include "bundle/bundle.h"
#include "bundle/tar.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

enum { DISK = 700001, ARCHIVE = 2 << 20 };

struct bed {
    char folder[64];
    int at;
    int fd[2]; // a disk and a kernel
    struct bundle_manifest m;
    uint8_t tar[ARCHIVE]; // the good bundle, unpacked
    size_t length;
};

static int memory_file(const void *data, size_t length)
{
    int fd = memfd_create("test", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, data, length), (ssize_t)length);
    lseek(fd, 0, SEEK_SET);
    return fd;
}

static int packed_file(const void *data, size_t length)
{
    size_t room = ZSTD_compressBound(length);
    void *packed = malloc(room);
    size_t n = ZSTD_compress(packed, room, data, length, 1);
    assert_false(ZSTD_isError(n));
    int fd = memory_file(packed, n);
    free(packed);
    return fd;
}

static int set_up(void **state)
{
    struct bed *b = calloc(1, sizeof *b);
    struct error err;
    static uint8_t disk[DISK];
    for (unsigned i = 0; i < DISK; i++)
        disk[i] = i < 300000 ? 0 : (uint8_t)(i * 2654435761u >> 13);
    strcpy(b->folder, "/tmp/trapeze-bundle-XXXXXX");
    assert_non_null(mkdtemp(b->folder));
    b->at = open(b->folder, O_RDONLY | O_DIRECTORY);
    b->fd[0] = memory_file(disk, DISK);
    b->fd[1] = memory_file("a kernel", 8);
    b->m = (struct bundle_manifest){.name = "web",
                                    .program = "0",
                                    .cpus = 2,
                                    .memory = 64 << 20,
                                    .append = "quiet \"x\"",
                                    .paravirt = true,
                                    .kernel = true,
                                    .nets = 1,
                                    .disks = 1,
                                    .mac = {{0x52, 0x54, 0, 1, 2, 0xff}}};
    strcpy(b->m.disk[0].serial, "S1");
    bundle_members(&b->m);
    assert_int_equal(b->m.members, 2);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(bundle_measure(b->fd[i], &b->m.member[i], &err), 0);
    int out = memfd_create("bundle", MFD_CLOEXEC);
    assert_int_equal(bundle_write(out, &b->m, b->fd, &err), 0);
    size_t n = (size_t)lseek(out, 0, SEEK_END);
    void *packed = mmap(NULL, n, PROT_READ, MAP_PRIVATE, out, 0);
    ZSTD_DCtx *z = ZSTD_createDCtx();
    ZSTD_inBuffer from = {packed, n, 0};
    ZSTD_outBuffer to = {b->tar, ARCHIVE, 0};
    assert_int_equal(ZSTD_decompressStream(z, &to, &from), 0);
    ZSTD_freeDCtx(z);
    b->length = to.pos;
    munmap(packed, n);
    close(out);
    *state = b;
    return 0;
}

static void sweep(const struct bed *b)
{
    unlinkat(b->at, "disk0.qcow2", 0);
    unlinkat(b->at, "kernel", 0);
}

static int tear_down(void **state)
{
    struct bed *b = *state;
    sweep(b);
    close(b->at);
    close(b->fd[0]);
    close(b->fd[1]);
    int left = rmdir(b->folder); // nothing else was put there
    free(b);
    return left;
}

static int read_packed(struct bed *b, const void *tar, size_t length, struct error *err)
{
    static struct bundle_manifest m;
    int fd = packed_file(tar, length);
    err->text[0] = 0;
    int e = bundle_read(fd, b->at, &m, err);
    close(fd);
    sweep(b);
    assert_true(!e || err->text[0]);
    return e;
}

static void what_is_written_is_read(void **state)
{
    struct bed *b = *state;
    static struct bundle_manifest m;
    struct bundle_member again = {.name = "disk0.qcow2"};
    struct error err;
    struct stat st;
    int fd = packed_file(b->tar, b->length);
    assert_int_equal(bundle_read(fd, b->at, &m, &err), 0);
    close(fd);
    char *written = bundle_manifest_write(&b->m), *read = bundle_manifest_write(&m);
    assert_string_equal(read, written);
    free(written);
    free(read);
    fd = openat(b->at, "disk0.qcow2", O_RDONLY);
    assert_int_equal(bundle_measure(fd, &again, &err), 0);
    assert_int_equal(again.size, DISK);
    assert_string_equal(again.sha256, b->m.member[0].sha256);
    assert_int_equal(fstat(fd, &st), 0);
    assert_true(st.st_blocks * 512 < DISK); // its zeroes are a hole
    close(fd);
    // There already: not touched.
    fd = packed_file(b->tar, b->length);
    assert_int_equal(bundle_read(fd, b->at, &m, &err), -EEXIST);
    close(fd);
}

static void padding_of_tar_is_no_matter(void **state)
{
    struct bed *b = *state;
    struct error err;
    assert_int_equal(read_packed(b, b->tar, b->length + 8192, &err), 0);
    b->tar[b->length + 8000] = 1;
    assert_int_equal(read_packed(b, b->tar, b->length + 8192, &err), -EINVAL);
}

// At every block, in the archive and in the packed file.
static void cut_off(void **state)
{
    struct bed *b = *state;
    static struct bundle_manifest m;
    struct error err;
    for (size_t n = 0; n < b->length; n += n < 4096 ? 512 : 65536)
        assert_int_equal(read_packed(b, b->tar, n, &err), -EINVAL);
    assert_int_equal(read_packed(b, b->tar, b->length - 512, &err), -EINVAL);
    int fd = packed_file(b->tar, b->length);
    off_t whole = lseek(fd, 0, SEEK_END);
    for (off_t n = whole - 1; n > 0; n -= n > whole - 5 ? 1 : whole / 9) {
        assert_int_equal(ftruncate(fd, n), 0);
        lseek(fd, 0, SEEK_SET);
        assert_int_equal(bundle_read(fd, b->at, &m, &err), -EINVAL);
        sweep(b);
    }
    close(fd);
}

static void spoiled(void **state)
{
    struct bed *b = *state;
    struct error err;
    for (size_t at = 0; at + 2 * TAR_BLOCK < b->length; at += at < 4096 ? 97 : 70001) {
        uint8_t was = b->tar[at];
        b->tar[at] ^= 0x55;
        int e = read_packed(b, b->tar, b->length, &err);
        // Between the manifest's end and the next block, or in fields that we don't read, anything may stand.
        if (e)
            assert_true(e == -EINVAL || e == -ENOSPC || e == -ENOTSUP);
        else
            assert_true(at < 4096);
        b->tar[at] = was;
    }
}

// The first header after the manifest, with another name or size and a right sum.
static void members_that_are_not_listed(void **state)
{
    static const char *const names[] = {"../../etc/passwd", "/etc/passwd", "kernel", "disk0.qcow2/x", "",
                                        "config.json"};
    struct bed *b = *state;
    struct error err;
    char name[TAR_NAME + 1];
    uint64_t size;
    assert_int_equal(tar_header_read(b->tar, name, &size), 1);
    assert_string_equal(name, "manifest.json");
    uint8_t *header = b->tar + TAR_BLOCK + (size + TAR_BLOCK - 1) / TAR_BLOCK * TAR_BLOCK;
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
        tar_header(header, names[i], DISK);
        assert_int_equal(read_packed(b, b->tar, b->length, &err), -EINVAL);
    }
    tar_header(header, "disk0.qcow2", DISK + 1);
    assert_int_equal(read_packed(b, b->tar, b->length, &err), -EINVAL);
    tar_header(header, "disk0.qcow2", 1ull << 62);
    assert_int_equal(read_packed(b, b->tar, b->length, &err), -EINVAL);
    tar_header(header, "disk0.qcow2", DISK);
    assert_int_equal(read_packed(b, b->tar, b->length, &err), 0);
    tar_header(b->tar, "manifest.json", 1ull << 40); // no memory is taken for that
    assert_int_equal(read_packed(b, b->tar, b->length, &err), -EINVAL);
}

static void headers_have_every_size(void **state)
{
    (void)state;
    static const uint64_t sizes[] = {0, 1, 511, (1ull << 33) - 1, 1ull << 33, (1ull << 63) - 1};
    uint8_t block[TAR_BLOCK];
    char name[TAR_NAME + 1];
    uint64_t size;
    for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        tar_header(block, "kernel", sizes[i]);
        assert_int_equal(tar_header_read(block, name, &size), 1);
        assert_int_equal(size, sizes[i]);
    }
    block[156] = '2'; // a symbolic link
    assert_int_equal(tar_header_read(block, name, &size), -EINVAL);
    memset(block, 0, sizeof block);
    assert_int_equal(tar_header_read(block, name, &size), 0);
}

// One edit each that makes a good manifest a bad one.
static void manifests_that_make_no_sense(void **state)
{
    static const char *const edits[][2] = {
        {"\"trapeze-bundle\"", "\"trapeze-bundl3\""},
        {"\"version\": 1", "\"version\": 2"},
        {"\"cpus\": 2", "\"cpus\": 0"},
        {"67108864", "67108865"},
        {"\"web\"", "\"../\""},
        {"\"S1\"", "\",r\""},
        {"52:54:00", "53:54:00"},
        {"\"disk0.qcow2\"", "\"disk1.qcow2\""},
        {"\"kernel\": true", "\"kernel\": null"},
        {"700001", "-70000"},
        {"\"sha256\": \"", "\"sha256\": \"X"},
        {"quiet", "qui\\n"},
        {"\"disks\": [", "\"disks\": [1,"},
    };
    struct bed *b = *state;
    static struct bundle_manifest m;
    struct error err;
    char *text = bundle_manifest_write(&b->m), changed[8192];
    assert_int_equal(bundle_manifest_read(&m, text, strlen(text), &err), 0);
    for (unsigned i = 0; i < sizeof edits / sizeof *edits; i++) {
        const char *at = strstr(text, edits[i][0]);
        assert_non_null(at);
        snprintf(changed, sizeof changed, "%.*s%s%s", (int)(at - text), text, edits[i][1], at + strlen(edits[i][0]));
        int e = bundle_manifest_read(&m, changed, strlen(changed), &err);
        if (e != (i == 1 ? -ENOTSUP : -EINVAL))
            fail_msg("%s: %d", edits[i][1], e);
    }
    free(text);
}

static void more_is_claimed_than_fits(void **state)
{
    struct bed *b = *state;
    struct error err;
    struct bundle_manifest *m = &b->m;
    m->member[0].size = 1ull << 58;
    char *text = bundle_manifest_write(m);
    static uint8_t tar[8192];
    tar_header(tar, "manifest.json", strlen(text));
    memcpy(tar + TAR_BLOCK, text, strlen(text));
    free(text);
    assert_int_equal(read_packed(b, tar, sizeof tar, &err), -ENOSPC);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_is_written_is_read, set_up, tear_down),
        cmocka_unit_test_setup_teardown(padding_of_tar_is_no_matter, set_up, tear_down),
        cmocka_unit_test_setup_teardown(cut_off, set_up, tear_down),
        cmocka_unit_test_setup_teardown(spoiled, set_up, tear_down),
        cmocka_unit_test_setup_teardown(members_that_are_not_listed, set_up, tear_down),
        cmocka_unit_test(headers_have_every_size),
        cmocka_unit_test_setup_teardown(manifests_that_make_no_sense, set_up, tear_down),
        cmocka_unit_test_setup_teardown(more_is_claimed_than_fits, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
