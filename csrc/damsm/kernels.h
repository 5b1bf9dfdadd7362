// What is compiled once per instruction set: one image against the words of all captions.
#pragma once

#include "damsm/damsm.h"

namespace xmkern::damsm {

// Below this norm of a word times that of its context, their cosine is the product over this (AttnGAN's clamp).
inline constexpr float least_norm = 1e-8f;

// Captions whose words are the rows of one product. Rows are counted over all captions, padding left out.
struct Group {
  int64_t caption_begin, caption_end, row_begin, rows;
};

// All groups, and their words as the kernels' `pack` left them, `bytes` apart.
struct Captions {
  const Group* groups;
  int64_t count, most_rows;
  char* packed;
  int64_t bytes;
};

struct WordKernel {
  int64_t (*bytes)(const Problem&, int64_t most_rows);  // of one packed group
  void (*pack)(const Problem&, const Captions&, int64_t group);
};

// Workspaces hold as many bytes as the kernels ask for, on a cache line.
struct ForwardKernel {
  int64_t (*workspace)(const Problem&, int64_t most_rows);
  void (*run)(const Problem&, const Captions&, int64_t image, int64_t group_begin, int64_t group_end, void* workspace);
};

// A share of the gradient of words, float32: a row of `depth` numbers, in whole vectors of 16, per word; then, per
// word, what is taken from it of the word itself.
struct BackwardKernel {
  int64_t (*workspace)(const Problem&, int64_t most_rows);
  // Writes the image's gradient; adds to the share, or begins it.
  void (*run)(const Problem&, const Gradients&, const Captions&, int64_t image, float* share, bool begin,
              void* workspace);
  // Sums `count` shares, `stride` numbers from one to the next, for the words of one group.
  void (*add_shares)(const Problem&, const Gradients&, const Captions&, int64_t group, const float* shares,
                     int64_t count, int64_t stride);
};

}  // namespace xmkern::damsm
