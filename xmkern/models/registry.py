"""Which systems there are: every module of :mod:`xmkern.models` registers one, under its own name."""

import dataclasses
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, TypeVar

from torch import nn

SECTIONS = {
    "A": "Joint representations",
    "B": "Coordinated representations",
    "C": "Transformer encoders, one stream",
    "D": "Transformer encoders, two streams",
    "E": "Decoders and encoder-decoders",
    "F": "Image and video to text",
    "G": "Generation",
}

Preset = Literal["tiny", "paper"]
M = TypeVar("M", bound=type[nn.Module])


@dataclass(frozen=True)
class ModelCard:
    """What is known of a system without building it.

    Attributes:
        name: of the module, and for :func:`create_model`.
        section: a key of ``SECTIONS``.
        paper: authors, title, venue and year.
        summary: the first line of the class: what distinguishes the system.
        kernels: operators ``xmkern::`` that its forward or loss calls; none where all of it is torch's.
        parity: the class of another library that computes the same from the same weights, or None.
        parameters: of the ``paper`` preset as published, or of the public implementation; None where neither says.
        presets: "tiny", which trains in two minutes, and "paper".
        model: the class.
    """

    name: str
    section: str
    paper: str
    summary: str
    kernels: tuple[str, ...]
    parity: str | None
    parameters: int | None
    presets: dict[str, Any]
    model: type[nn.Module]

    def __str__(self) -> str:
        rows = {
            "section": f"{self.section}, {SECTIONS[self.section].lower()}",
            "paper": self.paper,
            "parameters": f"{self.parameters:,} (paper)" if self.parameters else "not published",
            "kernels": ", ".join(self.kernels) or "none of its own",
            "parity": self.parity or "-",
        }
        return "\n".join([f"{self.name}: {self.summary}", *(f"  {key:<11} {value}" for key, value in rows.items())])


# Modules beside the systems.
_OTHERS = ("registry", "weights")

_cards: dict[str, ModelCard] = {}


def register(
    *,
    section: str,
    paper: str,
    tiny: Any,
    full: Any,
    kernels: tuple[str, ...] = (),
    parity: str | None = None,
    parameters: int | None = None,
) -> Callable[[M], M]:
    """Decorates the class of a system, whose module has its name; ``tiny`` and ``full`` are its configurations.

    The other arguments are those of :class:`ModelCard`.
    """

    def add(model: M) -> M:
        name = model.__module__.rpartition(".")[2]
        summary = (model.__doc__ or "").partition("\n")[0].strip()
        presets = {"tiny": tiny, "paper": full}
        _cards[name] = ModelCard(name, section, paper, summary, kernels, parity, parameters, presets, model)
        return model

    return add


def _names() -> list[str]:
    modules = pkgutil.iter_modules([str(Path(__file__).parent)])
    return sorted(m.name for m in modules if not m.ispkg and m.name not in _OTHERS)


def model_card(name: str) -> ModelCard:
    """The card of a system.

    Raises:
        ValueError: there is none of this name.
    """
    if name not in _names():
        raise ValueError(f"name must be one of {', '.join(_names())}, not {name!r}")
    import_module(f"xmkern.models.{name}")
    return _cards[name]


def list_models(section: str | None = None) -> list[str]:
    """Names of the systems, of one section (a letter of the survey's seven) or of all."""
    if section is not None and section not in SECTIONS:
        raise ValueError(f"section must be one of {', '.join(SECTIONS)}, not {section!r}")
    return [name for name in _names() if section is None or model_card(name).section == section]


def create_model(name: str, preset: Preset = "tiny", **overrides: Any) -> Any:
    """Builds a system with random weights.

    Args:
        name: one of :func:`list_models`.
        preset: "tiny", which trains in two minutes on two cores, or "paper", the published sizes. Under
            ``torch.device("meta")`` a preset of any size builds at once, without memory.
        overrides: fields of the configuration that are to differ from the preset.

    Raises:
        ValueError, TypeError: the name, the preset or a field is not known.
    """
    card = model_card(name)
    if preset not in card.presets:
        raise ValueError(f"preset must be 'tiny' or 'paper', not {preset!r}")
    config = card.presets[preset]
    unknown = overrides.keys() - {field.name for field in dataclasses.fields(config)}
    if unknown:
        known = ", ".join(field.name for field in dataclasses.fields(config))
        raise TypeError(f"{', '.join(sorted(unknown))} is no field of {name}'s configuration, which has {known}")
    return card.model(dataclasses.replace(config, **overrides))
