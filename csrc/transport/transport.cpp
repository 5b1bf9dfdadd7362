#include "transport/transport.h"

#include "core/capability.h"
#include "core/parallel.h"
#include "core/scratch.h"
#include "transport/kernels.h"

#define XMKERN_TRANSPORT_KERNELS extern const transport::PlanKernel transport_plan;

namespace xmkern {
namespace baseline {
XMKERN_TRANSPORT_KERNELS
}
#if XMKERN_X86
namespace avx2 {
XMKERN_TRANSPORT_KERNELS
}
namespace avx512 {
XMKERN_TRANSPORT_KERNELS
}
#endif

namespace transport {
namespace {

#if XMKERN_X86
const KernelTable<PlanKernel> kernels = {
    {&baseline::transport_plan, &avx2::transport_plan, &avx512::transport_plan, nullptr, nullptr}};
#else
const KernelTable<PlanKernel> kernels = {{&baseline::transport_plan}};
#endif

}  // namespace

void plan(const Problem& p, int threads) {
  const PlanKernel& kernel = kernels.pick();
  const auto bytes = static_cast<size_t>(kernel.workspace(p));
  parallel_for(p.samples, threads, [&](int64_t sample) { kernel.run(p, sample, Scratch::get(bytes)); });
}

}  // namespace transport
}  // namespace xmkern
