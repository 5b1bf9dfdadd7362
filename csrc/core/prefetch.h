// Asks for memory that is needed soon, for kernel sources (see core/capability.h).
#pragma once

#include <stdint.h>

namespace xmkern::XMKERN_CAPABILITY {

// Rows that come into the second-level cache a line at a time, at each step of a product, so that they cost next to
// nothing. Asked for all at once they would fill the queue of misses, and what the product reads would wait behind
// them.
class Prefetcher {
 public:
  // `count` rows of `bytes` each, `apart` bytes from one to the next. What there is no room to remember is not asked
  // for.
  void add(const void* rows, int64_t apart, int64_t count, int64_t bytes) {
    if (pieces_ < most && count > 0) piece_[pieces_++] = {static_cast<const char*>(rows), apart, count, bytes};
  }

  void next() {
    if (at_ >= end_ && !begin_row()) return;
    __builtin_prefetch(at_, 0, 2);
    at_ += line;
  }

 private:
  static constexpr int most = 16;
  static constexpr int64_t line = 64;

  struct Piece {
    const char* row;
    int64_t apart, rows, bytes;
  };

  bool begin_row() {
    if (current_ == pieces_) return false;
    Piece& piece = piece_[current_];
    at_ = piece.row, end_ = at_ + piece.bytes;
    piece.row += piece.apart;
    if (--piece.rows == 0) ++current_;
    return true;
  }

  Piece piece_[most];
  int pieces_ = 0, current_ = 0;
  const char *at_ = nullptr, *end_ = nullptr;
};

// The same where nothing is needed.
struct NoPrefetcher {
  void next() const {}
};
inline constexpr NoPrefetcher no_prefetcher;

}  // namespace xmkern::XMKERN_CAPABILITY
