"""How many cores this process may use."""

import os
from pathlib import Path


def usable_cores() -> int:
    """Return how many cores there are for this process, in a container with a quota too."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota_us, period_us = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return min(cores, max(1, int(quota_us) // int(period_us)))
    except (OSError, ValueError):  # no such file, or "max"
        return cores
