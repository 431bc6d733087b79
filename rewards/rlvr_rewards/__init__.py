"""Rewards that come with rlvr, found through the entry points of `rlvr.rewards`."""
