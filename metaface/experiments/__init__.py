"""Whole jobs, a file each: train, test, write results and a page."""

from metaface.experiments import benchmark, cross_domain, joint, sweep

__all__ = ["benchmark", "cross_domain", "joint", "sweep"]
