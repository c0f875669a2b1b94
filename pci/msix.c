// MSI-X: see msix.h.
#include "pci/msix.h"
#include "pci/device.h"
#include <string.h>

enum { CONTROL = 2, CONTROL_MASK_ALL = 1 << 14, CONTROL_ENABLE = 1 << 15, CAPABILITY_SIZE = 12 };
enum { ENTRY_SIZE = 16, WORD_ADDRESS = 0, WORD_ADDRESS_HIGH = 1, WORD_DATA = 2, WORD_CONTROL = 3, VECTOR_MASKED = 1 };

void pci_msix_add(struct pci_function *f, unsigned bar, uint32_t table_offset, uint32_t pba_offset, unsigned count)
{
    uint8_t cap[CAPABILITY_SIZE] = {0}, writable[CAPABILITY_SIZE] = {0};
    uint16_t control = (uint16_t)(count - 1);
    uint32_t table = table_offset | bar, pba = pba_offset | bar;
    memcpy(cap + CONTROL, &control, 2);
    memcpy(cap + 4, &table, 4);
    memcpy(cap + 8, &pba, 4);
    control = CONTROL_ENABLE | CONTROL_MASK_ALL;
    memcpy(writable + CONTROL, &control, 2);
    f->msix = (struct pci_msix){.count = count, .bar = bar, .table_offset = table_offset, .pba_offset = pba_offset};
    f->msix.capability = pci_capability_add(f, PCI_CAP_MSIX, cap, writable, sizeof cap);
    pci_msix_reset(f);
}

static uint16_t control_of(const struct pci_function *f)
{
    uint16_t control;
    memcpy(&control, f->value + f->msix.capability + CONTROL, 2);
    return control;
}

bool pci_msix_enabled(const struct pci_function *f)
{
    return f->msix.count && (control_of(f) & CONTROL_ENABLE);
}

static void send(struct pci_function *f, unsigned vector)
{
    const uint32_t *entry = &f->msix.table[4 * vector];
    irq_msi(f->dev.vm, entry[WORD_ADDRESS] | (uint64_t)entry[WORD_ADDRESS_HIGH] << 32, entry[WORD_DATA]);
}

static bool may_send(const struct pci_function *f, unsigned vector)
{
    // A message is a memory write of the function's, so it needs bus mastering.
    return !(control_of(f) & CONTROL_MASK_ALL) && (pci_command(f) & PCI_COMMAND_MASTER) &&
           !(f->msix.table[4 * vector + WORD_CONTROL] & VECTOR_MASKED);
}

void pci_msix_fire(struct pci_function *f, unsigned vector)
{
    if (!pci_msix_enabled(f) || vector >= f->msix.count)
        return;
    if (may_send(f, vector))
        send(f, vector);
    else
        f->msix.pending |= 1ull << vector;
}

void pci_msix_update(struct pci_function *f)
{
    if (!pci_msix_enabled(f))
        return;
    for (unsigned v = 0; v < f->msix.count; v++) {
        if ((f->msix.pending >> v & 1) && may_send(f, v)) {
            f->msix.pending &= ~(1ull << v);
            send(f, v);
        }
    }
}

void pci_msix_reset(struct pci_function *f)
{
    memset(f->msix.table, 0, sizeof f->msix.table);
    for (unsigned v = 0; v < f->msix.count; v++)
        f->msix.table[4 * v + WORD_CONTROL] = VECTOR_MASKED;
    f->msix.pending = 0;
}

void pci_msix_loaded(struct pci_function *f)
{
    struct pci_msix *m = &f->msix;
    for (unsigned v = 0; v < PCI_MSIX_VECTORS; v++)
        m->table[4 * v + WORD_CONTROL] &= VECTOR_MASKED;
    m->pending &= m->count < 64 ? (1ull << m->count) - 1 : UINT64_MAX;
}

// Splits an access to the BAR into its words; *word is the first one's index. False if it isn't aligned.
static bool words(uint64_t offset, unsigned size, unsigned *word, unsigned *count)
{
    *word = (unsigned)(offset / 4);
    *count = size / 4;
    return (size == 4 || size == 8) && offset % size == 0;
}

static bool in_table(const struct pci_msix *m, unsigned bar, uint64_t offset)
{
    return m->count && bar == m->bar && offset >= m->table_offset && offset - m->table_offset < ENTRY_SIZE * m->count;
}

static bool in_pba(const struct pci_msix *m, unsigned bar, uint64_t offset)
{
    return m->count && bar == m->bar && offset >= m->pba_offset && offset - m->pba_offset < 8;
}

bool pci_msix_read(const struct pci_function *f, unsigned bar, uint64_t offset, unsigned size, uint64_t *val)
{
    const struct pci_msix *m = &f->msix;
    unsigned word, count;
    *val = 0;
    if (in_table(m, bar, offset)) {
        if (words(offset - m->table_offset, size, &word, &count))
            memcpy(val, &m->table[word], 4 * count); // entries are 16 bytes: an aligned access never leaves one
        return true;
    }
    if (in_pba(m, bar, offset)) {
        if (words(offset - m->pba_offset, size, &word, &count))
            *val = count == 2 ? m->pending : (uint32_t)(m->pending >> 32 * word);
        return true;
    }
    return false;
}

bool pci_msix_write(struct pci_function *f, unsigned bar, uint64_t offset, unsigned size, uint64_t val)
{
    struct pci_msix *m = &f->msix;
    unsigned word, count;
    if (in_table(m, bar, offset)) {
        if (words(offset - m->table_offset, size, &word, &count)) {
            for (unsigned i = 0; i < count; i++, val >>= 32) {
                bool control = (word + i) % 4 == WORD_CONTROL;
                m->table[word + i] = (uint32_t)val & (control ? VECTOR_MASKED : UINT32_MAX); // the rest is reserved
            }
            pci_msix_update(f);
        }
        return true;
    }
    return in_pba(m, bar, offset); // read-only
}
