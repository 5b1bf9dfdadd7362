// What is compiled once per instruction set: some columns of a product, for some of its rows.
#pragma once

#include "linear/linear.h"

namespace xmkern::linear {

// Columns that a task packs at most: with `most_steps` of their depth they fill most of a second-level cache.
inline constexpr int64_t most_columns = 256;
inline constexpr int64_t most_steps = 1024;
// Up to so many rows the columns are not packed, but read where they lie.
inline constexpr int64_t few_rows = 32;

struct Part {
  int64_t row_begin, row_end, column_begin, column_end;
  bool streamed;  // the result goes past the caches
};

struct Kernel {
  int64_t (*workspace)(const Product&, const Part&);  // bytes
  void (*run)(const Product&, const Part&, void* workspace);
};

}  // namespace xmkern::linear
