"""Tasks of a few people and photographs each, drawn from a set of faces; changes of photographs."""

from metaface.episodes.across_domains import AcrossDomains
from metaface.episodes.augment import Augment
from metaface.episodes.sampler import Episodes, EpisodeSampler

__all__ = ["AcrossDomains", "Augment", "EpisodeSampler", "Episodes"]
