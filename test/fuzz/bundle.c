// A bundle may be anything. The first byte chooses: the archive's bytes are these; or they follow a good manifest, with
// edits (position, value) in it. It is refused with a text, or its manifest is written and read again as the same.
#include "bundle/bundle.h"
#include "bundle/tar.h"
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zstd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            __builtin_trap();                                                                                          \
    } while (0)

enum { ARCHIVE = 16384, KERNEL = 4 * TAR_BLOCK };

// A kernel of `a`s.
static size_t good(uint8_t *tar)
{
    static struct bundle_manifest m = {
        .name = "web", .program = "0", .cpus = 1, .memory = 1 << 20, .kernel = true, .nets = 1};
    struct error err;
    char kernel[600];
    memset(kernel, 'a', sizeof kernel);
    bundle_members(&m);
    int fd = memfd_create("kernel", MFD_CLOEXEC);
    CHECK(write(fd, kernel, sizeof kernel) == sizeof kernel && !bundle_measure(fd, &m.member[0], &err));
    close(fd);
    char *text = bundle_manifest_write(&m);
    CHECK(text);
    size_t length = strlen(text), at = TAR_BLOCK + (length + TAR_BLOCK - 1) / TAR_BLOCK * TAR_BLOCK;
    memset(tar, 0, ARCHIVE);
    tar_header(tar, "manifest.json", length);
    memcpy(tar + TAR_BLOCK, text, length);
    tar_header(tar + at, "kernel", sizeof kernel);
    memcpy(tar + at + TAR_BLOCK, kernel, sizeof kernel);
    free(text);
    return at + KERNEL + 2 * TAR_BLOCK;
}

static void read_bundle(const void *packed, size_t length)
{
    static struct bundle_manifest m, again;
    static char folder[] = "/tmp/trapeze-fuzz-bundle-XXXXXX";
    struct error err = {.text = ""};
    strcpy(folder + sizeof folder - 7, "XXXXXX");
    CHECK(mkdtemp(folder));
    int at = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC), fd = memfd_create("bundle", MFD_CLOEXEC);
    CHECK(at >= 0 && write(fd, packed, length) == (ssize_t)length && !lseek(fd, 0, SEEK_SET));
    int e = bundle_read(fd, at, &m, &err);
    CHECK(e ? e < 0 && err.text[0] : true);
    if (!e) {
        char *text = bundle_manifest_write(&m);
        CHECK(text && !bundle_manifest_read(&again, text, strlen(text), &err) && !memcmp(&m, &again, sizeof m));
        free(text);
    }
    char name[32] = "kernel";
    unlinkat(at, name, 0);
    unlinkat(at, "initrd", 0);
    for (unsigned i = 0; i < BUNDLE_DISKS; i++) {
        memcpy(name, "disk", 4);
        name[4] = (char)(i < 10 ? '0' + i : '0' + i / 10);
        name[5] = (char)('0' + i % 10);
        strcpy(name + (i < 10 ? 5 : 6), ".qcow2");
        unlinkat(at, name, 0);
    }
    close(fd);
    close(at);
    CHECK(!rmdir(folder)); // nothing else was made
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t tar[ARCHIVE], packed[2 * ARCHIVE];
    if (!size)
        return 0;
    if (data[0] & 1) {
        read_bundle(data + 1, size - 1);
        return 0;
    }
    size_t length = good(tar);
    bool whole = !(data[0] & 2);
    for (data++, size--; size >= 3; data += 3, size -= 3)
        tar[(data[0] | data[1] << 8) % length] = data[2];
    // So that an edit gets beyond the header, its sum is made right again.
    char name[TAR_NAME + 1];
    uint64_t bytes;
    if (tar_header_read(tar, name, &bytes) < 0)
        tar_header(tar, "manifest.json", tar[TAR_BLOCK - 1] ? tar[TAR_BLOCK - 1] * 64u : 1024);
    size_t n = ZSTD_compress(packed, sizeof packed, tar, whole ? length : length / 2, 1);
    CHECK(!ZSTD_isError(n));
    read_bundle(packed, n);
    return 0;
}
