// Steps of diffusion on the CPU. xmkern/ops/diffusion/README.md has the formulas.
#pragma once

#include <stdint.h>

#include "core/dtype.h"

namespace xmkern::diffusion {

// Normal numbers are drawn so many at a time.
inline constexpr int64_t normal_tile = 64;

// Contiguous elements of each sample; null: none.
struct Operand {
  const void* data;
  int64_t stride;  // from sample to sample, in elements
};

// Where z comes from: given, drawn, or nowhere.
struct Noise {
  Operand given;
  Dtype dtype;
  bool drawn;
  uint64_t seed, offset;  // the numbers of the seed's sequence from `offset` on
};

enum class Variance : int { fixed, learned, learned_range };

// Everything of one step; the weights are named as in xmkern/ops/diffusion/reference.py.
struct Step {
  Dtype dtype;
  int64_t samples, elements;
  int64_t row;  // of a mask that the channels share: its elements, else those of a sample
  Operand sample, output, conditional, variance, known, mask, history[3];
  Noise noise;
  void *previous, *original;  // contiguous; null: not wanted
  Variance deviation;
  float from_sample, from_output, of_sample, of_original, of_output, of_noise, churn, of_history[3];
  float of_known, known_noise;
  float log2_low, log2_slope;  // log2 of the deviation is low + slope v
  float guidance, clip;
  double rescale, ratio;  // the ratio is negative where thresholding is not dynamic
};

void step(const Step& step, int threads);

// x_t and perhaps a target, each sample at a time of its own.
struct Noising {
  Dtype dtype;
  int64_t samples, elements;
  Operand sample;
  Noise noise;
  const float* levels;  // [sample, {sqrt(abar), sqrt(1 - abar)}]
  void* noisy;
  void *velocity, *drawn;  // null: not wanted
};

void q_sample(const Noising& noising, int threads);

// The numbers `offset` to offset + count of the sequence of a seed.
void normals(void* out, Dtype dtype, int64_t count, uint64_t seed, uint64_t offset, int threads);

}  // namespace xmkern::diffusion
