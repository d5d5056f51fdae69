"""``python -m odsg_lightning.cli``."""

import sys

from odsg_lightning.cli import main

sys.exit(main())
