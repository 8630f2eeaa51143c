"""The patch embedding against transformers' ViT and PyTorch's convolution; real digits."""

import importlib.util
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import need
from helpers import ROOT

import autograd
from npgpt.models.vision import VisionConfig, VisionGPT

pytestmark = pytest.mark.usefixtures("oracle")

SIZES = [(8, 2, 1), (12, 4, 3), (6, 6, 2), (5, 1, 3)]  # sides of an image and a patch, channels


def draw_model(size, patch, channels):
    model = VisionGPT(
        VisionConfig(
            vocab_size=5, n_positions=40, n_embd=12, n_layer=1, n_head=3, image_size=size,
            patch_size=patch, num_channels=channels, image_token_id=4,
        ),
        dtype=np.float64,
    ).eval()  # fmt: skip
    random = np.random.default_rng(0)
    for parameter in model.parameters():
        parameter.data[...] = random.standard_normal(parameter.shape)
    return model


@pytest.mark.parametrize(("size", "patch", "channels"), SIZES)
def test_a_convolution_whose_kernel_is_its_stride(size, patch, channels):
    import torch

    layer = draw_model(size, patch, channels).transformer.patch_embeddings
    weight, bias = layer.projection.weight, layer.projection.bias
    random = np.random.default_rng(1)
    images = random.random((3, channels, size, size))
    ours = autograd.tensor(images, requires_grad=True)
    y = layer(ours)
    g = random.standard_normal(y.shape)
    (y * g).sum().backward()

    kernel = weight.numpy().T.reshape(12, channels, patch, patch).copy()
    theirs = [torch.tensor(x, requires_grad=True) for x in (images, kernel, bias.numpy())]
    out = torch.nn.functional.conv2d(*theirs, stride=patch)  # (B, C, H / P, W / P)
    out = out.flatten(2).transpose(1, 2)
    (out * torch.tensor(g)).sum().backward()

    np.testing.assert_allclose(y.numpy(), out.detach().numpy(), rtol=1e-10, atol=1e-12)
    found = [ours.grad.numpy(), weight.grad.numpy().T.reshape(kernel.shape), bias.grad.numpy()]
    for mine, their in zip(found, theirs, strict=True):
        np.testing.assert_allclose(mine, their.grad.numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("size", "patch", "channels"), SIZES)
def test_the_embeddings_of_vit(size, patch, channels):
    """ViT's patches with their positions; its [CLS], which stands before them, is left out."""
    import torch
    from transformers import ViTConfig
    from transformers.models.vit.modeling_vit import ViTEmbeddings

    model = draw_model(size, patch, channels)
    body, config = model.transformer, model.config
    theirs = ViTEmbeddings(
        ViTConfig(
            hidden_size=12, image_size=size, patch_size=patch, num_channels=channels,
            hidden_dropout_prob=0.0,
        )
    ).double()  # fmt: skip
    N, projection = config.n_patches, theirs.patch_embeddings.projection
    with torch.no_grad():
        kernel = body.patch_embeddings.projection.weight.numpy().T.reshape(projection.weight.shape)
        projection.weight.copy_(torch.tensor(kernel.copy()))
        projection.bias.copy_(torch.tensor(body.patch_embeddings.projection.bias.numpy()))
        theirs.position_embeddings[0, 1:] = torch.tensor(body.wpe.weight.numpy()[:N])
    images = np.random.default_rng(1).random((2, channels, size, size))
    expected = theirs(torch.tensor(images))[:, 1:].detach().numpy()  # (B, N, C)
    patches = model.encode(images).states
    found = body.embed(np.full((2, N), config.image_token_id), np.arange(N), patches).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_the_nearest_neighbour_reads_as_many_as_the_page_says():
    need(importlib.util.find_spec("sklearn") is not None, "scikit-learn")
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    held_out, training = order[:360], order[360:]
    squares = (images**2).sum(axis=1)
    distances = squares[training] - 2 * images[held_out] @ images[training].T  # (360, 1437)
    nearest = training[distances.argmin(axis=1)]
    n = (labels[nearest] == labels[held_out]).sum()
    assert f"gives {n} of" in (ROOT / "docs" / "images.md").read_text("utf-8").replace("\n", " ")


def test_the_example_reads_digits(tmp_path):
    """At least 0.95 of the held-out images, by the whole name, in under five minutes."""
    need(importlib.util.find_spec("sklearn") is not None, "scikit-learn")
    run = subprocess.run(
        [sys.executable, ROOT / "examples" / "10_images.py"],
        capture_output=True, text=True, timeout=300, cwd=tmp_path, check=True,
    )  # fmt: skip
    right, of = re.fullmatch(r"(\d+) of (\d+) held-out .*", run.stdout.splitlines()[-1]).groups()
    assert int(of) == 360 and int(right) >= 0.95 * int(of)
