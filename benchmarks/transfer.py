"""From procedural faces to real ones: trained on no real photograph, tested on some.

python benchmarks/transfer.py att_faces.zip lfw.zip --detector yunet.onnx [--minutes 4]
python benchmarks/transfer.py att_faces.zip --checkpoint trained/checkpoint.pt --detector yunet.onnx

Prototypical against raw pixels and the same network untrained, 5-way 1-shot, 1000 episodes, on the
photographs' centre (--crop) and, with --detector (YuNet, for OpenCV), on faces aligned by their
five landmarks to the ArcFace template.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np

import metaface as mf
from metaface.recognition import Unusable, YuNet
from metaface.recognition.align import align
from metaface.recognition.faces import middle

SIZE = 28


def aligned(source: str, detector: YuNet) -> mf.FaceSet:
    """The face nearest the middle of each photograph, aligned; without a face: left out."""
    faces = mf.data.load(source, image_size=224)
    pictures, people = [], []
    for row, person in zip(faces.rows, faces.person, strict=True):
        picture = np.asarray(faces.store[row])
        try:
            crop = align(picture, middle(picture, detector(picture)).points)[0]
        except Unusable:
            continue
        pictures.append(cv2.resize(crop, (SIZE, SIZE), interpolation=cv2.INTER_AREA))
        people.append(person)
    print(f"{faces.name}: a face in {len(pictures)} of {len(faces)} photographs")
    return mf.FaceSet.from_arrays(np.stack(pictures), people, people=faces.people, name=faces.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="+", help="real photographs; see metaface.data.load")
    parser.add_argument("--detector", help="a YuNet .onnx file")
    parser.add_argument("--crop", type=float, help="centre crop of the unaligned photographs")
    parser.add_argument("--checkpoint", help="trained on synthetic by metaface train; else trained")
    parser.add_argument("--minutes", type=float, default=4.0)
    options = parser.parse_args()

    spec = mf.ModelSpec("prototypical", image_size=SIZE)
    untrained = spec.build()
    pixels = mf.ModelSpec("prototypical", embedding="pixels").build()
    if options.checkpoint:
        trained, spec = mf.load_model(options.checkpoint)
    else:
        trained = spec.build()
        train, val, _ = mf.data.load("synthetic", image_size=SIZE).split(test=0)
        mf.train(trained, train, val, minutes=options.minutes, spec=spec)

    for source in options.data:
        sets = {"centre": mf.data.load(source, image_size=SIZE, crop=options.crop)}
        if options.detector:
            sets["aligned"] = aligned(source, YuNet(options.detector))
        for kind, faces in sets.items():
            found = {
                name: mf.evaluate(learner, faces, ways=5, shots=1, queries=5, episodes=1000)
                for name, learner in
                (("trained", trained), ("untrained", untrained), ("pixels", pixels))
            }  # fmt: skip
            print(f"{Path(source).name}, {kind}:", ", ".join(f"{n} {r}" for n, r in found.items()))


if __name__ == "__main__":
    main()
