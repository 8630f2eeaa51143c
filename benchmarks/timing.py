"""What the benchmarks share: options, ratios with their spread, versions, tables and files."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from autograd.files import write_json


def options(description: str, quick: str = "few repetitions") -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--json", type=new_file, metavar="FILE", help="also write the rows there")
    return parser


def report(tables: Sequence[Any], note: str, rows: list[dict[str, Any]], path: Path | None) -> None:
    """Print tables and what there is to say about them; write the rows if a file is named."""
    console = Console()
    for table in tables:
        console.print(table, highlight=False)
    console.print(note, highlight=False, soft_wrap=True)
    if path:
        write_json(path, rows, indent=2)


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
    return f"{text}, torch {torch.__version__}; absolute times mean little on a shared machine"


def new_file(text: str) -> Path:
    """Parse an option that names a file to write."""
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{path}: give a file, in a folder that exists")
    return path
