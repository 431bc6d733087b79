"""Contract suites and builders for authors of plug-ins. Nothing in the product needs them, `rlvr check` excepted."""

from rlvr.testing.contracts import JUNK, check_environment, check_reward, rollout, task
from rlvr.testing.fakes import FakeEngine, FakeLearner, fake_digest, fake_logprobs, fake_scores
from rlvr.testing.models import tiny_model

__all__ = [
    "JUNK",
    "FakeEngine",
    "FakeLearner",
    "check_environment",
    "check_reward",
    "fake_digest",
    "fake_logprobs",
    "fake_scores",
    "rollout",
    "task",
    "tiny_model",
]
