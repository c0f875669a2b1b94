// How exceptions combine and which push an error code. Two small tables of the architecture.
//
// The combining rule looks at classes, not at vectors. Example: a #NP while a #GP is being delivered is two
// contributory exceptions, so a double fault; a #PF while a #GP is being delivered is handled after it, serially.
#include "cpu/exception.h"

// Intel SDM vol. 3, table 6-4.
enum class { BENIGN, CONTRIBUTORY, PAGE_FAULT, DOUBLE_FAULT };

static enum class class_of(uint8_t vector) {
    switch (vector){
        case EXC_DE : case EXC_TS : case EXC_NP : case EXC_SS : case EXC_GP : case EXC_CP : return CONTRIBUTORY;
        case EXC_PF : return PAGE_FAULT;
        case EXC_DF : return DOUBLE_FAULT;
        default : return BENIGN;
    }
}

enum cpu_combined cpu_exception_combine(uint8_t first, uint8_t second)
{
    enum class a = class_of(first), b = class_of(second);
    if (b == BENIGN || a == BENIGN)
        return CPU_SERIAL;
    if (a == DOUBLE_FAULT)
        return CPU_TRIPLE_FAULT;
    if (a == CONTRIBUTORY && b == PAGE_FAULT)
        return CPU_SERIAL;
    return CPU_DOUBLE_FAULT;
}

bool cpu_exception_has_error(uint8_t vector)
{
    switch (vector) {
    case EXC_DF:
    case EXC_TS:
    case EXC_NP:
    case EXC_SS:
    case EXC_GP:
    case EXC_PF:
    case EXC_AC:
    case EXC_CP:
        return true;
    default:
        return false;
    }
}
