"""The GPU side: kernels compiled and looked at without a GPU, checked, timed and tuned with one (docs/gpu.md)."""
