// Self-modifying code: what has been written is what is executed, however it was written. (SDM vol. 3, 8.1.3.)
#include "lib/page.h"

typedef u32 (*function)(u32);

u32 next_instruction(u32), same_block(u32), opcode_to_nop(u32), itself(u32), hot_loop(u32), backwards(u32);
u32 branch_target(u32), by_rep_movs(u32), by_push(u32), by_sse(u32), by_cmpxchg(u32), data_beside_code(u32);
extern const u8 return_1[], return_1_end[];

#define V 0x123456600000ul
#define ALIAS 0x123456700000ul

// A store through one address and a fetch through another want a serializing instruction in between.
static void serialize(void)
{
    u32 r[4];
    cpuid(0, 0, r);
}

static void put_function(u8 *at)
{
    for (unsigned i = 0; return_1 + i < return_1_end; i++)
        at[i] = return_1[i];
}

// Twice: the second time whatever was kept of the first must go.
static void check_twice(const char *name, const char *again, function f, u32 argument, u32 want)
{
    check(name, f(argument), want);
    check(again, f(argument), want);
}

static void in_one_block(void)
{
    check_twice("next instruction", "next instruction, again", next_instruction, 0, 42);
    check_twice("same block", "same block, again", same_block, 0, 42);
    check_twice("opcode to nop", "opcode to nop, again", opcode_to_nop, 0, 42);
    check_twice("its own immediate", "its own immediate, again", itself, 0, 9);
    check_twice("an instruction executed before", "an instruction executed before, again", backwards, 0, 28);
    check_twice("jump displacement", "jump displacement, again", branch_target, 0, 42);
    check_twice("by REP MOVS", "by REP MOVS, again", by_rep_movs, 0, 42);
    check_twice("by PUSH", "by PUSH, again", by_push, 0, 42);
    check_twice("by a 16-byte store", "by a 16-byte store, again", by_sse, 0, 42);
    check_twice("by LOCK CMPXCHG", "by LOCK CMPXCHG, again", by_cmpxchg, 0, 42);
    check("immediate in a loop, 100000 times", hot_loop(100000), (u32)(100000ull * 100001 / 2));
    check("data beside code, 100000 times", data_beside_code(100000), 100000);
}

static void other_pages(void)
{
    u8 *page = new_page(), *next = new_page();
    map(V, (ulong)page, P | W);
    map(V + 4096, (ulong)next, P | W);
    map(ALIAS, (ulong)page, P | W);
    map(ALIAS + 4096, (ulong)next, P | W);
    volatile u8 *code = (volatile u8 *)V;
    function f = (function)V;

    // Written anew and called, again and again at the same place.
    put_function((u8 *)V);
    u32 sum = 0;
    for (u32 i = 0; i < 1000; i++) {
        code[1] = (u8)i;
        sum += f(0);
    }
    check("called after each change", sum, 3 * (255 * 256 / 2) + 231 * 232 / 2);

    sum = 0;
    for (u32 i = 0; i < 1000; i++) {
        *(volatile u8 *)(ALIAS + 1) = (u8)i;
        serialize();
        sum += f(0);
    }
    check("changed through another address", sum, 3 * (255 * 256 / 2) + 231 * 232 / 2);
    sum = 0;
    for (u32 i = 0; i < 1000; i++) {
        ((volatile u8 *)page)[1] = (u8)i;
        serialize();
        sum += f(0) + ((function)ALIAS)(0) + ((function)(ulong)page)(0);
    }
    check("run through three addresses", sum, 3 * (3 * (255 * 256 / 2) + 231 * 232 / 2));

    // An instruction that lies in two pages; each half is changed in turn.
    u8 *cross = (u8 *)(V + 4096 - 3);
    put_function(cross); // b8 and two bytes here, two bytes and c3 there
    function g = (function)cross;
    sum = g(0);
    for (u32 i = 0; i < 100; i++) {
        ((volatile u8 *)cross)[1] = (u8)i;
        ((volatile u8 *)cross)[4] = (u8)(i & 1);
        sum += g(0) == ((i & 1) << 24 | i);
    }
    check("instruction in two pages", sum, 101);
    sum = 0;
    for (u32 i = 0; i < 100; i++) {
        ((volatile u8 *)next)[1] = (u8)i; // only the second page, through yet another address
        serialize();
        sum += g(0) >> 24 == i;
    }
    check("its second page alone", sum, 100);

    // The page behind an address is exchanged.
    u8 *other = new_page();
    put_function(page);
    put_function(other);
    other[1] = 2;
    sum = 0;
    for (u32 i = 0; i < 1000; i++) {
        map(V, (ulong)(i & 1 ? other : page), P | W);
        invlpg(V);
        sum += f(0) == 1 + (i & 1);
    }
    check("another page mapped", sum, 1000);

    // And its second half only, under an instruction that lies in two pages.
    put_function(cross);
    memcpy(other, next, 4096);
    other[1] = 0x42;
    map(V, (ulong)page, P | W);
    invlpg(V);
    put_function(cross);
    sum = 0;
    for (u32 i = 0; i < 100; i++) {
        map(V + 4096, (ulong)(i & 1 ? other : next), P | W);
        invlpg(V + 4096);
        sum += g(0) == (i & 1 ? 0x42000001 : 1);
    }
    check("another second page mapped", sum, 100);

    // A long copy over code, by REP MOVSQ over two pages.
    u8 *source = new_page();
    new_page();
    for (unsigned i = 0; i < 1024; i++)
        ((u64 *)source)[i] = 0x9090909090909090;
    put_function(source + 8000);
    map(V + 4096, (ulong)next, P | W);
    invlpg(V + 4096);
    put_function((u8 *)V);
    sum = f(0);
    ulong to = V, from = (ulong)source, count = 1024;
    asm volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(count)::"memory");
    source[8001] = 5;
    check("REP MOVSQ over two pages of code", sum << 8 | f(0), 0x101);
}

int main(void)
{
    in_one_block();
    other_pages();
    return 0;
}
