// The mask program on tiles of 64 keys: first on intervals, which settles most tiles, then row by row into words of 64
// bits. For kernel sources (see core/capability.h).
#pragma once

#include "attention/problem.h"

namespace xmkern::XMKERN_CAPABILITY {

using attention::Mask;
using attention::MaskCode;
using attention::MaskTensor;

inline constexpr int64_t tile_keys = 64;
inline constexpr int mask_depth = 32;  // of the program's stack; xmkern/masks.py checks it

// How much of a tile is visible. Ordered: the conjunction is the smaller, the disjunction the larger, of two reaches
// (that of two partial ones may then be called partial although it is empty or full, which costs time only).
enum class Reach : int { none, partial, all };

struct Tile {
  int64_t query_begin, query_end, key_begin, key_end;
};

inline int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b != 0 && (a < 0) != (b < 0)); }
inline int64_t lesser(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t greater(int64_t a, int64_t b) { return a < b ? b : a; }

// A bound of a band, such that a position can be added to it.
inline int64_t bounded(int64_t x) {
  constexpr int64_t most = int64_t{1} << 62;
  return greater(lesser(x, most), -most);
}

// Bits begin to end, clipped to a word.
inline uint64_t interval(int64_t begin, int64_t end) {
  begin = greater(begin, 0), end = lesser(end, tile_keys);
  if (begin >= end) return 0;
  return (~uint64_t{0} >> (tile_keys - (end - begin))) << begin;
}

template <class T>
inline const T* mask_row(const MaskTensor& tensor, int64_t batch, int64_t head, int64_t query) {
  return static_cast<const T*>(tensor.data) + batch * tensor.batch + head * tensor.head + query * tensor.query;
}

// Text of `text` tokens, then an image of height x width tokens in rows. All see the text; a token of the image sees
// those of the image whose row and column differ from its own by no less than the low and no more than the high bounds.
struct Grid {
  int64_t text, height, width, row_low, row_high, column_low, column_high;

  int64_t end() const { return text + height * width; }
  int64_t row(int64_t position) const { return (position - text) / width; }

  Reach reach(const Tile& tile) const {
    if (tile.key_end <= text) return Reach::all;
    const int64_t first = greater(tile.query_begin, text), last = lesser(tile.query_end, end()) - 1;
    const int64_t key_first = greater(tile.key_begin, text), key_last = lesser(tile.key_end, end()) - 1;
    const bool apart = first > last || key_first > key_last || row(key_last) - row(first) < row_low ||
                       row(key_first) - row(last) > row_high;
    return apart && tile.key_begin >= text ? Reach::none : Reach::partial;
  }

  uint64_t word(int64_t query, int64_t key) const {
    uint64_t bits = interval(0, text - key);
    if (query < text || query >= end()) return bits;
    const int64_t own_row = row(query), own_column = (query - text) % width;
    const int64_t from = greater(key, text), to = lesser(key + tile_keys, end());
    if (from >= to) return bits;
    // Row by row, because a tile rarely has many.
    const int64_t row_begin = greater(row(from), own_row + greater(row_low, -height));
    const int64_t row_end = lesser(row(to - 1), own_row + lesser(row_high, height));
    const int64_t column_begin = greater(0, own_column + greater(column_low, -width));
    const int64_t column_end = lesser(width, own_column + lesser(column_high, width) + 1);
    for (int64_t r = row_begin; r <= row_end; ++r) {
      const int64_t start = text + r * width - key;
      bits |= interval(start + column_begin, start + column_end);
    }
    return bits;
  }
};

inline uint64_t word_of_flags(const uint8_t* flags, int64_t stride, int64_t count) {
  uint64_t bits = 0;
  if (stride == 0) return flags[0] ? interval(0, count) : 0;
  if (stride == 1) {
    int64_t k = 0;
    for (; k + 8 <= count; k += 8) {
      uint64_t eight;
      __builtin_memcpy(&eight, flags + k, 8);
      // Eight bytes of 0 or 1 meet in the top byte of the product, the first of them lowest.
      bits |= (eight * 0x0102040810204080ull >> 56) << k;
    }
    for (; k < count; ++k) bits |= static_cast<uint64_t>(flags[k] != 0) << k;
    return bits;
  }
  for (int64_t k = 0; k < count; ++k) bits |= static_cast<uint64_t>(flags[k * stride] != 0) << k;
  return bits;
}

inline uint64_t word_of_segments(int64_t id, const int64_t* ids, int64_t stride, int64_t count) {
  uint64_t bits = 0;
  for (int64_t k = 0; k < count; ++k) bits |= static_cast<uint64_t>(ids[k * stride] == id) << k;
  return bits;
}

// Runs a program with one rule per instruction and one for joining.
template <class Value, class Leaf, class Join>
inline Value run_program(const Mask& mask, Value everything, Leaf&& leaf, Join&& join) {
  if (mask.length == 0) return everything;
  Value stack[mask_depth];
  int top = 0;
  for (int64_t at = 0; at < mask.length;) {
    const auto code = static_cast<MaskCode>(mask.program[at]);
    const int64_t* operand = mask.program + at + 1;
    if (code == MaskCode::conjunction || code == MaskCode::disjunction) {
      --top;
      stack[top - 1] = join(code == MaskCode::conjunction, stack[top - 1], stack[top]);
      at += 1;
      continue;
    }
    stack[top++] = leaf(code, operand);
    switch (code) {
      case MaskCode::band:
      case MaskCode::segments:
        at += 3;
        break;
      case MaskCode::grid:
        at += 8;
        break;
      default:
        at += 2;
    }
  }
  return stack[0];
}

inline Grid grid_of(const int64_t* operand) {
  return {operand[0], operand[1], operand[2], operand[3], operand[4], operand[5], operand[6]};
}

inline Reach reach(const Mask& mask, int64_t batch, const Tile& tile) {
  return run_program(
      mask, Reach::all,
      [&](MaskCode code, const int64_t* operand) {
        switch (code) {
          case MaskCode::band: {
            const int64_t least = tile.key_begin - (tile.query_end - 1), most = tile.key_end - 1 - tile.query_begin;
            if (most < operand[0] || least > operand[1]) return Reach::none;
            return least >= operand[0] && most <= operand[1] ? Reach::all : Reach::partial;
          }
          case MaskCode::key_lengths: {
            const int64_t length = *mask_row<int64_t>(mask.tensors[operand[0]], batch, 0, 0);
            if (tile.key_begin >= length) return Reach::none;
            return tile.key_end <= length ? Reach::all : Reach::partial;
          }
          case MaskCode::grid:
            return grid_of(operand).reach(tile);
          default:
            return Reach::partial;
        }
      },
      [](bool both, Reach a, Reach b) { return (a < b) == both ? a : b; });
}

// Bit k tells whether the query sees key `key` + k; the bits past the last key are 0.
inline uint64_t visible_word(const Mask& mask, int64_t batch, int64_t head, int64_t query, int64_t key, int64_t keys) {
  const int64_t count = lesser(tile_keys, keys - key);
  const uint64_t within = interval(0, count);
  return within & run_program(
                      mask, within,
                      [&](MaskCode code, const int64_t* operand) -> uint64_t {
                        switch (code) {
                          case MaskCode::band:
                            return interval(query + bounded(operand[0]) - key,
                                            lesser(query + bounded(operand[1]), keys) + 1 - key);
                          case MaskCode::key_lengths:
                            return interval(0, *mask_row<int64_t>(mask.tensors[operand[0]], batch, 0, 0) - key);
                          case MaskCode::grid:
                            return grid_of(operand).word(query, key);
                          case MaskCode::segments: {
                            const MaskTensor& ids = mask.tensors[operand[1]];
                            return word_of_segments(*mask_row<int64_t>(mask.tensors[operand[0]], batch, 0, query),
                                                    mask_row<int64_t>(ids, batch, 0, 0) + key * ids.key, ids.key,
                                                    count);
                          }
                          default: {
                            const MaskTensor& flags = mask.tensors[operand[0]];
                            return word_of_flags(mask_row<uint8_t>(flags, batch, head, query) + key * flags.key,
                                                 flags.key, count);
                          }
                        }
                      },
                      [](bool both, uint64_t a, uint64_t b) { return both ? a & b : a | b; });
}

}  // namespace xmkern::XMKERN_CAPABILITY
