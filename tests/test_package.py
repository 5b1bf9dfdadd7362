"""What the package promises as a package: its names, its weight at import, an extension free of torch."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import xmkern
from xmkern import native
from xmkern.__main__ import main
from xmkern.ops.registry import ops

ROOT = Path(__file__).parent.parent

PUBLIC = {
    "xmkern": {
        "__version__",
        "biases",
        "cpu_capabilities",
        "cpu_capability",
        "distributed",
        "functional",
        "masks",
        "nn",
        "set_cpu_capability",
    },
    "xmkern.functional": {
        "DynamicThreshold",
        "KeyValue",
        "StepCoefficients",
        "alternating_co_attention",
        "attention",
        "bi_attention",
        "add_layer_norm",
        "add_rms_norm",
        "bias_activation",
        "bias_dropout_add",
        "bitwise_max_margin",
        "classifier_guidance",
        "co_attention",
        "cosine_max_margin",
        "cross_attention",
        "damsm_loss",
        "damsm_scores",
        "diffusion_step",
        "distillation",
        "dynamic_threshold",
        "gated_activation",
        "gated_residual",
        "hamming_distance",
        "hamming_range",
        "hamming_topk",
        "hash_likelihood",
        "info_nce",
        "late_interaction_info_nce",
        "linear",
        "max_similarity",
        "merge_attention",
        "mil_nce",
        "multi_positive_info_nce",
        "optimal_transport_alignment",
        "pack_bits",
        "parallel_co_attention",
        "philox_normal",
        "q_sample",
        "ranking_loss",
        "sandwich_layer_norm",
        "scaled_dot_product_attention",
        "sigmoid_contrastive",
        "unpack_bits",
    },
    "xmkern.masks": {"Mask", "axial", "band", "causal", "dense", "key_lengths", "prefix", "segments"},
    "xmkern.biases": {"RelativeBias", "swin_buckets", "t5_buckets"},
    "xmkern.diffusion": {
        "DDIMScheduler",
        "DDPMScheduler",
        "DPMSolverMultistepScheduler",
        "EulerAncestralDiscreteScheduler",
        "EulerDiscreteScheduler",
        "Fused",
        "PNDMScheduler",
        "RePaintScheduler",
        "Scheduler",
        "SchedulerOutput",
        "UnCLIPScheduler",
        "sample",
    },
    "xmkern.models": {"ModelCard", "create_model", "list_models", "load_reference", "model_card"},
    "xmkern.distributed": {"ShardedBinaryIndex", "info_nce", "sigmoid_contrastive"},
    "xmkern.nn": {
        "BiAttention",
        "ClipLoss",
        "CoAttentionBlock",
        "Conv1d",
        "Conv2d",
        "Conv3d",
        "CrossAttention",
        "CrossModalityBlock",
        "FeedForward",
        "GatedCrossAttention",
        "KeyValueCache",
        "Linear",
        "MultiheadAttention",
        "SelfAttention",
        "SigLipLoss",
        "TransformerBlock",
        "TransformerDecoderLayer",
        "TransformerEncoderLayer",
        "replace",
        "restore",
    },
    "xmkern.testing": {"assert_matches_reference", "each_capability", "strategies", "threads"},
}


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_are_pinned(module):
    found = __import__(module, fromlist=["__all__"])
    assert set(found.__all__) == PUBLIC[module]
    assert all(hasattr(found, name) for name in found.__all__)


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )


def test_import_is_light():
    code = """
import gc, time, torch
gc.disable()  # a collection of what torch has made may come at any class
start = time.process_time()
import xmkern, sys
print(time.process_time() - start)
print([name for name in ("triton", "hypothesis", "matplotlib", "faiss") if name in sys.modules])
"""
    for _ in range(3):  # where other tests run beside, the least counts
        seconds, heavy = run(code).stdout.splitlines()
        assert heavy == "[]"
        if float(seconds) < 0.3:
            return
    pytest.fail(f"importing xmkern takes {seconds} s")


def test_a_missing_extension_is_one_warning_and_the_reference_serves():
    code = """
import sys, warnings
sys.modules["xmkern._native"] = None
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import xmkern
import torch, xmkern.functional as xf
codes = torch.arange(6, dtype=torch.uint8).view(6, 1)
print(len(caught), "plain PyTorch" in str(caught[0].message))
print(xf.hamming_topk(codes[:1], codes, 2)[1].tolist(), xmkern.cpu_capabilities())
try:
    xf.hamming_topk(codes, codes, 1, backend="cpu")
except ValueError as error:
    print("cannot be loaded" in str(error))
"""
    done = run(code)
    assert done.stdout.splitlines() == ["1 True", "[[0, 1]] []", "True"], done.stderr


@pytest.mark.skipif(not native.cpu_capabilities(), reason="no native extension")
class TestNative:
    def test_has_no_torch_symbol(self):
        listed = subprocess.run(
            ["nm", "-D", "-C", native.module().__file__], capture_output=True, text=True, check=True
        ).stdout
        assert "PyInit__native" in listed
        assert not re.search(r"\bc10::|\bat::|\btorch::|\baten\b", listed)

    def test_capability_is_forced_by_the_environment(self):
        done = run("import xmkern; print(xmkern.cpu_capability())", XMKERN_CPU_CAPABILITY="baseline")
        assert done.stdout.strip() == "baseline"
        done = run("import xmkern", XMKERN_CPU_CAPABILITY="mmx")
        assert "XMKERN_CPU_CAPABILITY: no CPU capability is named 'mmx'" in done.stderr

    def test_threads_share_one_openmp_runtime(self):
        code = """
import xmkern, torch, xmkern.functional as xf
xf.hamming_topk(torch.zeros(64, 8, dtype=torch.uint8), torch.zeros(50000, 8, dtype=torch.uint8), 3)
print(len({line.split()[-1] for line in open("/proc/self/maps") if "libgomp" in line}))
"""
        assert run(code).stdout.strip() == "1"


def test_kernel_sources_hold_no_inline_code_of_the_standard_library():
    allowed = {"cstdint", "cstddef", "immintrin.h"}
    kernels = [*ROOT.glob("csrc/*/kernels*.cpp"), *ROOT.glob("csrc/*/lanes.h"), *ROOT.glob("csrc/*/kernels.h")]
    assert kernels
    for path in kernels:
        assert set(re.findall(r"#include <([^>]+)>", path.read_text())) <= allowed, path


def test_native_sources_know_neither_torch_nor_python():
    for path in ROOT.glob("csrc/**/*.*"):
        assert not re.search(r"#include [<\"](torch|ATen|c10|pybind11|Python)", path.read_text()), path


def test_imports_run_one_way():
    order = ["native", "ops", "masks", "biases", "_functional", "functional", "hamming", "distributed", "diffusion"]
    order += ["nn", "data", "metrics", "models", "zoo"]
    for level, name in enumerate(order):
        for path in [*ROOT.glob(f"xmkern/{name}.py"), *ROOT.glob(f"xmkern/{name}/**/*.py")]:
            for node in ast.walk(ast.parse(path.read_text())):
                target = node.module if isinstance(node, ast.ImportFrom) else None
                if target and target.startswith("xmkern."):
                    assert target.split(".")[1] in order[: level + 1], f"{path} imports {target}"


def test_env_tells_who_serves_and_why_the_others_do_not(capsys):
    assert main(["env", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["packages"]["torch"] == torch.__version__
    assert set(facts["operators"]) == set(ops())
    assert facts["operators"]["hamming_topk"]["served_by"] == ("cpu" if native.cpu_capabilities() else "reference")
    assert main(["env"]) == 0
    assert xmkern.__version__ in capsys.readouterr().out


def test_the_doctor_finds_a_wrong_kernel(capsys, monkeypatch):
    assert main(["check"]) == 0
    assert "every backend agrees" in capsys.readouterr().out
    from xmkern.ops.hamming import op, reference
    from xmkern.ops.registry import Backend

    wrong = Backend("cpu", lambda a, b: reference.hamming_distance(a, b) + 1)
    monkeypatch.setattr(op.hamming_distance, "backends", (wrong, *op.hamming_distance.backends[1:]))
    assert main(["check"]) == 1
    assert "BAD hamming_distance" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["search", "zoo"])
def test_commands_with_a_parser_of_their_own_get_all_that_follows(command, capsys):
    pytest.importorskip("rich")
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert f"usage: python -m xmkern {command}" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--help"])
    assert f"\n    {command} " in capsys.readouterr().out


@pytest.mark.parametrize(("command", "module", "extra"), [("search", "demo.search", "data"), ("zoo", "zoo.cli", "zoo")])
def test_a_missing_package_is_one_sentence(command, module, extra, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.delitem(sys.modules, f"xmkern.{module}", raising=False)
    assert main([command, "list"]) == 1
    assert capsys.readouterr().err == f"error: rich.console is needed for this: pip install xmkern[{extra}]\n"
