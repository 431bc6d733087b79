"""The rules of the house: who may import what, how long things may get, and what the lock must say."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {
    "rlvr": ROOT / "rlvr",
    "rlvr_environments": ROOT / "environments" / "rlvr_environments",
    "rlvr_rewards": ROOT / "rewards" / "rlvr_rewards",
}
MODULES = sorted((name, path) for name, folder in PACKAGES.items() for path in folder.rglob("*.py"))

# A unit of `rlvr` may import units of lower layers only: neither its own layer's others nor anything above.
# The bare package stands below all, since it holds nothing but the version.
LAYERS = [
    {"rlvr"},
    {"errors", "types", "waiting"},
    {"core", "functions", "presets"},
    {"config", "plugins", "observe"},
    {"rollout", "learner", "weights"},
    {"loop"},
    {"cli", "__main__"},
]
LAYER = {unit: depth for depth, units in enumerate(LAYERS) for unit in units}
TOP = LAYER["loop"]

# Heavy neighbours, and the few files that may know them. Everybody else stays quick to import and easy to test.
GUESTS = {
    "vllm": ["rlvr/rollout/vllm_engine.py", "rlvr/weights/transport.py", "rlvr/weights/slot.py"],
    "ray": [
        "rlvr/*/actor.py",
        "rlvr/observe/recorder.py",
        "rlvr/loop/cluster.py",
        "rlvr/loop/places.py",
        "rlvr/loop/traffic.py",
        "rlvr/loop/workers.py",
    ],
    "transformers": ["rlvr/learner/*.py", "rlvr/rollout/render.py"],
    "peft": ["rlvr/learner/*.py", "rlvr/rollout/render.py"],
}
CORE_NEIGHBOURS = {"torch", "numpy", "jaxtyping"}


def name_of(package: str, path: Path) -> str:
    """Give the file's path as a wheel would lay it out: "rlvr/loop/driver.py"."""
    return f"{package}/{path.relative_to(PACKAGES[package]).as_posix()}"


def unit_of(target: str) -> str:
    """Name the unit that a module of `rlvr` belongs to: "rlvr.core.stats" is of "core"."""
    parts = target.split(".")
    return parts[1] if len(parts) > 1 else "rlvr"


def absolute(node: ast.ImportFrom, *, file: str) -> str:
    """Spell out where a `from ... import` looks, relative ones included."""
    if not node.level:
        return node.module or ""
    here = file.split("/")[: -node.level]
    return ".".join([*here, node.module] if node.module else here)


def targets(node: ast.AST, *, file: str) -> list[str]:
    """List the dotted names that one statement or call imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = absolute(node, file=file)
        inside = [f"{base}.{alias.name}" for alias in node.names if not alias.name.startswith("__")]
        return inside or [base]
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
        return [a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    return []


def imports(tree: ast.AST, *, file: str, typing_only: bool = False) -> Iterator[tuple[str, bool]]:
    """Walk every import, however deep, and say whether only the type checker sees it."""
    for child in ast.iter_child_nodes(tree):
        for target in targets(child, file=file):
            yield target, typing_only
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for part in child.body:
                yield from imports(ast.Module(body=[part], type_ignores=[]), file=file, typing_only=True)
            for part in child.orelse:
                yield from imports(ast.Module(body=[part], type_ignores=[]), file=file, typing_only=typing_only)
        else:
            yield from imports(child, file=file, typing_only=typing_only)


def complaint(file: str, target: str, *, typing_only: bool) -> str | None:
    """Say why a file may not import a target, or nothing. Types of our own units count as imports; guests' do not."""
    package, unit = file.split("/")[0], file.split("/")[1].removesuffix(".py").replace("__init__", "rlvr")
    head, wanted = target.split(".")[0], unit_of(target)
    if head in GUESTS and not typing_only and not any(fnmatch(file, pattern) for pattern in GUESTS[head]):
        return f"only {', '.join(GUESTS[head])} may import {head}"
    if package != "rlvr":
        ours = head == package or (head == "rlvr" and wanted in {"types", "errors"})
        return None if ours or head not in PACKAGES else "plug-ins know rlvr.types and rlvr.errors only"
    if unit == "testing":
        return None
    if head in PACKAGES and head != "rlvr":
        return "rlvr finds its environments and rewards through plugins only"
    if unit == "core" and head not in {"rlvr", *CORE_NEIGHBOURS, *sys.stdlib_module_names}:
        return f"core knows {', '.join(sorted(CORE_NEIGHBOURS))} and the standard library"
    if head != "rlvr" or wanted == unit:
        return None
    return direction(unit, wanted)


def direction(unit: str, wanted: str) -> str | None:
    """Judge an import between two units of `rlvr`."""
    if unit not in LAYER:
        return f"rlvr.{unit} has no layer: give it one in tests/test_house.py"
    if wanted == "testing":
        # `rlvr check` runs on a plug-in what its author's tests run on it.
        return None if unit == "cli" else "nobody but tests and the command line sees rlvr.testing"
    if wanted == "config" and LAYER[unit] < TOP:
        return "no config object goes below loop: pass the values"
    if LAYER.get(wanted, 0) >= LAYER[unit]:
        return f"rlvr.{unit} stands below or beside rlvr.{wanted}"
    return None


def complaints(source: str, *, file: str) -> list[str]:
    """List what a file's imports do wrong."""
    found = [(t, complaint(file, t, typing_only=only)) for t, only in imports(ast.parse(source), file=file)]
    return [f"{file} imports {target}: {why}" for target, why in found if why]


@pytest.mark.parametrize(("package", "path"), MODULES, ids=[name_of(*module) for module in MODULES])
def test_a_module_keeps_the_house_rules(package: str, path: Path) -> None:
    source, file = path.read_text(encoding="utf-8"), name_of(package, path)
    tree = ast.parse(source)
    assert complaints(source, file=file) == []
    assert len(source.splitlines()) <= 500, f"{file} is too long to read in one go"
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = [f.name for f in functions if (f.end_lineno or f.lineno) - f.lineno + 1 > 80]
    assert not long, f"{file}: over 80 lines: {', '.join(long)}"
    if not path.name.startswith("_") or path.name == "__init__.py":
        assert ast.get_docstring(tree), f"{file} needs a docstring"


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("rlvr/core/losses.py", "import rlvr.loop.driver"),
        ("rlvr/core/losses.py", "import pydantic"),
        ("rlvr/types.py", "from rlvr import core"),
        ("rlvr/plugins.py", "from rlvr.config import Config"),
        ("rlvr/learner/step.py", "from ..rollout import engine"),
        ("rlvr/learner/step.py", "def f():\n    from rlvr.weights.manifest import digest"),
        ("rlvr/weights/service.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import rlvr.loop.buffer"),
        ("rlvr/rollout/runner.py", "from rlvr.config import Config"),
        ("rlvr/loop/driver.py", "from rlvr.cli import main"),
        ("rlvr/loop/driver.py", "import rlvr.testing"),
        ("rlvr/loop/driver.py", "from rlvr_rewards.math import Math"),
        ("rlvr/plugins.py", "import importlib\nimportlib.import_module('rlvr_environments.arithmetic')"),
        ("rlvr/cli.py", "import ray"),
        ("rlvr/rollout/runner.py", "try:\n    import ray\nexcept ImportError:\n    ray = None"),
        ("rlvr/learner/model.py", "from vllm import SamplingParams"),
        ("rlvr/weights/export.py", "import transformers"),
        ("rlvr/helpers.py", "import rlvr.core.stats"),
        ("rlvr_rewards/math.py", "from rlvr.core import stats"),
        ("rlvr_rewards/math.py", "from rlvr_environments import arithmetic"),
        ("rlvr_environments/code.py", "import rlvr.rollout.grading"),
        ("rlvr_rewards/judge.py", "import vllm"),
    ],
)
def test_a_wrong_import_is_caught(file: str, source: str) -> None:
    assert complaints(source, file=file)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        (
            "rlvr/cli.py",
            "from rlvr import __version__\nimport rlvr.testing\nimport rlvr.loop.driver",
        ),
        ("rlvr/core/losses.py", "import math\nimport torch\nfrom jaxtyping import Float\nfrom .stats import mean"),
        ("rlvr/learner/actor.py", "import ray\nfrom rlvr.core import losses\nfrom rlvr.learner.step import step"),
        ("rlvr/rollout/vllm_engine.py", "import vllm\nfrom rlvr.types import Task"),
        ("rlvr/rollout/runner.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import ray"),
        ("rlvr/testing/contracts.py", "import rlvr_rewards.math\nimport rlvr.loop.driver"),
        ("rlvr_rewards/math.py", "from rlvr.types import Grade\nfrom rlvr.errors import boundary\nimport math_verify"),
        ("rlvr_rewards/combine.py", "from rlvr_rewards.math import Math"),
    ],
)
def test_a_right_import_passes(file: str, source: str) -> None:
    assert complaints(source, file=file) == []


def test_importing_rlvr_loads_nothing_heavy() -> None:
    heavy = "torch", "ray", "vllm", "transformers", "peft"
    program = f"import sys, rlvr, rlvr.types, rlvr.errors; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def locked() -> dict[str, str]:
    """Read the lock: name to version. A line without an exact pin fails."""
    text = (ROOT / "requirements" / "cpu.lock").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    pins = [re.fullmatch(r"([A-Za-z0-9._-]+)==([^\s;*]+)(?:; .+)?", line) for line in lines]
    loose = [line for line, pin in zip(lines, pins, strict=True) if pin is None]
    assert not loose, f"not pinned to one version: {loose}"
    return {canonicalize_name(pin[1]): pin[2] for pin in pins if pin}


def declared() -> list[str]:
    """List what a CPU set-up with the developer's tools asks for in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    return [*project["dependencies"], *extras["cpu"], *extras["dev"]]


@pytest.mark.parametrize("text", declared())
def test_the_lock_satisfies_pyproject(text: str) -> None:
    requirement = Requirement(text)
    version = locked().get(canonicalize_name(requirement.name))
    assert version, f"{requirement.name} is not in requirements/cpu.lock"
    assert requirement.specifier.contains(version, prereleases=True)
