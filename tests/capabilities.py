"""Runs a test once per instruction-set level of this machine."""

import pytest

from xmkern import native


def fixture(without: str):
    """The fixture ``capability``; ``without`` is the level for which the family has no kernels of its own."""

    @pytest.fixture(params=[level for level in native.cpu_capabilities() if level != without] or ["none"])
    def capability(request: pytest.FixtureRequest):
        if request.param == "none":
            pytest.skip(native.why_missing() or "")
        before = native.cpu_capability()
        native.set_cpu_capability(request.param)
        yield request.param
        native.set_cpu_capability(before)

    return capability
