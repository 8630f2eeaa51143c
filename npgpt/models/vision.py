"""A GPT that sees: the patches of an image are vectors among those of the tokens.

    image   8 x 8 pixels -> 4 patches of 4 x 4 pixels -> 4 vectors, by one linear layer
    text    ▦▦▦▦seven      the vector of each ▦ (`image_token_id`) is replaced by that of a patch

The linear layer is the patch embedding of Dosovitskiy et al. 2020 (arXiv:2010.11929, equation 1).
Everything behind it is the GPT of ``gpt.py``.
Shapes: B images, c channels of H x W pixels, N patches of P x P pixels, T positions, C = n_embd.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy import ndarray
from numpy.typing import DTypeLike

from autograd import Tensor
from autograd.schema import Range
from npgpt.errors import UserError
from npgpt.models.blocks import Block
from npgpt.models.cache import KVCache, Memory
from npgpt.models.config import GPTConfig, Size, takes_block_size
from npgpt.models.context import Activations
from npgpt.models.gpt import GPT, Transformer
from npgpt.models.heads import check_targets
from npgpt.models.layers import Linear
from npgpt.module import Module


@takes_block_size
@dataclass
class VisionConfig(GPTConfig):
    """The architecture of a GPT that sees; the fields of `GPTConfig`, and those of images.

    Parameters
    ----------
    vocab_size, n_positions, ...
        As in `GPTConfig`. The default vocabulary is GPT-2's and one token more, which stands for
        a patch. The patches of an image count as positions.
    image_size, patch_size : int
        The side of an image and of a patch, in pixels.
    num_channels : int
        1 for gray images, 3 for colours.
    image_token_id : int
        The token in whose place the vector of a patch is put. It is not 0, because 0 fills up
        shorter rows in `generate`. If not given, it is the last of the vocabulary.
    model_type : {"vision-gpt"}
        The name in the registry.

    Raises
    ------
    UserError
        As `GPTConfig` does; also if an image is not a whole number of patches wide, if its patches
        leave no position for a token, or if `image_token_id` is not in the vocabulary.

    Examples
    --------
    >>> VisionConfig(image_size=8, patch_size=2, num_channels=1).n_patches
    16
    """

    vocab_size: Size = 50258
    image_size: Size = 224
    patch_size: Size = 16
    num_channels: Size = 3
    image_token_id: Annotated[int, Range(1, 2**28)] | None = None
    model_type: Literal["vision-gpt"] = "vision-gpt"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_token_id is None:
            self.image_token_id = max(1, self.vocab_size - 1)
        if self.labels:
            raise UserError("a GPT that reads images has no labels: it writes the name")
        if self.image_size % self.patch_size:
            raise UserError(
                f"image_size is {self.image_size} and patch_size {self.patch_size}: an image is "
                "cut into whole patches, so image_size must be a multiple of patch_size"
            )
        if self.n_patches >= self.n_positions:
            raise UserError(
                f"an image has {self.n_patches} patches, and n_positions (block_size) is "
                f"{self.n_positions}: "
                "no position is left for a token; use larger patches or a larger n_positions"
            )
        if self.image_token_id >= self.vocab_size:
            raise UserError(
                f"image_token_id is {self.image_token_id}, and the vocabulary has "
                f"{self.vocab_size} tokens"
            )

    @property
    def n_patches(self) -> int:
        """The number of patches of an image, N = (H / P) (W / P)."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def channels(self) -> str:
        """The number of channels, in words."""
        return "1 channel" if self.num_channels == 1 else f"{self.num_channels} channels"

    def described(self) -> dict[str, str]:
        """Return what `npgpt info` says of the parts of a block, and of images."""
        size, patch = self.image_size, self.patch_size
        return super().described() | {
            "images": f"{size} x {size} pixels, {self.channels}",
            "patches": f"{self.n_patches} of {patch} x {patch} pixels",
        }


class PatchEmbeddings(Module):
    """Cut images into patches, and map each patch to a vector by one linear layer.

    The layer computes what a convolution does whose kernel is as wide as its stride. The weight
    (c P P, C) is that of the convolution, (C, c, P, P): its last three axes are joined, and the
    result is transposed.
    """

    part = "patch embedding"

    def __init__(self, config: VisionConfig, dtype: DTypeLike):
        self.patch_size = config.patch_size
        n_inputs = config.num_channels * config.patch_size**2
        self.projection = Linear(n_inputs, config.n_embd, config.bias, dtype)

    def forward(self, pixel_values: Any) -> Tensor:
        """Map ``(B, c, H, W)`` pixels to ``(B, N, C)``: patches from left to right, row by row."""
        B, c, H, W = pixel_values.shape
        P = self.patch_size
        x = pixel_values.reshape(B, c, H // P, P, W // P, P)
        x = x.transpose(0, 2, 4, 1, 3, 5)  # (B, H / P, W / P, c, P, P)
        return self.projection(x.reshape(B, -1, c * P * P))


class VisionTransformer(Transformer):
    """Embeddings of tokens and patches, blocks, and the final norm: everything but the head."""

    def __init__(
        self, config: VisionConfig, dtype: DTypeLike, block: Callable[..., Module] = Block
    ):
        super().__init__(config, dtype, block)
        self.image_token_id, self.n_patches = config.image_token_id, config.n_patches
        self.patch_embeddings = PatchEmbeddings(config, dtype)

    def forward(
        self,
        input_ids: ndarray,
        attention_mask: ndarray | None = None,
        position_ids: ndarray | None = None,
        capture: Activations | None = None,
        cache: KVCache | None = None,
        memory: Memory | None = None,
        only_last: bool = False,
        **more: Any,
    ) -> Tensor:
        """Map ``(B, T)`` token ids to ``(B, T, C)``; see `Transformer.forward`.

        The image of each row is in `memory`, which `VisionGPT.encode` makes. With a cache, the
        first pass reads the image, and the cache then has its keys and values.
        """
        if memory is not None and (cache is None or not cache.length):
            more["patches"] = memory.states
        return super().forward(
            input_ids, attention_mask, position_ids, capture, cache, only_last=only_last, **more
        )

    trace = Transformer.trace

    def embed(
        self, input_ids: ndarray, position_ids: ndarray, patches: Tensor | None = None
    ) -> Tensor:
        """Map ``(B, T)`` ids and ``(B, N, C)`` patches to ``(B, T, C)``.

        The i-th image token of a row is replaced by the i-th patch of the row's image.
        """
        is_patch = input_ids == self.image_token_id  # (B, T)
        counts = is_patch.sum(axis=1)
        expected = 0 if patches is None else self.n_patches
        if (counts != expected).any():
            found = counts[counts != expected][0]
            where = "no image is given" if patches is None else f"an image has {expected} patches"
            raise UserError(
                f"a row of input_ids has the image token ({self.image_token_id}) {found} times, "
                f"and {where}: give pixel_values, and the image token {self.n_patches} times in "
                "each row"
            )
        x = self.wte(input_ids)  # (B, T, C)
        if patches is not None:
            if len(patches) != len(input_ids):
                raise UserError(
                    f"there are {len(patches)} images and {len(input_ids)} rows of input_ids: one "
                    "image for each row is expected"
                )
            index = np.maximum(is_patch.cumsum(axis=1) - 1, 0)  # (B, T)
            x = np.where(is_patch[..., None], patches[np.arange(len(index))[:, None], index], x)
        return self.drop(x + self.wpe(position_ids))


class VisionGPT(GPT):
    """A GPT that reads an image and a text, and writes on.

    Parameters
    ----------
    config : VisionConfig
    seed : int
        The seed of the initialization.
    dtype : dtype_like
        The dtype of the parameters: float32, or float64 for checking.

    Examples
    --------
    >>> import numpy as np
    >>> config = VisionConfig(vocab_size=20, n_positions=8, n_embd=16, n_layer=2, n_head=2,
    ...                       image_size=4, patch_size=2, num_channels=1, image_token_id=19)
    >>> model = VisionGPT(config).eval()
    >>> image = np.random.default_rng(0).random((1, 1, 4, 4))
    >>> prompt = np.full((1, config.n_patches), config.image_token_id)
    >>> model.generate(prompt, pixel_values=image, max_new_tokens=3).shape
    (1, 7)

    Without an image, it reads a text, as any GPT:

    >>> model(np.array([[1, 2, 3]]))[0].shape
    (1, 3, 20)
    """

    configuration = VisionConfig
    body = VisionTransformer
    config: VisionConfig
    transformer: VisionTransformer

    def __init__(self, config: VisionConfig, seed: int = 0, dtype: DTypeLike = np.float32):
        super().__init__(config, seed, dtype)
        self.generation_config = {"suppress_tokens": [config.image_token_id]}

    def encode(self, pixel_values: Any) -> Memory:
        """Return the vectors of the patches of images, as the transformer takes them.

        Parameters
        ----------
        pixel_values : ndarray or Tensor of float, (B, c, H, W)
            The images. A tensor that requires a gradient gets one.

        Raises
        ------
        UserError
            See `check_images`.
        """
        x, dtype = self.check_images(pixel_values), self.transformer.wte.weight.dtype
        return Memory(self.transformer.patch_embeddings(x if x.dtype == dtype else x.astype(dtype)))

    def check_images(self, pixel_values: Any) -> Any:
        """Return images as an array or a tensor; refuse those that the model does not read.

        Raises
        ------
        UserError
            If the images have another shape than the configuration says, hold other numbers than
            floats, or numbers that are not finite.
        """
        config = self.config
        shape = f"(B, {config.num_channels}, {config.image_size}, {config.image_size})"
        try:
            x = pixel_values if isinstance(pixel_values, Tensor) else np.asarray(pixel_values)
        except ValueError:
            raise UserError(
                "the images of pixel_values differ in shape; one array of shape "
                f"{shape} is expected"
            ) from None
        if x.ndim != 4 or x.shape[1:] != (config.num_channels, *2 * [config.image_size]):
            raise UserError(
                f"pixel_values has shape {x.shape}; this model reads images of {config.channels} "
                f"and {config.image_size} x {config.image_size} pixels, of shape {shape}"
            )
        if x.dtype.kind != "f":
            raise UserError(
                f"pixel_values holds {x.dtype}; floats are expected, on the scale that the model "
                "was trained with, such as pixels / 255"
            )
        numbers = x.detach().numpy() if isinstance(x, Tensor) else x
        if n := np.count_nonzero(~np.isfinite(numbers)):
            raise UserError(
                f"pixel_values has {n:,} numbers that are not finite (NaN or infinity); replace "
                "them before the model reads the image"
            )
        return x

    def forward(  # type: ignore[override]
        self,
        input_ids: ndarray,
        targets: ndarray | None = None,
        attention_mask: ndarray | None = None,
        position_ids: ndarray | None = None,
        pixel_values: Any = None,
        cache: KVCache | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the logits, and with targets the mean cross-entropy; see `GPT.forward`.

        Parameters
        ----------
        input_ids : ndarray of int, (B, T)
            With images, each row has `image_token_id` at N positions.
        targets : ndarray of int, (B, T), optional
            The token that follows each position; -100 where a patch follows.
        attention_mask, position_ids
            As in `GPT.forward`.
        pixel_values : ndarray or Tensor of float, (B, c, H, W), optional
            An image for each row. A tensor that requires a gradient gets one.
        cache
            As in `GPT.forward`.

        Returns
        -------
        logits : Tensor, (B, T, V)
        loss : Tensor or None

        Raises
        ------
        UserError
            See `GPT.forward` and `check_images`; also if a row has another number of image tokens
            than an image has patches, or there is another number of images than of rows.
        ValueError
            If the tokens do not fit the context or the cache, or the mask has another shape.
        """
        if targets is not None:
            targets = check_targets(targets, self.config.vocab_size)
        memory = None if pixel_values is None else self.encode(pixel_values)
        x = self.transformer(
            np.asarray(input_ids), attention_mask, position_ids, cache=cache, memory=memory
        )  # (B, T, C)
        return self.predict(x, targets)

    def activations(
        self,
        input_ids: ndarray,
        attention_mask: ndarray | None = None,
        position_ids: ndarray | None = None,
        pixel_values: Any = None,
    ) -> Activations:
        """Return every hidden state, and the weights of every attention head; see `forward`.

        Examples
        --------
        >>> config = VisionConfig(vocab_size=9, n_positions=8, n_embd=8, n_layer=1, n_head=2,
        ...                       image_size=4, patch_size=2, num_channels=1, image_token_id=8)
        >>> ids = np.array([[8, 8, 8, 8, 1]])
        >>> image = np.zeros((1, 1, 4, 4))
        >>> inside = VisionGPT(config).activations(ids, pixel_values=image)
        >>> inside.attentions[0].shape  # the last of five positions looks at four patches
        (1, 2, 5, 5)
        """
        capture = Activations()
        memory = None if pixel_values is None else self.encode(pixel_values)
        self.transformer(
            np.asarray(input_ids), attention_mask, position_ids, capture, memory=memory
        )
        return capture
