"""Training on images: reading them, batches, resuming, replaying down to the pixels, commands."""

import dataclasses
import zipfile

import numpy as np
import pytest
from helpers import Quiet, npgpt, same_runs

from npgpt import UserError, load_model
from npgpt.diagnostics.pixels import beside
from npgpt.models.vision import VisionGPT
from npgpt.module import evaluating
from npgpt.tokenizers import CharTokenizer, save_tokenizer
from npgpt.training.config import TrainConfig
from npgpt.training.data import IGNORED
from npgpt.training.follow import by_pixel, by_sequence
from npgpt.training.images import read_images
from npgpt.training.interrupt import Interrupted
from npgpt.training.replay import Replay
from npgpt.training.run import resume, start, train

WORDS = ["dark", "dim", "bright"]
SMALL = dict(
    task="images", patch_size=2, n_layer=1, n_head=2, n_embd=16, block_size=16, batch_size=4,
    max_iters=12, eval_interval=4, eval_iters=2, log_interval=2, warmup_iters=2, dropout=0.1,
    gradient_accumulation_steps=2, label_smoothing=0.1,
)  # fmt: skip


def draw(n, channels=2, size=4):
    """Return images of three levels of brightness, and the words for these."""
    random = np.random.default_rng(n)
    kinds = np.arange(n) % 3
    images = random.integers(0, 80, (n, channels, size, size)) + 80 * kinds[:, None, None, None]
    return images.astype(np.uint8), [WORDS[kind] for kind in kinds]


def write(path, images, texts):
    np.savez(path, images=images, texts=texts)
    return str(path)


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "images.npz", *draw(30))


def config(file, folder, **changes):
    return TrainConfig(**{**SMALL, "data": (file,), "out_dir": str(folder), **changes})


def run_to_the_end(*args, **changes):
    run = start(config(*args, **changes))
    train(run, Quiet(run))
    return run


# ---- reading


def test_gray_images_have_one_channel(tmp_path):
    images = np.zeros((2, 4, 4), np.uint8)
    assert read_images(write(tmp_path / "a.npz", images, WORDS[:2]))[0].shape == (2, 1, 4, 4)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"images": np.zeros((1, 4, 4), np.uint8)}, "no array 'texts'"),
        ({"texts": ["a"]}, "no array 'images'"),
        ({"images": np.zeros((1, 4, 4)), "texts": ["a"]}, "images is float64"),
        ({"images": np.zeros((4, 4), np.uint8), "texts": ["a"]}, r"uint8 \(4, 4\)"),
        ({"images": np.zeros((0, 4, 4), np.uint8), "texts": []}, r"uint8 \(0, 4, 4\)"),
        ({"images": np.zeros((1, 4, 6), np.uint8), "texts": ["a"]}, "4 x 6 pixels"),
        ({"images": np.zeros((2, 4, 4), np.uint8), "texts": ["a"]}, "a string for each of 2"),
        ({"images": np.zeros((1, 4, 4), np.uint8), "texts": [3]}, "texts is int64"),
        ({"images": np.zeros((2, 4, 4), np.uint8), "texts": ["a", ""]}, "image 1 is empty"),
        ({"images": np.array([None]), "texts": ["a"]}, "is no .npz file"),
    ],
)
def test_a_wrong_file_is_one_line(arrays, said, tmp_path, capsys):
    np.savez(tmp_path / "wrong.npz", **arrays)
    assert npgpt("train", "--task", "images", "--data", tmp_path / "wrong.npz") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    with pytest.raises(UserError, match=said):
        read_images(str(tmp_path / "wrong.npz"))


def test_damaged_archives_are_refused(file, tmp_path):
    path = tmp_path / "damaged.npz"
    whole = open(file, "rb").read()
    random = np.random.default_rng(0)
    for n in range(60):
        content = bytearray(whole)
        for place in random.integers(len(content), size=4):
            content[place] = random.integers(256)
        path.write_bytes(content if n % 2 else content[: random.integers(len(content))])
        try:
            read_images(str(path))
        except UserError as error:
            assert "\n" not in str(error)


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("npgpt.training.images.LARGE", 10_000)
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", bytes(20_000))
    with pytest.raises(UserError, match="unpacks to more than 10,000"):
        read_images(str(tmp_path / "a.npz"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (dict(patch_size=3), "image_size is 4 and patch_size 3"),
        (dict(patch_size=None), "image_size is 4 and patch_size 16"),
        (dict(image_size=8), "image_size is 8, and the images in .* have 4 x 4 pixels"),
        (dict(num_channels=1), "num_channels is 1, and the images in .* and 2 channels"),
        (dict(block_size=9), "4 patches and the text .bright. 6 tokens.*add --block_size 10"),
        (dict(block_size=4), "4 patches, and n_positions .block_size. is 4"),
        (dict(documents=True), "--documents is about texts"),
        (dict(labels=("a", "b")), "labels says something of examples"),
        (dict(data=()), "there are no images"),
        (dict(model_type="bert"), "--task images trains vision-gpt"),
    ],
)
def test_wrong_options_are_one_line(changes, said, file, tmp_path):
    with pytest.raises(UserError, match=said) as error:
        start(config(file, tmp_path / "run", **changes), given=changes)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_without_a_token_for_patches_is_refused(file, tmp_path):
    save_tokenizer(CharTokenizer.from_text("".join(WORDS), ["<|endoftext|>"]), tmp_path)
    with pytest.raises(UserError, match="stands in a text as <image>"):
        start(config(file, tmp_path / "run", tokenizer=str(tmp_path / "tokenizer.json")))


def test_images_of_two_sizes_are_refused(file, tmp_path):
    other = write(tmp_path / "other.npz", *draw(5, size=6))
    with pytest.raises(UserError, match=r"the shapes \(2, 4, 4\) and \(2, 6, 6\)"):
        start(config(file, tmp_path / "run", data=(file, other)))
    with pytest.raises(UserError, match="image_size is 4, and the images in .*other"):
        start(config(file, tmp_path / "run", val_data=(other,)))


# ---- batches


def test_a_batch_holds_images_and_texts_as_they_are(file, tmp_path):
    images, texts = draw(30)
    task = start(config(file, tmp_path / "run", tokenizer="byte")).task
    np.testing.assert_array_equal(task.images, images)
    inputs, targets, mask, positions, pixels = task.batch(np.array([0, 2]))
    assert mask is None and positions is None
    np.testing.assert_array_equal(np.rint(pixels * 255), images[[0, 2]])
    dark, bright = ([*text.encode(), 256] for text in ("dark", "bright"))
    assert inputs.tolist() == [[257] * 4 + dark + [256], [257] * 4 + bright[:-1]]
    assert targets.tolist() == [
        [IGNORED] * 3 + dark + [IGNORED] * 2,
        [IGNORED] * 3 + bright,
    ]
    assert task.texts(task.batch(np.array([2, 4]))) == ["image 2: bright", "image 4: dim"]
    train_split, validation = task.splits
    assert len(validation) == 3 and {*train_split, *validation} == {*range(30)}


def test_the_accuracy_is_that_of_greedy_writing(file, tmp_path):
    run = run_to_the_end(file, tmp_path / "run", max_iters=40, val_data=(file,))
    model, task = run.model.eval(), run.task
    written = task.write(model, task.splits[1], 12)
    n_right = sum("(is" not in line for line in written)
    assert 0 < n_right
    assert task.metrics(model, 0)["accuracy"] == n_right / 30


def test_the_whole_loss_is_over_every_token(file, tmp_path):
    task = start(config(file, tmp_path / "run")).task
    model = VisionGPT(task.architecture(None), dtype=np.float64)
    with evaluating():
        parts = [task.losses(model, task.batch(np.array([n]))).numpy() for n in task.splits[1]]
    n = sum(len(task.rows[n]) + 1 for n in task.splits[1])
    assert task.whole_loss(model) == pytest.approx(sum(x.sum() for x in parts) / n, rel=1e-6)


def test_an_epoch_reads_every_image_once(file, tmp_path):
    run = start(config(file, tmp_path / "run", epochs=2.0))
    assert run.config.max_iters == 2 * (27 // 8) and run.config.epochs == 0
    read = [
        text
        for step in range(3)
        for batch in run.task.batches(step)
        for text in run.task.texts(batch)
    ]
    assert len({*read}) == len(read) == 24
    texts = {text.split(": ")[1] for text in run.task.texts(run.task.batches(0)[0])}
    assert len(texts) > 1  # of several lengths


# ---- runs


def test_a_resumed_run_is_the_run_without_a_break(file, tmp_path):
    whole = run_to_the_end(file, tmp_path / "whole")
    run_to_the_end(file, tmp_path / "half", max_iters=6, lr_decay_iters=12)
    again = resume(tmp_path / "half", {"max_iters": 12, "lr_decay_iters": None})
    train(again, Quiet(again))
    np.testing.assert_array_equal(
        again.model.transformer.wte.weight.numpy(), whole.model.transformer.wte.weight.numpy()
    )
    part = start(config(file, tmp_path / "part"))
    with pytest.raises(Interrupted):
        train(part, Quiet(part, interrupt_at=6))
    again = resume(part.folder, {})
    train(again, Quiet(again))
    same_runs(whole.folder, again.folder)


def test_a_token_file_of_images_is_read_again(file, tmp_path):
    run_to_the_end(file, tmp_path / "whole")
    tokens = str(tmp_path / "whole" / "tokens.bin")
    with pytest.raises(UserError, match="give --image_size and --num_channels"):
        start(config(tokens, tmp_path / "again"))
    with pytest.raises(UserError, match=r"holds no images of the shape \(1, 4, 4\)"):
        start(config(tokens, tmp_path / "again", image_size=4, num_channels=1))
    with pytest.raises(UserError, match="holds images: add --task images"):
        start(TrainConfig(data=(tokens,), out_dir=str(tmp_path / "again")))
    again = start(config(tokens, tmp_path / "again", image_size=4, num_channels=2))
    train(again, Quiet(again))
    same_weights = [
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "again")
    ]
    assert same_weights[0] == same_weights[1]


def test_another_run_starts_from_a_model(file, tmp_path):
    base = run_to_the_end(file, tmp_path / "base")
    run = start(
        TrainConfig(
            task="images", data=(file,), init_from=str(base.folder), out_dir=str(tmp_path / "new"),
            max_iters=2,
        )
    )  # fmt: skip
    assert run.config.patch_size == 2
    np.testing.assert_array_equal(
        run.model.transformer.wte.weight.numpy(),
        load_model(base.folder).transformer.wte.weight.numpy(),
    )


def test_a_replay_and_the_share_of_each_image(file, tmp_path):
    run = run_to_the_end(file, tmp_path / "run")
    replay = Replay(run.folder, 7, 7)
    replay.seek(7)
    name, index = "transformer.patch_embeddings.projection.weight", (3, 5)
    parts = by_sequence(replay.run, name, index)
    assert len(parts) == 8
    replay.run.backward()
    gradient = replay.run.optimizer.parameters[name].grad.numpy()[index]
    assert sum(parts) == pytest.approx(gradient, rel=1e-4)


@pytest.mark.parametrize("n", [1, 6])  # of the first batch, and of the second
def test_what_pixels_add_is_the_derivative_of_the_share(n, file, tmp_path):
    run = start(config(file, tmp_path / "run"))
    exact = VisionGPT(run.model.config, dtype=np.float64)
    exact.load_state_dict(run.model.state_dict())
    run = dataclasses.replace(run, model=exact)
    name, index = "transformer.patch_embeddings.projection.weight", (3, 5)
    image, adds = by_pixel(run, name, index, n)
    batches = run.task.batches(0)

    def share(change, place):
        moved = [batch._replace(pixel_values=batch.pixel_values.astype(float)) for batch in batches]
        moved[n // 4].pixel_values[n % 4][place] += change
        run.task.batches = lambda step: moved
        return by_sequence(run, name, index)[n]

    for place in [(0, 0, 1), (1, 3, 3), (1, 2, 0)]:
        slope = (share(1e-5, place) - share(-1e-5, place)) / 2e-5
        assert adds[place] == pytest.approx(slope * image[place], rel=1e-5, abs=1e-12)


def test_large_images_are_shown_in_squares():
    image = np.ones((3, 20, 20))
    rows = beside(image, np.full((3, 20, 20), 0.01))
    assert len(rows) == 7  # squares of 3 x 3 pixels
    assert rows[0].count("+0.27") == 6 and rows[0].count("+0.18") == 1


def test_the_commands(file, tmp_path, capsys):
    folder = tmp_path / "run"
    words = [f"--{key}={value}" for key, value in SMALL.items()]
    assert npgpt("train", *words, "--data", file, "--out_dir", folder) == 0
    out = capsys.readouterr().out
    assert "accuracy" in out and f"npgpt generate --model {folder} --image FILE.npy" in out
    images, _ = draw(30)
    np.save(tmp_path / "levels.npy", images[2])
    np.save(tmp_path / "floats.npy", images[2] / np.float32(255))
    texts = []
    for name in ("levels", "floats"):
        assert npgpt("generate", "--model", folder, "--image", tmp_path / f"{name}.npy") == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    assert npgpt("info", folder) == 0
    assert "4 x 4 pixels, 2 channels" in capsys.readouterr().out
    weight = "transformer.patch_embeddings.projection.weight[0,0]"
    assert npgpt("why", "--run", folder, "--param", weight) == 0
    out = capsys.readouterr().out
    assert "'image " in out and "What the pixels of 'image " in out
    assert npgpt("step", "--run", folder, "--at", 3, "--source", tmp_path / "pass.py") == 0
    sizes = ["--n_layer=1", "--n_head=2", "--n_embd=16", "--block_size=16", "--patch_size=2"]
    capsys.readouterr()
    assert npgpt("profile", "--task=images", "--data", file, *sizes, "--steps=1") == 0
    assert "A step of 12 x 16 tokens" in capsys.readouterr().out
