// The command line of trapeze run: what is taken, and that what is wrong is named.
#include "prog/option/options.h"
#include "report/log.h"
#include "unit.h"
#include <errno.h>
#include <stdlib.h>

static char *copies[32];
static struct run_options o;
static struct error err;

// Parses a copy of the words: the parser cuts disk options in place.
static int parse(const char *const *words)
{
    int n = 0;
    for (; words[n]; n++) {
        free(copies[n]);
        copies[n] = strdup(words[n]);
    }
    err.text[0] = 0;
    return run_options_parse(&o, n, copies, &err);
}

#define PARSE(...) parse((const char *const[]){__VA_ARGS__, NULL})

static void defaults(void **state)
{
    (void)state;
    assert_int_equal(PARSE("--kernel", "k"), 0);
    assert_string_equal(o.kernel, "k");
    assert_string_equal(o.console, "stdio");
    assert_int_equal(o.cpus, 1);
    assert_int_equal(o.memory, 1ull << 30);
    assert_null(o.engine);
    assert_false(o.no_paravirt);
}

static void everything(void **state)
{
    (void)state;
    assert_int_equal(PARSE("--kernel=k", "--initrd", "i", "--append", "a=b c", "--disk", "d1,ro,serial=AB",
                           "--disk=d2,format=raw", "--cpus", "4", "--memory", "512M", "--trace", "pio,exits",
                           "--console", "socket:/s", "-vv", "--engine=auto", "--stats", "--cells", "off", "--translate",
                           "always", "--code-cache", "16M", "--perf-map", "--paravirt", "off"),
                     0);
    assert_string_equal(o.append, "a=b c");
    assert_int_equal(o.disks, 2);
    assert_string_equal(o.disk[0].path, "d1");
    assert_true(o.disk[0].readonly);
    assert_string_equal(o.disk[0].serial, "AB");
    assert_int_equal(o.disk[0].format, DISK_PROBE);
    assert_false(o.disk[1].readonly);
    assert_int_equal(o.disk[1].format, DISK_RAW);
    assert_int_equal(o.cpus, 4);
    assert_int_equal(o.memory, 512ull << 20);
    assert_int_equal(o.trace, TRACE_PIO | TRACE_EXITS);
    assert_int_equal(o.verbose, 2);
    assert_int_equal(o.cells, ENGINE_CELLS_OFF);
    assert_true(o.translate_always);
    assert_true(o.perf_map);
    assert_true(o.no_paravirt);
    assert_int_equal(o.code_cache, 16 << 20);
    assert_null(o.engine);
}

static void sizes(void **state)
{
    (void)state;
    assert_int_equal(PARSE("--kernel", "k", "--memory", "64"), 0);
    assert_int_equal(o.memory, 64ull << 20);
    assert_int_equal(PARSE("--kernel", "k", "--memory", "2GiB"), 0);
    assert_int_equal(o.memory, 2ull << 30);
    assert_int_equal(PARSE("--kernel", "k", "--memory", "2048k"), 0);
    assert_int_equal(o.memory, 2ull << 20);
}

static void limits(void **state)
{
    (void)state;
    assert_int_equal(PARSE("--kernel", "k", "--disk", "d,iops=500,bps=10M,burst=20,ro", "--disk", "e,bps=4096", "--net",
                           "user,pps=1000,mtu=1500,bps=1G"),
                     0);
    assert_int_equal(o.disk[0].limits.operations, 500);
    assert_int_equal(o.disk[0].limits.bytes, 10 << 20);
    assert_int_equal(o.disk[0].limits.burst_ms, 20);
    assert_true(o.disk[0].readonly);
    assert_int_equal(o.disk[1].limits.operations, 0);
    assert_int_equal(o.disk[1].limits.bytes, 4096); // a bare number is bytes
    assert_int_equal(o.net[0].limits.operations, 1000);
    assert_int_equal(o.net[0].limits.bytes, 1 << 30);
    assert_int_equal(o.net[0].mtu, 1500);
}

static void networks(void **state)
{
    (void)state;
    assert_int_equal(PARSE("--kernel", "k"), 0);
    assert_int_equal(o.nets, 0);
    assert_int_equal(PARSE("--kernel", "k", "--net", "user,mac=02:00:5E:10:00:ff,mtu=1500", "--net", "tap", "--net",
                           "tap:vm0,mtu=9000", "--net", "socket:/s", "--publish", "8080:80", "--publish",
                           "0.0.0.0:5353:53/udp", "--publish", "1:65535/tcp"),
                     0);
    assert_int_equal(o.nets, 4);
    static const uint8_t mac[6] = {2, 0, 0x5e, 0x10, 0, 0xff};
    assert_int_equal(o.net[0].kind, NETWORK_USER);
    assert_true(o.net[0].has_mac);
    assert_memory_equal(o.net[0].mac, mac, 6);
    assert_int_equal(o.net[0].mtu, 1500);
    assert_int_equal(o.net[1].kind, NETWORK_TAP);
    assert_null(o.net[1].where);
    assert_string_equal(o.net[2].where, "vm0");
    assert_int_equal(o.net[2].mtu, 9000);
    assert_int_equal(o.net[3].kind, NETWORK_SOCKET);
    assert_string_equal(o.net[3].where, "/s");
    assert_int_equal(o.publishes, 3);
    assert_int_equal(ntohl(o.publish[0].address.s_addr), 0x7f000001);
    assert_int_equal(o.publish[0].host, 8080);
    assert_int_equal(o.publish[0].guest, 80);
    assert_false(o.publish[0].udp);
    assert_int_equal(o.publish[1].address.s_addr, 0);
    assert_int_equal(o.publish[1].host, 5353);
    assert_true(o.publish[1].udp);
    assert_int_equal(o.publish[2].guest, 65535);
    assert_false(o.publish[2].udp);
    // The last word counts.
    assert_int_equal(PARSE("--kernel", "k", "--net", "user", "--net", "none"), 0);
    assert_int_equal(o.nets, 0);
    // Addresses by name: the same each time, others for others, and none that a manufacturer has.
    uint8_t a[6], b[6];
    network_mac("vm1", 0, a);
    network_mac("vm1", 0, b);
    assert_memory_equal(a, b, 6);
    network_mac("vm1", 1, b);
    assert_memory_not_equal(a, b, 6);
    network_mac("vm2", 0, b);
    assert_memory_not_equal(a, b, 6);
    assert_int_equal(a[0] & 3, 2);
}

static void images(void **state)
{
    (void)state;
    assert_int_equal(PARSE("debian", "--size", "20G", "--ssh-key", "a", "--ssh-key", "b", "--hostname", "web-1.example",
                           "--user-data", "u"),
                     0);
    assert_string_equal(o.image.what, "debian");
    assert_null(o.kernel);
    assert_int_equal(o.image.size, 20ull << 30);
    assert_int_equal(o.image.ssh_keys, 2);
    assert_string_equal(o.image.ssh_key[1], "b");
    assert_string_equal(o.image.hostname, "web-1.example");
    assert_string_equal(o.image.user_data, "u");
    assert_int_equal(o.nets, 1);
    assert_int_equal(o.net[0].kind, NETWORK_USER);
    assert_in_range(o.cpus, 1, 2);
    assert_int_equal(PARSE("debian", "--net", "none", "--cpus", "1"), 0);
    assert_int_equal(o.nets, 0);
    assert_int_equal(o.cpus, 1);
    assert_int_equal(PARSE("--disk", "d"), 0); // the kernel is found in it
    assert_int_equal(o.nets, 0);
    assert_int_equal(o.cpus, 1);
}

static void refusals(void **state)
{
    (void)state;
    static const struct {
        const char *words[5];
        const char *says;
    } cases[] = {
        {{NULL}, "nothing to start: name an image"},
        {{"--kernel", "k", "--size", "9G"}, "--size: is for machines that start from an image"},
        {{"debian", "--size", "0"}, "--size 0: must be a size"},
        {{"debian", "--initrd", "i"}, "--initrd: goes with --kernel"},
        {{"debian", "--hostname", "a..b"}, "--hostname a..b: must be"},
        {{"debian", "--hostname", "-a"}, "--hostname -a: must be"},
        {{"--frob", "1"}, "--frob: unknown option"},
        {{"debian", "file"}, "file: unexpected argument"},
        {{"--cpus", "0"}, "--cpus 0: must be"},
        {{"--cpus", "65"}, "--cpus 65: must be"},
        {{"--cpus", "-1"}, "--cpus -1: must be"},
        {{"--cpus", "2x"}, "--cpus 2x: must be"},
        {{"--cpus"}, "--cpus: N is missing"},
        {{"--memory", "12Q"}, "--memory 12Q: must be"},
        {{"--memory", "0"}, "--memory 0: must be"},
        {{"--memory", "100000000000000T"}, "must be"},
        {{"--memory", "1500K"}, "--memory 1500K: must be a multiple of 1M"},
        {{"--cpu", "z80"}, "--cpu z80: no such model; there are: x86-64-v2"},
        {{"--disk", ",ro"}, "file's name is empty"},
        {{"--disk", "d,rw"}, "--disk d: rw: unknown"},
        {{"--disk", "d,format=vmdk"}, "--disk d: format=vmdk: must be raw or qcow2"},
        {{"--disk", "d,serial=123456789012345678901"}, "at most 20 characters"},
        {{"--console", "tty"}, "--console tty: must be"},
        {{"--console", "file:"}, "must be"},
        {{"--disk", "d,iops=0"}, "--disk d: iops=0: must be a number per second"},
        {{"--disk", "d,pps=5"}, "--disk d: pps=5: unknown"},
        {{"--disk", "d,bps=x"}, "--disk d: bps=x: must be bytes per second"},
        {{"--disk", "d,bps=1023"}, "from 1K on"},
        {{"--disk", "d,burst=60001"}, "from 1 to 60000"},
        {{"--net", "user,pps=-1"}, "--net user: pps=-1: must be a number per second"},
        {{"--net", "wifi"}, "--net wifi: must be user, tap, tap:NAME, socket:PATH, switch:NETWORK or none"},
        {{"--net", "user:x"}, "--net user:x: must be"},
        {{"--net", "tap:"}, "--net tap:: must be"},
        {{"--net", "socket"}, "--net socket: must be"},
        {{"--net", "socket:,mtu=1500"}, "--net socket:: must be"},
        {{"--net", "user,mac=02:00:00:00:00"}, "--net user: mac=02:00:00:00:00: must be like"},
        {{"--net", "user,mac=01:00:00:00:00:00"}, "no group's address"},
        {{"--net", "user,mac=02-00-00-00-00-00"}, "must be like"},
        {{"--net", "user,mtu=67"}, "--net user: mtu=67: must be a number from 68 to 65520"},
        {{"--net", "user,mtu=x"}, "must be a number"},
        {{"--net", "user,speed=9"}, "--net user: speed=9: unknown; there are: mac=MAC, mtu=N, pps=N, bps=N, burst=MS"},
        {{"--net", "user", "--net", "user", "--kernel=k"}, "only one user network"},
        {{"--publish", "80:80", "--kernel", "k"}, "--publish 80:80: needs --net user"},
        {{"--publish", "80"}, "--publish 80: must be"},
        {{"--publish", "0:80"}, "must be"},
        {{"--publish", "80:65536"}, "must be"},
        {{"--publish", "x:1:80"}, "must be"},
        {{"--publish", "1:1.2.3.4:80"}, "must be"},
        {{"--publish", "1:80/sctp"}, "must be"},
        {{"--publish", "/udp"}, "must be"},
        {{"--code-cache", "much"}, "--code-cache much: must be a size"},
        {{"--code-cache", "0"}, "--code-cache 0: must be a size"},
        {{"--code-cache", "512K", "--kernel", "k"}, "--code-cache 512K: 1 vCPUs need 1M at least"},
        {{"--code-cache", "1025M", "--kernel", "k"}, "--code-cache 1025M: 1 vCPUs can use 1G at most"},
        {{"--cells", "on"}, "--cells on: auto, off or always"},
        {{"--translate", "never"}, "--translate never: hot or always"},
        {{"--paravirt", "yes"}, "--paravirt yes: on or off"},
        {{"--trace", "all"}, "--trace all: unknown"},
        {{"--stats=yes"}, "--stats: takes no value"},
        {{"--name", "a/b"}, "--name a/b: must be"},
        {{"--kernel", "k", "--agent"}, "--agent: there is no --initrd"},
        {{"--kernel", "k", "--vsock", "s,cid=2"}, "--vsock s: cid=2: must be cid=N, from 3 to 4294967294"},
        {{"--kernel", "k", "--vsock", "s,xid=9"}, "--vsock s: xid=9: must be"},
        {{"--kernel", "k", "--vsock", ",cid=9"}, "--vsock: the socket's name is empty"},
        {{"--kernel", "k", "--hvc", "stdio"}, "--hvc stdio: the serial port has stdio"},
    };
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(parse(cases[i].words), -EINVAL);
        if (!strstr(err.text, cases[i].says))
            fail_msg("case %u says: %s", i, err.text);
        assert_non_null(strstr(err.text, "see trapeze run --help"));
    }
}

static void shares(void **state)
{
    (void)state;
    assert_int_equal(PARSE("--kernel", "k", "--share", "/a:b,c:tag", "--share=d:e,ro", "--balloon", "off"), 0);
    assert_int_equal(o.shares, 2);
    assert_string_equal(o.share[0].folder, "/a:b,c");
    assert_string_equal(o.share[0].tag, "tag");
    assert_false(o.share[0].readonly);
    assert_string_equal(o.share[1].folder, "d");
    assert_string_equal(o.share[1].tag, "e");
    assert_true(o.share[1].readonly);
    assert_true(o.no_balloon);
    char *words = share_words(o.share, 2);
    assert_string_equal(words, " trapeze.share=tag trapeze.share=e");
    free(words);
    // Nobody's words but ours get into a command line.
    const struct share_option odd[] = {
        {"/a", "a b", false}, {"/a", "c\"d", false}, {"/a", "..", false}, {"/a", "ok", false}};
    words = share_words(odd, 4);
    assert_string_equal(words, " trapeze.share=ok");
    free(words);
    static const char *const bad[] = {"/a",     ":t",       "/a:",
                                      "/a:,ro", "/a:t,rw",  "/a:t,ro,ro",
                                      "/a:t,",  "/a:t,ro ", "/a:0123456789012345678901234567890123456"};
    for (unsigned n = 0; n < sizeof bad / sizeof *bad; n++)
        assert_int_equal(PARSE("--kernel", "k", "--share", bad[n]), -EINVAL);
    assert_int_equal(PARSE("--kernel", "k", "--share", "/a:t", "--share", "/b:t"), -EINVAL);
    assert_int_equal(PARSE("--kernel", "k", "--share", "/a:012345678901234567890123456789012345"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shares), cmocka_unit_test(defaults), cmocka_unit_test(everything),
        cmocka_unit_test(sizes),  cmocka_unit_test(networks), cmocka_unit_test(limits),
        cmocka_unit_test(images), cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
