"""What the demo leaves for ``python -m xmkern search``: towers, index and gallery, each read without unpickling."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO
from zipfile import BadZipFile

import numpy as np
import torch

from xmkern.demo.model import DualEncoder
from xmkern.hamming import BinaryIndex

TOWERS, INDEX, GALLERY, PICTURES = "towers.pt", "index.xmk", "gallery.json", "pictures.npz"

# All that a cut or altered file makes the readers raise.
_UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    RuntimeError,
    EOFError,
    UnpicklingError,
    BadZipFile,
    zlib.error,
)


class NotRunError(RuntimeError):
    """The demo has not been run, or its folder is not whole."""


@dataclass(frozen=True)
class Saved:
    """A trained demo.

    Attributes:
        model: in evaluation mode.
        index: codes of the gallery; its ids are positions in ``names`` and ``images``.
        names: language code to names ``[P]``.
        unseen: whether training never saw the concept, bool ``[P]``.
        images: uint8 ``[P, H, W, 3]``.
        attribution: to be shown with the pictures.
    """

    model: DualEncoder
    index: BinaryIndex
    names: dict[str, list[str]]
    unseen: np.ndarray
    images: np.ndarray
    attribution: str


def write_whole(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Lets ``write`` fill a file that appears under its name only when it is complete; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    try:
        with partial.open("wb") as file:
            write(file)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def save(folder: Path, saved: Saved) -> None:
    """Writes everything under ``folder``."""
    gallery = {"names": saved.names, "unseen": saved.unseen.tolist(), "attribution": saved.attribution}
    write_whole(folder / TOWERS, lambda file: torch.save(saved.model.state_dict(), file))
    write_whole(folder / PICTURES, lambda file: np.savez_compressed(file, images=saved.images))
    write_whole(folder / GALLERY, lambda file: file.write(json.dumps(gallery, ensure_ascii=False).encode()))
    saved.index.save(folder / INDEX)


def load(folder: Path) -> Saved:
    """Reads what :func:`save` wrote.

    Raises:
        NotRunError: there is nothing, or not all of it, or it does not fit together.
    """
    missing = [name for name in (TOWERS, INDEX, GALLERY, PICTURES) if not (folder / name).is_file()]
    if missing:
        raise NotRunError(f"{folder} has no {', '.join(missing)}: run `python -m xmkern.demo` first")
    try:
        gallery = json.loads((folder / GALLERY).read_text(encoding="utf-8"))
        model = DualEncoder()
        model.load_state_dict(torch.load(folder / TOWERS, weights_only=True))
        with np.load(folder / PICTURES, allow_pickle=False) as stored:
            images = stored["images"]
        saved = Saved(
            model=model.eval(),
            index=BinaryIndex.load(folder / INDEX, mmap=True),
            names=gallery["names"],
            unseen=np.array(gallery["unseen"], dtype=bool),
            images=images,
            attribution=gallery["attribution"],
        )
    except _UNREADABLE as error:
        raise NotRunError(f"{folder} cannot be read ({error}): run `python -m xmkern.demo` again") from error
    sizes = {len(saved.index), len(images), len(saved.unseen), *map(len, saved.names.values())}
    if len(sizes) != 1:
        raise NotRunError(f"the files in {folder} are not of one run: run `python -m xmkern.demo` again")
    return saved
