"""Environments that come with rlvr, found through the entry points of `rlvr.environments`."""
