// Recording a fault. What a fault does to the CPU is deliver.c's business.
#include "engine/interp/interp.h"

enum interp_result interp_fault(struct interp_vcpu *v, uint8_t vector)
{
    v->fault = (struct cpu_fault){.raised = true, .vector = vector};
    return INTERP_FAULT;
}

enum interp_result interp_fault_error(struct interp_vcpu *v, uint8_t vector, uint32_t error)
{
    v->fault = (struct cpu_fault){.raised = true, .vector = vector, .has_error = true, .error = error};
    return INTERP_FAULT;
}

enum interp_result interp_fault_page(struct interp_vcpu *v, uint64_t la, uint32_t error)
{
    v->fault = (struct cpu_fault){.raised = true, .vector = EXC_PF, .has_error = true, .error = error, .cr2 = la};
    return INTERP_FAULT;
}
