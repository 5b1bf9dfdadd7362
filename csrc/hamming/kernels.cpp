// Compiled once per instruction set (see core/capability.h): no standard-library code in here.
#include "hamming/kernels.h"

#include "hamming/lanes.h"

namespace xmkern::XMKERN_CAPABILITY {

using hamming::Offer;
using hamming::Rows;

namespace {

// ---- few queries: popcounts ------------------------------------------------------------------------------------

constexpr int block = 256;

void offer_rows(Rows rows, int64_t start, int64_t end, const uint64_t* query, int64_t index, const Offer& offer) {
  int32_t limit = offer.limits[index];
  for (int64_t i = start; i < end; ++i) {
    const int32_t d = row_distance(rows.data + i * 8 * rows.words, query, rows.words);
    if (d < limit) limit = offer.accept(offer.sink, index, i, d);
  }
  offer.limits[index] = limit;
}

#if defined(__AVX2__)

// A query of 1, 2 or 4 words; `near` gives the distances of the next `width` codes, in any order.
template <int Words>
struct Query {
  Counts pattern;
  explicit Query(const uint64_t* query) : pattern(Counts::repeat(query, Words)) {}
  Counts part(const uint8_t* p) const { return Counts::popcount(Counts::load(p) ^ pattern); }
  Counts near(const uint8_t* rows) const {
    constexpr int step = 8 * Counts::width;
    if constexpr (Words == 1) {
      return part(rows);
    } else if constexpr (Words == 2) {
      return Counts::pairs(part(rows), part(rows + step));
    } else {
      return Counts::halves(Counts::pairs(part(rows), part(rows + step)),
                            Counts::pairs(part(rows + 2 * step), part(rows + 3 * step)));
    }
  }
};

// Only the smallest distance of a block is kept, and a block is looked at again when that beats the limit: after the
// first few blocks this hardly ever happens.
template <int Words>
void scan_short_rows(Rows rows, const uint64_t* query, int64_t index, const Offer& offer) {
  const Query<Words> wanted(query);
  const int64_t whole = rows.count / block * block;
  for (int64_t start = 0; start < whole; start += block) {
    Counts nearest = Counts::all(0x7fffffff);
    for (int64_t i = start; i < start + block; i += Counts::width) {
      const uint8_t* codes = rows.data + i * 8 * Words;
      __builtin_prefetch(codes + 4096);
      nearest = Counts::min(nearest, wanted.near(codes));
    }
    if (Counts::any_less(nearest, Counts::all(static_cast<uint64_t>(offer.limits[index]))))
      offer_rows(rows, start, start + block, query, index, offer);
  }
  offer_rows(rows, whole, rows.count, query, index, offer);
}

void scan_long_rows(Rows rows, const uint64_t* query, int64_t index, const Offer& offer) {
  int32_t limit = offer.limits[index];
  for (int64_t i = 0; i < rows.count; ++i) {
    const uint8_t* row = rows.data + i * 8 * rows.words;
    Counts sum = Counts::all(0);
    for (int w = 0; w < rows.words; w += Counts::width)
      sum =
          sum + Counts::popcount(Counts::load(row + 8 * w) ^ Counts::load(reinterpret_cast<const uint8_t*>(query + w)));
    const int32_t d = static_cast<int32_t>(sum.sum());
    if (d < limit) limit = offer.accept(offer.sink, index, i, d);
  }
  offer.limits[index] = limit;
}

void scan_one(Rows rows, const uint64_t* query, int64_t index, const Offer& offer) {
  if (rows.words == 1) return scan_short_rows<1>(rows, query, index, offer);
  if (rows.words == 2) return scan_short_rows<2>(rows, query, index, offer);
  if (rows.words == 4) return scan_short_rows<4>(rows, query, index, offer);
  if (rows.words % Counts::width == 0) return scan_long_rows(rows, query, index, offer);
  offer_rows(rows, 0, rows.count, query, index, offer);
}

#else

void scan_one(Rows rows, const uint64_t* query, int64_t index, const Offer& offer) {
  offer_rows(rows, 0, rows.count, query, index, offer);
}

#endif

void scan_rows(Rows rows, const uint64_t* queries, int64_t count, const Offer& offer) {
  for (int64_t q = 0; q < count; ++q) scan_one(rows, queries + q * rows.words, q, offer);
}

// ---- many queries: bit planes ----------------------------------------------------------------------------------

constexpr int slice = 64 * plane_lanes;

// Three steps of the transposition below on the eight rows from `first` that are `Stride` apart, in registers.
template <int Stride>
inline void transpose_step(Plane* first) {
  Plane rows[8];
  for (int i = 0; i < 8; ++i) rows[i] = first[i * Stride];
  for (int half = 4; half > 0; half /= 2) {
    const int shift = half * Stride;
    const uint64_t mask = ~0ull / ((1ull << shift) + 1);  // the lower `shift` of every 2 * shift bits
    for (int i = 0; i < 8; ++i) {
      if (i & half) continue;
      const Plane swapped = ((rows[i] >> shift) ^ rows[i + half]) & mask;
      rows[i] ^= swapped << shift;
      rows[i + half] ^= swapped;
    }
  }
  for (int i = 0; i < 8; ++i) first[i * Stride] = rows[i];
}

// Transposes one 64 x 64 bit matrix per lane: bit i of row j becomes bit j of row i (Hacker's Delight, section 7-3).
void transpose_bits(Plane rows[64]) {
  for (int i = 0; i < 8; ++i) transpose_step<8>(rows + i);
  for (int i = 0; i < 64; i += 8) transpose_step<1>(rows + i);
}

// Splits neighbouring codes of `Words` words into a register for each word.
template <int Words>
inline void deinterleave(const Plane* codes, Plane* words) {
  if constexpr (Words == 1) {
    words[0] = codes[0];
  } else {
    Plane even[Words / 2], odd[Words / 2], of_even[Words / 2], of_odd[Words / 2];
    for (int i = 0; i < Words / 2; ++i) {
      even[i] = even_lanes(codes[2 * i], codes[2 * i + 1]);
      odd[i] = odd_lanes(codes[2 * i], codes[2 * i + 1]);
    }
    deinterleave<Words / 2>(even, of_even);
    deinterleave<Words / 2>(odd, of_odd);
    for (int i = 0; i < Words / 2; ++i) {
      words[2 * i] = of_even[i];
      words[2 * i + 1] = of_odd[i];
    }
  }
}

// Fills the matrices to transpose, bits [words, 64]: lane b of row i is a word of code i * plane_lanes + b, so that
// neighbouring codes share a register.
template <int Words>
void gather_whole(const uint8_t* codes, Plane* bits) {
  for (int i = 0; i < 64; ++i) {
    Plane in[Words], words[Words];
    __builtin_memcpy(in, codes + i * static_cast<int64_t>(sizeof(in)), sizeof(in));
    deinterleave<Words>(in, words);
    for (int w = 0; w < Words; ++w) bits[64 * w + i] = words[w];
  }
}

void gather(Rows rows, Plane* bits) {
  if (rows.count == slice) {
    if (rows.words == 1) return gather_whole<1>(rows.data, bits);
    if (rows.words == 2) return gather_whole<2>(rows.data, bits);
    if (rows.words == 4) return gather_whole<4>(rows.data, bits);
    if (rows.words == 8) return gather_whole<8>(rows.data, bits);
  }
  for (int w = 0; w < rows.words; ++w) {
    if (rows.count < slice) __builtin_memset(bits + 64 * w, 0, 64 * sizeof(Plane));
    for (int64_t i = 0; i < rows.count; ++i)
      bits[64 * w + i / plane_lanes][i % plane_lanes] = word_at(rows.data + (i * rows.words + w) * 8);
  }
}

void tabulate(const Plane bits[64], Plane* out) {
  using namespace hamming;
  for (int g = 0; g < groups; ++g, out += group_planes) {
    const Plane a = bits[3 * g], b = bits[3 * g + 1], c = bits[3 * g + 2];
    Plane ignored;
    out[2 + 0] = add_bits(a, b, c, out[0]);
    out[2 + 1] = add_bits(~a, b, c, out[1]);
    out[2 + 2] = add_bits(a, ~b, c, ignored);
    out[2 + 4] = add_bits(a, b, ~c, ignored);
    out[2 + 7] = ~out[2 + 0];
    out[2 + 6] = ~out[2 + 1];
    out[2 + 5] = ~out[2 + 2];
    out[2 + 3] = ~out[2 + 4];
  }
  for (int j = 0; j < singles; ++j, out += 2) {
    out[0] = bits[groups * group_bits + j];
    out[1] = ~out[0];
  }
}

void cut(Rows rows, uint64_t* planes) {
  Plane bits[64 * hamming::max_words];
  gather(rows, bits);
  for (int w = 0; w < rows.words; ++w) {
    transpose_bits(bits + 64 * w);
    tabulate(bits + 64 * w, reinterpret_cast<Plane*>(planes) + w * hamming::tabulated_planes);
  }
}

// A query's way through the table of one word. Four steps are read at a time: the loads of planes keep the load units
// busy, and shifts cost nothing beside them.
struct Differences {
  const uint64_t* table;
  const uint16_t* path;
  int step = 0;

  Plane next() {
    const uint64_t four = word_at(reinterpret_cast<const uint8_t*>(path + step / 4 * 4));
    const uint16_t offset = static_cast<uint16_t>(four >> (16 * (step % 4)));
    ++step;
    return *reinterpret_cast<const Plane*>(table + offset);
  }
};

// In how many of the next 2^Digits - 1 bits a code differs from the query, as a binary number of digit planes: two
// numbers of one digit less and one more bit make a full number, by one full adder a digit.
template <int Digits>
inline __attribute__((always_inline)) void count_planes(Differences& from, Plane* digits) {
  if constexpr (Digits == 2) {
    digits[0] = from.next();
    digits[1] = from.next();
  } else {
    Plane other[Digits - 1];
    count_planes<Digits - 1>(from, digits);
    count_planes<Digits - 1>(from, other);
    Plane carry = from.next();
    for (int d = 0; d < Digits - 1; ++d) carry = add_bits(digits[d], other[d], carry, digits[d]);
    digits[Digits - 1] = carry;
  }
}

// Adds one word's differences to a running total.
template <int Digits>
inline __attribute__((always_inline)) void add_word(const uint64_t* table, const uint16_t* path, Plane* total) {
  Differences from{table, path};
  Plane count[6];
  count_planes<6>(from, count);
  Plane carry = from.next();
  for (int d = 0; d < 6; ++d) carry = add_bits(total[d], count[d], carry, total[d]);
  for (int d = 6; d < Digits; ++d) {
    const Plane digit = total[d];
    total[d] = digit ^ carry;
    carry &= digit;
  }
}

// Offers the rows that are not in `far`, among those that the slice really has: bit i of lane b is row
// i * plane_lanes + b.
void offer_near(Plane far, Rows rows, const uint64_t* query, int64_t index, const Offer& offer) {
  uint64_t beyond[plane_lanes], everywhere = ~0ull;
  __builtin_memcpy(beyond, &far, sizeof(beyond));
  for (int b = 0; b < plane_lanes; ++b) everywhere &= beyond[b];
  int32_t limit = offer.limits[index];
  for (uint64_t left = ~everywhere; left != 0; left &= left - 1) {
    const int bit = __builtin_ctzll(left);
    const int64_t first = static_cast<int64_t>(bit) * plane_lanes;
    for (int b = 0; b < plane_lanes && first + b < rows.count; ++b) {
      if (beyond[b] >> bit & 1) continue;
      const int32_t d = row_distance(rows.data + (first + b) * 8 * rows.words, query, rows.words);
      if (d < limit) limit = offer.accept(offer.sink, index, first + b, d);
    }
  }
  offer.limits[index] = limit;
}

inline bool all_set(Plane a) {
#if defined(__AVX512F__)
  return _mm512_cmpneq_epi64_mask((__m512i)a, _mm512_set1_epi64(-1)) == 0;
#else
  uint64_t all = ~0ull;
  for (int b = 0; b < plane_lanes; ++b) all &= a[b];
  return all == ~0ull;
#endif
}

// A total starts at 2^(Digits - 1) - limit, so that its highest digit tells which rows are not below the limit. The
// tables of long codes come from the second-level cache, which keeps up.
template <int Digits>
void scan_planes(const uint64_t* planes, Rows rows, const uint64_t* queries, const uint16_t* paths, int64_t count,
                 const Offer& offer) {
  for (int64_t q = 0; q < count; ++q) {
    Plane total[Digits];
    const uint64_t start = (1ull << (Digits - 1)) - static_cast<uint64_t>(offer.limits[q]);
    for (int d = 0; d < Digits; ++d) total[d] = Plane{} - ((start >> d) & 1);
    const uint64_t* table = planes;
    const uint16_t* path = paths + q * rows.words * hamming::path_steps;
    for (int w = 0; w < rows.words; ++w) {
      add_word<Digits>(table, path, total);
      table += hamming::tabulated_planes * plane_lanes;
      path += hamming::path_steps;
    }
    if (!all_set(total[Digits - 1])) offer_near(total[Digits - 1], rows, queries + q * rows.words, q, offer);
  }
}

void scan_slice(const uint64_t* planes, Rows rows, const uint64_t* queries, const uint16_t* paths, int64_t count,
                const Offer& offer) {
  // The smallest number of digits that holds 64 * words and a digit above.
  if (rows.words <= 1) return scan_planes<8>(planes, rows, queries, paths, count, offer);
  if (rows.words <= 3) return scan_planes<9>(planes, rows, queries, paths, count, offer);
  if (rows.words <= 7) return scan_planes<10>(planes, rows, queries, paths, count, offer);
  return scan_planes<14>(planes, rows, queries, paths, count, offer);
}

// ---- the rest --------------------------------------------------------------------------------------------------

template <int Words>
void fixed_distances(Rows rows, const uint64_t* query, int32_t* out) {
  for (int64_t i = 0; i < rows.count; ++i) out[i] = row_distance(rows.data + i * 8 * Words, query, Words);
}

void distances(Rows rows, const uint64_t* query, int32_t* out) {
  if (rows.words == 1) return fixed_distances<1>(rows, query, out);
  if (rows.words == 2) return fixed_distances<2>(rows, query, out);
  if (rows.words == 4) return fixed_distances<4>(rows, query, out);
  for (int64_t i = 0; i < rows.count; ++i) out[i] = row_distance(rows.data + i * 8 * rows.words, query, rows.words);
}

void pack(const uint8_t* flags, int64_t bits, uint8_t* out) {
  int64_t i = 0;
#if defined(__AVX512BW__)
  for (; i + 64 <= bits; i += 64) {
    const __m512i bytes = _mm512_loadu_si512(flags + i);
    const uint64_t word = _mm512_test_epi8_mask(bytes, bytes);
    __builtin_memcpy(out + i / 8, &word, 8);
  }
#endif
  // Eight bytes of 0 or 1 meet in the top byte of the product, the first of them lowest.
  for (; i + 8 <= bits; i += 8) out[i / 8] = static_cast<uint8_t>((word_at(flags + i) * 0x0102040810204080ull) >> 56);
  if (i < bits) {
    uint8_t last = 0;
    for (int64_t b = 0; i + b < bits; ++b) last = static_cast<uint8_t>(last | (flags[i + b] << b));
    out[i / 8] = last;
  }
}

}  // namespace

extern const hamming::Kernels hamming_kernels;
const hamming::Kernels hamming_kernels = {scan_rows, slice, cut, scan_slice, distances, pack};

}  // namespace xmkern::XMKERN_CAPABILITY
