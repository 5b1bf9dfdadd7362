"""Drawing: the grid of queries and what they found, with Chinese text that renders on any machine."""

from __future__ import annotations

import importlib.resources
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from xmkern.data._packages import require

GREEN, GREY, INK, PAPER = "#1a9850", "#c8ccd0", "#1f2328", "#ffffff"
FONT_PACKAGE, FONT_FILE = "paperang_p2_fonts_cjk", "fonts/wqy-microhei.ttc"


@dataclass(frozen=True)
class Found:
    """One query and its results, best first.

    Attributes:
        query: the text.
        images: uint8 ``[K, H, W, 3]``.
        right: bool ``[K]``, or None where what is right is not known.
        captions: a short line under each picture, ``[K]``.
    """

    query: str
    images: np.ndarray
    right: np.ndarray | None
    captions: tuple[str, ...]


@cache
def font(size: int) -> Any:
    """WenQuanYi Micro Hei, which a small package carries: Latin and Chinese, and no system font is assumed."""
    image_font = require("PIL.ImageFont")
    require(FONT_PACKAGE)
    with importlib.resources.as_file(importlib.resources.files(FONT_PACKAGE) / FONT_FILE) as path:
        return image_font.truetype(str(path), size)


def wrap(text: str, size: int, width: int) -> list[str]:
    """Lines no wider than ``width`` pixels: broken between words, or anywhere where a word alone is too wide."""
    lines, line = [], ""
    words = text.split(" ") if " " in text else list(text)
    gap = " " if " " in text else ""
    for word in words:
        longer = f"{line}{gap}{word}" if line else word
        if line and font(size).getlength(longer) > width:
            lines.append(line)
            line = word
        else:
            line = longer
    return [*lines, line]


def clip(text: str, size: int, width: int) -> str:
    """The text, cut with an ellipsis so as to be no wider than ``width`` pixels."""
    if font(size).getlength(text) <= width:
        return text
    while text and font(size).getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def draw_grid(found: list[Found], title: str, footer: str, cell: int = 84) -> Any:
    """A PIL image: one row a query, its text on the left, its results framed green where right and grey where wrong."""
    image_module, draw_module = require("PIL.Image"), require("PIL.ImageDraw")
    margin, left, gap, caption = 24, 230, 10, 18
    columns = max(len(row.images) for row in found)
    width = 2 * margin + left + columns * (cell + gap)
    notes = wrap(footer, 13, width - 2 * margin)
    row_height = cell + caption + gap
    top = margin + 40
    height = top + len(found) * row_height + 20 * len(notes) + margin
    page = image_module.new("RGB", (width, height), PAPER)
    draw = draw_module.Draw(page)
    draw.text((margin, margin), clip(title, 20, width - 2 * margin), fill=INK, font=font(20))
    for number, row in enumerate(found):
        y = top + number * row_height
        lines = wrap(row.query, 19, left - 20)[:3]
        for i, line in enumerate(lines):
            draw.text((margin, y + cell / 2 - 13 * len(lines) + 26 * i), line, fill=INK, font=font(19))
        for column, picture in enumerate(row.images):
            x = margin + left + column * (cell + gap)
            right = row.right is not None and bool(row.right[column])
            draw.rectangle((x, y, x + cell, y + cell), outline=GREEN if right else GREY, width=4 if right else 1)
            inner = image_module.fromarray(picture).resize((cell - 10, cell - 10), image_module.Resampling.LANCZOS)
            page.paste(inner, (x + 5, y + 5))
            line = clip(row.captions[column], 11, cell)
            draw.text(
                (x + cell / 2, y + cell + 3), line, fill=GREEN if right else "#656d76", font=font(11), anchor="ma"
            )
    for i, line in enumerate(notes):
        y = top + len(found) * row_height + 8 + 20 * i
        draw.text((margin, y), line, fill="#656d76", font=font(13))
    return page
