#include "transport/transport.h"

#include "core/capability.h"
#include "core/parallel.h"
#include "core/scratch.h"
#include "transport/kernels.h"

namespace xmkern {

XMKERN_KERNELS(kernels, transport::PlanKernel, transport_plan, avx512)

namespace transport {
void plan(const Problem& p, int threads) {
  const PlanKernel& kernel = kernels.pick();
  const auto bytes = static_cast<size_t>(kernel.workspace(p));
  parallel_for(p.samples, threads, [&](int64_t sample) { kernel.run(p, sample, Scratch::get(bytes)); });
}

}  // namespace transport
}  // namespace xmkern
