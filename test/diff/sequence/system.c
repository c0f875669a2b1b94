// Pieces that change code and page tables, and pieces of instructions that only operating systems use. See maker.h.
#include "maker.h"

// Something with an immediate byte that others can change.
void piece_patchable(struct maker *m)
{
    unsigned r = value(m);
    if (chance(m, 50)) { // mov r32, imm32
        e8(&m->e, rex_for(0, NO_REG, NO_REG, r));
        e8(&m->e, 0xb8 | (r & 7));
        m->piece->patch = (uint8_t)(here(m) + below(m, 4));
        e32(&m->e, (uint32_t)random_bits(&m->r));
    } else { // add, or, adc, sbb, and, sub, xor, cmp r64, imm8
        rex_op(m, 0x83, below(m, 8), r);
        m->piece->patch = (uint8_t)here(m);
        e8(&m->e, below(m, 256));
    }
}

void piece_modify(struct maker *m)
{
    unsigned r = value(m), by = any(m) & 7;
    mov_address(m, r, chance(m, 50) ? REF_ALIAS : REF_CODE, 0, PATCH);
    switch (below(m, 5)) {
    case 0: // movb
        e8(&m->e, rex_for(0, NO_REG, NO_REG, r));
        e8(&m->e, 0xc6);
        e_mem(&m->e, 0, r, NO_REG, 1, 0);
        e8(&m->e, below(m, 256));
        break;
    case 1: // incb
        e8(&m->e, rex_for(0, NO_REG, NO_REG, r));
        e8(&m->e, 0xfe);
        e_mem(&m->e, 0, r, NO_REG, 1, 0);
        break;
    case 2: // lock add
        e8(&m->e, 0xf0);
        e8(&m->e, rex_for(0, NO_REG, NO_REG, r));
        e8(&m->e, 0x00);
        e_mem(&m->e, by, r, NO_REG, 1, 0);
        break;
    case 3: // rep stosb
        e_mov(&m->e, CPU_RDI, r);
        e_mov_imm(&m->e, CPU_RCX, 1);
        e8(&m->e, 0xf3);
        e8(&m->e, 0xaa);
        break;
    default: // xchg
        e8(&m->e, rex_for(0, NO_REG, NO_REG, r));
        e8(&m->e, 0x86);
        e_mem(&m->e, by, r, NO_REG, 1, 0);
    }
}

// A page table entry changes, and the TLB is told.
void piece_remap(struct maker *m)
{
    static const struct {
        uint8_t page;
        uint32_t change;
    } data[] = {{DATA_SECOND, SECOND_TWIN}, {DATA_SECOND, 1}, {DATA_FIRST, 2}, {DATA_OWN, 0x100}, {DATA_READONLY, 2}};
    unsigned r = value(m), n = below(m, sizeof data / sizeof *data);
    uint64_t la = m->p->setup.data + data[n].page * (uint64_t)PAGE;
    uint32_t change = data[n].change;
    if (chance(m, 40)) {
        la = m->p->setup.code + PAGE * (uint64_t)below(m, CODE_PAGES);
        change = CODE_TWIN;
    } else if (chance(m, 20)) {
        la = m->p->setup.stack + PAGE * (uint64_t)(1 + below(m, STACK_PAGES));
        change = 2;
    }
    e_mov_imm(&m->e, r, (uint64_t)-1 << 48 | (uint64_t)TABLES_SLOT << 39 | ((la >> 12) & 0xfffffffff) << 3);
    e8(&m->e, rex_for(0, NO_REG, NO_REG, r));
    e8(&m->e, 0x81); // xorl
    e_mem(&m->e, 6, r, NO_REG, 1, 0);
    e32(&m->e, change);
    if (change != 0x100 && chance(m, 50)) {
        static const uint8_t reload[] = {0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8}; // mov rax, cr3; mov cr3, rax
        e_bytes(&m->e, reload, sizeof reload);
    }
    e_mov_imm(&m->e, r, la);
    e8(&m->e, rex_for(0, NO_REG, NO_REG, r));
    e8(&m->e, 0x0f); // invlpg
    e8(&m->e, 0x01);
    e_mem(&m->e, 7, r, NO_REG, 1, 0);
    all_flags(m); // those of the entry tell of its accessed and dirty bits
}

void piece_flags_register(struct maker *m)
{
    uint32_t f = (uint32_t)random_bits(&m->r) & 0xcd5;
    if (chance(m, 20))
        f |= (uint32_t)random_bits(&m->r) & 0x247200;
    if (chance(m, 10))
        f |= 0x100;
    if (chance(m, 60))
        f |= 0x200;
    if (chance(m, 40)) {
        e8(&m->e, 0x9c); // pushf
        if (chance(m, 50))
            pop(m, value(m));
        return;
    }
    e8(&m->e, 0x68);
    e32(&m->e, f);
    e8(&m->e, 0x9d);
}

#define BYTES(text)                                                                                                    \
    {                                                                                                                  \
        text, sizeof text - 1                                                                                          \
    }

void piece_system(struct maker *m)
{
    static const struct {
        const char *bytes;
        uint8_t len;
    } list[] = {
        BYTES("\xfa"),                                         // cli
        BYTES("\xfb"),                                         // sti
        BYTES("\xfb"),                                         // sti
        BYTES("\xf4"),                                         // hlt
        BYTES("\xfc"),                                         // cld
        BYTES("\xcc"),                                         // int3
        BYTES("\xcd\x41"),                                     // int 0x41
        BYTES("\xf1"),                                         // int1
        BYTES("\x0f\x0b"),                                     // ud2
        BYTES("\x31\xc9\xf7\xf1\x39\xc9"),                     // xor ecx, ecx; div ecx
        BYTES("\x0f\x05"),                                     // syscall
        BYTES("\x0f\x06"),                                     // clts
        BYTES("\x0f\x01\xf8"),                                 // swapgs
        BYTES("\x0f\x01\xca"),                                 // clac
        BYTES("\x0f\x01\xcb"),                                 // stac
        BYTES("\x0f\x01\xd9"),                                 // vmmcall
        BYTES("\x0f\x31"),                                     // rdtsc
        BYTES("\x31\xc0\x0f\xa2"),                             // xor eax, eax; cpuid
        BYTES("\x31\xc9\x0f\x01\xd0"),                         // xor ecx, ecx; xgetbv
        BYTES("\x0f\x20\xc0\x83\xf0\x08\x0f\x22\xc0"),         // mov rax, cr0; xor eax, 8; mov cr0, rax
        BYTES("\x0f\x20\xc0\x35\x00\x00\x01\x00\x0f\x22\xc0"), // the same with WP
        BYTES("\x0f\x20\xe0\x35\x00\x02\x00\x00\x0f\x22\xe0"), // CR4.OSFXSR
        BYTES("\x0f\x20\xe0\x34\x80\x0f\x22\xe0"),             // CR4.PGE
        BYTES("\x44\x0f\x20\xc0"),                             // mov rax, cr8
        BYTES("\xb8\x10\x00\x00\x00\x8e\xd0"),                 // mov ss, 0x10
        BYTES("\xb8\x23\x00\x00\x00\x8e\xd0"),                 // mov ss, 0x23
        BYTES("\xb8\x10\x00\x00\x00\x8e\xd8"),                 // mov ds, 0x10
        BYTES("\x8c\xc8\x8c\xd2"),                             // mov eax, cs; mov edx, ss
        BYTES("\xe4\x80"),                                     // in al, 0x80
        BYTES("\xe7\x80"),                                     // out 0x80, eax
        BYTES("\xe6\x41"),                                     // out PORT_INTERRUPT, al
        BYTES("\xe6\x41"),                                     //
        BYTES("\xf3\x48\x0f\xae\xc8"),                         // rdgsbase rax
        BYTES("\xf3\x48\x0f\xae\xc2"),                         // rdfsbase rdx
        BYTES("\x0f\xae\xe8"),                                 // lfence
        BYTES("\x0f\x09"),                                     // wbinvd
        BYTES("\xdb\xe3"),                                     // fninit
        BYTES("\x0f\x77"),                                     // emms
        BYTES("\xc5\xfc\x77"),                                 // vzeroall
        BYTES("\x9b"),                                         // fwait
    };
    unsigned n = below(m, sizeof list / sizeof *list);
    e_bytes(&m->e, list[n].bytes, list[n].len);
}

// A base of FS or GS, or a use of one.
void piece_segment(struct maker *m)
{
    unsigned r = value(m);
    if (chance(m, 30)) {
        e_mov_imm(&m->e, r, data_address(m));
        e8(&m->e, 0xf3); // wrfsbase, wrgsbase
        e8(&m->e, rex_for(1, NO_REG, NO_REG, r));
        e8(&m->e, 0x0f);
        e8(&m->e, 0xae);
        e8(&m->e, (chance(m, 50) ? 0xd0 : 0xd8) | (r & 7));
        return;
    }
    e8(&m->e, chance(m, 50) ? 0x64 : 0x65);
    e_op64(&m->e, chance(m, 50) ? 0x8b : 0x89, r, chance(m, 50) ? NO_REG : one_of(m, m->indexes & ~(1u << CPU_RSP)),
           NO_REG, 1, (int)below(m, 256));
}
