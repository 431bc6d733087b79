"""The README's own code: what a reader copies must work."""

import re
import sys
from itertools import islice
from pathlib import Path

import pytest

from rlvr import cli, plugins
from rlvr.config import load_recipe
from rlvr.testing import check_environment, check_reward, rollout
from rlvr.types import Verdict

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def files() -> dict[str, str]:
    """Give the README's files: a fenced block that opens with a comment names its file there."""
    return dict(re.findall(r"^```(?:python|toml)\n# (\S+)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a folder that holds the README's files, as a reader does."""
    for name, text in files().items():
        (tmp_path / name).write_text(text)
        monkeypatch.delitem(sys.modules, name.removesuffix(".py"), raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def test_every_code_block_names_its_file() -> None:
    fences = re.findall(r"^```(?:python|toml)$", README, re.MULTILINE)
    assert len(fences) == len(files()) == 3


def test_the_readmes_environment_and_reward_keep_their_contracts(folder: Path) -> None:
    recipe = load_recipe(folder / "larger.toml")
    environment = plugins.create(plugins.ENVIRONMENTS, recipe.environment.name, recipe.environment.options)
    reward = plugins.create(plugins.REWARDS, recipe.reward[0].name, recipe.reward[0].options)
    assert check_environment(environment) == []
    assert check_reward(reward, islice(environment.tasks("eval", seed=0), 8)) == []
    assert len(list(islice(environment.tasks("eval", seed=0), recipe.eval.tasks))) == recipe.eval.tasks


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("Answer: 58", Verdict.CORRECT),
        ("It is 31.\nAnswer: 58", Verdict.CORRECT),
        ("Answer: 31", Verdict.WRONG),
        ("58", Verdict.WRONG),
        ("Answer: I don't know", Verdict.ABSTAINED),
    ],
)
def test_the_readmes_reward_judges_as_it_says(folder: Path, reply: str, verdict: Verdict) -> None:
    environment = plugins.create(plugins.ENVIRONMENTS, "larger:Larger", {})
    reward = plugins.create(plugins.REWARDS, "exact:Exact", {})
    task = next(t for t in environment.tasks("train", seed=0) if t.truth == "58")
    assert reward.grade(task, rollout(reply, of=task)).verdict is verdict


def test_the_table_of_commands_is_complete() -> None:
    said = re.findall(r"^\| `rlvr (\w+)", README, re.MULTILINE)
    assert sorted(said) == sorted(command.name or command.callback.__name__ for command in cli.app.registered_commands)


def test_the_commands_of_the_readme_exist() -> None:
    options = {o for command in cli.app.registered_commands for o in command.callback.__annotations__}
    assert {f.replace("-", "_") for f in re.findall(r"`--([a-z-]+)", README)} <= {o.rstrip("_") for o in options}


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md", *(f"docs/{p.name}" for p in ROOT.glob("docs/*.md"))])
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text) if "://" not in link]
    absent = [link for link in links if not ((ROOT / page).parent / link).exists()]
    assert absent == []
