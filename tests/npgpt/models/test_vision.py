"""A GPT that sees: patches in the place of tokens, gradients down to pixels, files, generation."""

import subprocess
import sys

import numpy as np
import pytest
from helpers import npgpt

import autograd
from autograd.kernels import kernels_enabled, use_kernels
from autograd.testing import gradcheck
from npgpt import GPT, GPTConfig, UserError, generate, load_model
from npgpt.generation.decode import Decoder
from npgpt.generation.quantize import quantize
from npgpt.models.cache import KVCache
from npgpt.models.vision import VisionConfig, VisionGPT
from npgpt.tokenizers import CharTokenizer, save_tokenizer

IMAGE = 9  # the token that stands for a patch
SMALL = dict(
    vocab_size=10, n_positions=12, n_embd=12, n_layer=2, n_head=3, image_size=4, patch_size=2,
    num_channels=2, image_token_id=IMAGE,
)  # fmt: skip
PROMPTS = np.array([[IMAGE] * 4 + [3], [IMAGE] * 4 + [5]])


def draw_model(dtype=np.float64, **options):
    """Return a model with all weights normal, so that no part of it is neutral."""
    model = VisionGPT(VisionConfig(**SMALL | options), dtype=dtype).eval()
    random = np.random.default_rng(0)
    for parameter in model.parameters():
        parameter.data[...] = 0.3 * random.standard_normal(parameter.shape)
    return model


def draw_images(n=2, dtype=np.float64, channels=2):
    return np.random.default_rng(1).random((n, channels, 4, 4)).astype(dtype)


# ---- patches


def test_patches_are_cut_from_left_to_right_row_by_row():
    model = draw_model()
    layer = model.transformer.patch_embeddings
    images = draw_images()
    found = layer(images).numpy()
    assert found.shape == (2, 4, 12)
    for i, (row, column) in enumerate([(0, 0), (0, 2), (2, 0), (2, 2)]):
        pixels = images[:, :, row : row + 2, column : column + 2].reshape(2, -1)  # c, P, P
        expected = pixels @ layer.projection.weight.numpy() + layer.projection.bias.numpy()
        np.testing.assert_allclose(found[:, i], expected, rtol=1e-12)


def test_patches_stand_where_the_image_tokens_are():
    """The hidden states are those of the same vectors without tokens, wherever the image stands."""
    model, images = draw_model(), draw_images(1)
    ids = np.array([[1, IMAGE, IMAGE, 2, IMAGE, IMAGE, 3]])
    body = model.transformer
    vectors = body.wte.weight.numpy()[ids[0]].copy()
    vectors[[1, 2, 4, 5]] = body.patch_embeddings(images).numpy()[0]
    x = autograd.tensor(vectors[None] + body.wpe.weight.numpy()[:7])
    expected = model.lm_head(body.apply_blocks(x)).numpy()
    found = model(ids, pixel_values=images)[0].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_without_an_image_it_is_a_gpt():
    model = draw_model()
    twin = GPT(GPTConfig(vocab_size=10, n_positions=12, n_embd=12, n_layer=2, n_head=3),
               dtype=np.float64).eval()  # fmt: skip
    state = model.state_dict()
    twin.load_state_dict({name: state[name] for name in twin.state_dict()})
    ids = np.array([[1, 2, 3, 4]])
    np.testing.assert_array_equal(model(ids)[0].numpy(), twin(ids)[0].numpy())


def test_a_row_sees_its_own_image_only():
    model, images = draw_model(), draw_images()
    both = model(PROMPTS, pixel_values=images)[0].numpy()
    for i in range(2):
        alone = model(PROMPTS[i : i + 1], pixel_values=images[i : i + 1])[0].numpy()
        np.testing.assert_allclose(both[i], alone[0], rtol=1e-10)
    other = images.copy()
    other[1] += 1
    changed = model(PROMPTS, pixel_values=other)[0].numpy()
    np.testing.assert_array_equal(changed[0], both[0])
    assert np.abs(changed[1] - both[1]).max() > 1e-3


# ---- gradients


def loss_of(model, images):
    targets = np.array([[-100] * 3 + [3, 1], [-100] * 3 + [5, 2]])
    return model(PROMPTS, targets, pixel_values=images)[1]


@pytest.mark.parametrize("kernels", [True, False])
def test_the_gradient_of_pixels_is_that_of_differences(kernels):
    with use_kernels(kernels):
        assert gradcheck(lambda images: loss_of(draw_model(), images), [draw_images()])


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_the_gradient_of_the_patch_embedding_is_that_of_differences(name):
    model = draw_model()
    layer = model.transformer.patch_embeddings.projection

    def loss(value):
        setattr(layer, name, value)
        return loss_of(model, draw_images())

    assert gradcheck(loss, [getattr(layer, name)])


def test_the_row_of_the_image_token_has_the_gradient_of_the_head_only():
    model = draw_model(tie_word_embeddings=False)
    loss_of(model, draw_images()).backward()
    assert not model.transformer.wte.weight.grad.numpy()[IMAGE].any()
    assert model.lm_head.weight.grad.numpy()[IMAGE].any()
    assert model.transformer.patch_embeddings.projection.weight.grad.numpy().any()


def test_recomputed_activations_give_the_same_gradients():
    gradients = []
    for again in (False, True):
        model = draw_model()
        model.transformer.checkpoint_activations = again
        loss_of(model, draw_images()).backward()
        gradients.append([parameter.grad.numpy() for parameter in model.parameters()])
    for a, b in zip(*gradients, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("primitives", [False, True])
def test_a_pass_is_written_as_a_script(primitives, tmp_path):
    model, images = draw_model(), autograd.tensor(draw_images(), requires_grad=True)
    with autograd.use_kernels(False), autograd.record():
        loss = loss_of(model, images)
    path = tmp_path / "script.py"
    autograd.to_source(autograd.stepper.trace(loss), path, primitives=primitives)
    run = subprocess.run([sys.executable, path], capture_output=True, text=True, check=True)
    name, _, value = run.stdout.split()[:3]
    assert name == "loss" and float(value) == pytest.approx(loss.item(), rel=1e-9)


def test_the_stepper_goes_from_a_letter_to_the_pixels(capsys):
    model, pixels = draw_model(), autograd.tensor(draw_images(), requires_grad=True)
    with autograd.record():
        logits, _ = model(PROMPTS, pixel_values=pixels)
        letter = logits[0, -1, 3]
    autograd.step(letter, commands=["why pixels", "until pixels"])
    out = capsys.readouterr().out
    assert "patch_embeddings" in out and "pixels" in out and "its gradient is complete" in out


# ---- generation


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize(
    "options",
    [{}, {"num_beams": 3}, {"do_sample": True, "seed": 3, "num_return_sequences": 2}],
    ids=["greedy", "beams", "sampling"],
)
def test_the_cache_changes_nothing(kernels, options):
    model, images = draw_model(np.float32), draw_images(dtype=np.float32)
    with use_kernels(kernels):
        found = [
            generate(model, PROMPTS, pixel_values=images, max_new_tokens=7, use_cache=use,
                     output_logprobs=True, **options)
            for use in (True, False)
        ]  # fmt: skip
    np.testing.assert_array_equal(found[0].sequences, found[1].sequences)
    np.testing.assert_allclose(found[0].logprobs, found[1].logprobs, atol=1e-4)
    assert (found[0].sequences[:, 5:] != IMAGE).all()


def test_prompts_may_differ_in_length():
    model, images = draw_model(np.float32), draw_images(dtype=np.float32)
    prompts = [PROMPTS[0], np.array([1, IMAGE, IMAGE, 2, IMAGE, IMAGE, 4])]
    both = generate(model, prompts, pixel_values=images, max_new_tokens=4)
    for i in range(2):
        alone = generate(model, prompts[i], pixel_values=images[i : i + 1], max_new_tokens=4)
        np.testing.assert_array_equal(both[i, -4:], alone[0, -4:])


def test_a_step_is_one_compiled_program_where_there_are_kernels():
    """The logits of the kernel, which reads no image, are those of the modules, which read it."""
    if not kernels_enabled():
        pytest.skip("needs kernels")
    model, images = draw_model(np.float32), draw_images(dtype=np.float32)
    with autograd.no_grad():
        decoder = Decoder(model, KVCache(12), model.encode(images))
        decoder(PROMPTS)
        found = decoder(np.array([[1], [2]]))
        ids = np.concatenate([PROMPTS, [[1], [2]]], axis=1)
        expected = model(ids, pixel_values=images)[0].numpy()[:, -1]
    assert decoder._step is not None
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_generated_token_is_the_most_probable_one():
    model, images = draw_model(), draw_images()
    logits = model(PROMPTS, pixel_values=images)[0].numpy()[:, -1].copy()
    logits[:, IMAGE] = -np.inf
    found = generate(model, PROMPTS, pixel_values=images, max_new_tokens=1)
    np.testing.assert_array_equal(found[:, -1], logits.argmax(axis=-1))


# ---- files and tools


@pytest.mark.parametrize(
    "options", [{}, dict(norm_position="post"), dict(bias=False, position_embedding="sinusoidal")]
)
def test_a_saved_model_comes_back(options, tmp_path):
    model = draw_model(np.float32, **options)
    model.save_pretrained(tmp_path)
    again = load_model(tmp_path).eval()
    assert type(again) is VisionGPT and again.config == model.config
    assert again.generation_config == model.generation_config
    images = draw_images(dtype=np.float32)
    np.testing.assert_array_equal(
        model(PROMPTS, pixel_values=images)[0].numpy(),
        again(PROMPTS, pixel_values=images)[0].numpy(),
    )


@pytest.fixture
def folder(tmp_path):
    tokenizer = CharTokenizer.from_text("abcdefgh.▦")
    assert tokenizer.encode("▦")[0] == IMAGE
    draw_model(np.float32).save_pretrained(tmp_path / "model")
    save_tokenizer(tokenizer, tmp_path / "model")
    return tmp_path / "model"


def test_info(folder, capsys):
    assert npgpt("info", folder) == 0
    out = capsys.readouterr().out
    assert "patch embedding" in out and "4 of 2 x 2 pixels" in out


def test_commands_read_text_as_with_any_gpt(folder, capsys):
    assert npgpt("generate", "--model", folder, "--prompt", "ab", "--max_new_tokens", 3) == 0
    assert npgpt("look", "surprise", "--model", folder, "--text", "abc") == 0


@pytest.mark.parametrize("command", ["step", "look surprise", "look attention"])
def test_an_image_token_without_an_image_is_one_line(command, folder, capsys):
    assert npgpt(*command.split(), "--model", folder, "--text", "▦a") == 2
    error = capsys.readouterr().err
    assert "no image is given" in error and error.count("\n") == 1


def test_an_image_on_the_command_line(folder, tmp_path, capsys):
    images = draw_images(1, np.float32)
    np.save(tmp_path / "image.npy", images[0])
    model = load_model(folder).eval()
    ids = generate(model, ONE, pixel_values=images, max_new_tokens=3)[0, 5:]
    expected = CharTokenizer.from_text("abcdefgh.▦").decode(ids)
    image = ("--model", folder, "--image", tmp_path / "image.npy")
    assert (
        npgpt("generate", *image, "--prompt", "c", "--max_new_tokens", 3, "--temperature", 0) == 0
    )
    assert capsys.readouterr().out == expected + "\n"
    assert npgpt("generate", *image, "--max_new_tokens", 3) == 0  # no prompt is needed
    assert len(capsys.readouterr().out) == 4

    commands = tmp_path / "commands"
    commands.write_text("until pixels\n")
    assert npgpt("step", *image, "--text", "ca", "--commands", commands) == 0
    out = capsys.readouterr().out
    targets = np.array([[-100] * 3 + [3, 1]])
    loss = model(ONE, targets, pixel_values=images)[1].item()
    assert f"loss = {loss:.4g}" in out and "its gradient is complete" in out


def write_npy(path, shape):
    with open(path, "wb") as file:
        header = {"descr": "<f8", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(b"\0" * 64)


FILES = {
    "another size": lambda path: np.save(path, np.zeros((5, 4))),
    "two images": lambda path: np.save(path, np.zeros((2, 2, 4, 4))),
    "NaN": lambda path: np.save(path, np.full((2, 4, 4), np.nan)),
    "integers": lambda path: np.save(path, np.zeros((2, 4, 4), int)),
    "texts": lambda path: np.save(path, np.full((2, 4, 4), "a")),
    "objects": lambda path: np.save(path, np.full((2, 4, 4), None)),
    "cut": lambda path: write_npy(path, (2, 4, 4)),
    "huge": lambda path: write_npy(path, (2**50,)),
    "larger than memory can be": lambda path: write_npy(path, (2**40, 2**40)),
    "negative": lambda path: write_npy(path, (-2, 4)),
    "no npy": lambda path: path.write_bytes(b"GIF89a"),
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: None,
}


@pytest.mark.parametrize("fault", FILES)
def test_a_wrong_image_file_is_one_line(fault, folder, tmp_path, capsys):
    FILES[fault](tmp_path / "image.npy")
    for command in (["generate"], ["step", "--text", "a"]):
        arguments = ["--model", folder, "--image", tmp_path / "image.npy"]
        assert npgpt(*command, *arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("npgpt: ") and error.count("\n") == 1


def test_an_image_needs_a_model_that_reads_it(folder, tmp_path, capsys):
    np.save(tmp_path / "image.npy", np.zeros((4, 4)))
    image = ["--image", tmp_path / "image.npy"]
    assert npgpt("step", "--run", folder, *image) == 2
    assert "add --model DIR" in capsys.readouterr().err
    GPT(GPTConfig(10, 8, 8, 1, 2)).save_pretrained(tmp_path / "gpt")
    save_tokenizer(CharTokenizer.from_text("abcdefgh.▦"), tmp_path / "gpt")
    capsys.readouterr()
    assert npgpt("generate", "--model", tmp_path / "gpt", *image) == 2
    assert "of the type gpt2, which reads none" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["out"], ["out.gguf", "--gguf"]])
def test_no_other_program_has_such_a_model(words, folder, tmp_path, capsys):
    out = tmp_path / words[0]
    assert npgpt("export", folder, out, *words[1:]) == 2
    error = capsys.readouterr().err
    assert "vision-gpt" in error and error.count("\n") == 1 and not out.exists()


# ---- wrong input

ONE = np.array([[IMAGE] * 4 + [3]])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: m(ONE, pixel_values=np.zeros((1, 2, 4, 5))), r"shape \(1, 2, 4, 5\); this"),
        (lambda m: m(ONE, pixel_values=np.zeros((1, 2, 8, 8))), "2 channels and 4 x 4 pixels"),
        (lambda m: m(ONE, pixel_values=np.zeros((1, 3, 4, 4))), r"of shape \(B, 2, 4, 4\)"),
        (lambda m: m(ONE, pixel_values=np.zeros((2, 4, 4))), "has shape"),
        (lambda m: m(ONE, pixel_values=np.full((1, 2, 4, 4), np.nan)), "32 numbers that are not"),
        (lambda m: m(ONE, pixel_values=np.full((1, 2, 4, 4), np.inf)), "not finite"),
        (lambda m: m(ONE, pixel_values=np.zeros((1, 2, 4, 4), np.uint8)), "holds uint8"),
        (lambda m: m(ONE, pixel_values=draw_images(3)), "3 images and 1 rows"),
        (lambda m: m(ONE[:, 1:], pixel_values=draw_images(1)), r"\(9\) 3 times, and an image"),
        (lambda m: m(np.array([[1, 2]]), pixel_values=draw_images(1)), "0 times"),
        (lambda m: m(ONE), "4 times, and no image is given"),
        (lambda m: generate(m, ONE), "no image is given"),
        (lambda m: generate(m, ONE, pixel_values=draw_images(1), max_new_tokens=9), "lower max"),
        (lambda m: generate(m, ONE, pixel_values=draw_images(2)), "2 images and 1 rows"),
        (lambda m: generate(m, ONE, pixel_values=[[1.0, 2.0]]), "has shape"),
        (lambda m: generate(m, ONE, pixel_values=[[1.0, 2.0], [3.0]]), "differ in shape"),
        (lambda m: quantize(m), "a GPT that sees cannot be quantized"),
        (lambda m: draw_model(image_size=5), "whole patches"),
        (lambda m: draw_model(n_positions=4), "no position is left"),
        (lambda m: draw_model(image_token_id=10), "image_token_id is 10"),
        (lambda m: draw_model(image_token_id=0), "image_token_id"),
        (lambda m: draw_model(num_channels=0), "num_channels"),
        (lambda m: draw_model(labels=("a", "b")), "has no labels"),
        (lambda m: VisionGPT(GPTConfig()), "takes a VisionConfig"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_line(call, said):
    with pytest.raises(UserError, match=said) as error:
        call(draw_model())
    assert "\n" not in str(error.value)


def test_other_models_refuse_images():
    model = GPT(GPTConfig(vocab_size=10, n_positions=12, n_embd=12, n_layer=1, n_head=3))
    with pytest.raises(UserError, match="a GPT reads no images"):
        generate(model, [[1]], pixel_values=draw_images(1))
