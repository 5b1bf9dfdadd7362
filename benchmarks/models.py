"""Whole models as people run them, with our kernels and without: time of a forward pass, of a training step and of
writing a few words, the most bytes of tensors at a time, and where the time goes.

Without is what the library does by itself: eager attention where a class knows no other, else torch's fused one. With
is ``patch(model)``, ``attn_implementation="xmkern"`` where it can be chosen, and ``nn.replace(model)`` for the UNet.
Weights are random, sizes are those of the published models (the UNet's is smaller), batches small.
"""

import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import diffusers
import torch
import transformers as hf
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import xmkern.diffusion as schedulers
import xmkern.nn
from benchmarks.measure import PRODUCTS, RESULTS, alternate, write_rows
from xmkern.integrations import diffusers as in_diffusers
from xmkern.integrations import transformers as in_transformers
from xmkern.ops.linear import torch_loops

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MODES = ("inference", "training", "writing")
Inputs = dict[str, Any]


def words(batch: int, length: int) -> Inputs:
    """Token ids, the last third of some samples padded."""
    lengths = torch.linspace(2 * length // 3, length, batch).long()
    mask = torch.arange(length) < lengths[:, None]
    return {"input_ids": torch.randint(5, 20000, (batch, length)), "attention_mask": mask.long()}


def visual_bert() -> tuple[nn.Module, Inputs]:
    model = hf.VisualBertModel(hf.VisualBertConfig(visual_embedding_dim=2048))
    visual = {"visual_embeds": torch.randn(8, 36, 2048), "visual_attention_mask": torch.ones(8, 36)}
    return model, {**words(8, 64), **visual}


def vilt() -> tuple[nn.Module, Inputs]:
    images = {"pixel_values": torch.randn(4, 3, 384, 384), "pixel_mask": torch.ones(4, 384, 384, dtype=torch.long)}
    return hf.ViltModel(hf.ViltConfig()), {**words(4, 40), **images}


def lxmert() -> tuple[nn.Module, Inputs]:
    visual = {"visual_feats": torch.randn(8, 36, 2048), "visual_pos": torch.rand(8, 36, 4)}
    return hf.LxmertModel(hf.LxmertConfig()), {**words(8, 20), **visual}


def clip() -> tuple[nn.Module, Inputs]:
    return hf.CLIPModel(hf.CLIPConfig()), {**words(8, 77), "pixel_values": torch.randn(8, 3, 224, 224)}


T5_SMALL = {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8}


def t5() -> tuple[nn.Module, Inputs]:
    model = hf.T5Model(hf.T5Config(**T5_SMALL))
    return model, {**words(4, 256), "decoder_input_ids": torch.randint(5, 20000, (4, 64))}


def git() -> tuple[nn.Module, Inputs]:
    return hf.GitModel(hf.GitConfig()), {**words(4, 40), "pixel_values": torch.randn(4, 3, 224, 224)}


def unet() -> tuple[nn.Module, Inputs]:
    model = diffusers.UNet2DConditionModel(
        sample_size=32, block_out_channels=(96, 192, 384), layers_per_block=1, cross_attention_dim=512,
        attention_head_dim=8, down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    return model, {"sample": torch.randn(2, 4, 32, 32), "encoder_hidden_states": torch.randn(2, 77, 512)}


MODELS = {
    "VisualBERT": visual_bert, "ViLT": vilt, "LXMERT": lxmert, "CLIP ViT-B/32": clip, "T5-small": t5, "GIT": git,
    "UNet": unet,
}  # fmt: skip


def t5_writer() -> tuple[nn.Module, Inputs]:
    return hf.T5ForConditionalGeneration(hf.T5Config(**T5_SMALL, decoder_start_token_id=0)), words(1, 128)


def git_writer() -> tuple[nn.Module, Inputs]:
    return hf.GitForCausalLM(hf.GitConfig()), {**words(1, 6), "pixel_values": torch.randn(1, 3, 224, 224)}


# Those that write, by five beams.
WRITERS = {"T5-small": t5_writer, "GIT": git_writer}
WRITING = {"num_beams": 5, "do_sample": False, "min_new_tokens": 16, "max_new_tokens": 16}


def switch_on(model: nn.Module) -> None:
    if isinstance(model, diffusers.UNet2DConditionModel):
        in_diffusers.patch(model)
        xmkern.nn.replace(model)
        return
    in_transformers.register()
    part = {hf.GitModel: "image_encoder", hf.GitForCausalLM: "git.image_encoder"}.get(type(model), "")
    chosen = model.get_submodule(part)
    if chosen._can_set_attn_implementation():
        chosen.set_attn_implementation(in_transformers.NAME)
    in_transformers.patch(model)


def outputs(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    torch.manual_seed(0)  # ViLT draws its patches
    options = {"timestep": 500} if isinstance(model, diffusers.UNet2DConditionModel) else {}
    found = model(**inputs, **options).to_tuple()
    return [x for x in found if isinstance(x, Tensor) and x.is_floating_point()]


def write(model: nn.Module, inputs: Inputs) -> Any:
    return model.generate(**inputs, **WRITING)  # type: ignore[operator]


def sampling(model: nn.Module, inputs: Inputs, scheduler: Any, steps: int = 4) -> Tensor:
    scheduler.set_timesteps(steps)
    sample = inputs["sample"]
    for t in scheduler.timesteps:
        noise = model(sample, t, inputs["encoder_hidden_states"]).sample
        sample = scheduler.step(noise, t, sample).prev_sample
    return sample


@dataclass
class Contest:
    """One model in one dtype, with and without."""

    models: dict[str, nn.Module]
    inputs: Inputs
    mode: str

    @classmethod
    def of(cls, make: Callable[[], tuple[nn.Module, Inputs]], dtype: torch.dtype, mode: str) -> "Contest":
        torch.manual_seed(0)
        model, inputs = make()
        theirs = model.to(dtype)
        ours = copy.deepcopy(theirs)
        switch_on(ours)
        inputs = {name: x.to(dtype) if x.is_floating_point() else x for name, x in inputs.items()}
        return cls({"xmkern": ours, "before": theirs}, inputs, mode)

    def check(self) -> None:
        """Raises AssertionError unless outputs are the same (tests compare gradients)."""
        read = write if self.mode == "writing" else outputs
        with torch.no_grad():
            found = [read(model.eval(), self.inputs) for model in self.models.values()]
        if self.mode == "writing":
            # In half precision weights that are drawn have near ties, which rounding decides.
            assert torch.equal(*found) or self.models["xmkern"].dtype != torch.float32
            return
        for ours, theirs in zip(*found, strict=True):
            worst = 1e-3 if theirs.dtype == torch.float32 else 0.1
            assert (ours - theirs).float().norm() <= worst * theirs.float().norm()

    def call(self, name: str) -> None:
        model = self.models[name].train(self.mode == "training")
        if self.mode == "training":
            sum(x.float().square().mean() for x in outputs(model, self.inputs)).backward()
            model.zero_grad()
            return
        with torch.no_grad():
            if self.mode == "writing":
                write(model, self.inputs)
            elif isinstance(model, diffusers.UNet2DConditionModel):
                library = schedulers if name == "xmkern" else diffusers
                sampling(model, self.inputs, library.DDIMScheduler(clip_sample=False))
            else:
                outputs(model, self.inputs)


_FUSED = "aten::_scaled_dot_product_flash_attention_for_cpu"
PARTS = {
    "attention": (
        "aten::bmm", "aten::baddbmm", "aten::_softmax", "aten::_softmax_backward_data", _FUSED, f"{_FUSED}_backward",
        "xmkern::attention", "xmkern::attention_backward", "xmkern::cross_attention",
        "xmkern::cross_attention_backward",
    ),
    "products": (
        *PRODUCTS, "aten::mkldnn_convolution", "aten::_slow_conv2d_forward", "aten::_slow_conv2d_backward",
        "aten::convolution_backward",
    ),
}  # fmt: skip


def look(call: Callable[[], Any]) -> tuple[dict[str, float], float]:
    """Shares of a call's time, and the most bytes that tensors made in it had at a time (kernels' scratch apart)."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        call()
    events = seen.key_averages()
    whole = sum(event.self_cpu_time_total for event in events)
    shares = {
        part: sum(event.self_cpu_time_total for event in events if event.key in names) / whole
        for part, names in PARTS.items()
    }
    now = most = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return shares, most


def measure(name: str, dtype: str, mode: str) -> dict[str, Any]:
    contest = Contest.of((WRITERS if mode == "writing" else MODELS)[name], DTYPES[dtype], mode)
    contest.check()
    calls = {who: partial(contest.call, who) for who in contest.models}
    times = alternate(calls, 6.0, 5, burst=1)
    looks = {who: look(call) for who, call in calls.items()}
    row: dict[str, Any] = {"model": name, "mode": mode, "dtype": dtype}
    row |= {f"{who}_ms": round(time * 1e3, 2) for who, time in times.items()}
    row["ratio"] = round(times["before"] / times["xmkern"], 3)
    row |= {f"{who}_mb": round(most / 1e6, 1) for who, (_, most) in looks.items()}
    for who, (shares, _) in looks.items():
        row |= {f"{who}_{part}_share": round(share, 3) for part, share in shares.items()}
    print(f"{name:14} {row['mode']:9} {dtype:9} {row['ratio']:.2f}x", flush=True)
    return row


def table(measured: list[dict[str, Any]]) -> str:
    lines = [
        "| model | | dtype | xmkern | before | ratio | memory | before | of before: attention | products |",
        "| --- | --- | --- |" + " ---: |" * 7,
    ]
    for r in measured:
        lines.append(
            f"| {r['model']} | {r['mode']} | {r['dtype']} | {float(r['xmkern_ms']):.0f} ms | "
            f"{float(r['before_ms']):.0f} ms | **{float(r['ratio']):.2f}x** | {float(r['xmkern_mb']):.0f} MB | "
            f"{float(r['before_mb']):.0f} MB | {100 * float(r['before_attention_share']):.0f} % | "
            f"{100 * float(r['before_products_share']):.0f} % |"
        )
    return "\n".join(lines)


def main() -> None:
    hf.logging.set_verbosity_error()
    measured = [
        measure(name, dtype, mode)
        for name, dtype, mode in itertools.product(MODELS, DTYPES, MODES)
        if not (mode == "training" and torch_loops(DTYPES[dtype]))  # a step without ours takes minutes
        and not (mode == "writing" and name not in WRITERS)
    ]
    print(table(measured))
    path = write_rows("models", measured)
    print(f"\nrows in {path.relative_to(RESULTS.parent.parent)}")
