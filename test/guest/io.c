// Ports: who may use them (IOPL, the bitmap in the TSS), and what ports and addresses of nobody give. (SDM vol. 1,
// chapter 19.)
#include "lib/guest.h"

#define PORT 0x0eb // nobody serves it, nor the ones around it

#define CODE(name, text)                                                                                               \
    asm(".pushsection .user.text; .balign 16; " #name ": " text "; int $0x80; .popsection");                           \
    extern const u8 name[]
CODE(user_inb, "in %dx, %al");
CODE(user_inw, "in %dx, %ax");
CODE(user_inl, "in %dx, %eax");
CODE(user_outb, "out %al, %dx");
CODE(user_insb, "insb");
CODE(user_cli, "cli; pushf; pop %rax");
CODE(user_sti, "sti; pushf; pop %rax");
CODE(user_popf, "pushq $0x3202; popf; pushf; pop %rax; pushq $2; popf; pushf; pop %rcx");
CODE(user_sti_hlt, "sti; hlt");

static void user(const u8 *code, ulong iopl, u16 port)
{
    run_at(&(struct start){(ulong)code, UCODE64 | 3, iopl << 12 | 2, (ulong)user_stack_top, UDATA | 3, .rdx = port,
                           .rdi = (ulong)user_stack_top - 64});
}

static void check_user(const char *name, const u8 *code, ulong iopl, u16 port, bool allowed)
{
    user(code, iopl, port);
    check_trap(name, allowed ? NONE : GP, allowed ? NOERR : 0, allowed ? 0 : (ulong)code, (ulong)code, -1);
}

// The TSS with this limit, bitmap at this offset.
static void load_tss(u32 limit, u16 bitmap)
{
    tss.io_bitmap = bitmap;
    gdt[TSS_SEL(0) / 8] = segment((u32)(ulong)&tss, limit, 0x89, 0);
    asm volatile("ltr %w0" ::"r"(TSS_SEL(0)));
}

#define BITMAP TSS_BYTES

static void bitmap(void)
{
    u8 *bits = tss.io_bits;
    memset(bits, 0xff, sizeof tss.io_bits);
    check_user("IOPL 0, no bitmap", user_inb, 0, PORT, false);
    check_user("IOPL 2, no bitmap", user_inb, 2, PORT, false);
    check_user("IOPL 3, no bitmap", user_inb, 3, PORT, true);

    load_tss(BITMAP + 8192, BITMAP);
    check_user("bit set", user_inb, 0, PORT, false);
    bits[PORT / 8] &= ~(1 << PORT % 8);
    check_user("bit clear", user_inb, 0, PORT, true);
    check_user("bit clear, OUT", user_outb, 0, PORT, true);
    check_user("bit clear, INS", user_insb, 0, PORT, true);
    check_user("port below", user_inb, 0, PORT - 1, false);
    check_user("port above", user_inb, 0, PORT + 1, false);
    check_user("16 bits need two clear", user_inw, 0, PORT, false);
    bits[(PORT + 1) / 8] &= ~(1 << (PORT + 1) % 8);
    check_user("two are clear", user_inw, 0, PORT, true);
    check_user("32 bits need four clear", user_inl, 0, PORT, false);
    memset(bits, 0, 8192);
    check_user("all clear, 32 bits over a byte's end", user_inl, 0, PORT + 2, true);
    check_user("port ffff", user_inb, 0, 0xffff, true);
    check_user("port ffff, the byte of ones behind it", user_inw, 0, 0xffff, false);

    // Two bytes are read whatever the port, and both must lie within the limit.
    load_tss(BITMAP + PORT / 8 + 1, BITMAP);
    check_user("limit with the byte after", user_inb, 0, PORT, true);
    load_tss(BITMAP + PORT / 8, BITMAP);
    check_user("limit without the byte after", user_inb, 0, PORT, false);
    load_tss(BITMAP + 8192, BITMAP + 8192 + 1);
    check_user("bitmap beyond the limit", user_inb, 0, PORT, false);
    load_tss(TSS_BYTES - 1, TSS_BYTES);
    check("ring 0 needs none of it", inb(PORT), 0xff);
}

static void iopl(void)
{
    check_user("CLI, IOPL 0", user_cli, 0, 0, false);
    check_user("CLI, IOPL 2", user_cli, 2, 0, false);
    check_user("STI, IOPL 2", user_sti, 2, 0, false);
    user(user_cli, 3, 0);
    check("CLI, IOPL 3", last.vector << 16 | (last.rax & (FLAG_IF | FLAG_IOPL3)), NONE << 16 | FLAG_IOPL3);
    user(user_sti, 3, 0);
    check("STI, IOPL 3", last.vector << 16 | (last.rax & (FLAG_IF | FLAG_IOPL3)), NONE << 16 | FLAG_IOPL3 | FLAG_IF);
    user(user_popf, 3, 0);
    check("POPF, IOPL 3, changes IF but not IOPL, on", last.rax & (FLAG_IF | FLAG_IOPL3), FLAG_IF | FLAG_IOPL3);
    check("POPF, IOPL 3, changes IF but not IOPL, off", last.rcx & (FLAG_IF | FLAG_IOPL3), FLAG_IOPL3);
    user(user_popf, 0, 0);
    check("POPF, IOPL 0, changes neither", last.rax & (FLAG_IF | FLAG_IOPL3), 0);
    user(user_sti_hlt, 3, 0);
    check_trap("HLT, even with IOPL 3", GP, 0, (ulong)user_sti_hlt + 1, (ulong)user_sti_hlt, -1);
}

#define NOBODY 0x80000000ul // between RAM and the devices below 4 GiB

static void nobody(void)
{
    check("port of nobody, 8 bits", inb(PORT), 0xff);
    check("port of nobody, 16 bits", inw(PORT), 0xffff);
    check("port of nobody, 32 bits", inl(PORT), 0xffffffff);
    check("port of nobody, high", inl(0xdead), 0xffffffff);
    outl(PORT, 0x12345678);
    check("port of nobody, written", inb(PORT), 0xff);
    check("address of nobody, 8 bits", *(volatile u8 *)NOBODY, 0xff);
    check("address of nobody, 16 bits", *(volatile u16 *)NOBODY, 0xffff);
    check("address of nobody, 32 bits", *(volatile u32 *)NOBODY, 0xffffffff);
    check("address of nobody, 64 bits", *(volatile u64 *)NOBODY, ~0ull);
    *(volatile u64 *)NOBODY = 0x123456789abcdef0;
    check("address of nobody, written", *(volatile u64 *)NOBODY, ~0ull);
    asm volatile("lock incl (%0)" ::"r"(NOBODY) : "memory", "cc");
    check("address of nobody, LOCK INC", *(volatile u32 *)NOBODY, 0xffffffff);
    u32 old = 5;
    asm volatile("xchgl %0, (%1)" : "+r"(old) : "r"(NOBODY) : "memory");
    check("address of nobody, XCHG", old, 0xffffffff);
    u64 low, high;
    asm volatile("movups (%2), %%xmm0; movq %%xmm0, %0; psrldq $8, %%xmm0; movq %%xmm0, %1"
                 : "=r"(low), "=r"(high)
                 : "r"(NOBODY));
    check("address of nobody, 128 bits", low & high, ~0ull);
    ulong to = NOBODY, from = NOBODY + 64, count = 4;
    asm volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(count)::"memory");
    check("address of nobody, REP MOVS", to - NOBODY, 32);
    if (left_out("address of nobody, executed"))
        return;
    run_kernel((void *)NOBODY); // ff ff: an undefined opcode
    check_trap("address of nobody, executed", UD, NOERR, NOBODY, NOBODY, -1);
}

int main(void)
{
    bitmap();
    iopl();
    nobody();
    return 0;
}
