// Two vCPUs at once: LOCK where memory is not in one piece, code that one writes and the other runs, memory that is
// unmapped under them, the dirty log.
#include "bed.h"
#include "window.h"
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

// A second bed on the first one's machine.
static void join(struct bed *second, struct bed *first)
{
    struct error e = {""};
    *second = *first;
    if (first->vm->ops->vcpu_create(first->vm, 1, second, &second->cpu, &e))
        fail_msg("%s", e.text);
}

static void *go(void *arg)
{
    bed_go(arg);
    return NULL;
}

static void both(struct bed *a, struct bed *b)
{
    pthread_t t;
    pthread_create(&t, NULL, go, b);
    bed_go(a);
    pthread_join(t, NULL);
}

static void part(struct bed *second)
{
    second->vm->ops->vcpu_destroy(second->cpu);
}

#define AT(b, where, code) (put(b, where, code, code##_end), (b)->s.rip = (where))

static void put(struct bed *b, uint64_t where, const uint8_t *code, const uint8_t *end)
{
    for (const uint8_t *p = code; p < end; p++)
        bed_write(b, where + (p - code), *p, 1);
}

// Half of the counter lies at the end of one page, half at the beginning of another.
GUEST(adds, 64, "mov $20000, %ecx; 1: lock addl $0x10001, (%rax); dec %ecx; jnz 1b; hlt");
GUEST(swaps, 64,
      "mov $20000, %ecx; 1: mov (%rax), %eax; 2: lea 0x10001(%rax), %edx; lock cmpxchg %edx, (%rbx); jne 2b; "
      "mov %rbx, %rax; dec %ecx; jnz 1b; hlt");

static void locked_across_pages(void **state)
{
    (void)state;
    struct bed a, b;
    bed_open(&a, BED_LONG);
    bed_window(&a);
    bed_map(&a, 0, 0x30000 | 3);
    bed_map(&a, 1, 0x28000 | 3);
    join(&b, &a);
    a.s.gpr[CPU_RAX] = b.s.gpr[CPU_RAX] = b.s.gpr[CPU_RBX] = WINDOW + 0xffe;
    AT(&a, 0x6000, adds);
    AT(&b, 0x7000, swaps);
    both(&a, &b);
    uint32_t sum = bed_read(&a, 0x30ffe, 2) | bed_read(&a, 0x28000, 2) << 16;
    assert_int_equal(sum, (uint32_t)(40000u * 0x10001u));
    part(&b);
    bed_close(&a);
}

static void locked_in_one_page(void **state)
{
    (void)state;
    struct bed a, b;
    bed_open(&a, BED_LONG);
    join(&b, &a);
    a.s.gpr[CPU_RAX] = b.s.gpr[CPU_RAX] = b.s.gpr[CPU_RBX] = BED_DATA + 3;
    AT(&a, 0x6000, adds);
    AT(&b, 0x7000, swaps);
    both(&a, &b);
    assert_int_equal(bed_read(&a, BED_DATA + 3, 4), (uint32_t)(40000u * 0x10001u));
    part(&b);
    bed_close(&a);
}

// The writer patches the immediate of a function, then publishes a number; the caller, who has read the number, calls
// the function and must not get an older one. Both then wait for each other, 20000 times.
GUEST(patches, 64,
      "mov $1, %ecx; 1: mov %ecx, 1(%rsi); mov %ecx, (%rdi); 2: pause; cmp %ecx, 4(%rdi); jne 2b; inc %ecx; "
      "cmp $20000, %ecx; jb 1b; hlt");
GUEST(calls, 64,
      "mov $1, %ecx; xor %ebx, %ebx; 1: pause; cmp %ecx, (%rdi); jne 1b; cpuid0: push %rcx; push %rbx; "
      "xor %eax, %eax; cpuid; pop %rbx; pop %rcx; call *%rsi; cmp %eax, %ecx; je 2f; inc %ebx; 2: "
      "mov %ecx, 4(%rdi); inc %ecx; cmp $20000, %ecx; jb 1b; hlt");
GUEST(function, 64, "mov $0, %eax; ret");

static void code_of_the_other(void **state)
{
    (void)state;
    struct bed a, b;
    bed_open(&a, BED_LONG);
    join(&b, &a);
    put(&a, 0x30000, function, function_end);
    a.s.gpr[CPU_RSI] = b.s.gpr[CPU_RSI] = 0x30000;
    a.s.gpr[CPU_RDI] = b.s.gpr[CPU_RDI] = BED_DATA;
    b.s.gpr[CPU_RSP] = BED_STACK0;
    AT(&a, 0x6000, patches);
    AT(&b, 0x7000, calls);
    both(&a, &b);
    assert_int_equal(b.s.gpr[CPU_RCX], 20000);
    assert_int_equal(b.s.gpr[CPU_RBX], 0); // stale ones
    part(&b);
    bed_close(&a);
}

// Memory comes and goes while both read it; what they read is the page's word or, when it is gone, all ones. Unmapped
// memory is poisoned at once: nobody may be seen reading that.
GUEST(reads, 64,
      "xor %ebx, %ebx; 1: mov (%rax), %rdx; cmp %rsi, %rdx; je 2f; cmp $-1, %rdx; je 2f; inc %ebx; 2: "
      "mov (%rdi), %ecx; jrcxz 1b; hlt");

static void unmapped_under_them(void **state)
{
    (void)state;
    struct bed a, b;
    struct error e;
    pthread_t t[2];
    uint64_t *page = aligned_alloc(4096, 4096);
    bed_open(&a, BED_LONG);
    join(&b, &a);
    AT(&a, 0x6000, reads);
    b.s.rip = a.s.rip;
    a.s.gpr[CPU_RAX] = b.s.gpr[CPU_RAX] = BED_RAM;
    a.s.gpr[CPU_RSI] = b.s.gpr[CPU_RSI] = 1234;
    a.s.gpr[CPU_RDI] = b.s.gpr[CPU_RDI] = BED_DATA;
    pthread_create(&t[0], NULL, go, &a);
    pthread_create(&t[1], NULL, go, &b);
    for (unsigned n = 0; n < 200; n++) {
        page[0] = 1234;
        assert_int_equal(a.vm->ops->map(a.vm, BED_RAM, 4096, page, 0, &e), 0);
        usleep(50);
        assert_int_equal(a.vm->ops->unmap(a.vm, BED_RAM, 4096, &e), 0);
        page[0] = 666;
    }
    bed_write(&a, BED_DATA, 1, 4);
    pthread_join(t[0], NULL);
    pthread_join(t[1], NULL);
    assert_int_equal(a.s.gpr[CPU_RBX], 0);
    assert_int_equal(b.s.gpr[CPU_RBX], 0);
    part(&b);
    bed_close(&a);
    free(page);
}

// Each vCPU counts in 64 pages; a copy that is kept up by the dirty log ends equal to memory.
GUEST(dirties, 64,
      "1: mov %rax, %rbx; mov $64, %ecx; 2: incq (%rbx); add $0x1000, %rbx; dec %ecx; jnz 2b; cmpl $0, (%rdi); "
      "je 1b; hlt");

static void update(struct bed *a, uint8_t *copy)
{
    uint64_t bits[BED_RAM / 4096 / 64];
    assert_int_equal(a->vm->ops->log_fetch(a->vm, 0, BED_RAM, bits), 0);
    for (unsigned n = 0; n < BED_RAM / 4096; n++)
        if (bits[n / 64] >> n % 64 & 1)
            memcpy(copy + 4096 * n, a->ram + 4096 * n, 4096);
}

static void dirty_log(void **state)
{
    (void)state;
    struct bed a, b;
    struct error e;
    pthread_t t[2];
    uint8_t *copy = malloc(BED_RAM);
    bed_open(&a, BED_LONG);
    join(&b, &a);
    AT(&a, 0x6000, dirties);
    b.s.rip = a.s.rip;
    a.s.gpr[CPU_RAX] = 0x100000;
    b.s.gpr[CPU_RAX] = 0x100800; // the same pages
    a.s.gpr[CPU_RDI] = b.s.gpr[CPU_RDI] = BED_DATA;
    pthread_create(&t[0], NULL, go, &a);
    pthread_create(&t[1], NULL, go, &b);
    assert_int_equal(a.vm->ops->log_start(a.vm, &e), 0);
    memcpy(copy, a.ram, BED_RAM);
    for (unsigned n = 0; n < 100; n++) {
        usleep(100);
        update(&a, copy);
    }
    bed_write(&a, BED_DATA, 1, 4); // a device's write is logged, too
    pthread_join(t[0], NULL);
    pthread_join(t[1], NULL);
    update(&a, copy);
    assert_memory_equal(copy, a.ram, BED_RAM);
    uint64_t bits[BED_RAM / 4096 / 64];
    assert_int_equal(a.vm->ops->log_fetch(a.vm, 0, BED_RAM, bits), 0);
    for (unsigned n = 0; n < BED_RAM / 4096 / 64; n++)
        assert_int_equal(bits[n], 0); // fetched is fetched
    a.vm->ops->log_stop(a.vm);
    assert_true(a.vm->ops->log_fetch(a.vm, 0, BED_RAM, bits) < 0);
    part(&b);
    bed_close(&a);
    free(copy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(locked_in_one_page), cmocka_unit_test(locked_across_pages),
        cmocka_unit_test(code_of_the_other),  cmocka_unit_test(unmapped_under_them),
        cmocka_unit_test(dirty_log),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
