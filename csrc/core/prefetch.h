// Asks for memory that is needed soon, for kernel sources (see core/capability.h).
#pragma once

#include <stdint.h>

namespace xmkern::XMKERN_CAPABILITY {

// Rows that come into the second-level cache a line at a time, every so many steps of a product, so that they cost next
// to nothing. Asked for all at once they would fill the queue of misses, and what the product reads would wait behind
// them; and a branch at the end of each row would be foretold wrong and cost more than the products' own loops: so a
// product gets lines that lie equally far apart, and what it asks for past the last of them does little harm.
class Prefetcher {
 public:
  struct Lines {
    const char* at;
    int64_t apart, every;

    // The next one, every so many steps.
    void next() {
      __builtin_prefetch(at, 0, 2);
      at += apart;
    }
  };

  // `count` rows of `bytes` each, `apart` bytes from one to the next. What there is no room to remember is not asked
  // for.
  void add(const void* rows, int64_t apart, int64_t count, int64_t bytes) {
    if (pieces_ == most || count <= 0) return;
    const auto* at = static_cast<const char*>(rows);
    if (apart == bytes)
      piece_[pieces_++] = {at, line, count * bytes / line, line};
    else
      piece_[pieces_++] = {at, apart, count, bytes};
  }

  // Spreads what has been added over products of so many steps in all, or fewer.
  void spread(int64_t steps) {
    int64_t lines = 0;
    for (int i = 0; i < pieces_; ++i) lines += piece_[i].count * ((piece_[i].bytes + line - 1) / line);
    for (; lines > 0 && lines * 2 <= steps; lines *= 2) ++shift_;
  }

  // For a product of so many steps.
  Lines lines(int64_t steps) {
    if (current_ == pieces_) return {reinterpret_cast<const char*>(this), 0, steps};
    Piece& piece = piece_[current_];
    const Lines lines{piece.at + done_ * piece.apart, piece.apart, int64_t{1} << shift_};
    done_ += (steps + lines.every - 1) >> shift_;
    if (done_ >= piece.count) {  // on with the next line of each row, or the next piece
      done_ = 0, piece.at += line, piece.bytes -= line;
      if (piece.bytes <= 0) ++current_;
    }
    return lines;
  }

 private:
  static constexpr int most = 16;
  static constexpr int64_t line = 64;

  struct Piece {
    const char* at;
    int64_t apart, count, bytes;
  };

  Piece piece_[most];
  int pieces_ = 0, current_ = 0, shift_ = 0;
  int64_t done_ = 0;
};

// The same where nothing is needed.
struct NoPrefetcher {
  struct Lines {
    int64_t every;

    void next() const {}
  };
  Lines lines(int64_t steps) const { return {steps}; }
};
inline constexpr NoPrefetcher no_prefetcher;

}  // namespace xmkern::XMKERN_CAPABILITY
