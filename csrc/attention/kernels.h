// What is compiled once per instruction set: attention for some rows of the heads that share a key head.
#pragma once

#include "attention/problem.h"

namespace xmkern::attention {

// The rows row_begin to row_end of all the heads that read one key head. `workspace` holds as many bytes as the
// kernels ask for, on a cache line.
struct Part {
  int64_t batch, key_head, row_begin, row_end;
  void* workspace;
};

// Where a part leaves its share of sums that go over several parts: of the gradients of key and value, float32 [places,
// depth] each (null: it is alone, and writes the gradients), and of the biases, per head of the group the vectors of
// all sources, one behind the other.
struct Shares {
  float *key, *value, *bias;
  int64_t bias_stride;
};

inline int64_t share_length(const BiasGradient& bias) {
  const bool vector = bias.form != BiasForm::none && bias.form != BiasForm::rows;
  return vector ? (bias.length + 15) / 16 * 16 : 0;
}

struct ForwardKernel {
  int64_t (*workspace)(const Problem&);
  void (*run)(const Problem&, const Part&);
};

// For calls with at most this many queries in all the heads that share a key head.
inline constexpr int decode_rows = 8;

struct DecodeKernel {
  int64_t (*workspace)(const Problem&);
  int64_t (*partial_size)(const Problem&);  // numbers that a part of the keys leaves of each row
  // All queries of the heads that share a key head, against tiles of 64 keys; `partials` has a row for each.
  void (*run)(const Problem&, int64_t batch, int64_t key_head, int64_t tile_begin, int64_t tile_end, void* workspace,
              float* partials);
  // Joins what `parts` parts left of a row, `part_stride` numbers from one to the next, in the first of them, and
  // stores it.
  void (*merge)(const Problem&, int64_t batch, int64_t head, int64_t query, float* partials, int64_t parts,
                int64_t part_stride);
};

struct BackwardKernel {
  int64_t (*workspace)(const Problem&);
  void (*run)(const Problem&, const Gradients&, const Part&, const Shares&);
  // Sums the shares that `count` parts left of one key head, `stride` numbers from one to the next, into its gradients.
  void (*add_shares)(const Problem&, const Gradients&, int64_t batch, int64_t key_head, const Shares& first,
                     int64_t count, int64_t stride);
};

}  // namespace xmkern::attention
