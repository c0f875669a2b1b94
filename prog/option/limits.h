// What --disk and --net say about limits: iops=N (disks) or pps=N (networks), bps=N, burst=MS.
#pragma once
#include "backend/rate.h"
#include "report/error.h"

// Takes one word such as "bps=10M". `operations` is what the first of them is called ("iops"); `who` goes before the
// message. 1: taken; 0: not one of these; -EINVAL: one of these, and wrong.
int limits_take(struct rate_limits *l, const char *operations, const char *word, const char *who, struct error *err);
