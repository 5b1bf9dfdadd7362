"""Draws emoji from words: a small diffusion model with classifier-free guidance, trained in five minutes on two cores.

    python examples/emoji_diffusion.py                   # trains, or goes on from the checkpoint, and draws
    python examples/emoji_diffusion.py --steps 20        # only to see that it runs
    python examples/emoji_diffusion.py --words "red heart"    # once trained, only draws

Needs ``pip install xmkern[data,examples]``. Writes ``checkpoint.safetensors``, ``pictures.png`` (a row of
samples for each words) and ``curve.png`` to ``--out``.

The model is a U-Net in which the pixels attend to each other and to the words; it predicts the velocity. Attention, the
noise of training and the sampler's steps are kernels of xmkern. The pictures are by OpenMoji, CC BY-SA 4.0.
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

import xmkern.functional as xf
from xmkern import masks
from xmkern.data import emoji
from xmkern.diffusion import DPMSolverMultistepScheduler, sample

SIZE = 32
WORDS = 6  # of a name
GROUPS = ("Smileys & Emotion", "Animals & Nature", "Food & Drink", "Activities")
SHOWN = ("grinning face", "red heart", "blue heart", "cat face", "turtle", "red apple", "pizza", "soccer ball")


class Attend(nn.Module):
    """Each place looks at all places, then at the words."""

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.GroupNorm(8, channels) for _ in range(2))
        self.queries = nn.ModuleList(nn.Linear(channels, channels) for _ in range(2))
        self.keys = nn.ModuleList(nn.Linear(channels, 2 * channels) for _ in range(2))
        self.outs = nn.ModuleList(nn.Linear(channels, channels) for _ in range(2))

    def forward(self, x: Tensor, words: Tensor, lengths: Tensor) -> Tensor:
        """x [B, C, H, W], words [B, S, C], lengths [B]"""
        seen = masks.key_lengths(lengths)
        for i, (norm, query, key, out) in enumerate(zip(self.norms, self.queries, self.keys, self.outs, strict=True)):
            places = norm(x).flatten(2).mT
            k, v = key(words if i else places).chunk(2, -1)
            mixed = xf.attention(*map(self.split, (query(places), k, v)), seen if i else None)
            x = x + out(mixed.transpose(1, 2).flatten(2)).mT.reshape(x.shape)
        return x

    def split(self, x: Tensor) -> Tensor:
        """[B, L, C] -> [B, heads, L, C / heads]"""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """Two convolutions around the time, and a way past them."""

    def __init__(self, channels: int, out: int, context: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, channels), nn.Conv2d(channels, out, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(8, out), nn.Conv2d(out, out, 3, padding=1)
        self.scale_shift = nn.Linear(context, 2 * out)
        self.past = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        scale, shift = self.scale_shift(context)[:, :, None, None].chunk(2, 1)
        h = self.norm2(self.conv1(F.silu(self.norm1(x)))) * (1 + scale) + shift
        return self.past(x) + self.conv2(F.silu(h))


class UNet(nn.Module):
    """The velocity of a picture [B, 3, 32, 32] at a time, given words [B, WORDS] (0: none)."""

    def __init__(self, vocabulary: int, channels: int = 64) -> None:
        super().__init__()
        c, c2 = channels, 2 * channels
        self.words = nn.Embedding(vocabulary, c2)
        self.places = nn.Parameter(0.1 * torch.randn(WORDS, c2))
        self.time = nn.Sequential(nn.Linear(c2, c2), nn.SiLU(), nn.Linear(c2, c2))
        self.stem = nn.Conv2d(12, c, 3, padding=1)
        self.down = nn.ModuleList([Block(c, c, c2), nn.Conv2d(c, c2, 3, stride=2, padding=1)])
        self.middle = nn.ModuleList([Block(c2, c2, c2), Attend(c2), Block(c2, c2, c2), Attend(c2)])
        self.up = nn.ModuleList([nn.Conv2d(c2, c, 3, padding=1), Block(c2, c, c2)])
        self.head = nn.Sequential(nn.GroupNorm(8, c), nn.SiLU(), nn.Conv2d(c, 12, 3, padding=1))
        nn.init.zeros_(self.head[-1].weight)

    def forward(self, x: Tensor, t: Tensor, words: Tensor) -> Tensor:
        half = self.words.embedding_dim // 2
        angles = t.float().view(-1, 1) * torch.exp(torch.linspace(0, -9, half, device=x.device))
        tokens, lengths = self.words(words) + self.places, (words > 0).sum(1).clamp(min=1)
        seen = (words > 0).unsqueeze(-1)
        context = self.time(torch.cat([angles.sin(), angles.cos()], 1)) + (tokens * seen).sum(1) / 2
        x = F.pixel_unshuffle(x, 2).to(memory_format=torch.channels_last)  # in which convolutions are faster
        fine = self.down[0](self.stem(x), context)
        coarse = self.down[1](fine)
        for block, attend in zip(self.middle[::2], self.middle[1::2], strict=True):
            coarse = attend(block(coarse, context), tokens, lengths)
        coarse = self.up[0](F.interpolate(coarse, scale_factor=2))
        return F.pixel_shuffle(self.head(self.up[1](torch.cat([coarse, fine], 1), context)), 2)


class Training:
    """The model, its moving average, from which samples are drawn, and how far it is; kept in one file."""

    def __init__(self, vocabulary: int, path: Path) -> None:
        self.path, self.losses, self.seconds = path, [], 0.0
        self.model, self.average = UNet(vocabulary), UNet(vocabulary)
        self.average.requires_grad_(False).load_state_dict(self.model.state_dict())
        self.optimizer = torch.optim.AdamW(self.model.parameters(), weight_decay=1e-3, fused=True)
        if path.exists():
            self.load()

    def step(self, pictures: Tensor, words: Tensor, table: Tensor, progress: float) -> None:
        """Learns from pictures [B, 3, H, W] and words [B, WORDS]; ``progress``, 0 to 1, is how much time is spent."""
        began, done = time.monotonic(), len(self.losses)
        t = torch.randint(0, len(table), (len(pictures),))
        noisy, velocity = xf.q_sample(pictures, t, table, seed=0, offset=done * pictures.numel(), target="v")
        words = torch.where(torch.rand(len(words), 1) < 0.1, 0, words)  # guidance needs a model without words too
        with torch.autocast("cpu", torch.bfloat16):
            predicted = self.model(noisy, t, words)
        loss = F.mse_loss(predicted.float(), velocity)
        self.optimizer.zero_grad()
        loss.backward()
        for group in self.optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, (done + 1) / 50) * (0.01 + 0.99 * math.cos(math.pi / 2 * progress) ** 2)
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        keep = min(0.99, (done + 1) / (done + 10))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - keep)
        self.losses.append(loss.item())
        self.seconds += time.monotonic() - began

    def save(self) -> None:
        tensors = {
            f"{kind}.{name}": w for kind in ("model", "average") for name, w in getattr(self, kind).state_dict().items()
        }
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{name}": value for name, value in state.items()}
        partial = self.path.with_suffix(".partial")
        save_file(tensors, partial, {"losses": json.dumps(self.losses), "seconds": json.dumps(self.seconds)})
        partial.replace(self.path)  # so that what is there is whole

    def load(self) -> None:
        with safe_open(self.path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            self.losses, self.seconds = (json.loads(file.metadata()[name]) for name in ("losses", "seconds"))
        for kind in "model", "average":
            getattr(self, kind).load_state_dict(
                {n.removeprefix(f"{kind}."): w for n, w in tensors.items() if n.startswith(f"{kind}.")}
            )
        states: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, i, entry = name.split(".")
                states.setdefault(int(i), {})[entry] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": states})


def tokenize(names: list[str], vocabulary: dict[str, int]) -> Tensor:
    """int64 [N, WORDS]: 0 for no word, 1 for an unknown one."""
    rows = [[vocabulary.get(word, 1) for word in name.lower().split()][:WORDS] for name in names]
    return torch.tensor([row + [0] * (WORDS - len(row)) for row in rows])


def draw_grid(pictures: Tensor, names: list[str], path: Path) -> None:
    """pictures [rows, columns, 3, H, W] in -1 to 1, and the words of each row."""
    from matplotlib import pyplot as plt

    rows, columns = pictures.shape[:2]
    gaps = {"wspace": 0.05, "hspace": 0.05}
    figure, axes = plt.subplots(rows, columns, figsize=(columns, rows), squeeze=False, gridspec_kw=gaps)
    for row, name, shown in zip(axes, names, pictures, strict=True):
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=12, labelpad=8)
        for axis, picture in zip(row, shown, strict=True):
            axis.imshow((picture.permute(1, 2, 0) * 0.5 + 0.5).clamp(0, 1).numpy())
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_color("lightgray")
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)


def draw_curve(losses: list[float], path: Path) -> None:
    from matplotlib import pyplot as plt

    window = max(1, len(losses) // 25)
    smooth = np.convolve(losses, np.ones(window) / window, "valid")
    figure, axis = plt.subplots(figsize=(6, 3.5))
    axis.plot(np.arange(len(losses)) + 1, losses, color="lightgray", linewidth=0.5, label="one step")
    axis.plot(np.arange(len(smooth)) + (window + 1) / 2, smooth, label=f"mean of {window}")
    axis.set(xlabel="step", ylabel="squared error of the velocity", ylim=(0, 1))
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("emoji_diffusion"))
    parser.add_argument("--minutes", type=float, default=5.0, help="of training, with those of the checkpoint")
    parser.add_argument("--steps", type=int, help="of training, at most, in this run")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--words", nargs="+", default=list(SHOWN))
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)

    data = emoji.load(size=SIZE, languages=("en",))
    data = data.take(np.flatnonzero(~data.toned & np.isin(data.groups, [data.group_names.index(g) for g in GROUPS])))
    names = list(data.names["en"])
    vocabulary = {word: i + 2 for i, word in enumerate(sorted({w for name in names for w in name.lower().split()}))}
    pictures = torch.from_numpy(data.images).permute(0, 3, 1, 2).float() / 127.5 - 1
    words = tokenize(names, vocabulary)

    torch.manual_seed(0)
    training = Training(len(vocabulary) + 2, args.out / "checkpoint.safetensors")
    torch.manual_seed(len(training.losses))
    scheduler = DPMSolverMultistepScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", lambda_min_clipped=-5.1
    )
    print(f"{len(names)} pictures, {sum(p.numel() for p in training.model.parameters()) / 1e6:.1f} million parameters")
    reported = saved = training.seconds
    last = len(training.losses) + (math.inf if args.steps is None else args.steps)
    try:
        while training.seconds < 60 * args.minutes and len(training.losses) < last:
            rows, progress = torch.randint(0, len(names), (args.batch,)), training.seconds / (60 * args.minutes)
            training.step(pictures[rows], words[rows], scheduler.alphas_cumprod, progress)
            if training.seconds - reported > 10:
                reported = training.seconds
                recent = training.losses[-100:]
                print(f"step {len(training.losses)}  loss {np.mean(recent):.4f}  {reported:.0f} s", flush=True)
            if training.seconds - saved > 60:
                saved = training.seconds
                training.save()
    finally:
        training.save()

    columns = 6
    condition = tokenize(args.words, vocabulary).repeat_interleave(columns, 0)
    shape = (len(condition), 3, SIZE, SIZE)
    began = time.monotonic()
    drawn = sample(training.average.eval(), scheduler, shape, condition, args.guidance, steps=25, seed=1, progress=True)
    print(f"{len(drawn)} samples in {time.monotonic() - began:.1f} s")
    draw_grid(drawn.unflatten(0, (-1, columns)), args.words, args.out / "pictures.png")
    if training.losses:
        draw_curve(training.losses, args.out / "curve.png")
    print(f"{args.out / 'pictures.png'}: {data.attribution}")


if __name__ == "__main__":
    main()
