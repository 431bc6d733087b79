"""A recipe: TOML in, frozen and checked, JSON out. Unknown keys fail; a setting has one place."""

from rlvr.config.algorithm import AlgorithmSection
from rlvr.config.checks import EFFECTS
from rlvr.config.reading import load_recipe, stored_recipe
from rlvr.config.recipe import Recipe
from rlvr.config.sections import AdapterSection, GuardSection, PlugIn

__all__ = [
    "EFFECTS",
    "AdapterSection",
    "AlgorithmSection",
    "GuardSection",
    "PlugIn",
    "Recipe",
    "load_recipe",
    "stored_recipe",
]
