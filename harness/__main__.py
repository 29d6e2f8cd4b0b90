"""`python -m harness` is `vtpbench`."""

import sys

from harness.cli import main

sys.exit(main())
