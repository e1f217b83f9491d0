"""mergekit configs as they are: read in mergekit's own terms, run by this package's engine and methods."""

from bm.merge.mergekit.running import merge_config

__all__ = ["merge_config"]
