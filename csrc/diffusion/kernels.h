// What is compiled once per instruction set.
#pragma once

#include "diffusion/diffusion.h"

namespace xmkern::diffusion {

// What a step has to know of a whole sample before it begins.
struct Statistics {
  float guided;  // a guided prediction is multiplied with it
  float clip;    // x0 lies in [-clip, clip]
};

struct Kernels {
  // Elements `begin` to `end` of all samples, one after the other.
  void (*step)(const Step&, const Statistics* of_samples, int64_t begin, int64_t end);
  void (*q_sample)(const Noising&, int64_t begin, int64_t end);
  void (*normals)(void* out, Dtype, uint64_t seed, uint64_t offset, int64_t begin, int64_t end);
};

struct StatisticsKernel {
  // `keys` has room for the elements of a sample where thresholding is dynamic.
  Statistics (*run)(const Step&, int64_t sample, uint32_t* keys);
};

}  // namespace xmkern::diffusion
