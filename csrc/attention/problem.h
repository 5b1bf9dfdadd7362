// Attention as the kernels see it. xmkern/ops/attention/README.md has the formulas.
#pragma once

#include <stdint.h>

#include "core/dtype.h"

namespace xmkern::attention {

// A tensor [batch, head, row, column], its last axis dense; strides in elements.
struct Operand {
  void* data;
  int64_t batch, head, row;
};

// What a mask program reads: a tensor over [batch, head, query, key] with stride 0 where it does not vary.
struct MaskTensor {
  const void* data;
  int64_t batch, head, query, key;
};

// A mask is a postfix program: each instruction is its code followed by its operands. Empty: everything is visible.
enum class MaskCode : int64_t {
  conjunction,  // pops two, pushes one
  disjunction,
  band,         // low, high: low <= key - query <= high
  key_lengths,  // tensor of int64: key < lengths[batch]
  grid,         // text, height, width, row low, row high, column low, column high; see mask.h
  segments,     // two tensors of int64: ids of queries, ids of keys; equal ones see each other
  dense,        // tensor of bool
};

struct Mask {
  const int64_t* program;
  int64_t length;
  const MaskTensor* tensors;
};

// What is added to the scores, in float32; null data: nothing. With buckets, int32 [query, key], the element at a place
// is the one that its bucket numbers: `key` is then the stride between the numbers.
struct Bias {
  const float* data;
  int64_t batch, head, query, key;
  const int32_t* buckets;
};

// threshold: a random word below it drops the element; 0: no dropout.
struct Dropout {
  uint32_t threshold;
  uint64_t seed;
  float kept_scale;  // 1 / (1 - p)
};

// Keys and values, with their own mask and bias; the softmax goes over the keys of all sources.
struct Source {
  int64_t keys;
  Operand key, value;
  Mask mask;
  Bias bias;
  // Of the first key among those of all sources, each of which begins with a tile of 64 keys; see lay_out.
  int64_t place = 0;
};

struct Problem {
  int64_t batches, heads, key_heads, queries, depth, value_depth;
  Dtype dtype;
  float scale;
  Operand query, out;
  float* lse;  // [batch, head, query]
  Dropout dropout;
  // By lay_out:
  const Source* sources = nullptr;
  int64_t source_count = 0;
  int64_t places = 0;   // behind the last key
  bool biased = false;  // some source is
};

// Gives the sources their places, each behind the one before, and the problem its sources.
void lay_out(Problem& problem, Source* sources, int64_t count);

// How the gradient of a bias is gathered: into its own rows where it has any (`rows`), else into a vector over the last
// axis, which is small: over keys, over diagonals (Toeplitz), or over buckets.
enum class BiasForm : int { none, rows, keys, diagonals, buckets };

struct BiasGradient {
  BiasForm form;
  float* data;
  int64_t batch, head, query, key;  // strides, 0 where it does not vary
  int64_t length;                   // of the vector
};

struct SourceGradients {
  Operand key, value;
  BiasGradient bias;
};

struct Gradients {
  Operand out;       // given
  const float* lse;  // given, [batch, head, query]; null: zero
  Operand query;
  const SourceGradients* sources;
};

}  // namespace xmkern::attention
