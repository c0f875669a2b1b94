// What the vCPUs of a VM share: the memory map, the world's lock, the list of vCPUs.
#pragma once
#include "engine/interp/interp.h"
#include "engine/interp/ram.h"
#include "engine/interp/world.h"

struct interp_vm {
    struct engine_vm base;
    struct interp_world world;
    struct interp_ram ram;
    _Atomic unsigned vcpus;            // changes under world.stop_lock
    struct interp_vcpu *vcpu[CPU_MAX]; // dense; guarded by world.stop_lock
};
