"""Find environments and rewards by the name of an entry point or by "module:attr"; import none before it is needed."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from rlvr.core.payoff import Payoff
from rlvr.errors import BoundaryError, PluginError, boundary
from rlvr.functions import FunctionReward, is_reward_function

__all__ = ["ENVIRONMENTS", "REWARDS", "create", "declares", "default_payoff", "known", "load"]

ENVIRONMENTS = "rlvr.environments"
REWARDS = "rlvr.rewards"
_WORD = {ENVIRONMENTS: "environment", REWARDS: "reward"}
_METHOD = {ENVIRONMENTS: "tasks", REWARDS: "grade"}


def known(group: str) -> dict[str, str]:
    """List the names of a group, each with "module:attr (distribution)"; a name claimed twice shows both."""
    found: dict[str, str] = {}
    for name, entries in sorted(_entries(group).items()):
        found[name] = " and ".join(f"{entry.value} ({_owner(entry)})" for entry in entries)
    return found


def load(group: str, name: str) -> Any:
    """Import the plug-in that a name or "module:attr" stands for; the current directory is searched for modules.

    Errors: PluginError where the name is unknown or claimed twice, or the import fails.
    """
    if ":" in name:
        here = os.getcwd()
        if here not in sys.path:
            sys.path.insert(0, here)
        return _imported(group, name, lambda: _attribute(name))
    entries = _entries(group).get(name, [])
    if not entries:
        names = sorted(_entries(group))
        raise PluginError(f"no {_word(group)} is called '{name}'{_hint(name, names)}, or write module:attr")
    if len(entries) > 1:
        owners = " and ".join(sorted(_owner(entry) for entry in entries))
        raise PluginError(f"{_word(group)} '{name}' is claimed by {owners}: uninstall one or write module:attr")
    return _imported(group, name, entries[0].load)


def create(group: str, name: str, options: Mapping[str, Any]) -> Any:
    """Load a plug-in and call it with its options.

    A reward's option `of` may hold other rewards, as tables of a name and options, which are made first. A function
    that takes `completions` is a reward itself.
    Errors: PluginError where it cannot be loaded, refuses an option, or lacks its method ("tasks" or "grade").
    """
    what = f"{_word(group)} '{name}'"
    factory = load(group, name)
    if group == REWARDS and is_reward_function(factory):
        factory = partial(FunctionReward, factory)
    if not callable(factory):
        raise PluginError(f"{what} is not a class or a function that makes one")
    if group == REWARDS and _nested(options.get("of")):
        options = {**options, "of": _inner(what, options["of"])}
    _check_options(what, factory, options)
    try:
        with boundary(what):
            plugin = factory(**options)
    except BoundaryError as error:
        cause = error.__cause__
        plain = isinstance(cause, (TypeError, ValueError))
        raise PluginError(
            f"{what} cannot be made: {' '.join(str(cause).split()) if plain else error.reason}"
        ) from error
    method = _METHOD.get(group)
    if method and not callable(getattr(plugin, method, None)):
        raise PluginError(f"{what} has no method '{method}'")
    return plugin


def default_payoff(name: str, options: Mapping[str, Any]) -> Payoff | None:
    """Give the payoff that a reward names in its attribute `pays` ("ternary", say); None where it names none.

    "inner" passes on what the first of its inner rewards names: right for a reward that hands their verdicts on.
    """
    kind = declares(name, options, "pays")
    return Payoff(kind=kind) if kind else None


def declares(name: str, options: Mapping[str, Any], attribute: str) -> Any:
    """Give what a reward's class declares, or the first of its inner rewards where the class declares "inner"."""
    found = getattr(load(REWARDS, name), attribute, None)
    if found != "inner":
        return found
    of: Any = options.get("of")
    tables = [of] if isinstance(of, Mapping) else of if _nested(of) else []
    named = (t for t in tables if isinstance(t, Mapping) and isinstance(t.get("name"), str))
    return next((inner for t in named if (inner := declares(t["name"], t, attribute))), None)


def _nested(of: Any) -> bool:
    """Tell whether an option holds rewards: a table, or a list of tables."""
    return isinstance(of, Mapping) or (isinstance(of, list | tuple) and any(isinstance(one, Mapping) for one in of))


def _inner(what: str, of: Any) -> Any:
    """Make the reward or the rewards that another one is made of."""
    tables = [of] if isinstance(of, Mapping) else list(of)
    for table in tables:
        if not isinstance(table, Mapping) or not isinstance(table.get("name"), str):
            raise PluginError(f"{what}: each entry of `of` is a table with the name of a reward, not {table!r}")
    made = [create(REWARDS, t["name"], {key: value for key, value in t.items() if key != "name"}) for t in tables]
    return made[0] if isinstance(of, Mapping) else made


def _check_options(what: str, factory: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Refuse options that the signature does not take, and name those that it wants."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # some C types have no signature: the call itself tells
        return
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        names = [p.name for p in named]
        for option in options:
            if option not in names:
                raise PluginError(f"{what} has no option '{option}'{_hint(option, names)}")
    for parameter in named:
        if parameter.default is parameter.empty and parameter.name not in options:
            raise PluginError(f"{what} needs the option '{parameter.name}'")


def _entries(group: str) -> dict[str, list[EntryPoint]]:
    """Collect the claims of each name; one distribution found twice on the path claims once."""
    claims: dict[str, dict[tuple[str, str], EntryPoint]] = {}
    for entry in entry_points(group=group):
        claims.setdefault(entry.name, {})[_owner(entry), entry.value] = entry
    return {name: list(by_owner.values()) for name, by_owner in claims.items()}


def _imported(group: str, name: str, imports: Callable[[], Any]) -> Any:
    what = f"{_word(group)} '{name}'"
    try:
        with boundary(what):
            return imports()
    except BoundaryError as error:
        raise PluginError(f"{what} cannot be imported: {error.reason}") from error


def _attribute(path: str) -> Any:
    module, _, attributes = path.partition(":")
    found: Any = importlib.import_module(module)
    for attribute in attributes.split("."):
        found = getattr(found, attribute)
    return found


def _owner(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else "an unnamed distribution"


def _word(group: str) -> str:
    return _WORD.get(group, f"plug-in of {group}")


def _hint(name: str, names: Sequence[str]) -> str:
    """Continue a sentence with the nearest of the known names, and all of them."""
    near = difflib.get_close_matches(name, names, n=1)
    meant = f" (did you mean '{near[0]}'?)" if near else ""
    return f"{meant}; known: {', '.join(names) or 'none'}"
