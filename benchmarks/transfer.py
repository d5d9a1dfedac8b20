"""From procedural faces to real ones: trained on no real photograph, tested on some.

python benchmarks/transfer.py att_faces.zip lfw.zip [--minutes 4]
python benchmarks/transfer.py att_faces.zip --checkpoint trained/checkpoint.pt

Prototypical against raw pixels and the same network untrained, 5-way 1-shot, 1000 episodes, people
with at least 6 photographs. All faces are aligned by their five landmarks to the ArcFace template:
the real ones by YuNet's, the procedural ones by their own.
"""

import argparse
from pathlib import Path

import numpy as np

import metaface as mf
from metaface import synthetic
from metaface.experiments.protocols import align_people
from metaface.experiments.robustness import upright
from metaface.faces.alignment import shrink
from metaface.faces.detect import YuNet
from metaface.recognition import models
from metaface.recognition.embedders import loading


def procedural(people: int, photos: int, size: int) -> mf.FaceSet:
    made = synthetic.render(people, photos, 112, "default", seed=11, progress=True)
    crops = shrink(upright(made.images, made.landmarks), size)
    return mf.FaceSet.from_arrays(crops, made.person, name="synthetic")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="+", help="real photographs; see metaface.data.load")
    parser.add_argument("--models", help="folder of the model files")
    parser.add_argument("--checkpoint", help="a model trained before; else one is trained")
    parser.add_argument("--people", type=int, default=1500, help="procedural; default: 1500")
    parser.add_argument("--photos", type=int, default=12, help="of each; default: 12")
    parser.add_argument("--size", type=int, default=28, help="pixels; default: 28")
    parser.add_argument("--minutes", type=float, default=4.0, help="of training; default: 4")
    parser.add_argument("--out", help="folder for the trained model")
    options = parser.parse_args()

    if options.checkpoint:
        trained, spec = mf.load_model(options.checkpoint)
    else:
        spec = mf.ModelSpec("prototypical", image_size=options.size)
        trained = spec.build()
        people = procedural(options.people, options.photos, options.size)
        train, val, _ = people.split(test=0)
        mf.train(
            trained,
            train,
            val,
            budget=mf.training.Budget(minutes=options.minutes),
            run=mf.training.Run(spec=spec, out=options.out),
        )
    learners = {
        "trained": trained,
        "untrained": spec.build(),
        "pixels": mf.ModelSpec("prototypical", embedding="pixels").build(),
    }
    detector = YuNet(models.find("yunet", options.models))
    embedder = loading.load("mobilefacenet_casia", options.models)
    for source in options.data:
        faces = align_people(source, detector, embedder).faces(spec.image_size)
        faces = faces.of_people(np.flatnonzero(faces.photos() >= 6))
        found = {
            name: mf.evaluate(learner, faces, ways=5, shots=1, queries=5, episodes=1000)
            for name, learner in learners.items()
        }
        print(f"{Path(source).name}:", ", ".join(f"{n} {r}" for n, r in found.items()))


if __name__ == "__main__":
    main()
