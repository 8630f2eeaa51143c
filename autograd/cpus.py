"""How many CPUs this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path


def usable_cpus() -> int:
    """Return how many CPUs this process may use.

    Two things can limit the number: the CPUs that the process is bound to, and the quota of its
    container.

    Examples
    --------
    >>> 1 <= usable_cpus() <= os.cpu_count()
    True
    """
    affinity = getattr(os, "sched_getaffinity", None)
    n = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, math.floor(min(n, cpu_quota())))


def cpu_quota(root: Path = Path("/sys/fs/cgroup")) -> float:
    """Return how many CPUs the Linux control group (version 1 or 2) allows, or infinity."""
    try:
        if (root / "cpu.max").is_file():
            quota, period = (root / "cpu.max").read_text().split()
        else:
            quota, period = (
                (root / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")
            )
        return float(quota) / float(period) if float(quota) > 0 else math.inf
    except (OSError, ValueError):  # no control group, or the quota is the word "max"
        return math.inf
