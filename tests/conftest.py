import pytest
import torch
from hypothesis import settings

from xmkern import native

settings.register_profile("default", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("default")


def pytest_configure(config: pytest.Config) -> None:
    # Workers share two cores: more threads than that only wait for each other.
    torch.set_num_threads(2)


@pytest.fixture(params=native.cpu_capabilities() or ["none"])
def capability(request: pytest.FixtureRequest):
    """Runs a test once per instruction-set level that this machine has."""
    if request.param == "none":
        pytest.skip(native.why_missing() or "")
    before = native.cpu_capability()
    native.set_cpu_capability(request.param)
    yield request.param
    native.set_cpu_capability(before)
