"""Drawing: the grid of queries and what they found, with Chinese text that renders on any machine."""

from __future__ import annotations

import importlib.resources
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from xmkern.data._packages import require

GREEN, GREY, INK, FAINT, PAPER = "#1a9850", "#c8ccd0", "#1f2328", "#656d76", "#ffffff"
FONT_PACKAGE, FONT_FILE = "paperang_p2_fonts_cjk", "fonts/wqy-microhei.ttc"


@dataclass(frozen=True)
class Found:
    """One query and its results, best first.

    Attributes:
        query: the text.
        images: uint8 ``[K, H, W, 3]``.
        right: bool ``[K]``, or None where what is right is not known.
        captions: a short line under each picture, ``[K]``.
        gloss: the query in English where it is not, or nothing.
        meant: the picture asked for, uint8 ``[H, W, 3]``, where it is known.
    """

    query: str
    images: np.ndarray
    right: np.ndarray | None
    captions: tuple[str, ...]
    gloss: str = ""
    meant: np.ndarray | None = None


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
    """The text, cut with two dots so as to be no wider than ``width`` pixels."""
    if font(size).getlength(text) <= width:
        return text
    while text and font(size).getlength(text + "..") > width:
        text = text[:-1]
    return text.rstrip() + ".."


def draw_grid(found: list[Found], title: str, footer: str, cell: int = 84) -> Any:
    """A PIL image: one row a query, its text on the left, then the picture meant, then the results, framed.

    Right results are framed green, others grey.
    """
    image_module, draw_module = require("PIL.Image"), require("PIL.ImageDraw")
    margin, gap, caption = 24, 10, 18
    pitch, row_height = cell + gap, cell + caption + gap
    text_width = 230
    left = margin + text_width + (pitch + 2 * gap if any(row.meant is not None for row in found) else 0)
    width = left + max(len(row.images) for row in found) * pitch + margin
    notes = wrap(footer, 13, width - 2 * margin)
    top = margin + 40
    bottom = top + len(found) * row_height
    page = image_module.new("RGB", (width, bottom + 20 * len(notes) + margin), PAPER)
    draw = draw_module.Draw(page)

    def write(x: float, y: float, text: str, size: int, colour: str, anchor: str = "la") -> None:
        # This font gives the typographic apostrophe the width of an ideograph.
        draw.text((x, y), text.replace("’", "'"), fill=colour, font=font(size), anchor=anchor)

    def show(x: int, y: int, picture: np.ndarray, frame: str, border: int) -> None:
        if border:
            draw.rectangle((x, y, x + cell, y + cell), outline=frame, width=border)
        inner = image_module.fromarray(picture).resize((cell - 10, cell - 10), image_module.Resampling.LANCZOS)
        page.paste(inner, (x + 5, y + 5))

    write(margin, margin, clip(title, 20, width - 2 * margin), 20, INK)
    for number, row in enumerate(found):
        y = top + number * row_height
        lines = wrap(row.query, 19, text_width - 20)[: 2 if row.gloss else 3]
        height = 26 * len(lines) + (18 if row.gloss else 0)
        for i, line in enumerate(lines):
            write(margin, y + (cell - height) / 2 + 26 * i, line, 19, INK)
        write(margin, y + (cell + height) / 2 - 16, clip(row.gloss, 13, text_width - 20), 13, FAINT)
        if row.meant is not None:
            show(margin + text_width, y, row.meant, PAPER, 0)
            write(margin + text_width + cell / 2, y + cell + 3, "meant", 11, FAINT, "ma")
        for column, picture in enumerate(row.images):
            x = left + column * pitch
            right = row.right is not None and bool(row.right[column])
            show(x, y, picture, GREEN if right else GREY, 4 if right else 1)
            write(x + cell / 2, y + cell + 3, clip(row.captions[column], 11, cell), 11, GREEN if right else FAINT, "ma")
    for i, line in enumerate(notes):
        write(margin, bottom + 8 + 20 * i, line, 13, FAINT)
    return page
