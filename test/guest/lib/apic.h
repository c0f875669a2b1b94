// Interrupt controllers and timers as far as the guests use them: LAPIC (xAPIC and x2APIC), IOAPIC, PIC, PIT, RTC.
// SDM vol. 3, chapter 11; 82093AA, 8259A, 8254, MC146818 data sheets.
#pragma once
#include "guest.h"

#define APIC_ID 0x20
#define APIC_VERSION 0x30
#define APIC_TPR 0x80
#define APIC_PPR 0xa0
#define APIC_EOI 0xb0
#define APIC_LDR 0xd0
#define APIC_DFR 0xe0
#define APIC_SVR 0xf0
#define APIC_ISR 0x100
#define APIC_TMR 0x180
#define APIC_IRR 0x200
#define APIC_ESR 0x280
#define APIC_ICR 0x300
#define APIC_ICR_HIGH 0x310
#define APIC_LVT_TIMER 0x320
#define APIC_LVT_LINT0 0x350
#define APIC_LVT_LINT1 0x360
#define APIC_LVT_ERROR 0x370
#define APIC_INITIAL_COUNT 0x380
#define APIC_CURRENT_COUNT 0x390
#define APIC_DIVIDE 0x3e0

#define LVT_MASKED 0x10000u
#define LVT_PERIODIC 0x20000u
#define LVT_TSC_DEADLINE 0x40000u
#define LVT_EXTINT 0x700u

#define ICR_FIXED 0u
#define ICR_LOWEST 0x100u
#define ICR_NMI 0x400u
#define ICR_INIT 0x500u
#define ICR_STARTUP 0x600u
#define ICR_LOGICAL 0x800u
#define ICR_PENDING 0x1000u
#define ICR_ASSERT 0x4000u
#define ICR_LEVEL 0x8000u
#define ICR_SELF 0x40000u
#define ICR_ALL 0x80000u
#define ICR_OTHERS 0xc0000u

static inline u32 apic_read(u32 reg)
{
    return *(volatile u32 *)(0xfee00000ul + reg);
}

static inline void apic_write(u32 reg, u32 v)
{
    *(volatile u32 *)(0xfee00000ul + reg) = v;
}

static inline void apic_eoi(void)
{
    apic_write(APIC_EOI, 0);
}

// On, spurious vector 0xff, everything local masked, TPR 0.
void apic_enable(void);
// Physical destination; waits until the IPI has left. command: ICR_... and vector.
void apic_ipi(u32 apic_id, u32 command);
// Interrupts must be off: returns when the vector is pending.
void apic_make_pending(u8 vector);
// One of the 256-bit registers (APIC_ISR, APIC_TMR, APIC_IRR).
bool apic_bit(u32 reg, u8 vector);

u32 ioapic_read(u8 reg);
void ioapic_write(u8 reg, u32 v);
// Redirection entry of a pin. low: vector, mode, mask as in the data sheet; high: destination.
void ioapic_route(u8 pin, u32 low, u8 apic_id);

// Vectors base to base + 15, all masked, no automatic EOI.
void pic_init(u8 base);
// 0: IRR, 1: ISR; both chips, the first in the low byte.
u16 pic_read(bool isr);
void pic_mask(u16 mask);

// Channel, mode as in the data sheet (0 one-shot, 2 rate), count of 1193182 Hz ticks.
void pit_start(unsigned channel, unsigned mode, u16 count);

u8 cmos_read(u8 reg);
void cmos_write(u8 reg, u8 v);
