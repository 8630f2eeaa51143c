"""What the commands of ``npgpt eval`` share: the result is printed as tables or as JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from npgpt.evaluation.metrics import Estimate
from npgpt.evaluation.result import Result, Table, hash_data
from npgpt.say import say_text


def show_result(
    command: str,
    options: Any,
    model: object,
    files: tuple[str, ...],
    n: int,
    metrics: dict[str, Estimate],
    tables: dict[str, Table] | None = None,
) -> None:
    """Print the result of a command of ``npgpt eval``, as tables or as JSON.

    Parameters
    ----------
    command : str
    options : object
        The options of the command, a data class with a field `json`; all others are settings.
    model : object
        The path of the model.
    files : tuple of str
        The options that name files.
    n : int
        How many examples there are.
    metrics, tables : dict
        See `npgpt.evaluation.result.Result`.
    """
    settings = dataclasses.asdict(options)
    as_json = settings.pop("json")
    result = Result(command, str(model), hash_data(*files), settings, n, metrics, tables or {})
    if as_json:
        print(json.dumps(result.to_dict(), ensure_ascii=True))
    else:
        say_text(str(result))
