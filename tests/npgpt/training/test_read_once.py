"""Training that reads no token of its text twice."""

import dataclasses

import numpy as np
import pytest
from helpers import demand_unnoticed_interruption, train_config

from npgpt import UserError
from npgpt.training.data import library_texts
from npgpt.training.run import resume, start

TEXT = "".join(chr(97 + i % 26) + chr(65 + i // 26 % 26) for i in range(700))  # no window repeats
# of 1,260 characters that train, 157 windows of 8; an update of two batches of 4 reads 8 of them


def once(path, folder, **changes):
    """Return the configuration of a small run that reads its text once."""
    path.write_text(TEXT)
    return train_config(str(path), folder, read_once=True, max_iters=19, **changes)


def test_no_token_is_read_twice(tmp_path):
    run = start(once(tmp_path / "text", tmp_path / "run"))
    read = [batch for step in range(19) for batch in run.task.batches(step)]
    windows = np.concatenate([batch.inputs for batch in read])  # (152, 8)
    assert windows.shape == (152, 8) and len(np.unique(windows, axis=0)) == 152
    text = run.task.splits[0]
    cuts = {tuple(text[i : i + 8]) for i in range(0, len(text) - 8, 8)}
    assert {tuple(row) for row in windows.tolist()} <= cuts
    assert all(np.array_equal(b.inputs[:, 1:], b.targets[:, :-1]) for b in read)
    first = [text.tolist().index(row[0]) for row in windows]
    assert first != sorted(first)  # in a random order


def test_the_order_is_that_of_the_seed_and_of_no_model(tmp_path):
    changes = ({}, {"n_embd": 8}, {"seed": 2})
    orders = [
        start(once(tmp_path / "text", tmp_path / str(i), **change)).task.window_starts
        for i, change in enumerate(changes)
    ]
    assert np.array_equal(orders[0], orders[1]) and not np.array_equal(orders[0], orders[2])


def test_a_run_that_was_interrupted_reads_on(tmp_path):
    demand_unnoticed_interruption(lambda out: once(tmp_path / "text", out), tmp_path, at=10)


def test_what_reading_once_refuses(tmp_path):
    config = once(tmp_path / "text", tmp_path / "run")
    with pytest.raises(UserError, match="long enough for 19 updates, and max_iters is 20"):
        start(dataclasses.replace(config, max_iters=20))
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="--read_once is for --task language_modelling, and not m"):
        dataclasses.replace(config, task="masked")
    run = start(config)
    run.files.unlock()
    for key in ("max_iters", "batch_size", "gradient_accumulation_steps"):
        with pytest.raises(UserError, match=f"--{key} is .* in the run .*, and stays so"):
            resume(run.folder, {key: 1})


def test_the_whole_library_has_the_packages():
    texts, names = library_texts(whole=True)
    some, of_some = library_texts()
    assert set(of_some) < set(names) and set(some) < set(texts)
    assert "json/decoder.py" in names and len(texts) == len(names)
    assert not any("site-packages" in name for name in names)
