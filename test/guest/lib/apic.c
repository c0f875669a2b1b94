// See apic.h.
#include "apic.h"

void apic_enable(void)
{
    apic_write(APIC_SVR, 0x1ff);
    apic_write(APIC_TPR, 0);
    apic_write(APIC_LVT_TIMER, LVT_MASKED);
    apic_write(APIC_LVT_LINT0, LVT_MASKED);
    apic_write(APIC_LVT_LINT1, LVT_MASKED);
    apic_write(APIC_LVT_ERROR, LVT_MASKED);
    apic_write(APIC_INITIAL_COUNT, 0);
}

void apic_ipi(u32 apic_id, u32 command)
{
    apic_write(APIC_ICR_HIGH, apic_id << 24);
    apic_write(APIC_ICR, command);
    while (apic_read(APIC_ICR) & ICR_PENDING)
        pause();
}

bool apic_bit(u32 reg, u8 vector)
{
    return apic_read(reg + vector / 32 * 16) >> vector % 32 & 1;
}

void apic_make_pending(u8 vector)
{
    apic_ipi(0, ICR_SELF | ICR_ASSERT | vector);
    while (!apic_bit(APIC_IRR, vector))
        pause();
}

#define IOAPIC 0xfec00000ul

u32 ioapic_read(u8 reg)
{
    *(volatile u32 *)IOAPIC = reg;
    return *(volatile u32 *)(IOAPIC + 0x10);
}

void ioapic_write(u8 reg, u32 v)
{
    *(volatile u32 *)IOAPIC = reg;
    *(volatile u32 *)(IOAPIC + 0x10) = v;
}

void ioapic_route(u8 pin, u32 low, u8 apic_id)
{
    ioapic_write(0x10 + 2 * pin, LVT_MASKED);
    ioapic_write(0x11 + 2 * pin, (u32)apic_id << 24);
    ioapic_write(0x10 + 2 * pin, low);
}

void pic_init(u8 base)
{
    outb(0x20, 0x11); // ICW1: edge, cascade, ICW4 follows
    outb(0xa0, 0x11);
    outb(0x21, base);
    outb(0xa1, base + 8);
    outb(0x21, 4); // the second chip is at the first one's input 2
    outb(0xa1, 2);
    outb(0x21, 1); // 8086 mode
    outb(0xa1, 1);
    pic_mask(0xffff);
}

u16 pic_read(bool isr)
{
    outb(0x20, 0x0a | isr);
    outb(0xa0, 0x0a | isr);
    return inb(0x20) | inb(0xa0) << 8;
}

void pic_mask(u16 mask)
{
    outb(0x21, (u8)mask);
    outb(0xa1, mask >> 8);
}

void pit_start(unsigned channel, unsigned mode, u16 count)
{
    outb(0x43, (u8)(channel << 6 | 0x30 | mode << 1));
    outb((u16)(0x40 + channel), (u8)count);
    outb((u16)(0x40 + channel), count >> 8);
}

u8 cmos_read(u8 reg)
{
    outb(0x70, reg);
    return inb(0x71);
}

void cmos_write(u8 reg, u8 v)
{
    outb(0x70, reg);
    outb(0x71, v);
}
