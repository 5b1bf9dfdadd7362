#include "hamming/mih.h"

#include <algorithm>
#include <limits>
#include <span>

#include "core/integer.h"
#include "core/parallel.h"
#include "hamming/kernels.h"

namespace xmkern::hamming {
namespace {

// What is spent, in words scanned flat (about 0.1 ns each): on a bucket, and on each word in it.
constexpr int64_t bucket_cost = 1500, word_cost = 7, gathered_cost = 200;
// A thread is worth waking for a quarter of a millisecond: with less to do, it may come later than the work is done.
constexpr int64_t thread_cost = 2'500'000;

struct Hit {
  int32_t distance;
  int64_t position;
  bool operator<(const Hit& other) const {
    return distance != other.distance ? distance < other.distance : position < other.position;
  }
};
using Hits = std::vector<Hit>;

// One query's search.
struct Finder {
  std::vector<uint64_t> query;
  int64_t k;      // so many hits are wanted
  int32_t limit;  // only hits nearer than this
  int64_t budget;
  bool gave_up = false;
  Hits hits = {};

  void add(Hit hit) {
    hits.push_back(hit);
    if (static_cast<int64_t>(hits.size()) < 2 * k + 64) return;
    const auto last = hits.begin() + (k - 1);
    std::nth_element(hits.begin(), last, hits.end());
    limit = last->distance + 1;
    hits.resize(static_cast<size_t>(k));
  }

  bool has_within(int32_t distance, int64_t wanted) const {
    if (static_cast<int64_t>(hits.size()) < wanted) return false;
    return std::count_if(hits.begin(), hits.end(), [=](const Hit& hit) { return hit.distance <= distance; }) >= wanted;
  }

  bool can_pay(int64_t cost) {
    if (cost > budget) gave_up = true;
    return !gave_up;
  }
};

}  // namespace

// The searches of some queries on one thread.
class MihSearch {
 public:
  MihSearch(const Mih& mih, Codes codes, double patience)
      : mih_(mih), codes_(codes), scan_(kernels().scan_rows), gathered_(gather_step * static_cast<size_t>(mih.words_)) {
    const double flat = patience * static_cast<double>(codes.count) * mih.words_;
    budget_ = static_cast<int64_t>(std::min(flat, 1e18));
    reached_.resize(mih.tables_.size());
  }

  Finder finder(Codes queries, int64_t q, int64_t k, int32_t limit) const {
    Finder finder{std::vector<uint64_t>(static_cast<size_t>(mih_.words_), 0), k, limit, budget_};
    load_row(queries, q, finder.query.data());
    return finder;
  }

  // Fills each finder with the indexed codes nearer than `radius + 1`.
  void range(std::span<Finder> finders, int32_t radius) {
    std::fill(reached_.begin(), reached_.end(), -1);
    each_within(radius, [&](size_t t, std::span<const uint32_t> patterns, int within) {
      probe(mih_.tables_[t], patterns, finders);
      reached_[t] = within;
    });
  }

  // What range() is expected to cost a query.
  int64_t range_cost(int32_t radius) const {
    int64_t cost = 0;
    each_within(radius, [&](size_t t, std::span<const uint32_t> patterns, int) {
      cost += probe_cost(mih_.tables_[t], patterns);
    });
    return std::min(cost, budget_);
  }

  // Fills the finder with the k nearest indexed codes and others.
  void topk(Finder& finder) {
    const int m = static_cast<int>(mih_.tables_.size());
    const int64_t wanted = std::min(finder.k, mih_.count_);
    std::fill(reached_.begin(), reached_.end(), -1);
    // After the step of a radius, all codes within it are found: it adds one table's keys at one distance.
    for (int radius = 0; radius < m * (mih_.width_ + 2) && !finder.has_within(radius - 1, wanted); ++radius) {
      const size_t ones = static_cast<size_t>(radius / m), t = static_cast<size_t>(radius % m);
      const Mih::Table& table = mih_.tables_[t];
      if (static_cast<int>(ones) > table.width) continue;
      const auto& [all, starts] = mih_.patterns(table);
      probe(table, {all.data() + starts[ones], all.data() + starts[ones + 1]}, {&finder, 1});
      if (finder.gave_up) return;
      reached_[t] = static_cast<int>(ones);
    }
  }

 private:
  static constexpr size_t gather_step = 64;

  struct Probe {
    Finder* finder;
    uint32_t bucket;
  };

  // Calls visit(table, patterns, their most ones) for the keys that a range search must look at.
  template <class Visit>
  void each_within(int32_t radius, Visit&& visit) const {
    const int m = static_cast<int>(mih_.tables_.size());
    for (int t = 0; t < m; ++t) {
      // Were a code farther than this in every substring, it would be farther than the radius in all.
      const int within = radius / m - (t > radius % m);
      if (within < 0) break;
      const Mih::Table& table = mih_.tables_[static_cast<size_t>(t)];
      const auto& [all, starts] = mih_.patterns(table);
      const int64_t end = starts[static_cast<size_t>(std::min(within, table.width)) + 1];
      visit(static_cast<size_t>(t), std::span{all.data(), static_cast<size_t>(end)}, within);
    }
  }

  int64_t probe_cost(const Mih::Table& table, std::span<const uint32_t> patterns) const {
    const double share = static_cast<double>(patterns.size()) / static_cast<double>(int64_t{1} << table.width);
    const int64_t rows = static_cast<int64_t>(share * static_cast<double>(mih_.count_));
    return static_cast<int64_t>(patterns.size()) * bucket_cost + rows * row_cost(table);
  }

  // Looks into the buckets whose keys differ from a query's by one of the patterns.
  void probe(const Mih::Table& table, std::span<const uint32_t> patterns, std::span<Finder> finders) {
    const int64_t expected = probe_cost(table, patterns);
    constexpr size_t step = 4096;
    for (Finder& finder : finders) finder.can_pay(expected);
    for (size_t start = 0; start < patterns.size(); start += step) {
      probes_.clear();
      for (Finder& finder : finders) {
        if (finder.gave_up) continue;
        const uint32_t key = table.key(finder.query.data());
        for (const uint32_t pattern : patterns.subspan(start, std::min(step, patterns.size() - start)))
          probes_.push_back({&finder, key ^ pattern});
      }
      look(table);
    }
  }

  int64_t row_cost(const Mih::Table& table) const { return table.rows ? word_cost * mih_.words_ : gathered_cost; }

  // Fetches ahead: the bounds of a bucket first, then its head.
  void look(const Mih::Table& table) {
    constexpr size_t bounds_ahead = 16, head_ahead = 6;
    const size_t words = static_cast<size_t>(mih_.words_);
    for (size_t i = 0; i < std::min(bounds_ahead, probes_.size()); ++i)
      __builtin_prefetch(&table.offsets[probes_[i].bucket]);
    for (size_t i = 0; i < probes_.size(); ++i) {
      if (i + bounds_ahead < probes_.size()) __builtin_prefetch(&table.offsets[probes_[i + bounds_ahead].bucket]);
      if (i + head_ahead < probes_.size()) {
        const size_t head = table.offsets[probes_[i + head_ahead].bucket];
        if (table.rows)
          for (size_t line = 0; line < 4; ++line) __builtin_prefetch(table.rows.get() + head * words + 8 * line);
        else
          __builtin_prefetch(&table.positions[head]);
      }
      const auto [finder, bucket] = probes_[i];
      const size_t begin = table.offsets[bucket], end = table.offsets[bucket + 1];
      const int64_t cost = bucket_cost + static_cast<int64_t>(end - begin) * row_cost(table);
      if (!finder->can_pay(cost)) continue;
      finder->budget -= cost;
      if (begin == end) continue;
      if (table.rows) {
        scan(table.rows.get() + begin * words, &table.positions[begin], end - begin, *finder);
      } else {
        for (size_t start = begin; start < end; start += gather_step)
          scan_gathered(&table.positions[start], std::min(gather_step, end - start), *finder);
      }
    }
  }

  void scan_gathered(const uint32_t* positions, size_t count, Finder& finder) {
    for (size_t i = 0; i < count; ++i) __builtin_prefetch(codes_.data + int64_t{positions[i]} * codes_.bytes);
    for (size_t i = 0; i < count; ++i)
      load_row(codes_, positions[i], gathered_.data() + i * static_cast<size_t>(mih_.words_));
    scan(gathered_.data(), positions, count, finder);
  }

  void scan(const uint64_t* rows, const uint32_t* positions, size_t count, Finder& finder) {
    bucket_ = {rows, positions};
    finder_ = &finder;
    scan_({reinterpret_cast<const uint8_t*>(rows), static_cast<int64_t>(count), mih_.words_}, finder.query.data(), 1,
          {&finder.limit, this, accept});
  }

  static int32_t accept(void* self, int64_t, int64_t index, int32_t distance) {
    auto* search = static_cast<MihSearch*>(self);
    Finder& finder = *search->finder_;
    if (search->is_new(search->bucket_.rows + index * search->mih_.words_))
      finder.add({distance, search->bucket_.positions[index]});
    return finder.limit;
  }

  // A code is in one bucket of each table. It has been met before if one of those buckets has been looked into.
  bool is_new(const uint64_t* code) const {
    for (size_t t = 0; t < mih_.tables_.size(); ++t) {
      const Mih::Table& table = mih_.tables_[t];
      if (reached_[t] >= __builtin_popcount(table.key(code) ^ table.key(finder_->query.data()))) return false;
    }
    return true;
  }

  const Mih& mih_;
  Codes codes_;
  decltype(Kernels::scan_rows) scan_;
  int64_t budget_;
  std::vector<int> reached_;  // per table, the key distance up to which all buckets were looked into before
  std::vector<Probe> probes_;
  std::vector<uint64_t> gathered_;
  struct {
    const uint64_t* rows;
    const uint32_t* positions;
  } bucket_ = {};
  Finder* finder_ = nullptr;
};

namespace {

// Calls scan(queries, codes, their places, first position) for what the tables don't answer: for the queries that gave
// up all codes, for the others those that came after the tables were built.
template <class Scan>
void scan_rest(Codes queries, Codes codes, int64_t indexed, const std::vector<char>& gave_up, Scan&& scan) {
  for (const bool all : {false, true}) {
    const int64_t first = all ? 0 : indexed;
    std::vector<int64_t> places;
    std::vector<uint8_t> rows;
    for (int64_t q = 0; q < queries.count && first < codes.count; ++q) {
      if (static_cast<bool>(gave_up[static_cast<size_t>(q)]) != all) continue;
      places.push_back(q);
      rows.insert(rows.end(), queries.data + q * queries.bytes, queries.data + (q + 1) * queries.bytes);
    }
    if (places.empty()) continue;
    scan(Codes{rows.data(), static_cast<int64_t>(places.size()), queries.bytes},
         Codes{codes.data + first * codes.bytes, codes.count - first, codes.bytes}, places, first);
  }
}

}  // namespace

std::vector<int64_t> Mih::range(Codes queries, Codes codes, int32_t radius, Neighbours& found, double patience,
                                int threads) const {
  constexpr int64_t batch = 32;  // enough to hide the misses of one query behind the work of others
  std::vector<Hits> hits(static_cast<size_t>(queries.count));
  std::vector<char> gave_up(hits.size(), 0);
  const int64_t cost = std::max<int64_t>(1, MihSearch(*this, codes, patience).range_cost(radius));
  const int64_t useful = std::max<int64_t>(1, queries.count / std::max<int64_t>(1, thread_cost / cost));
  parallel_for(ceil_div(queries.count, batch), static_cast<int>(std::min<int64_t>(threads, useful)), [&](int64_t task) {
    MihSearch search(*this, codes, patience);
    std::vector<Finder> finders;
    for (int64_t q = task * batch; q < std::min(queries.count, (task + 1) * batch); ++q)
      finders.push_back(search.finder(queries, q, std::numeric_limits<int64_t>::max() / 4, radius + 1));
    search.range(finders, radius);
    for (size_t i = 0; i < finders.size(); ++i) {
      const size_t q = static_cast<size_t>(task * batch) + i;
      gave_up[q] = finders[i].gave_up;
      if (finders[i].gave_up) continue;
      hits[q] = std::move(finders[i].hits);
      std::sort(hits[q].begin(), hits[q].end());
    }
  });
  scan_rest(queries, codes, count_, gave_up,
            [&](Codes some, Codes rest, const std::vector<int64_t>& places, int64_t first) {
              Neighbours near;
              const std::vector<int64_t> lims = hamming::range(some, rest, radius, near, threads);
              parallel_for(ceil_div(some.count, batch), threads, [&](int64_t task) {
                for (int64_t i = task * batch; i < std::min(some.count, (task + 1) * batch); ++i) {
                  Hits& row = hits[static_cast<size_t>(places[static_cast<size_t>(i)])];
                  const int64_t begin = lims[static_cast<size_t>(i)], end = lims[static_cast<size_t>(i) + 1];
                  for (size_t j = static_cast<size_t>(begin); j < static_cast<size_t>(end); ++j)
                    row.push_back({near.distances[j], first + near.indices[j]});
                  std::sort(row.begin(), row.end());
                }
              });
            });
  std::vector<int64_t> lims(hits.size() + 1, 0);
  for (size_t q = 0; q < hits.size(); ++q) lims[q + 1] = lims[q] + static_cast<int64_t>(hits[q].size());
  found.distances.resize(static_cast<size_t>(lims.back()));
  found.indices.resize(static_cast<size_t>(lims.back()));
  for (size_t q = 0; q < hits.size(); ++q) {
    size_t out = static_cast<size_t>(lims[q]);
    for (const Hit& hit : hits[q]) {
      found.distances[out] = hit.distance;
      found.indices[out++] = hit.position;
    }
  }
  return lims;
}

void Mih::topk(Codes queries, Codes codes, int64_t k, int32_t* distances, int64_t* indices, double patience,
               int threads) const {
  const int64_t wanted = std::min(k, codes.count);
  std::vector<Hits> hits(static_cast<size_t>(queries.count));
  std::vector<char> gave_up(hits.size(), 0);
  parallel_for(wanted > 0 ? queries.count : 0, threads, [&](int64_t q) {
    MihSearch search(*this, codes, patience);
    Finder finder = search.finder(queries, q, wanted, static_cast<int32_t>(codes.bytes * 8) + 1);
    search.topk(finder);
    gave_up[static_cast<size_t>(q)] = finder.gave_up;
    if (!finder.gave_up) hits[static_cast<size_t>(q)] = std::move(finder.hits);
    std::sort(hits[static_cast<size_t>(q)].begin(), hits[static_cast<size_t>(q)].end());
  });
  scan_rest(queries, codes, count_, gave_up,
            [&](Codes some, Codes rest, const std::vector<int64_t>& places, int64_t first) {
              const size_t most = static_cast<size_t>(std::min(wanted, rest.count));
              std::vector<int32_t> near(places.size() * most);
              std::vector<int64_t> where(places.size() * most);
              hamming::topk(some, rest, static_cast<int64_t>(most), near.data(), where.data(), threads);
              for (size_t i = 0; i < near.size(); ++i)
                hits[static_cast<size_t>(places[i / most])].push_back({near[i], first + where[i]});
              for (const int64_t q : places)
                std::sort(hits[static_cast<size_t>(q)].begin(), hits[static_cast<size_t>(q)].end());
            });
  for (int64_t q = 0; q < queries.count; ++q) {
    Hits& row = hits[static_cast<size_t>(q)];
    row.resize(static_cast<size_t>(k), Hit{-1, -1});
    for (int64_t i = 0; i < k; ++i) {
      distances[q * k + i] = row[static_cast<size_t>(i)].distance;
      indices[q * k + i] = row[static_cast<size_t>(i)].position;
    }
  }
}

}  // namespace xmkern::hamming
