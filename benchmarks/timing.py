"""What the benchmarks share: ratios with their spread, the versions, and rows in a file."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Return the median of the ratios of each round, and what most of them spread over."""
    low, median, high = np.percentile(np.divide(ours, theirs), [10, 50, 90])
    return {"ratio": float(median), "ratio_low": float(low), "ratio_high": float(high)}


def shown(row: dict[str, Any]) -> str:
    return f"{row['ratio']:.2f} ({row['ratio_low']:.2f}-{row['ratio_high']:.2f})"


def environment() -> str:
    """Name the versions, and NumPy's BLAS if threadpoolctl can tell."""
    import torch

    text = f"threads: {torch.get_num_threads()}, numpy {np.__version__}"
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        pass
    else:
        text += "".join(
            f" with {pool['internal_api']} {pool['version']} (threads: {pool['num_threads']})"
            for pool in threadpool_info()
            if pool["user_api"] == "blas"
        )
    return f"{text}, torch {torch.__version__}"


def new_file(text: str) -> Path:
    """Parse an option that names a file to write."""
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{path}: give a file, in a folder that exists")
    return path


def write_rows(rows: list[dict[str, Any]], path: Path) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)
