"""Recipes: what is read, what is refused, and in which words."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rlvr.config import EFFECTS, Recipe, load_recipe
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
    assert (recipe.algorithm.preset, recipe.algorithm.advantage_scale) == ("grpo", "std")


@pytest.mark.parametrize("path", LAUNCH, ids=[path.stem for path in LAUNCH])
def test_every_recipe_of_launch_loads(path: Path) -> None:
    recipe = load_recipe(path)
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


@pytest.mark.parametrize("path", LAUNCH, ids=[path.stem for path in LAUNCH])
def test_every_recipe_of_launch_says_what_becomes_of_cut_replies(path: Path) -> None:
    assert tomllib.loads(path.read_text())["rollout"]["truncated"] in ("score", "wrong", "mask")


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
        ("rollout.group_size=0", "rollout.group_size = 0: input should be greater than 0"),
        ("rollout.group_size=1", 'rollout.group_size = 1 leaves algorithm.baseline = "group" no reply to compare with'),
        ("rollout.truncated=cut", "rollout.truncated = 'cut': input should be 'score', 'wrong' or 'mask'"),
        ("rollout.temperature=nan", "rollout.temperature = nan: input should be "),
        ("algorithm.learning_rate=inf", "algorithm.learning_rate = inf: input should be a finite number"),
        ("hardware.kind=tpu", "hardware.kind = 'tpu': input should be 'cpu' or 'gpu'"),
        ("adapter.kind=lola", "adapter.kind = 'lola': input should be 'none', 'lora'"),
        ("adapter.targets=q_proj", "adapter.targets: takes \"all-linear\" or a list of module names, not 'q_proj'"),
        ("adapter.targets=['q', 3]", "adapter.targets: takes \"all-linear\" or a list of module names, not ['q', 3]"),
        ("adapter.targets=['']", "adapter.targets: takes \"all-linear\" or a list of module names, not ['']"),
        ("algorithm.preset=gpro", "algorithm.preset = 'gpro': input should be 'grpo', 'dr_grpo'"),
        ("algorithm=3", "algorithm = 3: input should be a valid dictionary"),
        ("critic=3", "critic = 3: input should be a valid dictionary"),
        ("algorithm.clip_low=1.5", "algorithm.clip_low = 1.5: input should be less than or equal to 1"),
        ("algorithm.clip_dual=1", "algorithm.clip_dual = 1: input should be greater than 1"),
        ("algorithm.minibatches=0", "algorithm.minibatches = 0: input should be greater than 0"),
        ("sft.epochs=2", "sft.demonstrations is missing"),
        (
            "hardware.precision=float16",
            "hardware.precision = 'float16': input should be 'auto', 'bfloat16', 'float32' or 'bfloat16_weights'",
        ),
        ("name=../up", "name = '../up': string should match pattern"),
        ("reward.0.weight=-1", "reward.0.weight = -1: input should be greater than or equal to 0"),
        ("reward.1.weight=inf", "reward.1.weight = inf: input should be a finite number"),
        ("reward=[]", "reward = []: tuple should have at least 1 item"),
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


SCALED = 'algorithm.advantage_scale = "std" or "batch"'
CRITIC = 'algorithm.baseline = "critic"'
MOVING = (
    'a loss other than "policy_gradient", and old_logprobs = "engine" or more than one update in a step, since the '
    "ratio is 1 otherwise"
)
IDLE = [
    (["algorithm.advantage_scale=none", "algorithm.advantage_ddof=0"], "algorithm.advantage_ddof", SCALED),
    (["algorithm.advantage_scale=none", "algorithm.advantage_ddof=1"], "algorithm.advantage_ddof", SCALED),
    (["algorithm.advantage_scale=none", "algorithm.advantage_eps=1e-4"], "algorithm.advantage_eps", SCALED),
    (["algorithm.discount=0.9"], "algorithm.discount", 'algorithm.baseline = "critic" or "none"'),
    (["algorithm.decay=1.0"], "algorithm.decay", f"{CRITIC}, and no decay_length_factor"),
    (["algorithm.preset=vapo", "steps=99", "algorithm.decay=0.9"], "algorithm.decay",
     f"{CRITIC}, and no decay_length_factor"),
    (["algorithm.critic_decay=1.0"], "algorithm.critic_decay", CRITIC),
    (["algorithm.decay_length_factor=0.05"], "algorithm.decay_length_factor", CRITIC),
    (["critic.warmup_steps=1"], "[critic]", CRITIC),
    (["critic={}"], "[critic]", CRITIC),
    (["algorithm.preset=rloo", "algorithm.clip_high=0.3"], "algorithm.clip_high", MOVING),
    (["algorithm.old_logprobs=learner", "algorithm.clip_low=0.2"], "algorithm.clip_low", MOVING),
    (["algorithm.preset=cispo", "algorithm.clip_dual=3"], "algorithm.clip_dual",
     'algorithm.loss = "clip", and old_logprobs = "engine" or more than one update in a step'),
    (["algorithm.loss_constant=9"], "algorithm.loss_constant", 'algorithm.loss_per = "constant"'),
    (["algorithm.kl_coefficient=0.1"], "algorithm.kl_coefficient", 'algorithm.kl = "loss" or "reward"'),
    (["algorithm.kl_estimator=k1"], "algorithm.kl_estimator", 'algorithm.kl = "loss" or "reward"'),
    (["algorithm.preset=rloo", "algorithm.old_logprobs=learner"], "algorithm.old_logprobs",
     'a loss other than "policy_gradient", or a correction and more than one update in a step'),
    (["algorithm.correction_cap=3"], "algorithm.correction_cap", 'algorithm.correction = "token" or "sequence"'),
    (["algorithm.old_logprobs=learner", "algorithm.correction=token", "algorithm.correction_low=0.4"],
     "algorithm.correction_low", 'algorithm.correction = "icepop" or "geometric"'),
    (["algorithm.preset=ppo", "algorithm.minibatches=1", "critic.value_clip=0.3"], "critic.value_clip",
     "more than one update in a step, as no value has changed before the first"),
    (["algorithm.preset=ppo", "critic.coefficient=0.3"], "critic.coefficient", 'critic.backbone = "shared"'),
    (["weights.in_flight=false"], "weights.in_flight",
     "rollout.max_staleness above 0, since no reply is under way at a push otherwise"),
    (["rollout.max_staleness=1", "weights.in_flight=false", "weights.recompute_kv=true"], "weights.recompute_kv",
     "rollout.max_staleness above 0 and weights.in_flight = true"),
    (["rollout.max_refills=3"], "rollout.max_refills", "rollout.dynamic_sampling = true"),
    (["adapter.rank=8"], "adapter.rank", 'an adapter.kind other than "none"'),
    (["adapter.targets=['q_proj']"], "adapter.targets", 'an adapter.kind other than "none"'),
    (["adapter.kind=vera", "adapter.alpha=8"], "adapter.alpha", 'an adapter.kind other than "none" and "vera"'),
    (["adapter.kind=lora", "adapter.lora_plus_ratio=8"], "adapter.lora_plus_ratio", 'adapter.kind = "lora+"'),
    (["adapter.kind=lora", "adapter.target_rank=8"], "adapter.target_rank", 'adapter.kind = "adalora"'),
    (["hardware.kind=gpu", "hardware.threads=2"], "hardware.threads", 'hardware.kind = "cpu"'),
    (["hardware.kind=gpu", "rollout.kv_cache_gib=2"], "rollout.kv_cache_gib", 'hardware.kind = "cpu"'),
    (["weights.folder=/mnt"], "weights.folder", 'weights.transport = "disk"'),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "key", "needs"), IDLE)
def test_a_setting_without_effect_is_an_error(toml: Path, overrides: list[str], key: str, needs: str) -> None:
    assert refused(toml, *overrides) == f"{key} has no effect: it needs {needs}; drop it"


def test_every_setting_that_can_be_without_effect_is_tried() -> None:
    assert {key.strip("[]") for _, key, _ in IDLE} >= {key for effect in EFFECTS for key in effect.keys} - {
        "algorithm.correction_high"
    }


@pytest.mark.parametrize(
    "overrides",
    [
        ["algorithm.advantage_ddof=0"],
        ["algorithm.preset=reinforce++", "algorithm.discount=0.9", "algorithm.advantage_eps=1e-6"],
        ["algorithm.preset=ppo", "algorithm.decay=0.9", "critic.value_clip=0"],
        ["algorithm.old_logprobs=learner", "algorithm.epochs=2", "algorithm.clip_low=0.1"],
        ["algorithm.preset=rloo", "algorithm.epochs=2", "algorithm.correction=token", "algorithm.old_logprobs=engine"],
        ["algorithm.old_logprobs=learner", "algorithm.correction=icepop", "algorithm.correction_high=5.0"],
        ["algorithm.correction=geometric", "algorithm.correction_low=0.9"],
        ["algorithm.preset=rloo", "algorithm.correction=token", "algorithm.correction_cap=3.0"],
        ["algorithm.loss_per=constant", "algorithm.loss_constant=64"],
        ["algorithm.kl=reward", "algorithm.kl_coefficient=0.1", "algorithm.kl_estimator=k1"],
        ["rollout.dynamic_sampling=true", "rollout.max_refills=1"],
        ["rollout.max_staleness=2", "weights.in_flight=true", "weights.recompute_kv=true", "rollout.workers=48"],
        ["rollout.max_staleness=1", "weights.in_flight=false"],
        ["rollout.max_staleness=1", "algorithm.old_logprobs=learner", "algorithm.correction=token"],
        ["rollout.max_staleness=1", "algorithm.preset=rloo", "algorithm.correction=icepop"],
        ["adapter.kind=adalora", "adapter.target_rank=4", "adapter.targets=['q_proj', 'v_proj']"],
        ["adapter.kind=lora+", "adapter.lora_plus_ratio=4", "weights.mode=merged"],
        ["hardware.kind=gpu", "adapter.kind=qlora"],
        ["hardware.kind=gpu", "weights.transport=nccl"],
        ["weights.transport=disk", "weights.folder=/mnt"],
        ["hardware.ray_address=auto", "weights.transport=tcp"],
        ["algorithm.preset=reinforce++", "rollout.group_size=1"],
        ["sft.demonstrations=environment", "sft.epochs=2"],
    ],
)
def test_the_same_settings_pass_where_they_have_an_effect(toml: Path, overrides: list[str]) -> None:
    recipe = load_recipe(toml, overrides=overrides)
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    for override in overrides:
        section, _, key = override.partition("=")[0].partition(".")
        assert key in getattr(recipe, section).model_fields_set


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["weights.transport=nccl"], 'weights.transport = "nccl" needs hardware.kind = "gpu"'),
        (["weights.transport=disk"], 'weights.transport = "disk" needs weights.folder, on a disk that all hosts share'),
        (
            ["weights.transport=tcp"],
            'weights.transport = "tcp" needs hardware.ray_address: without it all workers are on the learner\'s host; '
            'take "shm"',
        ),
        (["weights.transport=ipc"], 'weights.transport = "ipc" needs hardware.kind = "gpu"'),
        (["algorithm.kl=reward"], 'algorithm.kl = "reward" needs algorithm.kl_coefficient above 0'),
        (
            ["rollout.max_staleness=2", "algorithm.preset=rloo"],
            'rollout.max_staleness = 2 trains on replies of older weights, which algorithm.loss = "policy_gradient" '
            "takes for its own; choose an algorithm.correction",
        ),
        (
            ["rollout.max_staleness=1", "algorithm.old_logprobs=learner"],
            "rollout.max_staleness = 1 trains on replies of older weights, and with algorithm.old_logprobs = "
            '"learner" no ratio sees that; choose an algorithm.correction, or old_logprobs = "engine"',
        ),
        (
            ["algorithm.preset=ppo", "algorithm.advantage_scale=std"],
            'algorithm.advantage_scale = "std" is that of a group, and algorithm.baseline = "critic" has none',
        ),
        (
            ["algorithm.correction=sequence"],
            'algorithm.correction = "sequence" needs algorithm.old_logprobs = "learner": the ratio against the '
            "engine's has the gap in it already",
        ),
        (
            ["algorithm.kl=loss", "algorithm.kl_coefficient=0.1", "algorithm.kl_estimator=k1"],
            'algorithm.kl_estimator = "k1" has a gradient of mean 0 as a loss; with algorithm.kl = "loss" take "k2" or '
            '"k3"',
        ),
        (
            ["algorithm.positive_nll=0.1", "rollout.truncated=wrong"],
            'algorithm.positive_nll = 0.1 would make replies likelier that rollout.truncated = "wrong" pays as wrong; '
            'take "score" or "mask"',
        ),
        (
            ["algorithm.preset=rloo", "algorithm.minibatches=2", "algorithm.epochs=3"],
            'algorithm.loss = "policy_gradient" has no ratio that bounds 6 updates on the same replies; take one '
            'update, another loss, or a correction with algorithm.old_logprobs = "engine"',
        ),
        (
            [
                "algorithm.preset=rloo",
                "algorithm.epochs=2",
                "algorithm.correction=token",
                "algorithm.old_logprobs=learner",
            ],
            'algorithm.loss = "policy_gradient" has no ratio that bounds 2 updates on the same replies; take one '
            'update, another loss, or a correction with algorithm.old_logprobs = "engine"',
        ),
        (
            ["algorithm.preset=gspo", "algorithm.old_logprobs=engine"],
            'algorithm.loss = "gspo" needs algorithm.old_logprobs = "learner": the engine\'s differ by more than its '
            "bounds",
        ),
        (
            ["algorithm.preset=gspo", "algorithm.clip_low=0.2"],
            'algorithm.clip_low = 0.2 would never clip the mean ratio of a reply, which algorithm.loss = "gspo" takes; '
            "the paper has 3e-4 and 4e-4",
        ),
        (
            ["algorithm.preset=gspo", "algorithm.minibatches=1"],
            'algorithm.loss = "gspo" is about a ratio that is always 1 with old_logprobs = "learner" and one update in '
            "a step; raise algorithm.minibatches or algorithm.epochs",
        ),
        (
            ["algorithm.minibatches=129"],
            "algorithm.minibatches = 129 is above the 16 groups of a step, and a minibatch holds whole groups; "
            "lower it",
        ),
        (
            ["algorithm.warmup_steps=4"],
            "algorithm.warmup_steps = 4 is above steps = 3, so that the run never reaches its learning rate; lower it",
        ),
        (
            ["algorithm.preset=ppo", "critic.warmup_steps=3"],
            "critic.warmup_steps = 3 leaves none of steps = 3 for the policy to learn in; lower it",
        ),
        (
            ["rollout.dynamic_sampling=true", "algorithm.entropy_bonus=0.01"],
            "rollout.dynamic_sampling drops groups whose replies are all worth the same, but they have a gradient with "
            "algorithm.entropy_bonus = 0.01; give up one of the two",
        ),
        (["adapter.kind=qlora"], 'adapter.kind = "qlora" needs hardware.kind = "gpu"'),
        (
            ["adapter.kind=qlora", "hardware.kind=gpu", "hardware.precision=float32"],
            'adapter.kind = "qlora" computes in bfloat16; leave hardware.precision out',
        ),
        (
            ["hardware.precision=bfloat16_weights", "hardware.ranks=2"],
            'hardware.precision = "bfloat16_weights" is for one learner on a CPU and no adapter; take "bfloat16" or '
            '"float32"',
        ),
        (
            ["adapter.kind=lora", "weights.mode=adapter", "hardware.kind=gpu", "hardware.precision=float32"],
            'weights.mode = "adapter" needs hardware.precision = "bfloat16" on a GPU; or use "merged"',
        ),
        (
            ["adapter.kind=adalora", "adapter.target_rank=17"],
            "adapter.target_rank = 17 must be at least 1 and below adapter.rank = 16, which AdaLoRA starts with",
        ),
        (
            ["adapter.kind=adalora", "adapter.rank=1"],
            "half of it, which AdaLoRA ends with, must be at least 1 and below adapter.rank = 1, which AdaLoRA starts "
            "with",
        ),
        (
            ["adapter.kind=adalora", "steps=1"],
            'adapter.kind = "adalora" needs two optimizer updates or more, to lower its rank in',
        ),
        (
            ["adapter.kind=lora", "weights.mode=full"],
            'weights.mode = "full" cannot push adapter.kind = "lora"; use "merged"',
        ),
        (["weights.mode=merged"], 'weights.mode = "merged" needs an adapter; use "full"'),
        (["weights.mode=adapter"], 'weights.mode = "adapter" needs an adapter; use "full"'),
        (
            ["weights.mode=adapter", "adapter.kind=dora"],
            'weights.mode = "adapter" cannot push adapter.kind = "dora", which no engine serves; use "merged"',
        ),
        (
            ["weights.mode=adapter", "adapter.kind=lora", "adapter.rank=600"],
            'weights.mode = "adapter" serves ranks up to 512, not 600; use "merged"',
        ),
    ],
)
def test_settings_that_cannot_stand_together_are_an_error(toml: Path, overrides: list[str], sentence: str) -> None:
    assert refused(toml, *overrides) == sentence


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
