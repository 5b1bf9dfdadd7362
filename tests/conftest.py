import pytest
import torch
from hypothesis import settings

from tests import capabilities

settings.register_profile("default", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("default")


def pytest_configure(config: pytest.Config) -> None:
    # Workers share two cores: more threads than that only wait for each other.
    torch.set_num_threads(2)


# Counting bits in one instruction is of use to Hamming's kernels alone.
capability = capabilities.fixture(without="avx512_vpopcntdq")


@pytest.fixture
def at_once_calls(monkeypatch):
    """at_once_calls(module, *names) -> a list that tells of each call of these functions whether it was served."""

    def watch(module, *names):
        found = []

        def watched(call):
            def wrapper(*args):
                result = call(*args)
                found.append(result is not None)
                return result

            return wrapper

        for name in names:
            monkeypatch.setattr(module, name, watched(getattr(module, name)))
        return found

    return watch
