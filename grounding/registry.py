"""Find classes by name: the project's own, and those of installed distributions by entry points.

One `Registry` exists per kind of extension:

| kind | group | class |
| --- | --- | --- |
| stage on attention maps | `grounding.stages` | `grounding.maps.base.Stage` |
| point rule | `grounding.point_rules` | `grounding.points.PointRule` |
| steering step | `grounding.steering_steps` | `grounding.steering.base.Intervention` |
| model family | `grounding.families` | `grounding.models.base.VLM` |
| diffusion family | `grounding.diffusion` | `grounding.diffusion.base.DiffusionSource` |
| evaluation task | `grounding.tasks` | `evals.task.Task` |

A distribution adds a class in its pyproject.toml, for example::

    [project.entry-points."grounding.stages"]
    sharpen = "my_package.stages:Sharpen"

A class is imported when it is asked for, not when names are listed. This module does not import torch.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from functools import cached_property
from importlib import import_module, metadata
from typing import Any, Generic, TypeVar, cast

from grounding import schema
from grounding.errors import GroundingError, MethodError

T = TypeVar("T")


class Registry(Generic[T]):
    """Classes of one kind by name.

    Iterating gives the names: the project's own in their order, then those of other distributions, sorted.

    Args:
        what: what messages call one entry ("stage").
        group: the entry-point group that other distributions use.
        builtin: the project's own entries, name to "module:Class".
        base: "module:Class" that an outside class must derive from.
        members: attributes that an outside class must have; of a tuple, one is enough.
        error: the exception to raise.
    """

    def __init__(
        self,
        what: str,
        group: str,
        builtin: Mapping[str, str],
        *,
        base: str | None = None,
        members: tuple[str | tuple[str, ...], ...] = (),
        error: type[GroundingError] = MethodError,
    ) -> None:
        self.what = what
        self.group = group
        self._builtin = dict(builtin)
        self._base = base
        self._members = members
        self._error = error

    @cached_property
    def _outside(self) -> dict[str, list[metadata.EntryPoint]]:
        """Entry points of other distributions by name; a name with several is refused when it is asked for."""
        found: dict[str, list[metadata.EntryPoint]] = {}
        for entry in metadata.entry_points(group=self.group):
            same = found.setdefault(entry.name, [])
            # A distribution that is on the path twice is still one distribution.
            if (entry.value, _distribution(entry)) not in [(other.value, _distribution(other)) for other in same]:
                same.append(entry)
        return found

    def __iter__(self) -> Iterator[str]:
        """Every known name; nothing is imported."""
        yield from self._builtin
        yield from sorted(set(self._outside) - set(self._builtin))

    def __contains__(self, name: object) -> bool:
        """Whether the name is known."""
        return isinstance(name, str) and (name in self._builtin or name in self._outside)

    def is_own(self, name: str) -> bool:
        """Whether the project itself has the name."""
        return name in self._builtin

    def __len__(self) -> int:
        """How many names are known."""
        return sum(1 for _ in self)

    def unknown(self, name: object) -> str:
        """The end of a sentence about a name that is not known: the nearest name, if any, and all known ones."""
        names = list(self)
        near = difflib.get_close_matches(str(name), names, 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        return f"{hint}: the known ones are {', '.join(names)}"

    def get(self, name: object) -> type[T]:
        """Import and return the class of a name.

        Args:
            name: as in the registry's table or in an entry point.

        Raises:
            GroundingError: of the registry's class, if the name is unknown or given twice, or if an outside class
                cannot be imported or is of the wrong kind.
        """
        if name not in self:
            raise self._error(f"{self.what} {name!r} is unknown{self.unknown(name)}")
        assert isinstance(name, str)
        outside = self._outside.get(name, [])
        if len(outside) + (name in self._builtin) > 1:
            owners = [f"distribution {_distribution(entry)!r} ({entry.value})" for entry in outside]
            owners += [f"this project ({self._builtin[name]})"] if name in self._builtin else []
            raise self._error(
                f"{self.what} {name!r} is defined more than once, by {' and by '.join(owners)}: rename one of the "
                f"entry points in the group {self.group!r}, or uninstall its distribution"
            )
        return self._load(outside[0]) if outside else cast("type[T]", _import(self._builtin[name]))

    def build(self, entry: object, key: str, where: str) -> T:
        """Make the object that one entry of a YAML file describes.

        Args:
            entry: a mapping; `key` holds the registered name and the other keys are the class's fields.
            key: "stage", "rule" or "step".
            where: what messages call the file.

        Raises:
            GroundingError: of the registry's class, for an unknown name or a wrong key or value.
        """
        mapping = dict(schema.as_mapping(entry, f"{where}: {self.what}", self._error))
        if key not in mapping:
            raise self._error(
                f"{where}: a {self.what} needs '{key}: NAME', got the keys {', '.join(mapping) or 'none'}"
            )
        name = mapping.pop(key)
        if name not in self:
            raise self._error(f"{where}: {self.what} {name!r} is unknown{self.unknown(name)}")
        cls = self.get(name)
        if not is_dataclass(cls):
            raise self._error(
                f"{where}: {self.what} {name!r} cannot be built: {cls.__module__}.{cls.__qualname__} is no dataclass"
            )
        return schema.build(cls, mapping, f"{where}: {self.what} {name!r}", self._error)

    def _load(self, entry: metadata.EntryPoint) -> type[T]:
        origin = f"{self.what} {entry.name!r} of distribution {_distribution(entry)!r}"
        try:
            found = entry.load()
        except Exception as wrong:  # whatever foreign code raises at import
            reason = " ".join(str(wrong).split())[:200]
            raise self._error(
                f"{origin} cannot be imported from {entry.value} ({type(wrong).__name__}: {reason}): repair or "
                "uninstall that distribution"
            ) from wrong
        fault = self._fault(found, entry.name)
        if fault:
            raise self._error(f"{origin} cannot be used: {entry.value} {fault}")
        return cast("type[T]", found)

    def _fault(self, found: Any, name: str) -> str | None:
        """What is wrong with an outside object, or None."""
        if not isinstance(found, type):
            return f"is {type(found).__name__}, expected a class"
        if self._base is not None and not issubclass(found, cast(type, _import(self._base))):
            return f"does not derive from {self._base.replace(':', '.')}"
        abstract = sorted(getattr(found, "__abstractmethods__", ()))
        if abstract:
            return f"does not define {', '.join(abstract)}"
        wanted = [(member,) if isinstance(member, str) else member for member in self._members]
        missing = [" or ".join(names) for names in wanted if not any(hasattr(found, each) for each in names)]
        if missing:
            return f"has no {', '.join(missing)}"
        own = getattr(found, "name", name)
        if isinstance(own, str) and own != name:
            return f"calls itself {own!r}; entry point and class must have the same name"
        return None


def _import(target: str) -> object:
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)


def _distribution(entry: metadata.EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else "unknown"
