"""Every test process computes on one thread: threads of pytest-xdist's workers would wait for each other."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; commands that tests start inherit it
