// Pieces that lead elsewhere, and pieces that move RSP. See maker.h.
#include "maker.h"

void piece_branch(struct maker *m)
{
    unsigned next = (unsigned)(m->piece - m->p->piece) + 1 + below(m, 4);
    switch (below(m, 8)) {
    case 0:
        near(m, 0xe9, next);
        break;
    case 1: // loop, loope, loopne, jrcxz
        e_mov_imm(&m->e, CPU_RCX, below(m, 3));
        e8(&m->e, 0xe0 | below(m, 4));
        e8(&m->e, 0);
        refer(m, REF_SHORT, next, 0);
        break;
    case 2:
        e8(&m->e, 0x70 | below(m, 16));
        e8(&m->e, 0);
        refer(m, REF_SHORT, next, 0);
        break;
    default:
        near(m, 0x80 | below(m, 16), next);
    }
}

// Back, for as often as a counter in memory says.
void piece_loop(struct maker *m)
{
    unsigned r = value(m), n = (unsigned)(m->piece - m->p->piece);
    e_mov_imm(&m->e, r, m->p->setup.data + DATA_OWN * (uint64_t)PAGE + COUNTERS + 8 * below(m, 64));
    e8(&m->e, rex_for(0, NO_REG, NO_REG, r));
    e8(&m->e, 0xff); // decl
    e_mem(&m->e, 1, r, NO_REG, 1, 0);
    unsigned back = 1 + below(m, 12);
    near(m, 0x8f, n > back ? n - back : 0); // jg
}

void piece_call(struct maker *m)
{
    unsigned r = value(m), to = a_piece(m);
    uint64_t target = m->p->setup.data + DATA_OWN * (uint64_t)PAGE + TARGETS + 8 * below(m, TARGETS_TAKEN);
    switch (below(m, 8)) {
    case 0:
    case 1:
        near(m, 0xe8, to);
        break;
    case 2: // by register
        mov_address(m, r, REF_CODE, to, 0);
        if (r & 8)
            e8(&m->e, 0x41);
        e8(&m->e, 0xff);
        e8(&m->e, (chance(m, 50) ? 0xd0 : 0xe0) | (r & 7));
        break;
    case 3: // by memory
        e_mov_imm(&m->e, r, target);
        if (r & 8)
            e8(&m->e, 0x41);
        e8(&m->e, 0xff);
        e_mem(&m->e, chance(m, 50) ? 2 : 4, r, NO_REG, 1, 0);
        break;
    case 4: // push and return
        mov_address(m, r, REF_CODE, to, 0);
        push(m, r);
        e8(&m->e, 0xc3);
        break;
    case 5: // ret n
        mov_address(m, r, REF_CODE, to, 0);
        push(m, r);
        push(m, r);
        e8(&m->e, 0xc2);
        e8(&m->e, chance(m, 80) ? 8 : below(m, 256));
        e8(&m->e, chance(m, 95) ? 0 : 0xff);
        break;
    case 6: // a call that comes back
        e8(&m->e, 0xe8);
        e32(&m->e, 2);
        e8(&m->e, 0xeb); // behind the ret
        e8(&m->e, 4);
        push(m, below(m, 8));
        pop(m, below(m, 4));
        e8(&m->e, 0xc3);
        e8(&m->e, 0x90);
        break;
    default:
        e8(&m->e, 0xc3);
    }
}

void piece_push_pop(struct maker *m)
{
    switch (below(m, 9)) {
    case 0:
        e8(&m->e, 0x6a);
        e8(&m->e, below(m, 256));
        break;
    case 1:
        e8(&m->e, 0x68);
        e32(&m->e, (uint32_t)random_bits(&m->r));
        break;
    case 2: // memory
        e8(&m->e, 0x41);
        e8(&m->e, 0xff);
        e_mem(&m->e, 6, 8 | (pointer(m) & 7), NO_REG, 1, (int)below(m, 32));
        break;
    case 3:
        pop(m, value(m));
        break;
    case 4:
        pop(m, any(m));
        break;
    case 5:
        push(m, value(m));
        pop(m, one_of(m, m->indexes | m->values));
        break;
    case 6: // 16 bits
        e8(&m->e, 0x66);
        e8(&m->e, chance(m, 50) ? 0x50 : 0x58);
        break;
    default:
        push(m, any(m));
    }
}

void piece_rsp(struct maker *m)
{
    unsigned r = value(m);
    int small = (int)below(m, 32) * 8 - 128 + (chance(m, 10) ? (int)below(m, 8) : 0);
    switch (below(m, 14)) {
    case 0:
    case 1:
        rex_op(m, 0x83, chance(m, 50) ? 0 : 5, CPU_RSP); // add, sub
        e8(&m->e, (unsigned)small & 0xff);
        break;
    case 2:
        rex_op(m, 0x81, chance(m, 50) ? 0 : 5, CPU_RSP);
        e32(&m->e, chance(m, 70) ? below(m, 8192) : (uint32_t)random_bits(&m->r));
        break;
    case 3:
        e_lea(&m->e, CPU_RSP, CPU_RSP, NO_REG, 1, small);
        break;
    case 4:
        e_lea(&m->e, r, CPU_RSP, chance(m, 50) ? NO_REG : one_of(m, m->indexes & ~(1u << CPU_RSP)), 1, small);
        break;
    case 5:
        e_mov_imm(&m->e, CPU_RSP, stack_address(m));
        break;
    case 6: // there and back
        e_mov(&m->e, r, CPU_RSP);
        e_mov_imm(&m->e, CPU_RSP, stack_address(m));
        push(m, r);
        pop(m, chance(m, 50) ? CPU_RSP : one_of(m, m->indexes));
        break;
    case 7:
        e8(&m->e, rex_for(1, CPU_RSP, NO_REG, r)); // xchg
        e8(&m->e, 0x87);
        e8(&m->e, 0xc0 | CPU_RSP << 3 | (r & 7));
        if (chance(m, 70))
            e_mov(&m->e, CPU_RSP, r);
        break;
    case 8: // and rsp, -16
        rex_op(m, 0x83, 4, CPU_RSP);
        e8(&m->e, chance(m, 80) ? 0xf0 : below(m, 256));
        break;
    case 9: // a frame
        push(m, CPU_RBP);
        e_mov(&m->e, CPU_RBP, CPU_RSP);
        rex_op(m, 0x83, 5, CPU_RSP);
        e8(&m->e, 8 * below(m, 16));
        e_op64(&m->e, 0x89, r, CPU_RBP, NO_REG, 1, -8 * (int)below(m, 8));
        break;
    case 10:
        if (chance(m, 60))
            e_mov_imm(&m->e, CPU_RBP, stack_address(m));
        e8(&m->e, 0xc9); // leave
        break;
    case 11:
        e8(&m->e, 0xc8); // enter
        e8(&m->e, below(m, 256));
        e8(&m->e, 0);
        e8(&m->e, chance(m, 80) ? 0 : below(m, 32));
        break;
    case 12:
        e_mov(&m->e, CPU_RSP, chance(m, 50) ? CPU_RBP : any(m));
        break;
    default: // load, store, add at RSP
        e_op64(&m->e, chance(m, 40) ? 0x8b : chance(m, 60) ? 0x89 : 0x01, r, CPU_RSP, NO_REG, 1, small);
    }
}

// So that what follows is at a page's edge.
void piece_edge(struct maker *m)
{
    m->piece->room = (uint8_t)(1 + below(m, 15));
}
