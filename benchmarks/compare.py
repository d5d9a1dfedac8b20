"""MAML against Reptile against Prototypical, as a user's own script would do it.

python benchmarks/compare.py [photos.zip] [--minutes 1]
"""

import argparse

import metaface as mf

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("data", nargs="?", default="synthetic", help="see metaface.data.load")
parser.add_argument("--minutes", type=float, default=1.0, help="training time of each learner")
parser.add_argument("--crop", type=float, help="centre crop")
options = parser.parse_args()

faces = mf.data.load(options.data, image_size=28, crop=options.crop)
train, val, test = faces.split(seed=0, test_photos=6)  # disjoint people
print(faces.describe())

results = {}
for name in ("maml", "reptile", "prototypical"):
    spec = mf.ModelSpec(name)
    learner = spec.build(seed=0)  # the same initial network for all three
    mf.train(
        learner,
        train,
        val,
        budget=mf.training.Budget(minutes=options.minutes),
        run=mf.training.Run(label=name),
    )
    results[name] = mf.evaluate(learner, test, ways=5, shots=1, queries=5, episodes=1000)
    print(f"{name:>13}: {results[name]}")

best = max(results, key=lambda name: results[name].accuracy)
for name, result in results.items():
    if name != best:
        paired = results[best].accuracies - result.accuracies  # the same episodes
        print(f"{best} - {name}: {paired.mean():+.3f} ± {mf.metrics.ci95(paired):.3f}")
