"""Training on images: a model reads an image and writes its text, such as the name of a digit.

A file of images is an ``.npz`` archive, as ``numpy.savez(FILE, images=..., texts=...)`` writes. In
a token file, an example is the pixels of an image, the tokens of its text, and an end token. With a
vocabulary of V tokens, the numbers from V on are the levels of pixels, from 0 to 255:

    1 x 2 x 2 pixels 0 255 9 0, and "no"   ->   V  V+255  V+9  V  n o END
"""

from __future__ import annotations

import dataclasses
import io
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from autograd import Tensor, no_grad
from autograd.escape import brief
from autograd.reading import LARGE, read_bytes
from npgpt.errors import UserError
from npgpt.evaluation.loss import Check
from npgpt.generation import generate
from npgpt.models.config import ModelConfig
from npgpt.models.gpt import GPT
from npgpt.models.vision import VisionConfig
from npgpt.module import evaluating
from npgpt.options import quoted
from npgpt.tokenizers import Tokenizer
from npgpt.training.config import TrainConfig
from npgpt.training.data import (
    END,
    IGNORED,
    LEVELS,
    Batch,
    ImageBatch,
    Source,
    Tokens,
    end_token,
)
from npgpt.training.examples import Examples, count_updates
from npgpt.training.task import VALIDATION, refuse_documents, token_losses

IMAGE = "<image>"  # the token that stands for a patch


@dataclass
class Pictures(Source):
    """The images of a file, uint8 (N, c, H, W); `text` has the text of each."""

    n_levels = LEVELS
    images: ndarray = field(default_factory=lambda: np.empty((0, 1, 1, 1), np.uint8))


class Images(Examples):
    """Write the text of an image (`npgpt.models.vision`).

    Attributes
    ----------
    patch : int
        The token that stands for a patch.
    end : int
        The token that ends a text.
    n_patches : int
        The patches of an image.
    images : ndarray of uint8, (N, c, H, W)
        The images of all token files.
    rows : list of ndarray of int
        The tokens of the text of each image.

    Raises
    ------
    UserError
        If a token file holds no images of this size, if a text is too long for the context, or if
        a split has no example.
    """

    name = "images"
    model_types = ("vision-gpt",)
    keys = ("epochs",)

    def __init__(self, config: TrainConfig, tokenizer: Tokenizer, data: dict[str, Tokens]) -> None:
        super().__init__(config, tokenizer, data)
        self.patch = patch_token(tokenizer)
        self.end = end_token(tokenizer, f"a text ends with {END}")
        self.n_patches = vision_config(config, tokenizer).n_patches
        files = [self.find_examples(tokens) for tokens in data.values()]
        self.images = np.concatenate([images for images, _ in files])
        self.rows = [row for _, rows in files for row in rows]
        self.demand_short()
        # All texts count as the longest. If batches were sorted by length, one batch would have
        # only "one", "two" and "six".
        longest = max(map(len, self.rows))
        self.lengths = np.full(len(self.rows), self.n_patches + longest)
        self.divide([len(rows) for _, rows in files])

    # ---- before a run begins

    @classmethod
    def read(cls, names: tuple[str, ...], config: TrainConfig, is_main: bool) -> Source:
        """Read files of images, or a token file of them."""
        refuse_documents(config, "images")
        if not names:
            raise UserError("there are no images: give a file with --data FILE.npz")
        if len(names) == 1 and names[0].endswith(".bin"):
            return super().read(names, config, is_main)
        images, texts = zip(*map(read_images, names), strict=True)
        if len({part.shape[1:] for part in images}) > 1:
            shapes = " and ".join(str(part.shape[1:]) for part in images)
            raise UserError(
                f"the images in {', '.join(names)} have the shapes {shapes}; all must "
                "have one shape: divide the files, or scale the images"
            )
        found = [text for part in texts for text in part]
        return Pictures(None, found, list(names), np.concatenate(images))

    @classmethod
    def complete(cls, config: TrainConfig, sources: Sequence[Source]) -> TrainConfig:
        """Return the configuration with the size of the images, and the number of channels."""
        config = super().complete(config, sources)
        for source in sources:
            if not isinstance(source, Pictures):
                if config.image_size is None or config.num_channels is None:
                    raise UserError(
                        f"{source.file} does not say how large an image is: give --image_size and "
                        "--num_channels"
                    )
                continue
            channels, size = source.images.shape[1:3]
            for key, value in (("image_size", size), ("num_channels", channels)):
                known = getattr(config, key)
                if known not in (None, value):
                    raise UserError(
                        f"{key} is {known}, and the images in {source.names[0]} have "
                        f"{size} x {size} pixels and {channels} channels"
                    )
            config = dataclasses.replace(config, image_size=size, num_channels=channels)
        if config.epochs and not sources[0].text:
            raise UserError(
                f"{sources[0].file} is a token file: give --max_iters, the number of updates, "
                "and no --epochs"
            )
        return count_updates(config, [len(source.text) for source in sources])

    @classmethod
    def special_tokens(cls, config: TrainConfig) -> list[str]:
        """Return the end token, and the token that stands for a patch."""
        return [END, IMAGE]

    @classmethod
    def encode(cls, source: Source, tokenizer: Tokenizer, config: TrainConfig) -> ndarray:
        """Return the examples of a file as numbers; see the module's docstring."""
        assert isinstance(source, Pictures)
        end = [end_token(tokenizer, f"a text ends with {END}")]
        pixels = source.images.reshape(len(source.images), -1).astype(np.int64) + tokenizer.n_vocab
        parts: list[Any] = []
        for row, text in zip(pixels, source.text, strict=True):
            ids = tokenizer.encode(text, disallowed_special=(), add_special_tokens=False)
            parts += [row, ids, end]
        return np.concatenate(parts).astype(np.int64)

    def architecture(self, base: ModelConfig | None) -> ModelConfig:
        """Return the configuration of the model, with the token of a patch.

        Raises
        ------
        UserError
            If the model to start from has another token for a patch.
        """
        config = super().architecture(base)
        assert isinstance(config, VisionConfig)
        if base is not None and config.image_token_id != self.patch:
            raise UserError(
                f"the token of a patch is {config.image_token_id} in the model, and {self.patch} "
                f"({IMAGE}) in its tokenizer; both must be equal: give the model its own tokenizer"
            )
        return dataclasses.replace(config, image_token_id=self.patch)

    def generation_config(self) -> dict[str, Any]:
        """Return the token at which a text ends, and its greatest length; nothing is drawn."""
        n = self.config.block_size - self.n_patches
        return {
            "eos_token_id": self.end,
            "pad_token_id": self.end,
            "max_new_tokens": n,
            "do_sample": False,
        }

    @classmethod
    def imitate(
        cls, batch: Batch, architecture: ModelConfig, generator: np.random.Generator
    ) -> ImageBatch:
        """Return random tokens with the patches of a random image in front."""
        assert isinstance(architecture, VisionConfig)
        shape = (architecture.num_channels, *2 * (architecture.image_size,))
        pixels = generator.random((len(batch.inputs), *shape), np.float32)
        inputs, targets = batch.inputs.copy(), batch.targets.copy()
        text = inputs[:, architecture.n_patches :]
        text[text == architecture.image_token_id] = 0
        inputs[:, : architecture.n_patches] = architecture.image_token_id
        targets[:, : architecture.n_patches - 1] = IGNORED
        return ImageBatch(inputs, targets, None, None, pixels)

    # ---- the examples

    def find_examples(self, tokens: Tokens) -> tuple[ndarray, list[ndarray]]:
        """Return the images in a token file, and the tokens of each text."""
        config, n_vocab = self.config, self.tokenizer.n_vocab
        assert config.image_size is not None and config.num_channels is not None
        shape = config.num_channels, config.image_size, config.image_size
        n_pixels = int(np.prod(shape))
        array = tokens.array
        stops = np.flatnonzero(array == self.end)
        begins = np.concatenate([[0], stops[:-1] + 1]) if stops.size else stops
        is_pixel = array >= n_vocab
        places = (begins[:, None] + np.arange(n_pixels)).reshape(-1)  # of the pixels
        expected = np.zeros(len(array), bool)
        expected[places[places < len(array)]] = True
        is_whole = stops.size and stops[-1] == len(array) - 1
        if not is_whole or np.any(stops - begins <= n_pixels) or np.any(is_pixel != expected):
            raise UserError(
                f"{tokens.path} holds no images of the shape {shape}, each with a text and {END} "
                "after it; images are read from --data FILE.npz"
            )
        images = (array[places] - n_vocab).astype(np.uint8).reshape(-1, *shape)
        rows = [
            array[begin + n_pixels : stop].astype(np.int64)
            for begin, stop in zip(begins, stops, strict=True)
        ]
        return images, rows

    def demand_short(self) -> None:
        """Refuse an image and a text that are longer than the context."""
        room = self.config.block_size - self.n_patches
        n, text = max((len(row), self.decode(row)) for row in self.rows)
        if n > room:
            raise UserError(
                f"an image has {self.n_patches} patches and the text {brief(text)} {n} tokens, and "
                f"the model reads {self.config.block_size} (block_size): add "
                f"--block_size {self.n_patches + n}, or larger patches (--patch_size)"
            )

    # ---- batches

    def batch(self, numbers: ndarray) -> ImageBatch:
        """Return some examples as a batch: patches and text (B, T), targets, images (B, c, H, W).

        Shorter texts are filled up with the end token, which then does not count in the loss.
        """
        N, lengths = self.n_patches, np.array([len(self.rows[n]) for n in numbers])
        ids = np.full((len(numbers), N + lengths.max() + 1), self.end)
        ids[:, :N] = self.patch
        for row, n, length in zip(ids, numbers, lengths, strict=True):
            row[N : N + length] = self.rows[n]
        place = np.arange(ids.shape[1])
        is_asked = (place >= N) & (place <= N + lengths[:, None])  # the text, and an end token
        targets = np.where(is_asked, ids, IGNORED)
        return ImageBatch(ids[:, :-1], targets[:, 1:], None, None, self.pixels(numbers))

    def pixels(self, numbers: ndarray) -> ndarray:
        """Return some images as the model reads them, from 0 to 1, float32 (B, c, H, W)."""
        return np.divide(self.images[numbers], LEVELS - 1, dtype=np.float32)

    # ---- judging, and showing

    def losses(self, model: GPT, batch: ImageBatch) -> Tensor:
        """Return the loss of each token, (B, T)."""
        return token_losses(model, batch, model.smoothing)

    def metrics(self, model: GPT, step: int, check: Check = lambda: None) -> dict[str, float]:
        """Return the share of the validation images whose whole text would be written.

        The model writes a text, by the most probable tokens, if each token of the text is the most
        probable token after the tokens before. So one pass over the text is enough to find out.
        """
        n_right = 0
        with no_grad(), evaluating():
            for _, (inputs, targets, *others) in self.every_batch(VALIDATION):
                check()
                logits = model(inputs, None, *others)[0].numpy().copy()  # (B, T, V)
                logits[..., self.patch] = -np.inf  # which generation suppresses
                is_right = (logits.argmax(axis=-1) == targets) | (targets == IGNORED)
                n_right += int(is_right.all(axis=1).sum())
        return {"accuracy": n_right / len(self.splits[VALIDATION])}

    def texts(self, batch: ImageBatch) -> list[str]:
        """Return the number of each image among all examples, and its text."""
        return [
            f"image {self.number(image)}: {self.decode(target[target != IGNORED])}"
            for image, target in zip(batch.pixel_values, batch.targets, strict=True)
        ]

    def number(self, image: ndarray) -> int:
        """Return the number of the first example with an image that a batch holds, (c, H, W)."""
        levels = np.rint(image * (LEVELS - 1)).astype(np.uint8)
        return int(np.argmax((self.images == levels).all(axis=(1, 2, 3))))

    def prompt(self) -> str:
        """Return an empty text: the image is what the model continues."""
        return ""

    def sample(self, model: GPT) -> str:
        """Return what the model writes for an image of the validation split."""
        return self.write(model, self.splits[VALIDATION][:1], self.config.sample_tokens)[0]

    def final_sample(self, model: GPT) -> str:
        """Return what the model writes for five images of the validation split."""
        return "\n".join(self.write(model, self.splits[VALIDATION][:5], self.config.block_size))

    def write(self, model: GPT, numbers: ndarray, longest: int) -> list[str]:
        """Return what the model writes for some images, and the right text where it differs."""
        N = self.n_patches
        found = generate(
            model, np.full((len(numbers), N), self.patch), pixel_values=self.pixels(numbers),
            max_new_tokens=min(longest, self.config.block_size - N), eos_token_id=self.end,
        )  # fmt: skip
        lines = []
        for n, row in zip(numbers, found, strict=True):
            text, right = self.decode(row[N:]), self.decode(self.rows[n])
            lines.append(f"image {n} -> {text}{'' if text == right else f' (is {right})'}")
        return lines

    def command(self, folder: Path) -> str:
        """Return the command that reads another image."""
        return f"npgpt generate --model {quoted(str(folder))} --image FILE.npy"


def patch_token(tokenizer: Tokenizer) -> int:
    """Return the token that stands for a patch; refuse a tokenizer that has none."""
    if IMAGE not in tokenizer.special_tokens:
        raise UserError(
            f"an image stands in a text as {IMAGE}, and the tokenizer ({tokenizer.kind}) has no "
            "such special token. Take a tokenizer that is made for the run, char or byte"
        )
    return tokenizer.special_tokens[IMAGE]


def vision_config(config: TrainConfig, tokenizer: Tokenizer) -> VisionConfig:
    """Return the configuration of the model that a run would begin with from scratch."""
    found = config.model(tokenizer.n_vocab)
    assert isinstance(found, VisionConfig)
    return found


def read_images(name: str) -> tuple[ndarray, list[str]]:
    """Return the images in an ``.npz`` file, uint8 (N, c, H, W), and their texts.

    Raises
    ------
    UserError
        If the file holds no square images of uint8 under ``images``, or not as many texts, none of
        them empty, under ``texts``.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = f"{folder}/two.npz"
    ...     np.savez(path, images=np.zeros((2, 4, 4), np.uint8), texts=["dark", "night"])
    ...     images, texts = read_images(path)
    >>> images.shape, texts
    ((2, 1, 4, 4), ['dark', 'night'])
    """
    arrays = read_arrays(name)
    if missing := {"images", "texts"} - arrays.keys():
        raise UserError(
            f"{name} holds no array {min(missing)!r}; a file of images is written by "
            "numpy.savez(FILE, images=IMAGES, texts=TEXTS)"
        )
    images, texts = arrays["images"], arrays["texts"]
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or not images.size:
        raise UserError(
            f"{name}: images is {images.dtype} {images.shape}; numbers from 0 to 255 are expected, "
            "uint8 of the shape (N, H, W) or (N, channels, H, W)"
        )
    images = images[:, None] if images.ndim == 3 else images
    height, width = images.shape[2:]
    if height != width:
        raise UserError(
            f"{name}: an image has {height} x {width} pixels; square images are expected: cut "
            "the images, or add pixels at the edges"
        )
    if texts.shape != (len(images),) or texts.dtype.kind != "U":
        raise UserError(
            f"{name}: texts is {texts.dtype} {texts.shape}; a string for each of {len(images)} "
            "images is expected"
        )
    if (empty := texts == "").any():
        raise UserError(f"{name}: the text of image {empty.argmax()} is empty; give it a text")
    return images, texts.tolist()


def read_arrays(name: str) -> dict[str, ndarray]:
    """Return the arrays ``images`` and ``texts`` in an ``.npz`` file; nothing in it is executed."""
    content = io.BytesIO(read_bytes(name))
    try:
        with zipfile.ZipFile(content) as archive:
            members = {
                member: archive.getinfo(f"{member}.npy").file_size
                for member in ("images", "texts")
                if f"{member}.npy" in archive.namelist()
            }
            is_small = sum(members.values()) <= LARGE
            arrays = {
                member: np.lib.format.read_array(
                    io.BytesIO(archive.read(f"{member}.npy")), allow_pickle=False
                )
                for member in members
                if is_small
            }
    except DAMAGE:
        raise UserError(
            f"{name} is no .npz file of images and texts; numpy.savez(FILE, images=IMAGES, "
            "texts=TEXTS) writes one"
        ) from None
    if not is_small:
        raise UserError(f"{name} unpacks to more than {LARGE:,} bytes: divide it into several")
    return arrays


DAMAGE = (  # what zipfile and NumPy raise for damaged files
    ValueError, TypeError, EOFError, MemoryError, OverflowError, RuntimeError, SyntaxError,
    NotImplementedError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
