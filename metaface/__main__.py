"""``python -m metaface``."""

import sys

from metaface.cli import main

sys.exit(main())
