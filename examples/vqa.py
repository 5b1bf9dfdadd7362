"""Answers questions about emoji pictures with two co-attention blocks, trained from scratch in two minutes.

    python examples/vqa.py [--steps 450] [--seed 0]

"what is this ?", "which group does it belong to ?", "which skin tone is it ?", "man , woman or person ?",
each in three wordings. Prints the accuracy on pictures never seen beside that of the best answer to the question alone.
Needs ``pip install xmkern[data]``. Pictures: OpenMoji, CC BY-SA 4.0; names: Unicode CLDR.
"""

import argparse
import math
import time

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from xmkern.data import emoji, questions
from xmkern.data.augment import move
from xmkern.data.questions import KINDS, WORDINGS, Questions
from xmkern.nn import CoAttentionBlock

SIZE, SIDE = 128, 64
VOCABULARY = sorted({word for ways in WORDINGS.values() for word in " ".join(ways).split()})
WORDS = {word: i + 1 for i, word in enumerate(VOCABULARY)}
LENGTH = max(len(sentence.split()) for ways in WORDINGS.values() for sentence in ways)
# [kind, wording, T] of word numbers, 0 for padding
SENTENCES = torch.tensor(
    [[[WORDS[w] for w in s.split()] + [0] * (LENGTH - len(s.split())) for s in ways] for ways in WORDINGS.values()]
)


def convolution(channels: int, out: int, stride: int, side: int = 3) -> nn.Sequential:
    layer = nn.Conv2d(channels, out, side, stride, side // 2 if side % 2 else 0, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(out), nn.ReLU(inplace=True))


class Answerer(nn.Module):
    """Pictures [B, 3, 64, 64] and words [B, T] to numbers [B, answers]: 64 places and the words read each other."""

    def __init__(self, answers: int) -> None:
        super().__init__()
        self.cnn = nn.Sequential(
            convolution(3, 32, 4, side=4), convolution(32, 64, 1), convolution(64, SIZE, 2), convolution(SIZE, SIZE, 1)
        )
        self.place = nn.Parameter(torch.randn((SIDE // 8) ** 2, SIZE) * 0.02)
        self.word = nn.Embedding(len(WORDS) + 1, SIZE, padding_idx=0)
        self.position = nn.Parameter(torch.randn(LENGTH, SIZE) * 0.02)
        self.blocks = nn.ModuleList(
            CoAttentionBlock(SIZE, SIZE, 4, hidden_a=2 * SIZE, hidden_b=2 * SIZE, dropout=0.1) for _ in range(2)
        )
        self.answer = nn.Sequential(nn.Dropout(0.2), nn.Linear(SIZE, answers))

    def forward(self, pictures: Tensor, words: Tensor) -> Tensor:
        regions = self.cnn(pictures).flatten(2).mT + self.place
        lengths = (words > 0).sum(1)
        text = self.word(words) + self.position
        for block in self.blocks:
            regions, text = block(regions, text, None, lengths)
        # As in ViLBERT, what the streams agree on: the product of what each has come to.
        visible = (words > 0)[..., None]
        return self.answer(regions.mean(1) * (text * visible).sum(1) / lengths[:, None])


def batch(images: Tensor, asked: Questions, which: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """-> pictures [B, 3, H, W] of 0 to 1, words [B, T] in a wording drawn at random, answers [B]"""
    kinds = torch.from_numpy(asked.kinds[which])
    words = SENTENCES[kinds, torch.randint(SENTENCES.shape[1], kinds.shape)]
    return images[asked.rows[which]].float() / 255, words, torch.from_numpy(asked.answers[which])


def train(images: Tensor, asked: Questions, steps: int, size: int = 128) -> Answerer:
    model = Answerer(len(asked.answer_names)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.05, fused=True)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps + 1)
    # Every kind is asked equally often.
    share = 1 / np.bincount(asked.kinds)[asked.kinds] / len(KINDS)
    rng = np.random.default_rng(torch.initial_seed())
    for _ in track(range(steps), "learning"):
        pictures, words, answers = batch(images, asked, rng.choice(len(asked), size, p=share))
        loss = F.cross_entropy(model(move(pictures, turn=0.2, stretch=0.2, shift=0.1) * 2 - 1, words), answers)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rate.step()
    return model.eval()


@torch.inference_mode()
def answer(model: Answerer, images: Tensor, asked: Questions) -> np.ndarray:
    """-> index of the answer to each question, int64 [Q]"""
    parts = np.array_split(np.arange(len(asked)), math.ceil(len(asked) / 256))
    batches = (batch(images, asked, part) for part in parts)
    return torch.cat([model(pictures * 2 - 1, words).argmax(1) for pictures, words, _ in batches]).numpy()


def main(argv: list[str] | None = None) -> dict[str, tuple[float, float]]:
    """-> kind of question -> accuracy, and that of the commonest answer to it"""
    parser = argparse.ArgumentParser(description="Visual question answering on emoji with co-attention.")
    parser.add_argument("--steps", type=int, default=450)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    torch.manual_seed(options.seed)
    console, start = Console(), time.perf_counter()

    data = emoji.load(SIDE, ("en",))
    learnt, test = questions.split(data, questions.ask(data), options.seed)
    images = torch.from_numpy(data.images).permute(0, 3, 1, 2)
    model = train(images, learnt, options.steps)
    right = answer(model, images, test) == test.answers
    table = Table("question", "asked", "accuracy", "by the question alone", title="Pictures never seen")
    scores = {}
    for kind, name in enumerate(KINDS):
        commonest = np.bincount(learnt.answers[learnt.kinds == kind]).argmax()
        of_kind = test.kinds == kind
        scores[name] = float(right[of_kind].mean()), float((test.answers[of_kind] == commonest).mean())
        table.add_row(WORDINGS[name][0], str(of_kind.sum()), *(f"{100 * score:.0f} %" for score in scores[name]))
    console.print(table, f"{time.perf_counter() - start:.0f} s. {data.attribution}")
    return scores


if __name__ == "__main__":
    main()
