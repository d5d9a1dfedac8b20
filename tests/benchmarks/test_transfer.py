"""What was learnt from procedural faces serves real ones."""

from __future__ import annotations

import pytest
from helpers import train

from metaface import ModelSpec, data, evaluate


@pytest.mark.slow
def test_trained_on_procedural_faces_alone_beats_both_floors_on_lfw(test_data):
    people, held, _ = data.load("synthetic", image_size=28, progress=False).split(test=0)
    spec = ModelSpec("prototypical")
    trained = spec.build()
    train(trained, people, held, iterations=1500, progress=False)
    real = data.load(test_data("lfw_deepfunneled.zip"), image_size=28, crop=0.5, progress=False)
    pixels = ModelSpec("prototypical", embedding="pixels").build()
    got, *floors = (evaluate(x, real, progress=False) for x in (trained, pixels, spec.build()))
    for floor in floors:
        assert got.accuracy - got.ci95 > floor.accuracy + floor.ci95, (str(got), str(floor))
