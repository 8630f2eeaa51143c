"""One weight of a run: what each loss adds to its gradient, what an update does, and the places."""

import dataclasses
import re

import numpy as np
import pytest
from helpers import TEXT, Quiet, npgpt, train_config

from npgpt import GPT, load_tokenizer
from npgpt.training.follow import Shares, find_movers, find_weight, preview_update, read_sequences
from npgpt.training.replay import Replay
from npgpt.training.run import start, train

WEIGHT = "transformer.h.1.mlp.c_fc.weight[3,17]"
POEM = "".join(f"verse {i}: the sea is grey, née {i * i} º\n" for i in range(60))


def at(folder, step):
    """Return a run before an update."""
    replay = Replay(folder, step, step)
    replay.seek(step)
    return replay.run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run on two files."""
    home = tmp_path_factory.mktemp("two")
    (home / "fox.txt").write_text(TEXT)
    (home / "sea.txt").write_text(POEM)
    files = str(home / "fox.txt"), str(home / "sea.txt")
    run = start(train_config("", home / "run", data=files, tokenizer="byte", grad_clip=0.3))
    train(run, Quiet(run))
    return run.folder


# ---- what the losses add


@pytest.mark.parametrize(
    "weight", [WEIGHT, "transformer.wte.weight[101,3]", "transformer.ln_f.weight[5]"]
)
def test_a_share_is_the_derivative_of_one_loss(weight, folder):
    """Against central differences, in float64."""
    run = at(folder, 5)
    exact = GPT(run.model.config, dtype=np.float64).train()
    exact.load_state_dict(run.model.state_dict())
    run = dataclasses.replace(run, model=exact)
    name, index = find_weight(run, weight)
    array = run.optimizer.parameters[name].data
    batches = run.task.batches(5)

    def losses(change):
        array[index] += change
        with run.dropout():
            found = [run.losses(batch).numpy() for batch in batches]
        array[index] -= change
        return found

    shares = Shares(run, [name]).of(name, index)
    for share, up, down in zip(shares, losses(1e-5), losses(-1e-5), strict=True):
        slopes = (up - down) / 2e-5 / (2 * share.size)  # two batches of equal size
        np.testing.assert_allclose(share, slopes, rtol=1e-5, atol=1e-10)


def test_movers_are_the_sequences_of_the_update(folder):
    run = at(folder, 7)
    movers = find_movers(run, *find_weight(run, WEIGHT))
    assert [abs(each.adds) for each in movers] == sorted(
        (abs(x.adds) for x in movers), reverse=True
    )
    assert sorted(each.number for each in movers) == list(range(8))
    rows = [
        row for batch in run.task.batches(7) for row in np.c_[batch.inputs, batch.targets[:, -1]]
    ]
    for each in movers:
        assert each.sequence.tokens == rows[each.number].tolist()
        assert each.shares[0] == 0 and len(each.shares) == len(each.sequence.tokens)
        assert each.adds == pytest.approx(each.shares.sum(), rel=1e-5, abs=1e-9)
    run.backward()
    name, index = find_weight(run, WEIGHT)
    gradient = run.optimizer.parameters[name].grad.numpy()[index]
    assert sum(each.adds for each in movers) == pytest.approx(gradient, rel=1e-4)


def test_the_losses_of_sequences_are_those_of_the_update(folder):
    run = at(folder, 6)
    sequences = read_sequences(run)
    assert np.mean([each.loss for each in sequences]) == pytest.approx(run.backward(), rel=1e-6)
    for each in sequences:
        assert each.losses[1:].mean() == pytest.approx(each.loss, rel=1e-6)


# ---- what an update does


def test_a_preview_is_the_update_and_changes_nothing(folder):
    run = at(folder, 8)
    names = list(run.optimizer.parameters)
    before = [run.optimizer.parameters[name].numpy().copy() for name in names]
    run.backward()
    preview = preview_update(run)
    for name, x in zip(names, before, strict=True):
        assert run.optimizer.parameters[name].numpy().tobytes() == x.tobytes()
    assert run.progress.step == 8
    loss, norm, rate = run.update()
    assert (preview.norm, preview.rate) == (norm, rate)
    for name in names:
        arrays = (
            run.optimizer.parameters[name],
            run.optimizer.means[name],
            run.optimizer.squares[name],
        )
        for x, after in zip(arrays, preview.after[name], strict=True):
            assert np.asarray(x.data).tobytes() == after.tobytes()


# ---- where the data have a sequence


def lines_at(place, home):
    """Return the lines of a file that a place names."""
    name, first, last = re.fullmatch(r"(.*), lines? ([\d,]+)(?: to ([\d,]+))?", place).groups()
    lines = (home / name).read_text().split("\n")
    return "\n".join(lines[int(first) - 1 : int(last or first)])


def test_places_of_two_files(folder):
    found = set()
    for step in range(12):
        run = at(folder, step)
        for each in read_sequences(run):
            text, name = each.text.strip("\ufffd\n"), each.place.partition(",")[0]
            found.add(name.rpartition("/")[2])
            text = text.partition("\n\n")[0]  # an empty line is between the files
            assert text in lines_at(each.place, folder)
    assert found == {"fox.txt", "sea.txt"}


@pytest.mark.parametrize("changes", [dict(read_once=True), dict(task="masked"), {}])
def test_places_of_documents(changes, tmp_path):
    documents = [f"the song number {i}\nhas a second line {i}" for i in range(80)]
    (tmp_path / "songs.txt").write_text("\n--\n".join(["", *documents, " \n "]))
    changes = (
        dict(model_type="bert", n_head=2, dropout=0.0) | changes if "task" in changes else changes
    )
    run = start(train_config(
        str(tmp_path / "songs.txt"), tmp_path / "run", documents=True, separator="\\n--\\n",
        tokenizer="byte", **changes,
    ))  # fmt: skip
    n_known = 0
    for each in read_sequences(run):
        place = each.place
        assert "songs.txt, line" in place
        ids = [i for i in each.tokens if i < 256]
        text = bytes(ids[: each.tokens.index(256)] if 256 in each.tokens else ids).decode()
        if len(text) > 2:
            n_known += 1
            assert text.strip() in lines_at(place, tmp_path)
    assert n_known > 3


def test_places_of_files_that_have_changed_are_tokens(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    run = start(train_config(str(text), tmp_path / "run"))
    text.write_text(TEXT.replace("fox", "cat"))
    places = at(run.folder, 0).task.find_places(0)
    assert any(re.fullmatch(r"tokens [\d,]+ to [\d,]+ of tokens.bin", place) for place in places)
    text.unlink()
    tokens = np.fromfile(run.folder / "tokens.bin", np.uint16)
    again = at(run.folder, 0)
    for each in read_sequences(again):
        first, last = map(int, re.findall(r"\d+", each.place.replace(",", "")))
        assert tokens[first : last + 1].tolist() == each.tokens


def test_places_of_examples(tmp_path):
    rows = [f"{'good' if i % 2 else 'bad'} film {i},{i % 2}" for i in range(40)]
    (tmp_path / "films.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    words = "--n_layer 1 --n_head 2 --n_embd 8 --block_size 32 --batch_size 4 --max_iters 2".split()
    data = tmp_path / "films.csv"
    assert npgpt("finetune", "classification", "--data", data, "--tokenizer", "byte", *words,
                 "--out_dir", tmp_path / "run") == 0  # fmt: skip
    for each in read_sequences(at(tmp_path / "run", 1)):
        line = int(re.search(r"(\d+)$", each.place)[1])
        assert each.text.split(" -> ")[0] in (data.read_text().split("\n")[line - 1])
    data.write_text("text,label\nother,0\nwords,1\n")
    places = at(tmp_path / "run", 1).task.find_places(1)
    assert all(place.startswith("example ") for place in places)


def test_the_command_names_places_and_tokens(folder, capsys):
    assert npgpt("why", "--run", folder, "--param", WEIGHT, "--from", 4, "--to", 6) == 0
    out = capsys.readouterr().out
    assert re.search(r"(fox|sea).txt, lines? \d+", out) and re.search(
        r"e-\d\d by '.+' after '", out
    )
    assert load_tokenizer(folder).kind == "byte"
