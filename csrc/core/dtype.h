#pragma once

#include <stdint.h>

namespace xmkern {

enum class Dtype : int { float32, bfloat16, float16 };

constexpr int64_t size_of(Dtype dtype) { return dtype == Dtype::float32 ? 4 : 2; }

}  // namespace xmkern
