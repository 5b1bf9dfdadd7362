// What is compiled once per instruction set: the plan of one sample.
#pragma once

#include "transport/transport.h"

namespace xmkern::transport {

struct PlanKernel {
  int64_t (*workspace)(const Problem&);  // bytes, on a cache line
  void (*run)(const Problem&, int64_t sample, void* workspace);
};

}  // namespace xmkern::transport
