/*
 * The selectors of the guests' GDT (built in boot64.S and boot32.S), for C and assembly.
 *
 * The order is not free. SYSCALL loads CS from STAR[47:32] and SS 8 above it; SYSRET takes SS 8 and 64-bit CS 16 above
 * STAR[63:48]; SYSENTER and SYSEXIT count 8, 16, 24, 32, 40 up from IA32_SYSENTER_CS. One sequence serves all four:
 * KCODE64 KDATA UCODE32 UDATA UCODE64 UDATA.
 */
#ifndef SELECTORS_H
#define SELECTORS_H

#define KCODE64 0x08 /* in the 32-bit guests this slot holds a 32-bit code segment, see KCODE */
#define KDATA 0x10
#define UCODE32 0x18
#define UDATA 0x20
#define UCODE64 0x28
#define UDATA_SYSEXIT64 0x30
#define KCODE32 0x38
#define KCODE16 0x40
#define KDATA16 0x48
#define TSS_SEL(cpu) (0x50 + 16 * (cpu)) /* four CPUs; a 64-bit TSS descriptor takes two slots */
#define FREE_SEL 0x90                    /* from here to the limit the guest may put its own descriptors */
#define GDT_SIZE 0x200
#define TSS_BYTES 104

#ifdef __x86_64__
#define KCODE KCODE64
#define UCODE UCODE64
#else
#define KCODE KCODE32
#define UCODE UCODE32
#endif

/* Vectors, by the names the manuals give them. */
#define DE 0
#define DB 1
#define NMI 2
#define BP 3
#define OF 4
#define BR 5
#define UD 6
#define NM 7
#define DF 8
#define TS 10
#define NP 11
#define SS 12
#define GP 13
#define PF 14
#define MF 16
#define AC 17
#define MC 18
#define XM 19
#define DONE 0x80  /* int $DONE ends a case without a fault, from any ring */
#define NONE 0x100 /* "vector" of a case that ended so */

/* An error code for a vector that pushes none. In C a long, as the format %t of say() takes it. */
#ifdef __ASSEMBLER__
#define NOERR (-1)
#else
#define NOERR (-1l)
#endif

#endif
