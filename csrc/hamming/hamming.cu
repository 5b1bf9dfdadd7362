// Hamming search on an NVIDIA GPU.
//
// A block answers a group of queries over one span of the codes: a code is read once for the whole group. What comes
// nearer than the k-th neighbour so far goes into the query's buffer in shared memory, and a buffer that might overflow
// is sorted and cut to k. So the distances are never written. A second kernel merges the spans in the same way.
//
// A neighbour is one key, distance << 40 | index. Keys differ, and their order is the order of the answer, so the
// result does not depend on the order in which threads arrive.
#include <algorithm>

#include "hamming/hamming_cuda.h"

namespace {

constexpr int threads = 128;
constexpr int warps = threads / 32;
constexpr int group = 8;                    // queries a block
constexpr int per_thread = 2;               // codes a thread reads between two barriers
constexpr int step = threads * per_thread;  // codes a block reads between two barriers
constexpr int capacity = 512;               // keys in a buffer
constexpr int index_bits = 40;
constexpr uint64_t nobody = ~uint64_t{0};  // greater than any key
constexpr int64_t max_bytes = xmkern_hamming_cuda_max_bytes;
static_assert(capacity >= xmkern_hamming_cuda_max_k + step, "a step must fit behind k neighbours");
static_assert((capacity & (capacity - 1)) == 0, "the bitonic sort wants a power of two");

__host__ __device__ constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

__device__ int differing(uint8_t a, uint8_t b) { return __popc(static_cast<uint32_t>(a ^ b)); }
__device__ int differing(uint32_t a, uint32_t b) { return __popc(a ^ b); }
__device__ int differing(uint2 a, uint2 b) { return differing(a.x, b.x) + differing(a.y, b.y); }
__device__ int differing(uint4 a, uint4 b) {
  return differing(a.x, b.x) + differing(a.y, b.y) + differing(a.z, b.z) + differing(a.w, b.w);
}

// A code as `count` vectors: the widest loads that its length and address allow. `fixed` is the count where the
// compiler shall know it, and 0 otherwise.
template <class Vector, int fixed>
struct Layout {
  int64_t bytes;
  __device__ int count() const { return fixed > 0 ? fixed : static_cast<int>(bytes / sizeof(Vector)); }
  __device__ const Vector* row(const uint8_t* codes, int64_t index) const {
    return reinterpret_cast<const Vector*>(codes + index * bytes);
  }
};

// The queries of a block: in registers where the length is fixed, else in shared memory.
template <class Vector, int fixed>
struct Group {
  Vector registers[fixed > 0 ? group * fixed : 1];
  const Vector* shared;

  // All threads of the block call this; `memory` holds group * count vectors. Absent queries are zero.
  __device__ Group(Layout<Vector, fixed> layout, const uint8_t* queries, int64_t first, int present, Vector* memory)
      : shared(memory) {
    const int count = layout.count();
    for (int i = threadIdx.x; i < group * count; i += threads)
      memory[i] = i / count < present ? layout.row(queries, first)[i] : Vector{};
    __syncthreads();
    if constexpr (fixed > 0) {
#pragma unroll
      for (int i = 0; i < group * fixed; ++i) registers[i] = memory[i];
    }
  }

  __device__ void distances(Layout<Vector, fixed> layout, const Vector* code, int (&out)[group]) const {
#pragma unroll
    for (int q = 0; q < group; ++q) out[q] = 0;
    const int count = layout.count();
#pragma unroll(fixed > 0 ? fixed : 1)
    for (int v = 0; v < count; ++v) {
      const Vector part = __ldg(code + v);
#pragma unroll
      for (int q = 0; q < group; ++q) {
        if constexpr (fixed > 0)
          out[q] += differing(part, registers[q * fixed + v]);
        else
          out[q] += differing(part, shared[q * count + v]);
      }
    }
  }
};

// Sorts a buffer, smallest first. One warp calls this.
__device__ void sort(uint64_t* keys) {
  for (int size = 2; size <= capacity; size *= 2) {
    for (int stride = size / 2; stride > 0; stride /= 2) {
      __syncwarp();
      for (int i = threadIdx.x % 32; i < capacity / 2; i += 32) {
        const int low = 2 * i - (i & (stride - 1));
        const int high = low + stride;
        const uint64_t a = keys[low], b = keys[high];
        if ((a > b) == ((low & size) == 0)) {
          keys[low] = b;
          keys[high] = a;
        }
      }
    }
  }
  __syncwarp();
}

// The smallest keys seen by a block, for several rows; lives in shared memory.
template <int rows>
struct Nearest {
  uint64_t keys[rows][capacity];
  uint64_t limit[rows];  // the k-th key at the last cut, or nobody: only a smaller key is worth a push
  int count[rows];

  __device__ void clear() {
    for (int row = threadIdx.x; row < rows; row += threads) {
      limit[row] = nobody;
      count[row] = 0;
    }
    __syncthreads();
  }

  // True if the buffer might overflow in the next step.
  __device__ bool push(int row, uint64_t key) {
    const int slot = atomicAdd(&count[row], 1);
    keys[row][slot] = key;
    return slot >= capacity - step;
  }

  // Sorts each row, with nobody behind the last key, and cuts it to k. All threads call this.
  __device__ void cut(int k) {
    __syncthreads();  // no warp still reads a limit
    const int lane = threadIdx.x % 32;
    for (int row = threadIdx.x / 32; row < rows; row += warps) {
      for (int i = count[row] + lane; i < capacity; i += 32) keys[row][i] = nobody;
      sort(keys[row]);
      if (lane == 0) {
        limit[row] = keys[row][k - 1];
        count[row] = min(count[row], k);
      }
    }
    __syncthreads();
  }
};

// The blocks of one span follow each other, so that its codes stay in the L2 cache for all queries.
template <class Vector, int fixed>
__global__ void __launch_bounds__(threads)
    topk_of_spans(Layout<Vector, fixed> layout, const uint8_t* queries, int64_t query_count, const uint8_t* codes,
                  int64_t code_count, int k, int64_t spans, uint64_t* found) {
  __shared__ Nearest<group> nearest;
  __shared__ Vector memory[group * max_bytes / sizeof(Vector)];
  const int64_t groups = divide_up(query_count, group);
  const int64_t first = blockIdx.x % groups * group;
  const int64_t span = blockIdx.x / groups;
  const int64_t length = divide_up(code_count, spans);
  const int64_t end = min(code_count, (span + 1) * length);
  const int present = static_cast<int>(min(static_cast<int64_t>(group), query_count - first));
  const Group<Vector, fixed> ours(layout, queries, first, present, memory);

  // Indices only grow, so a code at the distance of the k-th neighbour comes too late. Nothing is nearer than 0.
  int limit[group];
  const auto update_limits = [&] {
#pragma unroll
    for (int q = 0; q < group; ++q) limit[q] = q < present ? static_cast<int>(nearest.limit[q] >> index_bits) : 0;
  };
  nearest.clear();
  update_limits();
  for (int64_t base = span * length; base < end; base += step) {
    bool full = false;
#pragma unroll
    for (int j = 0; j < per_thread; ++j) {
      const int64_t index = base + j * threads + threadIdx.x;
      if (index >= end) continue;
      int distance[group];
      ours.distances(layout, layout.row(codes, index), distance);
#pragma unroll
      for (int q = 0; q < group; ++q)
        if (distance[q] < limit[q]) full |= nearest.push(q, static_cast<uint64_t>(distance[q]) << index_bits | index);
    }
    if (__syncthreads_or(full)) {
      nearest.cut(k);
      update_limits();
    }
  }
  nearest.cut(k);
  for (int i = threadIdx.x; i < present * k; i += threads)
    found[((first + i / k) * spans + span) * k + i % k] = nearest.keys[i / k][i % k];
}

// found [queries, length] keys in any order; one block a query.
__global__ void __launch_bounds__(threads)
    merge_spans(const uint64_t* found, int64_t length, int k, int32_t* distances, int64_t* indices) {
  __shared__ Nearest<1> nearest;
  const int64_t query = blockIdx.x;
  nearest.clear();
  uint64_t limit = nearest.limit[0];
  for (int64_t base = 0; base < length; base += step) {
    bool full = false;
    for (int64_t i = base + threadIdx.x; i < min(length, base + step); i += threads) {
      const uint64_t key = found[query * length + i];
      if (key < limit) full |= nearest.push(0, key);
    }
    if (__syncthreads_or(full)) {
      nearest.cut(k);
      limit = nearest.limit[0];
    }
  }
  nearest.cut(k);
  for (int i = threadIdx.x; i < k; i += threads) {
    const uint64_t key = nearest.keys[0][i];
    distances[query * k + i] = key == nobody ? -1 : static_cast<int32_t>(key >> index_bits);
    indices[query * k + i] = key == nobody ? -1 : static_cast<int64_t>(key & ((uint64_t{1} << index_bits) - 1));
  }
}

template <class Vector, int fixed>
__global__ void __launch_bounds__(threads)
    all_distances(Layout<Vector, fixed> layout, const uint8_t* a, int64_t a_count, const uint8_t* b, int64_t b_count,
                  int32_t* out) {
  __shared__ Vector memory[group * max_bytes / sizeof(Vector)];
  const int64_t columns = divide_up(b_count, threads);
  const int64_t first = blockIdx.x / columns * group;
  const int64_t column = blockIdx.x % columns * threads + threadIdx.x;
  const int present = static_cast<int>(min(static_cast<int64_t>(group), a_count - first));
  const Group<Vector, fixed> ours(layout, a, first, present, memory);
  if (column >= b_count) return;
  int distance[group];
  ours.distances(layout, layout.row(b, column), distance);
#pragma unroll
  for (int q = 0; q < group; ++q)
    if (q < present) out[(first + q) * b_count + column] = distance[q];
}

// Calls launch(layout) with the best layout for both arrays.
template <class Launch>
cudaError_t with_layout(const uint8_t* a, const uint8_t* b, int64_t bytes, Launch launch) {
  const auto address = reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b) | static_cast<uintptr_t>(bytes);
  if (bytes == 8 && address % 8 == 0)
    launch(Layout<uint2, 1>{bytes});
  else if (bytes == 16 && address % 16 == 0)
    launch(Layout<uint4, 1>{bytes});
  else if (bytes == 32 && address % 16 == 0)
    launch(Layout<uint4, 2>{bytes});
  else if (address % 16 == 0)
    launch(Layout<uint4, 0>{bytes});
  else if (address % 4 == 0)
    launch(Layout<uint32_t, 0>{bytes});
  else
    launch(Layout<uint8_t, 0>{bytes});
  return cudaGetLastError();
}

}  // namespace

extern "C" {

cudaError_t xmkern_hamming_cuda_distances(const uint8_t* a, int64_t a_count, const uint8_t* b, int64_t b_count,
                                          int64_t bytes, int32_t* out, cudaStream_t stream) {
  const int64_t blocks = divide_up(a_count, group) * divide_up(b_count, threads);
  if (blocks == 0) return cudaSuccess;
  if (blocks > INT32_MAX) return cudaErrorInvalidConfiguration;
  return with_layout(a, b, bytes, [&](auto layout) {
    all_distances<<<static_cast<unsigned>(blocks), threads, 0, stream>>>(layout, a, a_count, b, b_count, out);
  });
}

int64_t xmkern_hamming_cuda_spans(int64_t query_count, int64_t code_count, int multiprocessors) {
  constexpr int64_t blocks_each = 12;     // about two rounds of the blocks that fit a multiprocessor
  constexpr int64_t shortest = 8 * step;  // shorter spans would sort more than they scan
  const int64_t wanted = divide_up(blocks_each * multiprocessors, std::max<int64_t>(1, divide_up(query_count, group)));
  return std::clamp<int64_t>(wanted, 1, std::max<int64_t>(1, code_count / shortest));
}

cudaError_t xmkern_hamming_cuda_topk(const uint8_t* queries, int64_t query_count, const uint8_t* codes,
                                     int64_t code_count, int64_t bytes, int64_t k, int64_t spans, uint64_t* found,
                                     int32_t* distances, int64_t* indices, cudaStream_t stream) {
  if (query_count == 0 || k == 0) return cudaSuccess;
  const int64_t blocks = divide_up(query_count, group) * spans;
  if (blocks > INT32_MAX || query_count > INT32_MAX) return cudaErrorInvalidConfiguration;
  const cudaError_t error = with_layout(queries, codes, bytes, [&](auto layout) {
    topk_of_spans<<<static_cast<unsigned>(blocks), threads, 0, stream>>>(layout, queries, query_count, codes,
                                                                         code_count, static_cast<int>(k), spans, found);
  });
  if (error != cudaSuccess) return error;
  merge_spans<<<static_cast<unsigned>(query_count), threads, 0, stream>>>(found, spans * k, static_cast<int>(k),
                                                                          distances, indices);
  return cudaGetLastError();
}

}  // extern "C"
