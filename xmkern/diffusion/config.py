"""What a scheduler was made with: kept, read, written, and carried over to another scheduler, as diffusers does it."""

import functools
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Self, TypeVar

import numpy as np
import torch

_Init = TypeVar("_Init", bound=Callable[..., None])

# Which knobs were not given. Another scheduler that is made of this configuration takes its own defaults for them.
_UNGIVEN = "_use_default_values"


class Config(dict[str, Any]):
    """A dictionary whose items are attributes too, and which cannot be changed: a scheduler has computed with it."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the configuration has no {name!r}") from None

    def _frozen(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError("a configuration cannot be changed; make a scheduler with from_config(config, name=value)")

    __setattr__ = __setitem__ = __delitem__ = __delattr__ = _frozen
    pop = popitem = update = setdefault = clear = __ior__ = _frozen

    def __reduce__(self) -> tuple[Any, ...]:  # a copy is not filled item by item
        return type(self), (dict(self),)


def configured(init: _Init) -> _Init:
    """Keeps the arguments of a constructor in ``self.config``."""
    signature = inspect.signature(init)

    @functools.wraps(init)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind(self, *args, **kwargs)
        given = set(bound.arguments)
        bound.apply_defaults()
        knobs = dict(list(bound.arguments.items())[1:])
        self._known = tuple(knobs)
        self._internal_dict = Config({**knobs, _UNGIVEN: [name for name in knobs if name not in given]})
        init(self, **knobs)

    return wrapped  # type: ignore[return-value]


def chosen(name: str, value: Any, *choices: Any) -> Any:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}")
    return value


class Configured:
    """A thing with a ``config``, its constructor being :func:`configured`."""

    config_name = "scheduler_config.json"
    # What other kinds call a value of a knob.
    _synonyms: ClassVar[dict[str, dict[Any, Any]]] = {}
    _known: tuple[str, ...]
    # The knobs that the constructor has. Only by these anything goes: ``config`` may have others, of other kinds.
    _own = Config()

    @property
    def config(self) -> Any:
        return self._config

    @property
    def _internal_dict(self) -> Config:
        """What pipelines of diffusers replace, and read as ``config``."""
        return self._config

    @_internal_dict.setter
    def _internal_dict(self, config: dict[str, Any]) -> None:
        config = dict(config)
        for name, meant in self._synonyms.items():
            config[name] = meant.get(config[name], config[name])
        own = Config({name: config[name] for name in self._known})
        self._configure(own)
        self._config, self._own = Config(config), own

    def _configure(self, own: Config) -> None:
        """Checks its own knobs, the first or those that replace ``self._own``, and takes from them what it goes by."""

    def register_to_config(self, **knobs: Any) -> None:
        """Replaces some of the configuration: for the next step, or where times and sigmas go by it, from the next
        ``set_timesteps`` on. What tables were made with cannot be replaced."""
        self._internal_dict = {**self._config, **knobs}

    @classmethod
    def from_config(cls, config: dict[str, Any], **knobs: Any) -> Self:
        """Makes one of another's configuration, also of a scheduler of diffusers or of another kind: knobs that this
        kind does not have are kept for the next, and of those it has, only what was given counts.

        Args:
            config: another's ``config``, or what a file of it holds.
            knobs: replace what is in it.
        """
        if not isinstance(config, dict):
            raise TypeError(f"config must be a dictionary, such as a scheduler's config, not {type(config).__name__}")
        known = list(inspect.signature(cls).parameters)
        unknown = [name for name in knobs if name not in known]
        if unknown:
            raise TypeError(f"{cls.__name__} has no {', '.join(unknown)}; it has {', '.join(known)}")
        ungiven = config.get(_UNGIVEN, ())
        given = {name: value for name, value in config.items() if name not in ungiven and name != _UNGIVEN}
        made = cls(**{**{name: value for name, value in given.items() if name in known}, **knobs})
        made._internal_dict = {**given, **made.config}
        return made

    @classmethod
    def from_pretrained(cls, directory: str | Path, subfolder: str | None = None, **knobs: Any) -> Self:
        """Reads the file of a configuration, as diffusers also writes it, from a directory (nothing is downloaded)."""
        path = Path(directory, subfolder or "", cls.config_name)
        return cls.from_config(json.loads(path.read_text(encoding="utf-8")), **knobs)

    def save_pretrained(self, directory: str | Path) -> None:
        """Writes the configuration to a file in a directory, from which diffusers also reads it."""
        Path(directory).mkdir(parents=True, exist_ok=True)
        kept = {name: value for name, value in self.config.items() if name != _UNGIVEN}
        kept["_class_name"] = type(self).__name__
        text = json.dumps(kept, indent=2, sort_keys=True, default=_plain)
        Path(directory, self.config_name).write_text(text + "\n", encoding="utf-8")

    save_config = save_pretrained

    def __repr__(self) -> str:
        knobs = ", ".join(f"{name}={value!r}" for name, value in self.config.items() if not name.startswith("_"))
        return f"{type(self).__name__}({knobs})"


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic | torch.Tensor):
        return value.tolist()
    raise TypeError(f"the configuration cannot be written: it has a {type(value).__name__}")
