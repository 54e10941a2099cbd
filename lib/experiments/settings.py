"""What an experiment is run with: a checked, frozen model, read from config/<scale>.yaml, changed by a notebook."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from typing import Annotated, Any, ClassVar, Self

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from lib import config, store, tables
from lib.config import ConfigError

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]


def once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values, for a field. Raises: ValueError where one is there twice."""
    if len(set(values)) < len(values):
        raise ValueError("each only once")
    return values


class Settings(BaseModel):
    """Settings of an experiment at a scale; a subclass adds its own, each with unit, range and source.

    A field with a `title` is told in the record where it differs from the source's (`scale: paper`). Field defaults
    are what a scale leaves out.

    Attributes:
        study, section: of config/<scale>.yaml: `study.<study>` has what its experiments share, and in `<section>` what
            this one has alone.
        seeds: whole numbers from 0; networks, attacks and measurements are repeated for each.
        data: a name of `lib.data.SETS`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    study: ClassVar[str] = ""
    section: ClassVar[str] = ""

    scale: str = "smoke"
    seeds: tuple[Seed, ...] = Field((0,), min_length=1)
    data: str

    _each_seed_once = field_validator("seeds")(once)

    @classmethod
    def of(cls, scale: str = "smoke", **changed: Any) -> Self:
        """A scale's settings, some of them changed.

        Args:
            scale: smoke, cpu, gpu or paper.
            changed: by name; None leaves the scale's value.
        Raises: ConfigError naming what is unknown, out of range or of another kind, all at once, and what there is.
        """
        given = {key: value for key, value in changed.items() if value is not None}
        if type(given.get("seeds")) is int:  # as `papermill -p seeds 0` hands it over
            given["seeds"] = [given["seeds"]]
        read = {**_section(scale, cls), **given, "scale": scale}
        try:
            return cls.model_validate_json(store.canonical_json(read), strict=True)  # text is no number, nor is True
        except ValidationError as error:
            raise ConfigError(_in_words(error, cls, scale, given)) from None
        except (TypeError, ValueError) as error:
            raise ConfigError(f"settings of {cls.section or cls.study}: {error}") from None

    @cached_property
    def changed(self) -> dict[str, Any]:
        """What is not as the scale has it, by name; plain. A run with any writes beside the scale's results."""
        own, usual = self.model_dump(mode="json"), type(self).of(self.scale).model_dump(mode="json")
        return {key: value for key, value in own.items() if value != usual[key]}

    def _repr_markdown_(self) -> str:
        """As a notebook shows them: each setting, what the scale has where that was changed, and what `paper` has."""
        own = self.model_dump(mode="json", exclude={"scale"})
        usual = type(self).of(self.scale).model_dump(mode="json")
        full = type(self).of("paper").model_dump(mode="json") if self.study in config.load("paper").study else own
        columns = {"setting": list(own), "here": list(own.values())}
        if self.changed:
            columns[f"scale {self.scale}"] = [usual[key] if key in self.changed else "" for key in own]
        columns["scale paper, where it differs"] = [full[key] if full[key] != own[key] else "" for key in own]
        text = pd.DataFrame(columns, dtype=object).map(lambda value: "all" if value is None else _plain(value))
        return tables.markdown(text)

    def unusual(self, *names: str) -> dict[str, Any]:
        """Those of some settings that differ from the field's default, plain: for the key of what is kept.

        So a setting that tables were made with before it could be changed does not change their keys.
        """
        own = self.model_dump(mode="json", include=set(names))
        defaults = {name: type(self).model_fields[name].get_default(call_default_factory=True) for name in names}
        return {name: own[name] for name in names if getattr(self, name) != defaults[name]}

    def described(self, names: Collection[str] = ()) -> dict[str, Any]:
        """The settings that a record compares with the source's, by the words that describe them.

        Args:
            names: which; empty: all that have a title.
        """
        fields = type(self).model_fields
        chosen = [name for name in fields if fields[name].title and (name in names or not names)]
        return {str(fields[name].title): self.told(name) for name in chosen}

    def compared(self, names: Collection[str] = ()) -> tuple[dict[str, Any], dict[str, Any]]:
        """What a record compares, as `described`: these settings, and the source's (`scale: paper`, where it has the
        study)."""
        own = {"seeds": self.seeds, **self.described(names)}
        if self.study not in config.load("paper").study:
            return own, {}
        paper = type(self).of("paper")
        return own, {"seeds": paper.seeds, **paper.described(names)}

    def told(self, name: str) -> Any:
        """A setting's value as `described` gives it; a subclass may count what None stands for."""
        return getattr(self, name)


def _plain(value: Any) -> str:
    """A setting's value in a table."""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _section(scale: str, kind: type[Settings]) -> dict[str, Any]:
    """A scale's settings of an experiment: those of its study, and over them those of its own section."""
    study = config.thaw(config.load(scale).study.get(kind.study, {}))
    sections = config.SECTIONS.get(kind.study, ())
    own = study.get(kind.section) or {}
    shared = {key: value for key, value in study.items() if key not in sections and key in kind.model_fields}
    return {**shared, **own}


def _in_words(error: ValidationError, kind: type[Settings], scale: str, given: dict[str, Any]) -> str:
    lines = []
    for found in error.errors():
        name = str(found["loc"][0]) if found["loc"] else "settings"
        value = given.get(name, found.get("input"))
        where = "" if name in given else f" (config/{scale}.yaml: study.{kind.study})"
        if found["type"] == "extra_forbidden":
            lines.append(f"no setting {name!r}{where}: {config.one_of(name, kind.model_fields)}")
        elif found["type"] == "missing":
            lines.append(f"{name} is missing{where}")
        else:
            lines.append(f"{name} is {value!r}{where}: {found['msg'].removeprefix('Value error, ')}")
    return "; ".join(dict.fromkeys(lines))
