// What is compiled once per instruction set: some rows of the matrix against a strip of its columns.
#pragma once

#include "contrastive/problem.h"

namespace xmkern::contrastive {

// Rows are taken in blocks, columns in strips.
inline constexpr int64_t block_rows = 144;
inline constexpr int64_t strip_columns = 256;

// The columns are at most a strip. `workspace` holds as many bytes as the kernel asks for, on a cache line.
struct Part {
  int64_t row_begin, row_end, column_begin, column_end;
  void* workspace;
};

struct Kernel {
  int64_t (*forward_workspace)(const Problem&);
  int64_t (*backward_workspace)(const Problem&);
  void (*forward)(const Problem&, const Totals& rows, const Totals& columns, const Part&);
  // With totals, of softplus, its forward too.
  void (*backward)(const Problem&, const Gradients&, const Totals* rows, const Part&);
};

}  // namespace xmkern::contrastive
