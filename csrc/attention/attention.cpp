#include "attention/attention.h"

#include <algorithm>
#include <vector>

#include "attention/kernels.h"
#include "core/capability.h"
#include "core/integer.h"
#include "core/large_array.h"
#include "core/parallel.h"
#include "core/scratch.h"

namespace xmkern {

XMKERN_KERNELS(forward_kernels, attention::ForwardKernel, attention_forward, avx512_bf16)
XMKERN_KERNELS(decode_kernels, attention::DecodeKernel, attention_decode, avx512_bf16)
XMKERN_KERNELS(backward_kernels, attention::BackwardKernel, attention_backward, avx512_bf16)

namespace attention {
namespace {

// How many parts the rows of one head are cut into: enough tasks for many threads, but each part packs the keys again.
// By the shape alone, so that results don't depend on the number of threads.
int64_t parts_of_rows(const Problem& p, int64_t owners, int64_t wanted, int64_t least_rows) {
  const int64_t possible = p.queries * (p.heads / p.key_heads) / least_rows;
  return std::clamp<int64_t>(std::min((wanted + owners - 1) / owners, possible), 1, std::max<int64_t>(p.queries, 1));
}

int64_t row_at(const Problem& p, int64_t part, int64_t parts) { return part * p.queries / parts; }

// Runs the tasks of several jobs in one parallel loop; `count` says how many a job has, `run` does one of them. A
// thread takes a few neighbours at a time, since a kernel asks for what the next one reads; who does which task does
// not change a result.
template <class Job>
void run_all(const std::vector<Job>& jobs, int threads, int64_t (Job::*count)() const,
             void (Job::*run)(int64_t) const) {
  int64_t tasks = 0;
  for (const Job& job : jobs) tasks += (job.*count)();
  const int64_t grain = std::clamp<int64_t>(tasks / (8 * threads), 1, 4);
  parallel_for(ceil_div(tasks, grain), threads, [&](int64_t part) {
    for (int64_t task = part * grain; task < std::min((part + 1) * grain, tasks); ++task) {
      const Job* job = jobs.data();
      int64_t own = task;
      for (; own >= (job->*count)(); ++job) own -= (job->*count)();
      (job->*run)(own);
    }
  });
}

// Few queries: each key head's keys are cut into parts of 2048, enough tasks for many threads, and long enough to be
// read in a row.
struct Decode {
  static constexpr int64_t part_tiles = 32;
  const Problem& p;
  const DecodeKernel& kernel;
  int64_t tiles, parts, rows, size;  // rows of all heads that share a key head; size of what a part leaves of a row
  LargeArray<float> partials;        // [batch, key head, part, row]

  explicit Decode(const Problem& problem)
      : p(problem),
        kernel(decode_kernels.pick()),
        tiles(ceil_div(p.places, 64)),
        parts(std::max<int64_t>(ceil_div(tiles, part_tiles), 1)),
        rows(p.heads / p.key_heads * p.queries),
        size(kernel.partial_size(p)),
        partials(static_cast<size_t>(tasks() * rows * size)) {}

  int64_t tasks() const { return p.batches * p.key_heads * parts; }

  void run(int64_t task) const {
    const int64_t part = task % parts, key_head = task / parts % p.key_heads, batch = task / parts / p.key_heads;
    const auto bytes = static_cast<size_t>(kernel.workspace(p));
    kernel.run(p, batch, key_head, part * part_tiles, std::min((part + 1) * part_tiles, tiles), Scratch::get(bytes),
               partials.get() + task * rows * size);
  }

  void merge() const {
    for (int64_t i = 0; i < p.batches * p.heads * p.queries; ++i) {
      const int64_t query = i % p.queries, head = i / p.queries % p.heads, batch = i / p.queries / p.heads;
      const int64_t heads = p.heads / p.key_heads, owner = batch * p.key_heads + head / heads;
      const int64_t row = head % heads * p.queries + query;
      kernel.merge(p, batch, head, query, partials.get() + (owner * parts * rows + row) * size, parts, rows * size);
    }
  }
};

struct Forward {
  const Problem& p;
  const ForwardKernel& kernel;
  int64_t parts;

  explicit Forward(const Problem& problem)
      : p(problem), kernel(forward_kernels.pick()), parts(parts_of_rows(p, p.batches * p.key_heads, 128, 512)) {}

  int64_t tasks() const { return p.batches * p.key_heads * parts; }

  void run(int64_t task) const {
    const int64_t part = task % parts, head = task / parts % p.key_heads, batch = task / parts / p.key_heads;
    const auto bytes = static_cast<size_t>(kernel.workspace(p));
    kernel.run(p, {batch, head, row_at(p, part, parts), row_at(p, part + 1, parts), Scratch::get(bytes)});
  }
};

struct Backward {
  const Problem& p;
  const Gradients& g;
  const BackwardKernel& kernel;
  int64_t batches_a_task = 1, heads_a_task = 1, parts, key_numbers, share, vector = 0;
  LargeArray<float> shares, vectors;

  Backward(const Problem& problem, const Gradients& gradients)
      : p(problem), g(gradients), kernel(backward_kernels.pick()) {
    for (int64_t i = 0; i < p.source_count; ++i) {
      const BiasGradient& bias = g.sources[i].bias;
      vector += share_length(bias);
      if (bias.form != BiasForm::rows) continue;
      // A row of the bias's gradient is summed over the batches and heads that share it: by one task, in their order.
      if (bias.batch == 0) batches_a_task = p.batches;
      if (bias.head == 0) heads_a_task = p.key_heads;
    }
    parts = parts_of_rows(p, owners(), 16, 256);
    key_numbers = p.places * ((p.depth + 15) / 16 * 16);
    share = key_numbers + p.places * ((p.value_depth + 15) / 16 * 16);
    if (parts > 1) shares = LargeArray<float>(static_cast<size_t>(p.batches * p.key_heads * parts * share));
    if (vector == 0) return;
    const int64_t numbers = p.batches * p.heads * parts * vector;
    vectors = LargeArray<float>(static_cast<size_t>(numbers));
    std::fill_n(vectors.get(), numbers, 0.0f);
  }

  int64_t owners() const { return p.batches / batches_a_task * (p.key_heads / heads_a_task); }
  int64_t tasks() const { return owners() * parts; }

  void run(int64_t task) const {
    const int64_t part = task % parts, owner = task / parts, groups = p.key_heads / heads_a_task;
    const int64_t head_begin = owner % groups * heads_a_task, batch_begin = owner / groups * batches_a_task;
    const auto bytes = static_cast<size_t>(kernel.workspace(p));
    for (int64_t batch = batch_begin; batch < batch_begin + batches_a_task; ++batch) {
      for (int64_t head = head_begin; head < head_begin + heads_a_task; ++head) {
        Shares own{};
        if (parts > 1) own = shares_of(batch, head, part);
        if (vector > 0) {
          const int64_t first_head = batch * p.heads + head * (p.heads / p.key_heads);
          own.bias = vectors.get() + (first_head * parts + part) * vector;
          own.bias_stride = parts * vector;
        }
        kernel.run(p, g, {batch, head, row_at(p, part, parts), row_at(p, part + 1, parts), Scratch::get(bytes)}, own);
      }
    }
  }

  Shares shares_of(int64_t batch, int64_t head, int64_t part) const {
    float* key = shares.get() + ((batch * p.key_heads + head) * parts + part) * share;
    return {key, key + key_numbers, nullptr, 0};
  }

  // What several parts left of the gradients of keys and values.
  int64_t sums() const { return parts > 1 ? p.batches * p.key_heads : 0; }
  void add(int64_t task) const {
    const int64_t batch = task / p.key_heads, head = task % p.key_heads;
    kernel.add_shares(p, g, batch, head, shares_of(batch, head, 0), parts, share);
  }

  void add_vectors() const {
    const float* from = vectors.get();
    for (int64_t i = 0; vector > 0 && i < p.batches * p.heads * parts; ++i) {
      const int64_t batch = i / parts / p.heads, head = i / parts % p.heads;
      for (int64_t s = 0; s < p.source_count; ++s) {
        const BiasGradient& bias = g.sources[s].bias;
        const int64_t length = share_length(bias);
        float* out = bias.data + batch * bias.batch + head * bias.head;
        for (int64_t c = 0; c < (length ? bias.length : 0); ++c) out[c] += from[c];
        from += length;
      }
    }
  }
};

}  // namespace

void lay_out(Problem& problem, Source* sources, int64_t count) {
  problem.sources = sources, problem.source_count = count;
  problem.places = 0, problem.biased = false;
  for (Source* source = sources; source < sources + count; ++source) {
    problem.biased |= source->bias.data != nullptr;
    source->place = ceil_div(problem.places, 64) * 64;
    if (source->keys > 0) problem.places = source->place + source->keys;
  }
}

void forward(const Problem* problems, int64_t count, int threads) {
  std::vector<Forward> many;
  std::vector<Decode> few;
  for (const Problem* p = problems; p < problems + count; ++p) {
    if (p->batches * p->key_heads * p->queries == 0) continue;
    if (p->queries * (p->heads / p->key_heads) <= decode_rows)
      few.emplace_back(*p);
    else
      many.emplace_back(*p);
  }
  run_all(many, threads, &Forward::tasks, &Forward::run);
  run_all(few, threads, &Decode::tasks, &Decode::run);
  for (const Decode& decode : few) decode.merge();
}

void backward(const Problem* problems, const Gradients* gradients, int64_t count, int threads) {
  std::vector<Backward> jobs;
  for (int64_t i = 0; i < count; ++i)
    if (problems[i].batches * problems[i].key_heads > 0) jobs.emplace_back(problems[i], gradients[i]);
  run_all(jobs, threads, &Backward::tasks, &Backward::run);
  run_all(jobs, threads, &Backward::sums, &Backward::add);
  for (const Backward& job : jobs) job.add_vectors();
}

}  // namespace attention
}  // namespace xmkern
