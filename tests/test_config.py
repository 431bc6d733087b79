"""Recipes: what is read, what is refused, and in which words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rlvr.config import Recipe, load_recipe
from rlvr.errors import ConfigError

LAUNCH = sorted((Path(__file__).resolve().parent.parent / "launch").glob("*.toml"))
PLAIN = """
name = "toy"
steps = 3
[model]
path = "m"
[environment]
name = "arithmetic"
examples = 2
operations = ["add2", "mul2"]
[[reward]]
name = "math"
[[reward]]
name = "my_module:Brevity"
weight = 0.5
tokens = 20
"""


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    path = tmp_path / "toy.toml"
    path.write_text(PLAIN)
    return path


def refused(path: Path, *overrides: str) -> str:
    """Give the one sentence that refuses a recipe, without the path that it begins with."""
    with pytest.raises(ConfigError) as caught:
        load_recipe(path, overrides=overrides)
    text = str(caught.value)
    assert "\n" not in text
    assert caught.value.exit_code == 2
    return text.removeprefix(f"{path}: ")


def test_a_short_recipe_is_completed(toml: Path) -> None:
    recipe = load_recipe(toml)
    assert (recipe.name, recipe.steps, recipe.seed) == ("toy", 3, 0)
    assert recipe.environment.options == {"examples": 2, "operations": ["add2", "mul2"]}
    assert [(r.name, r.weight, r.options) for r in recipe.reward] == [
        ("math", 1.0, {}), ("my_module:Brevity", 0.5, {"tokens": 20})
    ]  # fmt: skip
    assert recipe.payoff is None
    assert (recipe.algorithm.preset, recipe.algorithm.advantage_scale) == ("grpo", "none")


@pytest.mark.parametrize("path", LAUNCH, ids=[path.stem for path in LAUNCH])
def test_every_recipe_of_launch_loads(path: Path) -> None:
    recipe = load_recipe(path)
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_there_are_recipes_to_start_from() -> None:
    assert "quickstart_cpu" in [path.stem for path in LAUNCH]


def test_json_of_a_recipe_reads_back_as_the_same_recipe(toml: Path) -> None:
    recipe = load_recipe(toml, overrides=["payoff.wrong=-2", "hardware.threads=3"])
    text = json.dumps(recipe.model_dump(mode="json"))
    assert Recipe.model_validate_json(text) == recipe
    assert json.loads(text)["reward"][1] == {"name": "my_module:Brevity", "weight": 0.5, "tokens": 20}


def test_json_of_a_gpu_recipe_reads_back_too(toml: Path) -> None:
    recipe = load_recipe(toml, overrides=["hardware.kind=gpu"])
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_a_recipe_cannot_be_changed(toml: Path) -> None:
    recipe = load_recipe(toml)
    for section, key in ((recipe, "steps"), (recipe.rollout, "group_size"), (recipe.environment, "name")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, key, 4)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("rollout.group_sise=4", "unknown key rollout.group_sise; did you mean group_size?"),
        ("algoritm.clip_low=0.1", "unknown key algoritm; did you mean algorithm?"),
        ("payoff.corect=1", "unknown key payoff.corect; did you mean correct?"),
        ("track.zzz=1", "unknown key track.zzz; known here: wandb, trackio, tensorboard"),
        ("steps=many", "steps = 'many': input should be a valid integer"),
        ("steps=3.0", "steps = 3.0: input should be a valid integer"),
        ("steps=true", "steps = True: input should be a valid integer"),
        ("steps=0", "steps = 0: input should be greater than 0"),
        ("seed=-1", "seed = -1: input should be greater than or equal to 0"),
        ("track.wandb=1", "track.wandb = 1: input should be a valid boolean"),
        ("track.wandb=yes", "track.wandb = 'yes': input should be a valid boolean"),
        ("rollout.group_size=1", "rollout.group_size = 1: input should be greater than or equal to 2"),
        ("rollout.temperature=nan", "rollout.temperature = nan: input should be "),
        ("algorithm.learning_rate=inf", "algorithm.learning_rate = inf: input should be a finite number"),
        ("hardware.kind=tpu", "hardware.kind = 'tpu': input should be 'cpu' or 'gpu'"),
        ("adapter.kind=lora", "adapter.kind = 'lora': input should be 'none'"),
        ("name=../up", "name = '../up': string should match pattern"),
        ("reward.0.weight=-1", "reward.0.weight = -1: input should be greater than or equal to 0"),
        ("reward.1.weight=inf", "reward.1.weight = inf: input should be a finite number"),
        ("reward=[]", "reward = (): tuple should have at least 1 item"),
        ("payoff.wrong=0.5", "payoff: a payoff needs correct > abstained > wrong, not (1.0, 0.0, 0.5)"),
        ("payoff.abstained=1", "payoff: a payoff needs correct > abstained > wrong, not (1.0, 1.0, -1.0)"),
        ("rollout.max_new_tokens=512", "rollout.max_new_tokens leaves no room for a prompt within "),
        ("rollout.workers=17", "rollout.workers is above rollout.prompts_per_step"),
        ("reward.1.name=math", "reward: 'math' stands there twice; name each reward once"),
        ("hardware.tokens_per_microbatch=511", "hardware.tokens_per_microbatch = 511 does not hold one reply of "),
        ("rollout.max_model_len=4097", "hardware.tokens_per_microbatch = 4096 does not hold one reply of "),
    ],
)
def test_a_mistake_is_named_by_its_key(toml: Path, override: str, sentence: str) -> None:
    text = refused(toml, override)
    assert text.startswith(sentence)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["algorithm.advantage_ddof=0"], 'algorithm: advantage_ddof has no effect with advantage_scale = "none"'),
        (["algorithm.advantage_ddof=1"], 'algorithm: advantage_ddof has no effect with advantage_scale = "none"'),
        (["algorithm.advantage_eps=1e-4"], 'algorithm: advantage_eps has no effect with advantage_scale = "none"'),
        (["hardware.kind=gpu", "hardware.threads=2"], 'hardware.threads has no effect with hardware.kind = "gpu"'),
        (["weights.transport=nccl"], 'weights.transport = "nccl" needs hardware.kind = "gpu"'),
        (["weights.transport=ipc"], 'weights.transport = "ipc" needs hardware.kind = "gpu"'),
    ],
)  # fmt: skip
def test_a_setting_without_effect_is_an_error(toml: Path, overrides: list[str], sentence: str) -> None:
    assert refused(toml, *overrides).startswith(sentence)


@pytest.mark.parametrize("transport", ["auto", "ipc"])
def test_workers_beside_the_learners_gpu_are_refused(toml: Path, transport: str) -> None:
    gpu = ["hardware.kind=gpu", f"weights.transport={transport}"]
    sentence = f'rollout.workers = 2 cannot share the learner\'s GPU, as weights.transport = "{transport}" wants'
    assert refused(toml, *gpu, "rollout.workers=2").startswith(sentence)
    assert load_recipe(toml, overrides=[*gpu, "rollout.workers=1"]).rollout.workers == 1
    assert load_recipe(toml, overrides=[gpu[0], "weights.transport=nccl", "rollout.workers=2"]).rollout.workers == 2


def test_rewards_that_weigh_nothing_are_refused(toml: Path) -> None:
    nothing = refused(toml, "reward.0.weight=0", "reward.1.weight=0")
    assert nothing == "reward: every weight is 0, so that no reply would earn anything"
    assert load_recipe(toml, overrides=["reward.0.weight=0"]).reward[0].weight == 0.0


def test_the_same_setting_passes_where_it_has_an_effect(toml: Path) -> None:
    recipe = load_recipe(toml, overrides=["algorithm.advantage_scale=std", "algorithm.advantage_ddof=0"])
    assert (recipe.algorithm.advantage_scale, recipe.algorithm.advantage_ddof) == ("std", 0)
    assert load_recipe(toml, overrides=["hardware.kind=gpu", "weights.transport=nccl"]).hardware.kind == "gpu"


def test_several_mistakes_are_named_at_once(toml: Path) -> None:
    text = refused(toml, "steps=0", "rollout.workerz=2")
    assert "steps = 0: " in text
    assert "; unknown key rollout.workerz; did you mean workers?" in text


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bare.toml"
    path.write_text('name = "bare"\n[environment]\nexamples = 2\n')
    text = refused(path)
    assert all(f"{key} is missing" in text for key in ("steps", "model", "environment.name", "reward"))


def test_a_reward_table_instead_of_an_array_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "one.toml"
    path.write_text(PLAIN[: PLAIN.index("[[reward]]")] + '[reward]\nname = "math"\n')
    assert refused(path).startswith("reward = ")


def test_files_that_are_no_recipe(tmp_path: Path) -> None:
    gone = tmp_path / "no.toml"
    assert refused(gone) == f"there is no recipe {gone}; launch/ holds some to start from"
    assert refused(tmp_path) == f"the recipe {tmp_path} cannot be read: Is a directory"
    (tmp_path / "bad.toml").write_text("name = \n")
    assert "bad.toml is not valid TOML: Invalid value (at line 1" in refused(tmp_path / "bad.toml")
    (tmp_path / "raw.toml").write_bytes(b"\xff\xfe\x00")
    assert "raw.toml is not valid TOML" in refused(tmp_path / "raw.toml")


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("steps=7", ["steps"], 7),
        (" steps = 7", ["steps"], 7),
        ("algorithm.learning_rate=3e-6", ["algorithm", "learning_rate"], 3e-6),
        ("rollout.temperature=1", ["rollout", "temperature"], 1.0),
        ("model.path=some/where", ["model", "path"], "some/where"),
        ('model.path="some/where"', ["model", "path"], "some/where"),
        ("model.path=a=b", ["model", "path"], "a=b"),
        ("track.wandb=true", ["track", "wandb"], True),
        ("payoff.wrong=-0.5", ["payoff", "wrong"], -0.5),
        ("environment.operations=['add3']", ["environment", "operations"], ["add3"]),
        ("environment.fresh={a = 1}", ["environment", "fresh"], {"a": 1}),
        ("reward.1.weight=0.25", ["reward", 1, "weight"], 0.25),
        ("reward.0.name=other", ["reward", 0, "name"], "other"),
        ("reward=[{name = 'one'}]", ["reward"], [{"name": "one", "weight": 1.0}]),
    ],
)
def test_forms_of_set(toml: Path, override: str, path: list[Any], value: Any) -> None:
    found: Any = load_recipe(toml, overrides=[override]).model_dump(mode="json")
    for key in path:
        found = found[key]
    assert found == value
    assert type(found) is type(value)


def test_the_last_set_wins(toml: Path) -> None:
    assert load_recipe(toml, overrides=["steps=5", "steps=6"]).steps == 6


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("steps", "--set takes a.b=c, not 'steps'"),
        ("=3", "--set takes a.b=c, not '=3'"),
        ("steps.more=3", "--set steps.more=3: steps is a value, not a section"),
        ("reward.2.weight=1", "--set reward.2.weight=1: '2' must be an index below 2, as in reward.0.weight=1"),
        ("reward.math.weight=1", "--set reward.math.weight=1: 'math' must be an index below 2"),
        ("reward.-1.weight=1", "--set reward.-1.weight=1: '-1' must be an index below 2"),
        ("reward.2=1", "--set reward.2=1: '2' must be an index below 2"),
        ("steps=", "steps = '': input should be a valid integer"),
    ],
)
def test_wrong_forms_of_set(toml: Path, override: str, sentence: str) -> None:
    assert refused(toml, override).startswith(sentence)
