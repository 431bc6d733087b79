"""A recipe: TOML in, frozen and checked, JSON out. Unknown keys fail; a setting has one place."""

from rlvr.config.checks import EFFECTS
from rlvr.config.reading import load_recipe
from rlvr.config.recipe import Recipe
from rlvr.config.sections import GuardSection, PlugIn

__all__ = ["EFFECTS", "GuardSection", "PlugIn", "Recipe", "load_recipe"]
