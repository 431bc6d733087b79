"""Pages that repeat what the code says must not fall behind it."""

import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from rlvr import plugins
from rlvr.config import load_recipe
from rlvr.errors import RlvrError
from rlvr.learner.model import prepare
from rlvr.loop.ledger import eval_tasks

ROOT = Path(__file__).resolve().parent.parent
RECIPE = """
name = "small"
steps = 1
model.path = "smollm2-135m"
environment.name = "arithmetic"
reward = [{ name = "math" }]
"""
ERRORS = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
ADVICE = "run: python docs/make_tables.py"


def mistakes(heading: str) -> list[tuple[str, str]]:
    """Give the rows of one table of docs/errors.md: overrides, "`, `" between them, and the answer promised."""
    section = ERRORS.split(f"## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"^\| `(.+?)` \| (.+) \|$", section, re.MULTILINE)


def promised(answer: str) -> re.Pattern[str]:
    """Read an answer of the page, where … stands for anything."""
    return re.compile(".+".join(re.escape(part) for part in answer.split("…")))


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = spec_from_file_location("make_tables", ROOT / "docs" / "make_tables.py")
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_recipes_is_in_step(tables: ModuleType) -> None:
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert tables.with_table(page, tables.recipe_tables()) == page, ADVICE


def test_the_table_of_metrics_is_in_step(tables: ModuleType) -> None:
    page = (ROOT / "docs" / "run-directory.md").read_text(encoding="utf-8")
    assert tables.with_table(page, tables.metrics_table()) == page, ADVICE


def test_the_page_of_algorithms_is_in_step(tables: ModuleType) -> None:
    page = (ROOT / "docs" / "algorithms.md").read_text(encoding="utf-8")
    assert tables.with_table(page, tables.algorithm_tables()) == page, ADVICE


def test_every_key_of_a_recipe_has_its_meaning_in_one_place(tables: ModuleType) -> None:
    described = {name for name, field in tables.recipe_keys() if field.description}
    names = {name for name, _ in tables.recipe_keys()}
    assert names - described == set(tables.MEANINGS), "docs/make_tables.py says what rlvr/config/ does not, and no more"


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(RECIPE)
    return path


@pytest.mark.parametrize(("override", "answer"), mistakes("The recipe"))
def test_a_wrong_recipe_gets_the_promised_answer(override: str, answer: str, recipe_file: Path) -> None:
    with pytest.raises(RlvrError) as caught:
        load_recipe(recipe_file, overrides=override.split("`, `"))
    said = str(caught.value).removeprefix(f"{recipe_file}: ")
    assert promised(answer).fullmatch(said), said


@pytest.mark.parametrize(("override", "answer"), mistakes("Plug-ins and models"))
def test_a_wrong_plug_in_or_model_gets_the_promised_answer(
    override: str, answer: str, recipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(recipe_file.parent)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(RlvrError) as caught:
        recipe = load_recipe(recipe_file, overrides=[override])
        if override.startswith("model"):
            prepare(recipe.model.path)
        for reward in recipe.reward:
            plugins.create(plugins.REWARDS, reward.name, reward.options)
        environment = plugins.create(plugins.ENVIRONMENTS, recipe.environment.name, recipe.environment.options)
        eval_tasks(environment, name=recipe.environment.name, count=recipe.eval.tasks)
    assert promised(answer).match(str(caught.value)), str(caught.value)


def test_the_pages_tables_are_read() -> None:
    assert len(mistakes("The recipe")) > 10
    assert len(mistakes("Plug-ins and models")) > 5
