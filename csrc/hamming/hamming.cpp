#include "hamming/hamming.h"

#include <algorithm>

#include "core/capability.h"
#include "core/integer.h"
#include "core/parallel.h"
#include "hamming/kernels.h"

namespace xmkern {

XMKERN_KERNELS(hamming_table, hamming::Kernels, hamming_kernels, avx512_vpopcntdq)

namespace hamming {

const Kernels& kernels() { return hamming_table.pick(); }

namespace {

int words_of(Codes codes) { return static_cast<int>(ceil_div(codes.bytes, 8)); }

// Copies rows to whole 64-bit words, padded with zero bits: [count, words].
std::vector<uint64_t> as_words(Codes codes, int64_t begin, int64_t count) {
  const int words = words_of(codes);
  std::vector<uint64_t> out(static_cast<size_t>(count * words), 0);
  for (int64_t i = 0; i < count; ++i) load_row(codes, begin + i, out.data() + i * words);
  return out;
}

// Calls visit(rows, index of the first) for codes [begin, end), at most `step` at a time, as rows of whole words.
template <class Visit>
void each_rows(Codes codes, int64_t begin, int64_t end, int64_t step, Visit&& visit) {
  const int words = words_of(codes);
  for (int64_t start = begin; start < end; start += step) {
    const int64_t count = std::min(step, end - start);
    if (codes.bytes % 8 == 0) {
      visit(Rows{codes.data + start * codes.bytes, count, words}, start);
    } else {
      const std::vector<uint64_t> padded = as_words(codes, start, count);
      visit(Rows{reinterpret_cast<const uint8_t*>(padded.data()), count, words}, start);
    }
  }
}

// The carries that each query picks, with a parity that starts at 0 and at 1: [2, count, words, pairs].
std::vector<uint8_t> trace_all(const std::vector<uint64_t>& queries, int words) {
  std::vector<uint8_t> paths(2 * queries.size() * pairs);
  uint8_t* path = paths.data();
  for (const unsigned parity : {0, 1})
    for (size_t i = 0; i < queries.size(); i += static_cast<size_t>(words), path += words * pairs)
      trace(queries.data() + i, words, parity, path);
  return paths;
}

// Memory for the tabulated planes of a slice, aligned to whole registers.
class Planes {
 public:
  Planes(int words, int slice) : memory_(static_cast<size_t>(words * word_planes * slice / 64) + 8) {}
  uint64_t* data() {
    uint64_t* start = memory_.data();
    return start + (64 - reinterpret_cast<uintptr_t>(start) % 64) % 64 / 8;
  }

 private:
  std::vector<uint64_t> memory_;
};

struct Hit {
  int32_t distance;
  int64_t index;
};

bool by_distance(const Hit& a, const Hit& b) { return a.distance < b.distance; }

// The k nearest of a stream of hits that comes in ascending index, so that a later hit never displaces an equal one.
//
// A histogram of the distances kept gives the k-th smallest exactly and at once; the hits themselves are only appended,
// and thrown out in bulk when the buffer is full. Both are O(1) a hit: no heap.
class Nearest {
 public:
  Nearest(int64_t k, int64_t bits)
      : k_(k), limit_(k > 0 ? static_cast<int32_t>(bits) + 1 : 0), counts_(static_cast<size_t>(bits) + 2, 0) {}

  // Hits must be nearer than this: the k-th smallest distance so far, or more than any distance if there are fewer.
  int32_t limit() const { return limit_; }

  int32_t add(int32_t distance, int64_t index) {
    if (static_cast<int64_t>(hits_.size()) >= 2 * k_ + 64) compact();
    hits_.push_back({distance, index});
    ++counts_[static_cast<size_t>(distance)];
    ++within_;
    // within_ counts the hits at distance <= limit_.
    while (within_ - counts_[static_cast<size_t>(limit_)] >= k_) within_ -= counts_[static_cast<size_t>(limit_--)];
    return limit_;
  }

  // The hits in order of (distance, index), k at most.
  std::vector<Hit>& sorted() {
    compact();
    std::stable_sort(hits_.begin(), hits_.end(), by_distance);
    return hits_;
  }

 private:
  // Drops what is farther than the k-th distance, and of those at it all but the earliest.
  void compact() {
    if (within_ <= k_ && static_cast<int64_t>(hits_.size()) == within_) return;
    int64_t& ties = counts_[static_cast<size_t>(limit_)];
    ties -= std::max<int64_t>(0, within_ - k_);
    within_ = std::min(within_, k_);
    int64_t room = ties;
    const auto dropped = [&](const Hit& hit) {
      return hit.distance > limit_ || (hit.distance == limit_ && room-- <= 0);
    };
    hits_.erase(std::remove_if(hits_.begin(), hits_.end(), dropped), hits_.end());
  }

  int64_t k_;
  int32_t limit_;
  int64_t within_ = 0;
  std::vector<int64_t> counts_;
  std::vector<Hit> hits_;
};

// The `Accept` of a scan whose queries each have a Nearest, and whose tile starts at `offset`.
struct NearestSink {
  std::vector<Nearest>& nearest;
  int64_t offset = 0;

  static int32_t accept(void* self, int64_t query, int64_t position, int32_t distance) {
    auto* sink = static_cast<NearestSink*>(self);
    return sink->nearest[static_cast<size_t>(query)].add(distance, sink->offset + position);
  }
};

struct RangeSink {
  std::vector<std::vector<Hit>>& hits;
  int32_t limit;
  int64_t offset = 0;

  static int32_t accept(void* self, int64_t query, int64_t position, int32_t distance) {
    auto* sink = static_cast<RangeSink*>(self);
    sink->hits[static_cast<size_t>(query)].push_back({distance, sink->offset + position});
    return sink->limit;
  }
};

// How a search is cut into tasks. Queries go in large batches, so that a slice is cut into planes once for many of
// them; unless there are many batches, the codes are split too, and the parts are merged in order. Results are exact,
// so they do not depend on the cut.
struct Plan {
  int64_t queries, codes, batch, batches, parts;

  Plan(Codes query_rows, Codes code_rows, int threads) : queries(query_rows.count), codes(code_rows.count) {
    constexpr int64_t most_queries = 512, enough_queries = 96;
    // A sleeping thread comes late: it is not woken for less than about a tenth of a millisecond, in words compared.
    constexpr int64_t worth_a_thread = 1 << 19;
    const int64_t workers = std::max(threads, 1);
    batches = std::max<int64_t>(1, ceil_div(queries, most_queries));
    // Given queries enough to pay for cutting all the codes once a thread, every thread takes as many batches.
    if (queries >= enough_queries * words_of(code_rows) * workers) batches = ceil_div(batches, workers) * workers;
    batch = std::max<int64_t>(1, ceil_div(queries, batches));
    const int64_t work = queries * words_of(code_rows) * codes;
    parts = batches >= workers ? 1 : std::clamp<int64_t>(work / worth_a_thread, 1, workers);
  }

  int64_t tasks() const { return batches * parts; }
  int64_t first_query(int64_t task) const { return task / parts * batch; }
  int64_t query_count(int64_t task) const { return std::min(batch, queries - first_query(task)); }
  int64_t part_begin(int64_t part) const { return codes / parts * part + std::min(codes % parts, part); }
};

// Offers the codes of one task's part to its queries. limits [queries of the task]
template <class Sink>
void scan_task(const Plan& plan, int64_t task, Codes queries, Codes codes, std::vector<int32_t>& limits, Sink& sink) {
  // From this many queries on, cutting the codes into bit planes pays.
  constexpr int64_t many = 12;
  const Kernels& kernels = hamming::kernels();
  const int64_t part = task % plan.parts, count = plan.query_count(task);
  const int64_t begin = plan.part_begin(part), end = plan.part_begin(part + 1);
  const std::vector<uint64_t> words = as_words(queries, plan.first_query(task), count);
  const Offer offer{limits.data(), &sink, Sink::accept};
  if (count < many) {
    each_rows(codes, begin, end, 1 << 16, [&](Rows rows, int64_t start) {
      sink.offset = start;
      kernels.scan_rows(rows, words.data(), count, offer);
    });
    return;
  }
  const int width = words_of(codes);
  const std::vector<uint8_t> paths = trace_all(words, width);
  Planes planes(width, kernels.slice);
  each_rows(codes, begin, end, kernels.slice, [&](Rows rows, int64_t start) {
    sink.offset = start;
    // Of the first codes most are near, as long as no limit is known.
    if (start == begin) return kernels.scan_rows(rows, words.data(), count, offer);
    kernels.cut(rows, planes.data());
    kernels.scan_slice(planes.data(), rows, words.data(), paths.data(), count, offer);
  });
}

void write_row(const std::vector<Hit>& hits, int64_t k, int32_t* distances, int64_t* indices) {
  const int64_t found = std::min(k, static_cast<int64_t>(hits.size()));
  for (int64_t i = 0; i < found; ++i) {
    distances[i] = hits[static_cast<size_t>(i)].distance;
    indices[i] = hits[static_cast<size_t>(i)].index;
  }
  std::fill(distances + found, distances + k, -1);
  std::fill(indices + found, indices + k, -1);
}

// The hits of a query's parts, each ordered, as one ordered list. Parts ascend in index, and the sort is stable.
std::vector<Hit> merge_parts(std::vector<std::vector<Hit>>& parts, int64_t first, int64_t count) {
  std::vector<Hit> all = std::move(parts[static_cast<size_t>(first)]);
  for (int64_t p = 1; p < count; ++p) {
    const auto& part = parts[static_cast<size_t>(first + p)];
    all.insert(all.end(), part.begin(), part.end());
  }
  std::stable_sort(all.begin(), all.end(), by_distance);
  return all;
}

}  // namespace

void distances(Codes a, Codes b, int32_t* out, int threads) {
  constexpr int64_t chunk = 1024;
  const int words = words_of(b);
  const std::vector<uint64_t> queries = as_words(a, 0, a.count);
  parallel_for(ceil_div(b.count, chunk), threads, [&](int64_t task) {
    const Kernels& kernels = hamming::kernels();
    const int64_t begin = task * chunk;
    each_rows(b, begin, std::min(begin + chunk, b.count), chunk, [&](Rows rows, int64_t start) {
      for (int64_t i = 0; i < a.count; ++i)
        kernels.distances(rows, queries.data() + i * words, out + i * b.count + start);
    });
  });
}

void topk(Codes queries, Codes codes, int64_t k, int32_t* distances, int64_t* indices, int threads) {
  const Plan plan(queries, codes, threads);
  // Only a search whose codes are cut keeps hits beyond its task.
  std::vector<std::vector<Hit>> parts(plan.parts > 1 ? static_cast<size_t>(queries.count * plan.parts) : 0);
  parallel_for(plan.tasks(), threads, [&](int64_t task) {
    const int64_t first = plan.first_query(task), count = plan.query_count(task);
    std::vector<Nearest> nearest(static_cast<size_t>(count), Nearest(k, codes.bytes * 8));
    std::vector<int32_t> limits;
    for (const Nearest& n : nearest) limits.push_back(n.limit());
    NearestSink sink{nearest};
    scan_task(plan, task, queries, codes, limits, sink);
    for (int64_t q = 0; q < count; ++q) {
      auto& hits = nearest[static_cast<size_t>(q)].sorted();
      if (plan.parts > 1)
        parts[static_cast<size_t>((first + q) * plan.parts + task % plan.parts)] = std::move(hits);
      else
        write_row(hits, k, distances + (first + q) * k, indices + (first + q) * k);
    }
  });
  if (plan.parts > 1)
    for (int64_t q = 0; q < queries.count; ++q)
      write_row(merge_parts(parts, q * plan.parts, plan.parts), k, distances + q * k, indices + q * k);
}

std::vector<int64_t> range(Codes queries, Codes codes, int32_t radius, Neighbours& found, int threads) {
  const Plan plan(queries, codes, threads);
  std::vector<std::vector<Hit>> parts(static_cast<size_t>(queries.count * plan.parts));
  parallel_for(plan.tasks(), threads, [&](int64_t task) {
    const int64_t first = plan.first_query(task), count = plan.query_count(task);
    std::vector<std::vector<Hit>> hits(static_cast<size_t>(count));
    std::vector<int32_t> limits(static_cast<size_t>(count), radius + 1);
    RangeSink sink{hits, radius + 1};
    scan_task(plan, task, queries, codes, limits, sink);
    for (int64_t q = 0; q < count; ++q)
      parts[static_cast<size_t>((first + q) * plan.parts + task % plan.parts)] =
          std::move(hits[static_cast<size_t>(q)]);
  });
  std::vector<int64_t> lims(static_cast<size_t>(queries.count) + 1, 0);
  for (int64_t q = 0; q < queries.count; ++q) {
    int64_t count = 0;
    for (int64_t p = 0; p < plan.parts; ++p)
      count += static_cast<int64_t>(parts[static_cast<size_t>(q * plan.parts + p)].size());
    lims[static_cast<size_t>(q) + 1] = lims[static_cast<size_t>(q)] + count;
  }
  found.distances.resize(static_cast<size_t>(lims.back()));
  found.indices.resize(static_cast<size_t>(lims.back()));
  parallel_for(queries.count, threads, [&](int64_t q) {
    size_t out = static_cast<size_t>(lims[static_cast<size_t>(q)]);
    for (const Hit& hit : merge_parts(parts, q * plan.parts, plan.parts)) {
      found.distances[out] = hit.distance;
      found.indices[out++] = hit.index;
    }
  });
  return lims;
}

void pack(const uint8_t* flags, int64_t rows, int64_t bits, uint8_t* out, int threads) {
  const int64_t bytes = ceil_div(bits, 8), chunk = std::max<int64_t>(1, 65536 / std::max<int64_t>(bits, 1));
  parallel_for(ceil_div(rows, chunk), threads, [&](int64_t task) {
    const Kernels& kernels = hamming::kernels();
    const int64_t end = std::min(rows, (task + 1) * chunk);
    for (int64_t row = task * chunk; row < end; ++row) kernels.pack(flags + row * bits, bits, out + row * bytes);
  });
}

}  // namespace hamming
}  // namespace xmkern
