"""``python -m metaface.cli``."""

import sys

from metaface.cli import main

sys.exit(main())
