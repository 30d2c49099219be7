"""Before any test imports torch: threads that wait sleep instead of spinning, which matters on a busy machine."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
