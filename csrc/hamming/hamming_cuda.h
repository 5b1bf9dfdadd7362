// Hamming search on an NVIDIA GPU. Codes are row-major bytes in device memory, as in hamming.h; nothing here allocates
// or waits: work is queued on `stream`.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

extern "C" {

constexpr int64_t xmkern_hamming_cuda_max_k = 256;
constexpr int64_t xmkern_hamming_cuda_max_bytes = 512;

// a [a_count, bytes], b [b_count, bytes]  ->  out [a_count, b_count]
cudaError_t xmkern_hamming_cuda_distances(const uint8_t* a, int64_t a_count, const uint8_t* b, int64_t b_count,
                                          int64_t bytes, int32_t* out, cudaStream_t stream);

// Into how many spans a search cuts the codes, so that a GPU of so many multiprocessors is filled.
int64_t xmkern_hamming_cuda_spans(int64_t query_count, int64_t code_count, int multiprocessors);

// The k <= max_k nearest of each query: distances, indices [query_count, k], each row ordered by (distance, index);
// missing neighbours are -1, -1. `found` is scratch memory [query_count, spans, k].
cudaError_t xmkern_hamming_cuda_topk(const uint8_t* queries, int64_t query_count, const uint8_t* codes,
                                     int64_t code_count, int64_t bytes, int64_t k, int64_t spans, uint64_t* found,
                                     int32_t* distances, int64_t* indices, cudaStream_t stream);

}  // extern "C"
