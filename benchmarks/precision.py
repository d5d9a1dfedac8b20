"""Training with convolutions in bfloat16 beside float32, in one run: speed, then accuracy.

python benchmarks/precision.py --rounds 7
python benchmarks/precision.py --data lfw_deepfunneled.zip --crop 0.5 --iterations 600
python benchmarks/precision.py --data omniglot_images_background.zip --channels 1

Speed: the reference case of ``benchmarks/peers.py``, both in turn after a warm-up; a figure is the
median of the rounds' ratios, with quartiles. Accuracy: the same number of steps from the same
weights on the same tasks, three seeds, then 1000 test tasks of unseen people, computed in float32
for both. The interval of the difference is over the 1000 paired tasks of each seed.
"""

from __future__ import annotations

import argparse
import math
import statistics

import torch
from compiled import compare

import metaface as mf
from metaface.nets.conv import check_precision, convolve_in
from metaface.training import Run


def compare_accuracy(faces: mf.FaceSet, learners: list[str], iterations: int, seeds: int) -> None:
    for name in learners:
        differences, figures = [], []
        for seed in range(seeds):
            train, _, test = faces.split(seed=seed)
            spec = mf.ModelSpec(
                name, image_size=faces.images.shape[1], channels=faces.images.shape[-1]
            )
            results = []
            for precision in ("float32", "bf16"):
                learner = spec.build(seed)
                run = Run(seed=seed, device="cpu", precision=precision, progress=False)
                mf.train(learner, train, iterations=iterations, run=run)
                results.append(mf.evaluate(learner, test, progress=False))
            full, rounded = results
            differences.append(rounded.accuracies - full.accuracies)
            figures.append(f"{full} and {rounded}")
        means = [float(d.mean()) for d in differences]
        error = sum(float(d.var(ddof=1)) / len(d) for d in differences) / seeds**2
        print(
            f"{faces.name}, {name}, {iterations} steps: float32 and bf16 {', '.join(figures)}; "
            f"difference {100 * statistics.mean(means):+.2f} ± {196 * math.sqrt(error):.2f} points "
            f"(by seed {', '.join(f'{100 * m:+.2f}' for m in means)})",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="*", default=[], help="photographs: accuracy, not speed")
    parser.add_argument("--crop", type=float, help="share of the shorter side")
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--learners", nargs="+", default=["maml", "reptile", "prototypical"])
    parser.add_argument("--iterations", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn, at the least")
    options = parser.parse_args()
    try:
        check_precision(mf.nets.Conv4(), "bf16")
    except ValueError as error:
        print(error)  # there is nothing to compare
        return
    for source in options.data:
        faces = mf.data.load(source, crop=options.crop, channels=options.channels, image_size=28)
        compare_accuracy(faces, options.learners, options.iterations, options.seeds)
    if not options.data:
        print(f"{torch.get_num_threads()} threads")
        compare(
            lambda learner: convolve_in(learner, "bf16"),
            lambda learner: convolve_in(learner, "float32"),
            "float32",
            options.rounds,
            options.seconds,
        )


if __name__ == "__main__":
    main()
