"""Presets: what each sets, that a recipe's own keys win, and that nobody turns one into another unawares."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any, get_args

import pytest

from rlvr.config import Recipe, load_recipe
from rlvr.config.algorithm import AlgorithmSection, CriticSection
from rlvr.config.sections import RolloutSection
from rlvr.errors import ConfigError
from rlvr.learner.algorithm import Algorithm, CriticSettings
from rlvr.loop.settings import algorithm_of
from rlvr.presets import PRESETS

NAMES = sorted(PRESETS)
# What the papers print.
FACTS: dict[str, dict[str, Any]] = {
    "grpo": {"baseline": "group", "advantage_scale": "std", "loss_per": "sequence", "clip_low": 0.2, "clip_high": 0.2},
    "dr_grpo": {"baseline": "group", "advantage_scale": "none", "loss_per": "constant"},
    "dapo": {"advantage_scale": "std", "loss_per": "token", "clip_low": 0.2, "clip_high": 0.28, "kl": "none"},
    "gspo": {"loss": "gspo", "loss_per": "sequence", "clip_low": 3e-4, "clip_high": 4e-4, "minibatches": 4},
    "cispo": {"loss": "cispo", "loss_per": "token", "clip_low": 1.0, "kl": "none"},
    "rloo": {"baseline": "leave_one_out", "advantage_scale": "none", "loss": "policy_gradient"},
    "reinforce++": {"baseline": "none", "advantage_scale": "batch", "kl": "reward", "kl_estimator": "k1"},
    "reinforce++_baseline": {"baseline": "group", "advantage_scale": "batch", "kl": "loss", "kl_estimator": "k2"},
    "ppo": {"baseline": "critic", "loss": "clip", "clip_low": 0.2, "clip_high": 0.2, "decay": 0.95, "discount": 1.0},
    "vapo": {"baseline": "critic", "critic_decay": 1.0, "decay_length_factor": 0.05, "positive_nll": 0.1,
             "clip_low": 0.2, "clip_high": 0.28, "loss_per": "token"},
}  # fmt: skip


def recipe(**algorithm: Any) -> Recipe:
    return Recipe.model_validate(plain() | {"algorithm": algorithm})


def plain() -> dict[str, Any]:
    return {
        "name": "r", "steps": 60, "model": {"path": "m"}, "environment": {"name": "e"}, "reward": [{"name": "w"}],
    }  # fmt: skip


def refusal(**sections: Any) -> str:
    with pytest.raises(ValueError) as caught:
        Recipe.model_validate(plain() | sections)
    return caught.value.errors()[0]["msg"].removeprefix("Value error, ")  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_sets_what_its_paper_prints(name: str) -> None:
    found = recipe(preset=name).algorithm.model_dump()
    assert found | FACTS[name] == found
    assert PRESETS[name].paper.count("arXiv ") >= 1


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_is_written_out_and_reads_back(name: str) -> None:
    made = recipe(preset=name)
    text = json.dumps(made.model_dump(mode="json"))
    for section, values in PRESETS[name].sections().items():
        assert json.loads(text)[section] | values == json.loads(text)[section]
    again = Recipe.model_validate_json(text)
    assert again == made
    assert json.dumps(again.model_dump(mode="json")) == text


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_names_keys_that_there_are_and_is_not_refused(name: str) -> None:
    sections = {"algorithm": AlgorithmSection, "rollout": RolloutSection, "critic": CriticSection}
    for section, values in PRESETS[name].sections().items():
        assert set(values) <= set(sections[section].model_fields)
    for dotted in PRESETS[name].defining:
        section, _, key = dotted.partition(".")
        assert key in PRESETS[name].sections()[section]
    assert (recipe(preset=name).critic is None) == (PRESETS[name].critic is None)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_preset_sets_has_an_effect(name: str) -> None:
    """Written by hand, its keys pass the check on idle keys."""
    by_hand = PRESETS[name].sections()
    by_hand["algorithm"]["preset"] = name
    assert Recipe.model_validate(plain() | by_hand) == recipe(preset=name)


def test_the_names_are_those_that_a_recipe_takes() -> None:
    assert set(get_args(AlgorithmSection.model_fields["preset"].annotation)) == set(PRESETS) == set(FACTS)


def test_the_defaults_shown_are_those_of_grpo() -> None:
    assert AlgorithmSection() == recipe().algorithm
    assert recipe() == recipe(preset="grpo")


def test_a_recipes_own_keys_win() -> None:
    own = Recipe.model_validate(
        plain() | {
            "algorithm": {"preset": "vapo", "clip_low": 0.1, "decay_length_factor": 0.5},
            "critic": {"warmup_steps": 2},
            "rollout": {"truncated": "mask"},
        }
    )  # fmt: skip
    assert (own.algorithm.clip_low, own.algorithm.decay_length_factor, own.algorithm.clip_high) == (0.1, 0.5, 0.28)
    assert own.critic == CriticSection(warmup_steps=2)
    dapo = Recipe.model_validate(plain() | {"algorithm": {"preset": "dapo"}, "rollout": {"truncated": "score"}})
    assert (dapo.rollout.truncated, dapo.rollout.dynamic_sampling, dapo.rollout.prompts_per_step) == ("score", True, 16)


@pytest.mark.parametrize(
    ("preset", "key", "value"),
    [
        ("ppo", "baseline", "group"), ("grpo", "baseline", "leave_one_out"), ("dr_grpo", "advantage_scale", "std"),
        ("dr_grpo", "loss_per", "token"), ("dapo", "loss_per", "sequence"), ("gspo", "loss", "clip"),
        ("cispo", "loss", "gspo"), ("rloo", "baseline", "none"), ("reinforce++", "advantage_scale", "none"),
        ("reinforce++_baseline", "baseline", "none"), ("vapo", "loss", "cispo"), ("rloo", "loss", "clip"),
        ("rloo", "loss_per", "token"),
    ],
)  # fmt: skip
def test_a_key_that_makes_it_another_algorithm_is_refused(preset: str, key: str, value: str) -> None:
    own = PRESETS[preset].algorithm[key]
    assert refusal(algorithm={"preset": preset, key: value}) == (
        f'algorithm.{key} = "{value}" contradicts algorithm.preset = "{preset}", which is algorithm.{key} = "{own}"; '
        "drop it or choose another preset"
    )


@pytest.mark.parametrize(
    ("preset", "key", "value"),
    [
        ("dapo", "clip_high", 0.2),
        ("vapo", "clip_high", 0.2),
        ("vapo", "positive_nll", 0.0),
        ("vapo", "critic_decay", 0.95),
    ],
)
def test_a_number_that_defines_a_preset_stays(preset: str, key: str, value: float) -> None:
    said = f'algorithm.{key} = {value:g} contradicts algorithm.preset = "{preset}"'
    assert refusal(algorithm={"preset": preset, key: value}).startswith(said)


def test_dapo_without_dynamic_sampling_is_refused() -> None:
    assert refusal(algorithm={"preset": "dapo"}, rollout={"dynamic_sampling": False}) == (
        'rollout.dynamic_sampling = false contradicts algorithm.preset = "dapo", which is rollout.dynamic_sampling = '
        "true; drop it or choose another preset"
    )


def test_a_contradiction_is_refused_in_a_config_json_too() -> None:
    text = json.dumps(recipe(preset="ppo").model_dump(mode="json")).replace('"critic"', '"group"', 1)
    with pytest.raises(ValueError, match="contradicts"):
        Recipe.model_validate_json(text)


def test_a_preset_is_switched_on_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(
        'name = "r"\nsteps = 9\nmodel.path = "m"\nenvironment.name = "e"\nreward = [{name = "w"}]\n'
        '[algorithm]\nadvantage_scale = "none"\n'
    )
    assert load_recipe(path, overrides=["algorithm.preset=cispo"]).algorithm.advantage_scale == "none"
    with pytest.raises(ConfigError, match=r'advantage_scale = "none" contradicts algorithm\.preset'):
        load_recipe(path, overrides=["algorithm.preset=reinforce++"])


@pytest.mark.parametrize("name", NAMES)
def test_the_learner_gets_every_key(name: str) -> None:
    made = recipe(preset=name)
    found, told = algorithm_of(made), made.algorithm.model_dump(exclude={"preset", "beta1", "beta2", "loss_constant"})
    assert {key: getattr(found, key) for key in told} == told
    assert (found.betas, found.temperature, found.seed) == ((0.9, 0.95), 1.0, 0)
    assert found.loss_constant == (made.rollout.max_new_tokens if found.loss_per == "constant" else None)
    assert (found.critic is not None) == (found.baseline == "critic")
    assert found.updates == made.algorithm.updates


def test_the_learner_gets_the_recipes_seed_constant_and_critic() -> None:
    own = Recipe.model_validate(
        plain() | {"seed": 7, "algorithm": {"preset": "ppo", "loss_per": "constant", "loss_constant": 9},
                   "critic": {"backbone": "shared", "value_clip": 0, "coefficient": 0.1}}
    )  # fmt: skip
    found = algorithm_of(own)
    assert (found.seed, found.loss_constant) == (7, 9)
    assert found.critic == CriticSettings(backbone="shared", value_clip=None, coefficient=0.1)


def test_the_quick_start_trains_as_it_always_did() -> None:
    """The numbers of the README rest on these conventions."""
    made = load_recipe(Path(__file__).resolve().parent.parent / "launch" / "quickstart_cpu.toml")
    plain = {"advantage_scale": "none", "clip_low": 0.2, "clip_high": 0.28, "loss_per": "token", "betas": (0.9, 0.95)}
    assert algorithm_of(made) == Algorithm(**plain, learning_rate=3e-5, warmup_steps=2)


def test_recipe_and_learner_agree_on_whether_flat_groups_have_a_gradient() -> None:
    choices = product(
        ("group", "leave_one_out", "none", "critic"), ("none", "std", "batch"), ("none", "loss", "reward"),
        (0.0, 0.1), (0.0, 0.1),
    )  # fmt: skip
    keys = ("baseline", "advantage_scale", "kl", "entropy_bonus", "positive_nll")
    for choice in choices:
        settings: dict[str, Any] = dict(zip(keys, choice, strict=True))
        cause = AlgorithmSection(**settings).flat_gradient
        assert (cause is None) == Algorithm(**settings).flat_groups_have_no_gradient, settings
