"""Losses of a batch spread over processes that torchrun starts, and what one process can see of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.distributed.checks import CHECKS
from xmkern import distributed, functional


@pytest.mark.parametrize("world", [2, 4])
def test_checks_hold_on_every_rank(world):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
    done = subprocess.run(
        [*torchrun, "-m", "tests.distributed.checks"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    errors = {}
    for line in done.stdout.splitlines():
        errors |= json.loads(line)
    failures = [f"{name}\n{error}" for name, error in errors.items() if error]
    assert not failures, "\n".join(failures)
    assert list(errors) == list(CHECKS), done.stderr


@pytest.fixture(scope="module")
def one_process():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def features():
    torch.manual_seed(0)
    return torch.randn(2, 7, 5)


@pytest.mark.usefixtures("one_process")
class TestOfOneProcess:
    @pytest.mark.parametrize("exchange", ["ring", "gather"])
    @pytest.mark.parametrize("name", ["info_nce", "sigmoid_contrastive"])
    def test_is_the_functional_call(self, name, exchange, features):
        results = []
        for module, options in ((distributed, {"exchange": exchange}), (functional, {})):
            x, y = (each.clone().requires_grad_() for each in features)
            loss = getattr(module, name)(x, y, 3.0, logit_bias=-1.0, normalize=True, **options)
            results.append([loss, *torch.autograd.grad(loss, [x, y])])
        torch.testing.assert_close(*results)

    def test_casts_as_autocast_does(self, features):
        with torch.autocast("cpu", torch.bfloat16):
            got = distributed.info_nce(*features, 0.3)
        assert got.dtype == torch.float32
        assert torch.equal(got, distributed.info_nce(*features.bfloat16(), 0.3))

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"exchange": "broadcast"}, "exchange must be 'ring' or 'gather', not 'broadcast'"),
            ({"sizes": [3]}, r"sizes must be 1 numbers of rows, and 7 that of rank 0, not \[3\]"),
            ({"sizes": [7, 7]}, r"sizes must be 1 numbers of rows, and 7 that of rank 0, not \[7, 7\]"),
            ({"y": torch.zeros(8, 5)}, "y must have as many rows as x, 7, not 8"),
            ({"y": torch.zeros(7, 4)}, "y must have D = 5 columns as x has, not 4"),
            ({"backend": "abacus"}, "backend must be 'auto' or one of"),
        ],
    )
    def test_says_what_does_not_fit(self, changed, message, features):
        arguments = {"x": features[0], "y": features[1], "logit_scale": 2.0} | changed
        for call in (distributed.info_nce, distributed.sigmoid_contrastive):
            with pytest.raises(ValueError, match=message):
                call(**arguments)

    def test_a_second_derivative_is_refused(self, features):
        x, y = features[0].requires_grad_(), features[1]
        with pytest.raises(NotImplementedError, match="a first derivative only"):
            torch.autograd.grad(distributed.info_nce(x, y, 2.0), x, create_graph=True)
