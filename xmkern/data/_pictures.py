"""Rendering the pictures, and the cache that makes it happen once."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xmkern.data._packages import require, versions

FORMAT = 1  # raise it when the drawing below changes, so that older caches are not found


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/xmkern`` or ``~/.cache/xmkern``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "xmkern"


def cache_file(size: int) -> Path:
    """Where the pictures of one size and one set of package versions lie."""
    return cache_folder() / f"emoji-v{FORMAT}-{versions()}-{size}px.npz"


def render(svg: Path, size: int) -> np.ndarray:
    """Draws one SVG on white: uint8 ``[H, W, 3]`` with ``H = W = size``."""
    resvg, image_module = require("resvg_py"), require("PIL.Image")

    def draw(**side: int) -> np.ndarray:
        # dpi=96 makes an SVG pixel a pixel; system fonts would make the drawing depend on the machine.
        png = resvg.svg_to_bytes(svg_path=str(svg), background="#ffffff", dpi=96, skip_system_fonts=True, **side)
        return np.asarray(image_module.open(io.BytesIO(png)).convert("RGB"))

    drawn = draw(width=size)
    if drawn.shape[0] > size:  # taller than wide
        drawn = draw(height=size)
    height, width = min(drawn.shape[0], size), min(drawn.shape[1], size)
    square = np.full((size, size, 3), 255, np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    square[top : top + height, left : left + width] = drawn[:height, :width]
    return square


def render_all(svgs: Sequence[Path], size: int, progress: bool) -> tuple[np.ndarray, np.ndarray]:
    """Draws all SVGs: the distinct pictures uint8 ``[P, H, W, 3]`` and each row's picture id, int64 ``[N]``."""
    ids: dict[bytes, int] = {}
    pictures: list[np.ndarray] = []
    picture_of = np.empty(len(svgs), np.int64)
    track = require("rich.progress").track
    steps = enumerate(svgs)
    shown = track(steps, description=f"rendering {size} px", total=len(svgs)) if progress else steps
    for row, svg in shown:
        picture = render(svg, size)
        picture_of[row] = ids.setdefault(picture.tobytes(), len(ids))
        if picture_of[row] == len(pictures):
            pictures.append(picture)
    return np.stack(pictures), picture_of


def _digest(*arrays: np.ndarray) -> np.ndarray:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return np.frombuffer(digest.digest(), np.uint8)


def _read(path: Path, rows: int, size: int) -> tuple[np.ndarray, np.ndarray] | None:
    """The cached arrays, or None when the file is missing or anything about it is wrong."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            pictures, picture_of, digest = stored["pictures"], stored["picture_of"], stored["digest"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError):
        return None
    if pictures.dtype != np.uint8 or pictures.shape[1:] != (size, size, 3):
        return None
    if picture_of.dtype != np.int64 or picture_of.shape != (rows,):
        return None
    return (pictures, picture_of) if np.array_equal(digest, _digest(pictures, picture_of)) else None


def _write(path: Path, pictures: np.ndarray, picture_of: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written beside and renamed: a reader sees the whole file or none, also when two processes build at once.
    handle, partial = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            digest = _digest(pictures, picture_of)
            np.savez_compressed(file, pictures=pictures, picture_of=picture_of, digest=digest)
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def load_pictures(svgs: Sequence[Path], size: int, progress: bool) -> tuple[np.ndarray, np.ndarray]:
    """As :func:`render_all`, from the cache where it is whole."""
    path = cache_file(size)
    cached = _read(path, len(svgs), size)
    if cached is None:
        cached = render_all(svgs, size, progress)
        _write(path, *cached)
    return cached
