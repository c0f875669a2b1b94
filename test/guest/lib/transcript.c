// The transcript: lines to port 0xe9, counted, and the way out through port 0xf4. See guest.h for the format.
#include "guest.h"

#define DEBUG_CONSOLE 0xe9
#define DEBUG_EXIT 0xf4

static unsigned cases, failed;

static void put_string(const char *s)
{
    while (*s)
        outb(DEBUG_CONSOLE, (u8)*s++);
}

static void put_hex(u64 v)
{
    put_string("0x");
    int shift = 60;
    while (shift && !(v >> shift))
        shift -= 4;
    for (; shift >= 0; shift -= 4)
        outb(DEBUG_CONSOLE, (u8) "0123456789abcdef"[v >> shift & 15]);
}

static void put_unsigned(u32 v)
{
    if (v >= 10)
        put_unsigned(v / 10);
    outb(DEBUG_CONSOLE, (u8)('0' + v % 10));
}

static void put_trap(ulong vector, long error)
{
    static const char names[][4] = {"DE", "DB", "NMI", "BP", "OF", "BR", "UD", "NM", "DF", "09",
                                    "TS", "NP", "SS",  "GP", "PF", "15", "MF", "AC", "MC", "XM"};
    if (vector == NONE) {
        put_string("no fault");
        return;
    }
    if (vector < sizeof names / sizeof names[0]) {
        put_string("#");
        put_string(names[vector]);
    } else {
        put_string("vector ");
        put_hex(vector);
    }
    if (error != NOERR) {
        put_string("(");
        for (int shift = 12; shift >= 0; shift -= 4)
            outb(DEBUG_CONSOLE, (u8) "0123456789abcdef"[error >> shift & 15]);
        put_string(")");
    }
}

static void say_list(const char *f, va_list ap)
{
    for (; *f; f++) {
        if (*f != '%') {
            outb(DEBUG_CONSOLE, (u8)*f);
            continue;
        }
        switch (*++f) {
        case 's':
            put_string(va_arg(ap, const char *));
            break;
        case 'c':
            outb(DEBUG_CONSOLE, (u8)va_arg(ap, int));
            break;
        case 'x':
            put_hex(va_arg(ap, ulong));
            break;
        case 'X':
            put_hex(va_arg(ap, u64));
            break;
        case 'u':
            put_unsigned(va_arg(ap, u32));
            break;
        case 't': {
            ulong vector = va_arg(ap, ulong);
            put_trap(vector, va_arg(ap, long));
            break;
        }
        default:
            outb(DEBUG_CONSOLE, (u8)*f);
        }
    }
}

void say(const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    say_list(format, ap);
    va_end(ap);
}

bool verdict(const char *name, bool good)
{
    cases++;
    failed += !good;
    say("%s %s: ", good ? "ok  " : "FAIL", name);
    return good;
}

bool check(const char *name, u64 got, u64 want)
{
    if (verdict(name, got == want))
        say("%X\n", got);
    else
        say("got %X, want %X\n", got, want);
    return got == want;
}

bool check_true(const char *name, bool holds)
{
    verdict(name, holds);
    say(holds ? "yes\n" : "no\n");
    return holds;
}

bool left_out(const char *name)
{
    // Multiboot information: flags at 0 (bit 2: there is a command line), its address at 16.
    const u32 *info = (const u32 *)(ulong)boot_info;
    const char *line = info[0] & 4 ? (const char *)(ulong)info[4] : "";

    for (; *line; line++) {
        if (*line != '[')
            continue;
        const char *a = line + 1, *b = name;
        while (*b && *a == *b)
            a++, b++;
        if (*b == 0 && *a == ']') {
            skip(name, "left out on request");
            return true;
        }
    }
    return false;
}

void skip(const char *name, const char *why)
{
    say("skip %s: %s\n", name, why);
}

bool check_trap(const char *name, ulong vector, long error, ulong rip, ulong base, ulong cr2)
{
    bool good = last.vector == vector && (error == NOERR || (ulong)error == last.error) &&
                (vector == NONE || rip == 0 || rip == last.rip) &&
                (vector != PF || cr2 == (ulong)-1 || cr2 == last.cr2);
    // A vector that pushes an error code shows it, whatever was wanted.
    bool has_error = (last.vector >= DF && last.vector <= PF && last.vector != 9) || last.vector == AC;

    if (!verdict(name, good))
        say("got ");
    say("%t", last.vector, has_error ? (long)last.error : NOERR);
    if (last.vector != NONE && (rip || !good))
        say(" rip+%x", last.rip - base);
    if (last.vector == PF && (cr2 != (ulong)-1 || !good))
        say(" cr2=%x", last.cr2);
    if (!good) {
        say(", want %t", vector, error);
        if (rip && vector != NONE)
            say(" rip+%x", rip - base);
        if (vector == PF && cr2 != (ulong)-1)
            say(" cr2=%x", cr2);
    }
    say("\n");
    return good;
}

static _Noreturn void leave(u8 value)
{
    outl(DEBUG_EXIT, value);
    // No such port: this is not QEMU or Trapeze. Bochs ends when it reads this word on its own port.
    for (const char *s = "Shutdown"; *s; s++)
        outb(0x8900, (u8)*s);
    for (;;)
        asm volatile("cli; hlt");
}

_Noreturn void finish(void)
{
    say("done: %u cases, %u failed\n", cases, failed);
    leave(failed != 0);
}

_Noreturn void panic(const char *format, ...)
{
    va_list ap;
    say("panic: ");
    va_start(ap, format);
    say_list(format, ap);
    va_end(ap);
    say("\n");
    leave(2);
}

// The compiler may call these for plain assignments.
void *memset(void *to, int c, size_t n)
{
    void *d = to;
    asm volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(c) : "memory");
    return to;
}

void *memcpy(void *restrict to, const void *restrict from, size_t n)
{
    void *d = to;
    asm volatile("rep movsb" : "+D"(d), "+S"(from), "+c"(n)::"memory");
    return to;
}
