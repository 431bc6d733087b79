import subprocess
import sys
from pathlib import Path

import pytest

from rlvr.core.payoff import Payoff
from rlvr.errors import PluginError
from rlvr.plugins import ENVIRONMENTS, REWARDS, create, declares, default_payoff, known, load
from rlvr.testing import rollout, task
from rlvr.types import Grade, Verdict

SOURCE = """
class Good:
    def __init__(self, scale: float = 1.0, *, mode: str = "plain") -> None:
        if mode not in ("plain", "loud"):
            raise ValueError(f"mode must be plain or loud, not {mode!r}")
        self.scale, self.mode = scale + 0.0, mode
    def grade(self, task, rollout): ...
class Needy:
    def __init__(self, *, path: str) -> None: ...
    def grade(self, task, rollout): ...
class Open:
    def __init__(self, **options) -> None:
        self.options = options
    def tasks(self, split, *, seed): ...
class Broken:
    def __init__(self) -> None:
        raise OSError("no such\\nfile")
class Mute: ...
number = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a folder with a module of plug-ins, as a user does."""
    (tmp_path / "mine.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    return tmp_path


def install(folder: Path, distribution: str, *, name: str = "shared", value: str = "mine:Good") -> None:
    """Lay out a distribution that claims one reward."""
    info = folder / f"{distribution}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[rlvr.rewards]\n{name} = {value}\n")


def test_a_path_is_found_in_the_current_directory(folder: Path) -> None:
    made = create(REWARDS, "mine:Good", {"scale": 2, "mode": "loud"})
    assert (made.scale, made.mode) == (2.0, "loud")


def test_an_entry_point_is_found_by_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(folder, "acme")
    monkeypatch.syspath_prepend(folder)
    assert load(REWARDS, "shared").__name__ == "Good"
    assert known(REWARDS)["shared"] == "mine:Good (acme)"
    assert "shared" not in known(ENVIRONMENTS)


def test_a_name_claimed_twice_is_an_error_that_names_both(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(folder, "acme")
    install(folder, "zenith", value="mine:Needy")
    monkeypatch.syspath_prepend(folder)
    with pytest.raises(PluginError, match="reward 'shared' is claimed by acme and zenith"):
        load(REWARDS, "shared")
    assert known(REWARDS)["shared"].count("mine:") == 2


def test_one_distribution_found_twice_claims_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(folder, "acme")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.syspath_prepend(folder)
    assert load(REWARDS, "shared").__name__ == "Good"


def test_an_unknown_name_is_answered_with_the_nearest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(folder, "acme")
    monkeypatch.syspath_prepend(folder)
    with pytest.raises(PluginError, match=r"no reward is called 'sharde' \(did you mean 'shared'\?\); known: .*shared"):
        load(REWARDS, "sharde")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere:Thing", "cannot be imported: ModuleNotFoundError"),
        ("mine:Nothing", "cannot be imported: AttributeError"),
        ("mine:", "cannot be imported"),
        (":Good", "cannot be imported"),
        ("mine:number", "is not a class or a function"),
        ("mine:Mute", "has no method 'grade'"),
        ("mine:Broken", "cannot be made: OSError: no such file"),
        ("mine:Needy", "needs the option 'path'"),
    ],
)
def test_a_plug_in_that_cannot_be_used_says_so_in_one_line(folder: Path, path: str, message: str) -> None:
    with pytest.raises(PluginError, match=message) as caught:
        create(REWARDS, path, {})
    assert f"'{path}'" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scael": 1}, r"has no option 'scael' \(did you mean 'scale'\?\); known: scale, mode"),
        ({"mode": "quiet"}, "cannot be made: mode must be plain or loud, not 'quiet'"),
        ({"scale": "much"}, "reward 'mine:Good' cannot be made: "),
    ],
)
def test_a_wrong_option_is_named(folder: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(PluginError, match=message):
        create(REWARDS, "mine:Good", options)


def test_a_plug_in_may_take_any_option(folder: Path) -> None:
    assert create(ENVIRONMENTS, "mine:Open", {"anything": 1}).options == {"anything": 1}


def test_an_import_that_raises_is_reported_and_not_passed_on(folder: Path) -> None:
    (folder / "sick.py").write_text("1 / 0")
    with pytest.raises(PluginError, match="environment 'sick:Env' cannot be imported: ZeroDivisionError"):
        load(ENVIRONMENTS, "sick:Env")


def test_listing_names_imports_no_plug_in() -> None:
    code = "import sys, rlvr.plugins as p; p.known(p.REWARDS); print([m for m in sys.modules if m.startswith('rlvr_')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


GATE = {"of": [{"name": "format", "tags": ["think", "answer"]}, {"name": "truth", "exact": True}]}


def test_a_reward_is_made_of_others() -> None:
    gate = create(REWARDS, "gate", GATE)
    good, bare = (gate.grade(task(truth="7"), rollout(text)) for text in
                  ("<think>x</think><answer>7</answer>", "7"))  # fmt: skip
    assert isinstance(good, Grade) and isinstance(bare, Grade)
    assert (good.verdict, good.score) == (Verdict.CORRECT, 1.0)
    assert bare.verdict is not Verdict.CORRECT


@pytest.mark.parametrize(
    ("of", "sentence"),
    [
        ([{"name": "math"}, 3], "each entry of `of` is a table with the name of a reward, not 3"),
        ([{"tags": []}], "each entry of `of` is a table"),
        ([{"name": "maths"}], "no reward is called 'maths'"),
        ([{"name": "math", "speed": 1}], "reward 'math' has no option 'speed'"),
    ],
)
def test_inner_rewards_that_cannot_be_made(of: list[object], sentence: str) -> None:
    with pytest.raises(PluginError, match=sentence):
        create(REWARDS, "gate", {"of": of})


def test_a_reward_may_name_its_payoff_and_passes_that_of_what_it_is_made_of() -> None:
    assert default_payoff("truth", {}) == Payoff(kind="ternary")
    assert default_payoff("math", {}) is None
    assert default_payoff("gate", GATE) == Payoff(kind="ternary")
    assert default_payoff("gate", {"of": [{"name": "math"}]}) is None
    assert default_payoff("sum", GATE) is None, "a mean of scores is what its recipe wants paid"
    assert declares("gate", GATE, "reads_confidence") is True
    assert declares("math", {}, "reads_confidence") is None
