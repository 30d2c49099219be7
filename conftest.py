"""Before any test imports torch: one thread. The tests' networks are too small for a second one to pay."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
