"""One shared network against networks in stages, as a user's own script would compare them.

python benchmarks/joint.py [--minutes 10] [--seeds 3] [--search 12] [--out joint] [--resume]
"""

import argparse

from metaface.experiments import joint
from metaface.options import JointSettings
from metaface.options.jobs import VARIANTS
from metaface.report import format_joint

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--variants", nargs="+", default=VARIANTS)
parser.add_argument("--minutes", type=float, default=10.0, help="training time of each network")
parser.add_argument("--people", type=int, default=600, help="to train on")
parser.add_argument("--seeds", type=int, default=1, help="training seeds")
parser.add_argument("--search", type=int, default=0, help="trials of the weights of the losses")
parser.add_argument("--out", default="joint", help="folder of the results")
parser.add_argument("--resume", action="store_true", help="go on where an earlier run stopped")
options = parser.parse_args()

settings = JointSettings(
    variants=tuple(options.variants),
    minutes=options.minutes,
    people=options.people,
    seeds=options.seeds,
    search=options.search,
)
results = joint.run(settings, options.out, resume=options.resume)
print(format_joint(results))
for ratio in results["speed"]["ratios"]:
    print(f"{ratio['what']}: {ratio['median']:.2f} times the time of {ratio['reference']}")
