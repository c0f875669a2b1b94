// Hardware tasks: switches by JMP, CALL, gates and interrupts, the way back, and what is refused before and after the
// switch. (SDM vol. 3, chapter 8.)
#include "lib/guest.h"

#define TSS2 FREE_SEL
#define GATE (FREE_SEL + 8)
#define BUSY(sel) (gdt[(sel) / 8] >> 40 & 0xff)

u32 far_pointer[2];
static struct tss other __attribute__((aligned(4096)));
static u8 other_stack[4096] __attribute__((aligned(16)));

#define CODE(name, text)                                                                                               \
    asm(".pushsection .text; .balign 16; " #name ": " text "; .popsection");                                           \
    extern const u8 name[]
CODE(second, "int $0x80");
CODE(second_back, "inc %eax; iret; int $0x80");
CODE(jump, "ljmp *far_pointer; jump_end: int $0x80");
CODE(call, "lcall *far_pointer; call_end: int $0x80");
CODE(by_int, "int $0x40; by_int_end: int $0x80");
CODE(fault, "mov $0xfff0, %eax; fault_at: mov %eax, %ds; int $0x80");
extern const u8 jump_end[], call_end[], by_int_end[], fault_at[];

static u64 task_gate(u16 sel)
{
    return (u64)sel << 16 | 0x85ull << 40;
}

static void prepare(const u8 *code)
{
    gdt[TSS_SEL(0) / 8] &= ~(2ull << 40);
    asm volatile("ltr %w0" ::"r"(TSS_SEL(0)));
    asm volatile("clts");
    memset(&other, 0, TSS_BYTES);
    other.esp0 = tss.esp0;
    other.ss0 = KDATA;
    other.eip = (ulong)code;
    other.flags = 2 | FLAG_CF;
    other.eax = 0x1000;
    other.ebx = 0x3000;
    other.esp = (ulong)other_stack + sizeof other_stack;
    other.es = other.ss = other.ds = KDATA;
    other.cs = KCODE;
    other.gs = UDATA | 3;
    other.io_bitmap = TSS_BYTES;
    gdt[TSS2 / 8] = segment((u32)(ulong)&other, TSS_BYTES - 1, 0x89, 0);
    gdt[GATE / 8] = task_gate(TSS2);
    far_pointer[0] = 0x12345678; // does not count
    far_pointer[1] = TSS2;
}

static void run_with(const u8 *code)
{
    run_at(&(struct start){(ulong)code, KCODE, 2, (ulong)case_stack_top, KDATA, .rbx = 0xabcd});
}

static void ways(void)
{
    prepare(second);
    run_with(jump);
    check("JMP, EIP", last.rip - (ulong)second, 2);
    check("JMP, EAX and EBX", (u64)last.rax << 32 | last.rbx, 0x100000003000);
    check("JMP, ESP", (ulong)other_stack + sizeof other_stack - last.rsp, 0);
    check("JMP, flags", last.flags, 2 | FLAG_CF);
    check("JMP, TS", read_cr0() & CR0_TS, CR0_TS);
    check("JMP, busy bits", BUSY(TSS_SEL(0)) << 8 | BUSY(TSS2), 0x898b);
    check("JMP, saved EIP", tss.eip - (ulong)jump_end, 0);
    check("JMP, saved EBX", tss.ebx, 0xabcd);
    check("JMP, saved CS", tss.cs, KCODE);
    check("JMP, no link", other.link, 0);

    static const struct {
        const char *nested, *back, *saved;
        const u8 *code, *end;
        u16 sel;
    } ways[] = {
        {"CALL of a TSS", "CALL of a TSS, IRET", "CALL of a TSS, saved EAX", call, call_end, TSS2},
        {"CALL of a task gate", "CALL of a task gate, IRET", "CALL of a task gate, saved EAX", call, call_end, GATE},
        {"INT through a task gate", "INT, IRET", "INT, saved EAX", by_int, by_int_end, 0},
    };
    for (unsigned i = 0; i < 3; i++) {
        prepare(second);
        far_pointer[1] = ways[i].sel;
        idt[0x40] = task_gate(TSS2);
        run_with(ways[i].code);
        check(ways[i].nested, (u64)last.flags << 32 | BUSY(TSS_SEL(0)) << 24 | BUSY(TSS2) << 16 | other.link,
              (u64)(2 | FLAG_CF | FLAG_NT) << 32 | 0x8b8b0000 | TSS_SEL(0));
        prepare(second_back);
        far_pointer[1] = ways[i].sel;
        run_with(ways[i].code);
        check(ways[i].back, (last.rip - (ulong)ways[i].end) << 16 | BUSY(TSS_SEL(0)) << 8 | BUSY(TSS2), 0x28b89);
        check(ways[i].saved, (u64)other.flags << 32 | other.eax, (u64)(2 | FLAG_CF) << 32 | 0x1001);
    }
    default_gate(0x40, 0);

    prepare(second);
    idt[GP] = task_gate(TSS2);
    run_with(fault);
    default_gate(GP, 0);
    check("#GP through a task gate, its error code", *(u32 *)(other_stack + sizeof other_stack - 4), 0xfff0);
    check("#GP through a task gate, saved EIP", tss.eip - (ulong)fault_at, 0);
    check("#GP through a task gate, saved RF", tss.flags & FLAG_RF, FLAG_RF);
}

static void refused(void)
{
    static const struct {
        const char *name;
        u8 access;
        u32 limit;
        u8 vector;
    } before[] = {
        {"busy", 0x8b, TSS_BYTES - 1, GP},
        {"not present", 0x09, TSS_BYTES - 1, NP},
        {"too small", 0x89, TSS_BYTES - 2, TS},
    };
    for (unsigned i = 0; i < 3; i++) {
        prepare(second);
        gdt[TSS2 / 8] = segment((u32)(ulong)&other, before[i].limit, before[i].access, 0);
        run_with(jump);
        check_trap(before[i].name, before[i].vector, TSS2, (ulong)jump, (ulong)jump, -1);
    }
    // After the switch: in the new task, at its first instruction.
    static const struct {
        const char *name;
        u8 field; // of struct tss, in words of 32 bits
        u16 val;
        u8 vector;
        u16 error;
    } after[] = {
        {"LDT beyond the GDT", 24, GDT_SIZE, TS, GDT_SIZE},
        {"LDT in an LDT", 24, 0xc, TS, 0xc},
        {"CS, data", 19, KDATA, TS, KDATA},
        {"CS, RPL", 19, KCODE | 3, TS, KCODE},
        {"SS, null", 20, 0, TS, 0},
        {"SS, DPL", 20, UDATA | 3, TS, UDATA},
        {"DS beyond the GDT", 21, GDT_SIZE, TS, GDT_SIZE},
        {"FS, a TSS", 22, TSS_SEL(0), TS, TSS_SEL(0)},
    };
    // The handler is a third task: the second one's stack may be what is wrong.
    static struct tss third __attribute__((aligned(4096)));
    for (unsigned i = 0; i < sizeof after / sizeof after[0]; i++) {
        prepare(second);
        memcpy(&third, &other, TSS_BYTES);
        gdt[GATE / 8] = segment((u32)(ulong)&third, TSS_BYTES - 1, 0x89, 0);
        idt[after[i].vector] = task_gate(GATE);
        ((u32 *)&other)[after[i].field] = after[i].val;
        run_with(jump);
        default_gate(after[i].vector, 0);
        check(after[i].name,
              (u64)(other.eip - (ulong)second) << 32 | third.link << 16 |
                  *(u32 *)(other_stack + sizeof other_stack - 4),
              (u32)TSS2 << 16 | after[i].error);
    }
}

int main(void)
{
    ways();
    refused();
    prepare(second);
    return 0;
}
