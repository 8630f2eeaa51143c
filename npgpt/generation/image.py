"""Texts with an image in front, for the command line: the image of a file, and its tokens."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy import ndarray

from autograd.reading import SMALL, read_bytes
from npgpt.errors import UserError
from npgpt.models.gpt import GPT
from npgpt.models.vision import VisionGPT


def read_image(path: str | Path, model: GPT) -> ndarray:
    """Return the image in a ``.npy`` file as a model reads it, float32 (1, c, H, W).

    Parameters
    ----------
    path : str or Path
        A file that `numpy.save` has written: an array of shape (H, W), (c, H, W) or (1, c, H, W).
        Pixels of uint8 are divided by 255, as in training; others stay as they are.
    model : GPT
        The model that will read the image.

    Raises
    ------
    UserError
        If the model reads no images, the file is no such file, or the image has another size than
        the model reads, or numbers that are not finite.

    Examples
    --------
    >>> import tempfile
    >>> from npgpt.models.vision import VisionConfig
    >>> sizes = dict(image_size=4, patch_size=2, num_channels=1, image_token_id=8)
    >>> model = VisionGPT(VisionConfig(9, n_positions=8, n_embd=8, n_layer=1, n_head=2, **sizes))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(Path(folder) / "image.npy", np.zeros((4, 4)))
    ...     read_image(Path(folder) / "image.npy", model).shape
    (1, 1, 4, 4)
    """
    if not isinstance(model, VisionGPT):
        raise UserError(
            f"{path} is an image, and the model is of the type {model.config.model_type}, which "
            "reads none; a vision-gpt does"
        )
    content = io.BytesIO(read_bytes(path, SMALL))
    try:
        image = np.lib.format.read_array(content, allow_pickle=False)
    except (ValueError, TypeError, EOFError, MemoryError, OverflowError):
        raise UserError(
            f"{path} is no .npy file of numbers; numpy.save(PATH, image) writes one"
        ) from None
    if image.ndim in (2, 3):
        image = image[None, None] if image.ndim == 2 else image[None]
    image = model.check_images(image / np.float32(255) if image.dtype == np.uint8 else image)
    assert isinstance(image, ndarray)
    return image.astype(np.float32)


def put_image_first(model: GPT, ids: ndarray) -> ndarray:
    """Return a text's ids, (T,), behind the image tokens of one image, (N + T,)."""
    assert isinstance(model, VisionGPT)
    return np.concatenate([np.full(model.config.n_patches, model.config.image_token_id), ids])
