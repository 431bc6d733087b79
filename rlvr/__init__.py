"""Reinforcement learning of language models with rewards that can be checked."""

__version__ = "0.1.0"  # the one place that says it; pyproject.toml reads it here
