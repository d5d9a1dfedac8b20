"""The domain matrix, as a user's own script would do it.

python benchmarks/cross_domain.py att=att_faces.zip frontal=synthetic:frontal [--minutes 1]
"""

import argparse

from metaface import report
from metaface.experiments import cross_domain
from metaface.options import CrossDomainSettings, parse_domains
from metaface.options.jobs import DOMAIN_PROTOCOLS

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument(
    "domains",
    nargs="*",
    default=["frontal=synthetic:frontal", "profile=synthetic:profile"],
    help="NAME=SOURCE[:DOMAIN,...]; see metaface.data.load for the sources",
)
parser.add_argument("--learners", nargs="+", default=["prototypical", "anil"])
parser.add_argument("--minutes", type=float, default=1.0, help="training time of each learner")
parser.add_argument("--out", default="matrix", help="folder of the results")
parser.add_argument("--resume", action="store_true", help="go on where an earlier run stopped")
options = parser.parse_args()

settings = CrossDomainSettings(
    domains=parse_domains(options.domains),
    protocols=DOMAIN_PROTOCOLS,
    across=True,
    learners=tuple(options.learners),
    shots=(1,),
    minutes=options.minutes,
)
results = cross_domain.run(settings, options.out, resume=options.resume)
print(report.format_matrix(results["rows"]))
worst = max(results["rows"], key=lambda row: row["drop"])
print(
    f"\nthe largest drop: {worst['learner']} trained in {worst['train']} and tested in "
    f"{worst['test']}, {100 * worst['drop']:.1f} ± {100 * worst['drop_ci95']:.1f} points"
)
