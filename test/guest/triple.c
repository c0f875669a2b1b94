// A triple fault: nothing can be delivered through an empty IDT, not even the double fault. The machine is at an end
// (a real one resets).
#include "lib/guest.h"

int main(void)
{
    check_true("alive", true);
    struct table_pointer empty = {0, 0};
    asm volatile("lidt %0; int3" ::"m"(empty));
    check_true("still alive after a triple fault", false);
    return 0;
}
