"""Read a recipe from TOML, and say in one sentence what is wrong with it."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from rlvr.config.recipe import Recipe
from rlvr.errors import ConfigError

__all__ = ["load_recipe", "stored_recipe"]


def load_recipe(path: Path, *, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply `a.b=c` overrides, whose values are TOML or, failing that, plain strings.

    Errors: ConfigError in one sentence per mistake.
    """
    try:
        data = tomllib.loads(path.read_text())
    except FileNotFoundError as error:
        raise ConfigError(f"there is no recipe {path}; launch/ holds some to start from") from error
    except OSError as error:
        raise ConfigError(f"the recipe {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    for override in overrides:
        _apply(data, override)
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{path}: " + "; ".join(_sentence(item) for item in error.errors())) from error


def stored_recipe(plain: Mapping[str, Any], *, where: Path) -> Recipe:
    """Read the recipe that a run has written down. Errors: ConfigError where another version wrote it."""
    try:
        return Recipe.model_validate_json(json.dumps(plain))
    except ValidationError as error:
        raise ConfigError(
            f"{where} is no recipe of this version of rlvr ({_sentence(error.errors()[0])}); "
            "use the version that the run was made with"
        ) from error


def _apply(data: dict[str, Any], override: str) -> None:
    key, found, text = override.partition("=")
    if not found or not key.strip():
        raise ConfigError(f"--set takes a.b=c, not {override!r}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *path, last = key.strip().split(".")
    node: Any = data
    for name in path:
        node = node[_index(node, name, override)] if isinstance(node, list) else node.setdefault(name, {})
        if not isinstance(node, dict | list):
            raise ConfigError(f"--set {override}: {name} is a value, not a section")
    if isinstance(node, list):
        node[_index(node, last, override)] = value
    else:
        node[last] = value


def _index(node: list[Any], name: str, override: str) -> int:
    if not name.isdigit() or int(name) >= len(node):
        raise ConfigError(f"--set {override}: {name!r} must be an index below {len(node)}, as in reward.0.weight=1")
    return int(name)


def _sentence(item: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"unknown key {where}{_nearest(item['loc'])}"
    if item["type"] == "missing":
        return f"{where} is missing"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "value_error":
        return f"{where}: {message}" if where else message
    return f"{where} = {item['input']!r}: {message[0].lower()}{message[1:]}"


def _nearest(loc: Sequence[Any]) -> str:
    section: Any = Recipe
    for part in loc[:-1]:
        field = section.model_fields.get(part) if hasattr(section, "model_fields") else None
        section = field.annotation if field else None
        section = next((kind for kind in get_args(section) if hasattr(kind, "model_fields")), section)
    names = list(getattr(section, "model_fields", {}))
    close = difflib.get_close_matches(str(loc[-1]), names, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known here: {', '.join(names)}" if names else ""
