"""Weights in and out: every layout that is published, real trained ones, and hostile files."""

import dataclasses
import itertools
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from helpers import cut
from hypothesis import given
from hypothesis import strategies as st

from autograd import nn, no_grad
from autograd.files import write_tensors
from autograd.reading import read_tensors
from npgpt import GPT, GPTConfig, UserError
from npgpt.evaluation.loss import whole_loss
from npgpt.hub import find_model
from npgpt.models.registry import ARCHITECTURES, Architecture
from npgpt.training.optim import AdamW
from npgpt.weights.names import MINGPT
from npgpt.weights.safetensors import open_safetensors

TINY = GPTConfig(vocab_size=11, n_positions=8, n_embd=64, n_layer=2, n_head=1)
IDS = np.arange(6)[None]


def model_of(config=TINY, seed=0):
    model = GPT(config, seed=seed).eval()
    random = np.random.default_rng(seed)
    for parameter in model.parameters():
        parameter.data += 0.1 * random.standard_normal(parameter.shape, np.float32)
    return model


def same(a, b):
    return np.array_equal(a(IDS)[0].numpy(), b(IDS)[0].numpy())


@pytest.fixture
def folder(tmp_path):
    model_of().save_pretrained(tmp_path)
    return tmp_path


def rewrite(folder, change):
    """Write a folder's weights again, with changed tensors."""
    path = folder / "model.safetensors"
    tensors, _ = read_tensors(path)
    tensors = {name: array.copy() for name, array in tensors.items()}
    write_tensors(path, change(tensors) or tensors, {})


# ---- layouts


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"bias": False},
        {"tie_word_embeddings": False},
        {"position_embedding": "sinusoidal"},
        {"norm_position": "post"},
        {"norm_position": "post", "bias": False, "tie_word_embeddings": False},
        {"norm_position": "post", "n_inner": 5, "activation_function": "tanh"},
        {"window_size": 3, "bias": False, "position_embedding": "sinusoidal"},
    ],
)
def test_a_saved_model_is_the_same(changes, tmp_path):
    model = model_of(dataclasses.replace(TINY, **changes))
    model.save_pretrained(tmp_path)
    again = GPT.from_pretrained(tmp_path)
    assert again.config == model.config and same(model, again)
    assert not again.training
    double = GPT.from_pretrained(tmp_path, dtype=np.float64)
    assert {p.dtype for p in double.parameters()} == {np.dtype(np.float64)}


def test_names_without_the_prefix_and_old_buffers(folder):
    def old(tensors):
        renamed = {name.removeprefix("transformer."): a for name, a in tensors.items()}
        for layer in range(2):
            renamed[f"h.{layer}.attn.bias"] = np.tri(8, dtype=np.float32)[None, None]
            renamed[f"h.{layer}.attn.masked_bias"] = np.float32([-1e4])
        return renamed

    rewrite(folder, old)
    assert same(GPT.from_pretrained(folder), model_of())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_precisions_become_float32(dtype, folder):
    path, expected = folder / "model.safetensors", model_of()
    header, tensors, data = {}, read_tensors(path)[0], b""
    for name, array in tensors.items():
        if dtype == "bfloat16":  # the upper half of a float32
            stored = (array.view(np.uint32) >> 16).astype(np.uint16)
            value = (stored.astype(np.uint32) << 16).view(np.float32)
        else:
            stored = array.astype(dtype)
            value = stored.astype(np.float32)
        kind = {"float16": "F16", "bfloat16": "BF16", "float64": "F64"}[dtype]
        offsets = [len(data), len(data) + stored.nbytes]
        header[name] = {"dtype": kind, "shape": list(stored.shape), "data_offsets": offsets}
        data += stored.tobytes()
        dict(expected.named_parameters())[name].data[...] = value
    write_raw(path, header, data)
    again = GPT.from_pretrained(folder)
    assert {p.dtype for p in again.parameters()} == {np.dtype(np.float32)}
    assert same(again, expected)


def write_raw(path, header, data):
    text = json.dumps(header).encode() if isinstance(header, dict) else header
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def shard(folder, n=3):
    tensors, _ = read_tensors(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    where = {}
    for i in range(n):
        file = f"model-{i + 1:05}-of-{n:05}.safetensors"
        part = {name: tensors[name] for name in list(tensors)[i::n]}
        write_tensors(folder / file, part, {})
        where |= dict.fromkeys(part, file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return index, where


def test_several_files_and_their_index(folder):
    shard(folder)
    assert same(GPT.from_pretrained(folder), model_of())


def test_one_file(folder):
    path = folder / "model.safetensors"
    assert same(GPT.from_pretrained(path), model_of())
    (folder / "config.json").unlink()
    assert same(GPT.from_pretrained(path, config=TINY), model_of())
    with pytest.raises(UserError, match="config.json does not exist"):
        GPT.from_pretrained(path)
    with pytest.raises(UserError, match="is no folder with a model .it has no config.json"):
        GPT.from_pretrained(folder)
    (folder / "text.txt").write_text("text")
    for name in (folder / "text.txt", folder / "none.safetensors", ""):
        with pytest.raises(UserError, match="is no folder with a model"):
            GPT.from_pretrained(name)


def test_a_head_that_is_stored_twice_or_alone(folder):
    table = "transformer.wte.weight"
    rewrite(folder, lambda tensors: tensors | {"lm_head.weight": tensors[table]})
    assert same(GPT.from_pretrained(folder), model_of())
    rewrite(folder, lambda tensors: {n: a for n, a in tensors.items() if n != table})
    assert same(GPT.from_pretrained(folder), model_of())


def test_other_names_and_orientations(folder):
    def foreign(tensors):
        return {
            name.replace("transformer.h.", "layers.").replace(".attn.c_attn.", ".qkv.")
            + ("_t" if ".attn.c_attn.weight" in name else ""): a.T
            if ".attn.c_attn.weight" in name
            else a
            for name, a in tensors.items()
        }

    rewrite(folder, foreign)
    mapping = {
        "transformer.h.*.attn.c_attn.weight": "layers.*.qkv.weight_t.T",
        "transformer.h.*.attn.c_attn.*": "layers.*.qkv.*",
        "transformer.h.*": "layers.*",
    }
    assert same(GPT.from_pretrained(folder, mapping=mapping), model_of())
    with pytest.raises(UserError, match="differ in their stars"):
        GPT.from_pretrained(folder, mapping={"transformer.h.*": "layers"})
    with pytest.raises(UserError, match="blocks.0.ln_1.weight, the mapping's name for"):
        GPT.from_pretrained(folder, mapping={"transformer.h.*": "blocks.*"})


def test_names_on_the_hub(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # the extra is not installed
    for name in ("gpt2", "somebody/model"):
        with pytest.raises(UserError, match=r"is no folder.*pip install 'npgpt\[hub\]'"):
            find_model(name)
    for path in ("./gpt2", f"{tmp_path}/nothing", "a/b/c", "a\0b", f"{tmp_path.name} x"):
        with pytest.raises(UserError, match="is no folder") as raised:
            find_model(path)
        assert "Hugging Face" not in str(raised.value)


def test_the_hubs_cache_without_a_network(tmp_path, oracle):  # which brings huggingface_hub
    cache = tmp_path / "models--somebody--model"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("abc123")
    model_of().save_pretrained(cache / "snapshots" / "abc123")
    code = """
import npgpt
print(npgpt.GPT.from_pretrained("somebody/model").n_parameters())
try:
    npgpt.GPT.from_pretrained("somebody/other")
except npgpt.UserError as error:
    print(error)
"""
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    loaded, message = result.stdout.splitlines()
    assert int(loaded) == model_of().n_parameters()
    assert message.startswith("somebody/other is no folder with a model")
    assert "hub nor its cache on this machine" in message and len(message) < 180


# ---- OpenAI's release of GPT-1


def release(folder, model, n_shards=10):
    """Write a model as OpenAI published GPT-1."""
    state = model.state_dict()
    names = ["wpe.weight", "wte.weight"]
    for layer in range(model.config.n_layer):
        for part in ("attn.c_attn attn.c_proj ln_1 mlp.c_fc mlp.c_proj ln_2").split():
            names += [f"h.{layer}.{part}.weight", f"h.{layer}.{part}.bias"]
    arrays = [state[f"transformer.{name}"] for name in names]
    shapes = [
        list(a.shape) if a.ndim == 1 or i < 2 else [1, *a.shape] for i, a in enumerate(arrays)
    ]
    (folder / "params_shapes.json").write_text(json.dumps(shapes))
    row = np.concatenate([a.ravel() for a in arrays])
    for i, part in enumerate(np.array_split(row, n_shards)):
        np.save(folder / f"params_{i}.npy", part)


GPT1 = dataclasses.replace(TINY, norm_position="post")


@pytest.mark.parametrize("n_shards", [1, 10, 12])
def test_openais_gpt1(n_shards, tmp_path):
    model = model_of(GPT1)
    release(tmp_path, model, n_shards)
    again = GPT.from_pretrained(tmp_path)
    assert again.config == GPT1
    assert same(again, model)
    assert all(p.numpy().flags.aligned for p in again.parameters())
    two_heads = GPT.from_pretrained(tmp_path, config=dataclasses.replace(GPT1, n_head=2))
    assert not same(two_heads, model)


def test_the_published_shapes_are_the_presets(shared, tmp_path):
    from npgpt.module import unallocated
    from npgpt.weights.release import release_config, release_shapes

    shutil.copy(shared / "tokenizers" / "gpt1" / "params_shapes.json", tmp_path)
    assert release_config(tmp_path) == GPTConfig.preset("gpt1")
    with unallocated():
        GPT(GPTConfig.preset("gpt1")).check_shapes(release_shapes(tmp_path))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "params_3.npy").unlink(), "lacks some of its shards"),
        (lambda f: (f / "params_9.npy").unlink(), "hold .* numbers, and its shapes"),
        (lambda f: cut(f / "params_2.npy"), "params_2.npy is damaged: it is cut short"),
        (lambda f: (f / "params_2.npy").write_bytes(b"nothing"), "params_2.npy is damaged"),
        (lambda f: np.save(f / "params_2.npy", np.arange(9)), "params_2.npy is damaged.*int64"),
        (lambda f: np.save(f / "params_2.npy", np.array([{}]), allow_pickle=True), "damaged"),
        (lambda f: (f / "params_shapes.json").write_text("[[1, 2]"), "shapes.json is damaged"),
        (
            lambda f: (f / "params_shapes.json").write_text("[[1], [-2]]"),
            r"\[1\]\[0\] is -2; it must not be",
        ),
        (lambda f: (f / "params_shapes.json").write_text("[" * 10**5), "shapes.json is damaged"),
        (lambda f: (f / "params_shapes.json").write_text("[[8, 64]]"), "has 1 shapes"),
        (lambda f: swap_shapes(f / "params_shapes.json"), r"wpe.weight has shape|fit"),
    ],
)
def test_a_damaged_release(damage, message, tmp_path):
    release(tmp_path, model_of(GPT1))
    damage(tmp_path)
    with pytest.raises(UserError, match=message):
        GPT.from_pretrained(tmp_path)


def swap_shapes(path):
    shapes = json.loads(path.read_text())
    shapes[3], shapes[4] = shapes[4], shapes[3]
    path.write_text(json.dumps(shapes))


# ---- real trained weights


def test_a_trained_sorter(shared):
    """It sorts each of the 729 inputs, and computes what was published on the way."""
    path = shared / "weights" / "gpt-nano-sort"
    config = GPTConfig(
        vocab_size=3, n_positions=11, n_embd=48, n_layer=3, n_head=3, tie_word_embeddings=False
    )
    model = GPT.from_pretrained(path / "gpt-nano-sort.safetensors", config=config, mapping=MINGPT)
    assert model.n_parameters() == 85_728
    expected, _ = read_tensors(path / "gpt-nano-sort-partials.safetensors")
    with no_grad():
        ids = expected.pop("idx").astype(int)
        block, T = model.transformer.h[0], ids.shape[1]
        inside = model.activations(ids)
        x = model.transformer.wte(ids)
        found = {"tok_emb": x, "pos_emb": model.transformer.wpe(np.arange(T))[None]}
        found["x"] = x = x + found["pos_emb"]
        found["ln1"] = block.ln_1(x)
        found["qkv"] = block.attn.c_attn(found["ln1"])
        found["q"], found["k"], found["v"] = block.attn.heads(found["ln1"])
        found["att"] = found["q"] @ found["k"].mT / 4.0
        found["attSm"] = inside.attentions[0]
        y = found["attSm"] @ found["v"]
        found["y"] = y.swapaxes(1, 2).reshape(*x.shape)
        found["yProj"] = block.attn.c_proj(found["y"])
        found["attnResid"] = x = x + found["yProj"]
        found["ln2"] = block.ln_2(x)
        found["fc"] = block.mlp.c_fc(found["ln2"])
        found["gelu"] = nn.gelu(found["fc"], approximate="tanh")
        found["mlp"] = block.mlp.c_proj(found["gelu"])
        found["mlpResid"] = x + found["mlp"]
        for layer in range(2):
            found[f"block{layer}"] = inside.hidden_states[layer + 1]
        found["block2"] = model.transformer.h[2](found["block1"])
        found["ln_f"] = inside.hidden_states[-1]
        found["lm_head"] = model(ids)[0]
        found["probs"] = nn.softmax(found["lm_head"])
        assert expected.keys() == found.keys()
        for name, array in expected.items():
            visible = np.isfinite(array)  # the published scores hide later positions
            difference = np.abs(np.where(visible, found[name].numpy() - array, 0))
            assert difference.max() <= 1e-5, name

        ids = np.array(list(itertools.product(range(3), repeat=6)))
        for _ in range(6):
            ids = np.hstack([ids, model(ids)[0].numpy()[:, -1:].argmax(-1)])
    assert (ids[:, 6:] == np.sort(ids[:, :6])).all() and len(ids) == 729


def test_a_trained_writer(shared):
    """Its published negative log-likelihood, over its corpus and late in the context."""
    path = shared / "weights" / "slm4096"
    values = json.loads((path / "slm4096.json").read_text())
    config = GPTConfig.from_dict(values["config"] | {"activation_function": "gelu"})
    config = dataclasses.replace(config, n_positions=values["config"]["block_size"])
    model = GPT.from_pretrained(path / "slm4096.safetensors", config=config, mapping=MINGPT)
    assert model.n_parameters() == 211_712
    text = (path / "corpus.txt").read_text()
    ids = np.searchsorted(values["chars"], list(text))
    assert whole_loss(model, ids) == pytest.approx(0.0709, abs=2e-4)
    windows = ids[: 31 * 128 + 1]
    x, y = windows[:-1].reshape(31, 128), windows[1:].reshape(31, 128).copy()
    y[:, :16] = -100
    with no_grad():
        assert model(x, y)[1].item() == pytest.approx(0.0022, abs=1e-4)


def test_a_table_of_names_serves_reading_and_writing(tmp_path, monkeypatch):
    """Of a registered architecture: names with stars, a matrix that files have transposed."""

    class OtherConfig(GPTConfig):
        model_type = "other"

    class Other(GPT):
        pass

    names = {
        "transformer.h.*.attn.c_attn.weight": "model.layers.*.qkv.weight.T",
        "transformer.wte.*": "model.tokens.*",
    }
    monkeypatch.setitem(ARCHITECTURES, "other", Architecture(OtherConfig, Other, names))
    config = OtherConfig(vocab_size=11, n_positions=8, n_embd=12, n_layer=2, n_head=2)
    model = Other(config, seed=3).eval()
    model.save_pretrained(tmp_path)
    tensors = open_safetensors(tmp_path / "model.safetensors")
    assert tensors["model.layers.1.qkv.weight"].shape == (36, 12)
    assert "model.tokens.weight" in tensors and "transformer.wpe.weight" in tensors
    again = GPT.from_pretrained(tmp_path)
    assert type(again) is Other and type(again.config) is OtherConfig and same(again, model)
    rewrite(tmp_path, lambda t: {name.removeprefix("model."): x for name, x in t.items()})
    assert same(GPT.from_pretrained(tmp_path), model)  # as of a model without its head


# ---- damaged and hostile files


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        (b"", b"", ""),
        (b"{", b"", ""),
        (b"[]", b"", "no JSON object"),
        (b"\xff\xfe{}", b"", ""),
        (b"[" * 100_000, b"", ""),
        (b'{"a": ' + b"9" * 5000 + b"}", b"", ""),
        ({"a": 3}, b"", "unknown type None"),
        ({"a\n\x1b[2J": 3}, b"", r"of the name 'a.n.x1b\[2J'"),
        ({"a" * 10**6: 3}, b"", "of the name 'a{16}...a{17}'$"),
        ({"a": entry("F" * 10**6)}, b"0123", "unknown type 'F{16}...F{17}'$"),
        ({"a": entry(shape=[1] * 10**5)}, b"0123", "no valid shape"),
        ({"a": entry("F33")}, b"0123", "unknown type 'F33'"),
        ({"a": entry(["F32"])}, b"0123", "unknown type"),
        ({"a": entry(shape=(-1,))}, b"0123", "no valid shape"),
        ({"a": entry(shape=(True,))}, b"0123", "no valid shape"),
        ({"a": entry(shape=(1.0,))}, b"0123", "no valid shape"),
        ({"a": entry(shape=(2,))}, b"0123", "are not those of F32"),
        ({"a": entry(shape=(2**62, 2**62, 2**62))}, b"0123", "are not those of F32"),
        ({"a": entry(offsets=(4, 0))}, b"0123", "are not those of F32"),
        ({"a": entry(offsets=(0, 4, 8))}, b"0123", "no valid shape"),
        ({"a": entry(offsets=(4, 8))}, b"01234567", "does not begin where"),
        ({"a": entry(), "b": entry()}, b"0123", "does not begin where"),
        ({"b": entry(), "a": entry(shape=(0,), offsets=(0, 0))}, b"012", "need .* bytes"),
        ({"a": entry()}, b"01234", "need .* bytes"),
    ],
)  # fmt: skip
def test_hostile_headers(header, data, message, folder):
    write_raw(folder / "model.safetensors", header, data)
    with pytest.raises(UserError, match=f"model.safetensors is damaged.*{message}"):
        GPT.from_pretrained(folder)


def test_hostile_lengths(folder):
    for content in (
        b"",
        b"\0" * 7,
        b"\xff" * 8,
        b"\xff" * 7 + b"\x7f{}",
        (10**8 + 1).to_bytes(8, "little"),
    ):
        (folder / "model.safetensors").write_bytes(content)
        with pytest.raises(UserError, match="model.safetensors is damaged"):
            GPT.from_pretrained(folder)


@pytest.fixture(scope="module", params=["folder", "shards", "release"])
def whole(request, tmp_path_factory):
    """The files of a model, by name."""
    folder = tmp_path_factory.mktemp("whole")
    model = model_of(dataclasses.replace(GPT1, vocab_size=3, n_positions=2, n_layer=1))
    if request.param == "release":
        release(folder, model, 2)
    else:
        model.save_pretrained(folder)
    if request.param == "shards":
        shard(folder, 2)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@given(data=st.data())
def test_any_damage_is_one_message_or_none(data, whole, tmp_path_factory):
    """Bytes cut off, changed and put in, in any file: mostly where it says what it holds."""
    name = data.draw(st.sampled_from(sorted(whole)))
    damaged = bytearray(whole[name])
    header = 8 + int.from_bytes(damaged[:8], "little") if "safetensors" in name else 128
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, min(len(damaged), header) - 1))
        how = data.draw(st.sampled_from(["cut", "change", "insert", "remove"]))
        if how == "cut":
            del damaged[max(at, 1) :]
        elif how == "change":
            damaged[at] = data.draw(st.sampled_from(list(b"0123456789-eE.[](){}\":,'x\0\xff")))
        elif how == "insert":
            damaged[at:at] = data.draw(st.binary(max_size=3))
        else:
            del damaged[at : min(at + data.draw(st.integers(1, 9)), len(damaged) - 1)]
    folder = tmp_path_factory.mktemp("damaged")
    for other, content in whole.items():
        (folder / other).write_bytes(damaged if other == name else content)
    try:
        model = GPT.from_pretrained(folder)
    except UserError as error:
        assert len(str(error)) < 1000 and "\n" not in str(error)
    else:
        model(np.zeros((1, 1), int))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("transformer.h.1.mlp.c_fc.bias"), "h.1.mlp.c_fc.bias is missing"),
        (lambda t: t.update({"transformer.h.2.ln_1.bias": np.ones(64, np.float32)}),
         "h.2.ln_1.bias is not part of the model"),
        (lambda t: t.update(classifier=np.ones(2, np.float32)), "classifier is not part"),
        (lambda t: t.update({"transformer.wpe.weight": np.ones((64, 8), np.float32)}),
         r"wpe.weight has shape \[64, 8\], expected \[8, 64\]"),
        (lambda t: t.update({"transformer.wpe.weight": np.ones((8, 64), np.int32)}),
         "wpe.weight has type I32"),
        (lambda t: t.update({"wpe.weight": np.ones((8, 64), np.float32)}), "there twice"),
        (lambda t: t.update({"lm_head.weight": np.ones((11, 64), np.float32)}),
         "lm_head.weight is not the token embedding"),
        (lambda t: [t.pop(name) for name in list(t) if "wte" not in name], "is missing"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit(change, message, folder):
    def changed(tensors):
        change(tensors)
        return tensors

    rewrite(folder, changed)
    with pytest.raises(UserError, match=message) as raised:
        GPT.from_pretrained(folder)
    assert "model.safetensors" in str(raised.value)


def test_biases_of_a_model_without(tmp_path):
    model_of(dataclasses.replace(TINY, bias=False)).save_pretrained(tmp_path)

    def changed(tensors):
        tensors["transformer.ln_f.bias"][3] = 1e-3

    rewrite(tmp_path, changed)
    with pytest.raises(UserError, match="transformer.ln_f.bias is not what the configuration"):
        GPT.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "t5"}, "of a 't5' model"),
        ({"model_type": ["gpt2"]}, "of a .* model"),
        ({"n_layer": 10**6}, "too few for the 1000000 layers"),
        ({"n_layer": 10**9}, "n_layer is too large"),
        ({"n_embd": 10**30}, "n_embd is too large"),
        ({"n_embd": 10**400}, "n_embd is too large"),
        (
            {"n_embd": 2**28, "n_inner": 2**28, "vocab_size": 2**28},
            "expected .268435456, 268435456",
        ),
        ({"n_head": 0}, "n_head is 0"),
        ({"n_layer": "two"}, "n_layer must be a whole number"),
        ({"layer_norm_epsilon": 10**400}, "layer_norm_epsilon is too large"),
        ({"add_cross_attention": True}, "cross-attention"),
        ({"activation_function": "quick_gelu"}, "and is 'quick_gelu'"),
    ],
)
def test_configurations_that_do_not_fit(values, message, folder):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    with pytest.raises(UserError, match=message):
        GPT.from_pretrained(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f, i, w: (f / w["transformer.wte.weight"]).unlink(), "does not exist"),
        (lambda f, i, w: cut(f / w["transformer.wte.weight"]), "is damaged"),
        (lambda f, i, w: i.write_text("{}"), "lacks the key 'weight_map'"),
        (lambda f, i, w: i.write_text('{"weight_map": {"a": 3}}'), "must be a string, and is 3"),
        (lambda f, i, w: write_map(i, w | {"x": "../x.safetensors"}), "not a file beside it"),
        (lambda f, i, w: write_map(i, w | {"x": "/etc/passwd"}), "not a file beside it"),
        (lambda f, i, w: write_map(i, w | {"x": w["transformer.wte.weight"]}), "does not hold x"),
        (lambda f, i, w: write_map(i, {n: x for n, x in w.items() if "wpe" not in n}),
         "holds transformer.wpe.weight, which .* does not say"),
    ],
)  # fmt: skip
def test_a_damaged_index(damage, message, folder):
    index, where = shard(folder)
    damage(folder, index, where)
    with pytest.raises(UserError, match=message):
        GPT.from_pretrained(folder)


def write_map(index, where):
    index.write_text(json.dumps({"weight_map": where}))


def test_a_pickle_is_not_opened(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="a pickle"):
        GPT.from_pretrained(folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(UserError, match="model.safetensors does not exist"):
        GPT.from_pretrained(folder)


# ---- memory


def test_weights_are_mapped_and_changes_stay_here(folder):
    before = (folder / "model.safetensors").read_bytes()
    model = GPT.from_pretrained(folder)
    for parameter in model.parameters():
        parameter.data[...] = 7
    model.save_pretrained(folder / "copy")
    assert (folder / "model.safetensors").read_bytes() == before
    model.save_pretrained(folder)  # over the very file that is mapped
    assert set(np.unique(GPT.from_pretrained(folder).parameters()[0].numpy())) == {7}
    for tensor in open_safetensors(folder / "model.safetensors").values():
        assert tensor.read(np.float32).base is not None


@pytest.mark.parametrize("layout", ["folder", "release"])
def test_a_loaded_model_trains(layout, tmp_path):
    model = model_of(GPT1)
    model.save_pretrained(tmp_path) if layout == "folder" else release(tmp_path, model)
    trained = []
    for start in (model, GPT.from_pretrained(tmp_path)):
        optimizer = AdamW(start.named_parameters())
        for _ in range(2):
            start(IDS, (IDS + 1) % 11)[1].backward()
            optimizer.step(1e-2)
            optimizer.zero_grad()
        trained.append(start.state_dict())
    assert all(np.array_equal(trained[0][name], trained[1][name]) for name in trained[0])
    assert not np.array_equal(
        trained[0]["transformer.wte.weight"], model_of(GPT1).parameters()[0].numpy()
    )


MEASURE = """
import sys, time, resource, numpy as np
from npgpt import GPT
from npgpt.weights.names import MINGPT
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
np.ones((64, 64)) @ np.ones((64, 64))
before, start = peak(), time.monotonic()
model = GPT.from_pretrained(sys.argv[1], mapping=MINGPT if "transposed" in sys.argv else None)
seconds = time.monotonic() - start
for p in model.parameters():
    p.numpy().sum()
print((peak() - before) / sum(4 * p.size for p in model.parameters()), seconds)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measures as Linux does")
@pytest.mark.parametrize("layout", ["float32", "bfloat16", "transposed", "release"])
def test_loading_takes_the_memory_of_the_weights(layout, tmp_path):
    config = dataclasses.replace(TINY, n_embd=512, vocab_size=20000, n_layer=8, n_head=8)
    if layout == "release":
        release(tmp_path, GPT(dataclasses.replace(config, norm_position="post")))
    else:
        model = GPT(config)
        model.save_pretrained(tmp_path)
        if layout == "transposed":
            rewrite(tmp_path, lambda t: {n: a.T if ".c_" in n else a for n, a in t.items()})
        if layout == "bfloat16":
            header, data = {}, []
            for name, p in model.named_parameters():
                start = sum(map(len, data))
                data.append((p.numpy().view(np.uint32) >> 16).astype(np.uint16).tobytes())
                header[name] = entry("BF16", p.shape, (start, start + len(data[-1])))
            write_raw(tmp_path / "model.safetensors", header, b"".join(data))
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path), layout], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    share, _ = map(float, result.stdout.split())
    assert share < 1.2


# ---- export


def test_export_refuses_before_it_writes(tmp_path, capsys):
    from npgpt.cli import main
    from npgpt.tokenizers import ByteTokenizer, CharTokenizer, save_tokenizer

    sizes = dict(vocab_size=256, n_positions=8, n_embd=16, n_layer=2, n_head=2)
    run, out = tmp_path / "run", tmp_path / "out"
    GPT(GPTConfig(**sizes)).save_pretrained(run)
    save_tokenizer(CharTokenizer("".join(map(chr, range(300)))), run)
    assert main(["export", str(run), str(out)]) == 2
    assert (
        "a tokenizer of 300 tokens, and its model has a vocabulary of only 256"
        in capsys.readouterr().err
    )
    save_tokenizer(ByteTokenizer(), run)
    assert main(["export", str(run), str(run)]) == 2
    assert "export to an empty or a new folder" in capsys.readouterr().err
    assert main(["export", str(run)]) == 2 and "two folders" in capsys.readouterr().err
    assert not out.exists()
    assert main(["export", str(run), str(out)]) == 0
    names = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert sorted(path.name for path in out.iterdir()) == names
    GPT(GPTConfig(**sizes, window_size=2)).save_pretrained(run)
    assert main(["export", str(run), str(tmp_path / "other")]) == 2
    assert "transformers has no model" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
