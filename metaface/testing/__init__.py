"""Checks that tell the author of a learner, network, embedder, detector or data source whether it
keeps the rules that the rest of MetaFace relies on.

Each check raises an ``AssertionError`` that names the broken rule, what was found, and why the rule
is there::

    from metaface.testing import check_learner

    def test_ridge():
        check_learner(Ridge)
"""

from metaface.testing._learner import LEARNER_RULES, check_learner
from metaface.testing._network import check_network
from metaface.testing._recognition import check_detector, check_embedder
from metaface.testing._source import check_source

__all__ = [
    "LEARNER_RULES",
    "check_detector",
    "check_embedder",
    "check_learner",
    "check_network",
    "check_source",
]
