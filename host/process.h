// Processor time of a process and of the processes that work for it.
#pragma once
#include <stdint.h>

// Nanoseconds that this process has had, its children that live, and those of its children that it has waited for.
// Children are found where the kernel lists them (/proc/self/task/*/children); else those that live are left out.
uint64_t process_family_cpu_ns(void);
