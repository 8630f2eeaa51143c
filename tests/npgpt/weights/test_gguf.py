"""GGUF files: blocks, metadata, configuration and tokenizer, and what is wrong with a file."""

import struct

import numpy as np
import pytest
from helpers import cut, draw_gguf, gguf_llama, gguf_vocabulary, write_gguf
from hypothesis import given
from hypothesis import strategies as st

from npgpt import UserError, load_tokenizer
from npgpt.tokenizers import save_tokenizer
from npgpt.weights.gguf import QUANTIZED, SplitHeads, open_gguf
from npgpt.weights.gguf_model import find_llama3, read_config

KINDS = ["F32", "F16", "BF16", *QUANTIZED]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tiny.gguf"


def write(path, **changes):
    """Write a small Llama, and return its metadata and tensors."""
    metadata, tensors = gguf_llama(**changes)
    write_gguf(path, metadata, tensors)
    return metadata, tensors


# ---- blocks


def decode_slowly(kind, block):
    """Return the values of one block, number by number."""
    d = float(block["d"])
    q = [int(n) for n in block["q"]]
    if kind == "Q8_0":
        return [d * n for n in q]
    q = [n % 16 for n in q] + [n // 16 for n in q]
    return [d * n + float(block["m"]) if kind == "Q4_1" else d * (n - 8) for n in q]


@pytest.mark.parametrize("kind", QUANTIZED)
@given(shape=st.tuples(st.integers(1, 4), st.integers(1, 3)), seed=st.integers(0, 99))
def test_blocks_become_values(kind, shape, seed, tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "a.gguf"
    blocks = draw_gguf(kind, (shape[0], 32 * shape[1]), np.random.default_rng(seed))
    write_gguf(path, {}, {"before": ("F32", np.ones(3, np.float32)), "w": (kind, blocks)})
    packed = open_gguf(path).tensors["w"]
    assert packed.blocks().tobytes() == blocks.tobytes() and packed.blocks().shape == shape
    expected = [[x for block in row for x in decode_slowly(kind, block)] for row in blocks]
    values = packed.read(np.float64)
    assert values.dtype == np.float64
    np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-7)
    single = packed.read(np.float32, transposed=True)
    assert single.flags.c_contiguous and np.array_equal(single, values.T.astype(np.float32))


def test_plain_types(path):
    rng = np.random.default_rng(0)
    tensors = {kind: (kind, draw_gguf(kind, (3, 5), rng)) for kind in ("F32", "F16", "BF16")}
    write_gguf(path, {}, tensors, version=2, alignment=32)
    found = {name: stored.read(np.float32) for name, stored in open_gguf(path).tensors.items()}
    for kind, (_, array) in tensors.items():
        wide = (array.astype(np.uint32) << 16).view(np.float32) if kind == "BF16" else array
        assert np.array_equal(found[kind], wide.astype(np.float32))
    found["F32"][...] = 0  # a private map
    assert open_gguf(path).tensors["F32"].read(np.float32).any()


def test_metadata_of_every_type(path):
    write_gguf(path, {}, {})
    numbers = [(0, "B", 200), (1, "b", -3), (2, "H", 6**5), (3, "h", -300), (4, "I", 2**31),
               (5, "i", -(2**20)), (6, "f", 0.5), (7, "?", True), (10, "Q", 2**63),
               (11, "q", -(2**40)), (12, "d", 1e-300)]  # fmt: skip
    entries = [(kind, form, value) for kind, form, value in numbers]
    content = struct.pack("<4sIQQ", b"GGUF", 3, 0, 2 * len(entries))
    for kind, form, value in entries:
        for n in (None, 3):
            key = f"{form}{n}".encode()
            content += struct.pack("<Q", len(key)) + key
            content += struct.pack("<I", kind if n is None else 9)
            content += b"" if n is None else struct.pack("<IQ", kind, n)
            content += struct.pack(f"<{n or 1}{form}", *[value] * (n or 1))
    path.write_bytes(content)
    metadata = open_gguf(path).metadata
    for _, form, value in entries:
        assert metadata[f"{form}None"] == value and type(metadata[f"{form}None"]) is type(value)
        assert metadata[f"{form}3"].tolist() == [value] * 3


@given(n_head=st.integers(1, 4), pairs=st.integers(1, 4), bias=st.booleans(), turn=st.booleans())
def test_rows_of_queries_and_keys(n_head, pairs, bias, turn):
    """The two halves of a head, whose rows llama.cpp's converter mixes, come back."""
    rows = np.arange(n_head * 2 * pairs * 3, dtype=np.float32).reshape(-1, 3)
    rows = rows[:, 0] if bias else rows
    stored = [
        row
        for head in np.split(rows, n_head)
        for pair in zip(head[:pairs], head[pairs:], strict=True)
        for row in pair
    ]

    class Rows:
        shape = rows.shape

        def read(self, dtype, transposed=False):
            return np.array(stored, dtype)

    found = SplitHeads(Rows(), n_head).read(np.float32, transposed=turn)
    assert np.array_equal(found, rows.T if turn else rows)


# ---- the model


def test_the_configuration(path):
    write(path)
    assert read_config(open_gguf(path)) == {
        "model_type": "llama", "vocab_size": 259, "max_position_embeddings": 32, "hidden_size": 64,
        "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "hidden_act": "silu", "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "tie_word_embeddings": True, "attention_bias": False,
        "mlp_bias": False,
    }  # fmt: skip
    more = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 8}  # fmt: skip
    write(path, **more)
    assert read_config(open_gguf(path))["rope_scaling"] == {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8,
    }  # fmt: skip
    for name in ("rope.scaling.factor", "rope.scale_linear"):  # without a type: linear
        write(path, **{name: 4.0})
        found = read_config(open_gguf(path))["rope_scaling"]
        assert found["rope_type"] == "linear" and found["factor"] == 4.0


def test_llama3s_frequencies():
    """Its factor is found again from the table that the file has in place of the factor."""

    class Table:
        def __init__(self, factor, low=1.0):
            wavelengths = 2 * np.pi * 500000.0 ** (np.arange(0, 64, 2) / 64)
            s = (8192 / wavelengths - low) / (4 - low)
            between = 1 / ((1 - s) / factor + s)
            values = np.where(wavelengths < 8192 / 4, 1, between)
            self.values = np.where(wavelengths > 8192 / low, factor, values).astype(np.float32)

        def read(self, dtype):
            return self.values.astype(dtype)

    found = find_llama3(Table(32.0), 500000.0, 64)
    assert found["rope_type"] == "llama3" and found["factor"] == 32.0
    for table, theta, size in ((Table(8.0, 2.0), 5e5, 64), (Table(8.0), 1e4, 64),
                               (Table(8.0), 5e5, 32)):  # fmt: skip
        with pytest.raises(UserError, match="are not those of Llama 3"):
            find_llama3(table, theta, size)


# ---- the tokenizer


TEXTS = ["", "the then 123 other", "a\x04b the\x04the th\x04e", "12ab  \n\n x", "\U00040000é"]


@pytest.mark.parametrize("text", TEXTS)
def test_a_tokenizer(text, path, tmp_path):
    write(path)
    tokenizer = load_tokenizer(path)
    assert tokenizer.name == "tiny" and tokenizer.special_tokens == {"<|end|>": 0}
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    with pytest.raises(UserError, match="spells the special token"):
        tokenizer.encode("<|end|>")
    assert tokenizer.encode("<|end|>", allowed_special="all").tolist() == [0]
    save_tokenizer(tokenizer, tmp_path)
    assert np.array_equal(load_tokenizer(tmp_path).encode(text), ids)


@pytest.mark.parametrize("text", TEXTS)
def test_bytes_that_are_no_tokens_are_left_out(text, path, tmp_path):
    metadata, tensors = gguf_llama()
    tokens = metadata["tokenizer.ggml.tokens"]
    lacking = [token for token in tokens if token in "\u0104ñ"]  # of the bytes 0x04 and 0xf1
    kept = [token for token in tokens if token not in lacking]
    metadata |= gguf_vocabulary(tokens=kept, token_type=[3] + [1] * (len(kept) - 1))
    tensors["token_embd.weight"] = "F32", np.zeros((len(kept), 64), np.float32)
    write_gguf(path, metadata, tensors)
    tokenizer = load_tokenizer(path)
    assert len(tokenizer.lacks) == 2
    ids = tokenizer.encode(text)
    expected = text.encode().translate(None, tokenizer.lacks)
    assert tokenizer.decode(ids) == expected.decode(errors="replace")
    assert b"".join(x for piece in tokenizer.pieces(text) for x in piece) == expected
    save_tokenizer(tokenizer, tmp_path)
    assert np.array_equal(load_tokenizer(tmp_path).encode(text), ids)


def test_tokens_before_and_after_a_text(path):
    metadata, tensors = gguf_llama()
    metadata |= {f"tokenizer.ggml.add_{name}_token": True for name in ("bos", "eos")}
    metadata |= {"tokenizer.ggml.bos_token_id": 9, "tokenizer.chat_template": "{{ bos_token }}"}
    write_gguf(path, metadata, tensors)
    tokenizer = load_tokenizer(path)
    assert tokenizer.special_tokens_map == {"bos_token": ")", "eos_token": "<|end|>"}
    message = {"role": "user", "content": "Hi!"}
    assert tokenizer.apply_chat_template([message], tokenize=False) == ")"
    metadata["tokenizer.chat_template"] = 3
    write_gguf(path, metadata, tensors)
    with pytest.raises(UserError, match="tokenizer.chat_template must be"):
        load_tokenizer(path)
    metadata["tokenizer.chat_template"] = ""
    write_gguf(path, metadata, tensors)
    assert load_tokenizer(path).encode("the").tolist() == [9, 258, 0]


# ---- what is wrong with a file


WRONG_TOKENIZER = [
    ({"model": "llama"}, "its tokenizer is of the kind 'llama'; known here is gpt2"),
    ({"pre": "deepseek-llm"}, "cuts a text by 'deepseek-llm' .*known here are gpt-2, smollm"),
    ({"pre": 3}, "tokenizer.ggml.pre must be"),
    ({"tokens": ["a", "a"]}, "2 tokens, 1 of them different"),
    ({"tokens": [1, 2]}, "tokenizer.ggml.tokens must be a list"),
    ({"token_type": [1]}, "types of 1; expected the same"),
    ({"token_type": ["a"]}, "tokenizer.ggml.token_type must be"),
    ({"merges": ["t h e"]}, "expected two tokens"),
    ({"merges": ["x y"]}, "lacks the token 'xy'"),
    ({"merges": ["th e", "t h"]}, "are not those that follow from the ids"),
    ({"add_bos_token": True}, "its metadata lack tokenizer.ggml.bos_token_id"),
    ({"bos_token_id": 259}, "bos_token_id is 259, and it has 259 tokens"),
    ({"add_eos_token": True, "eos_token_id": -1.0}, "eos_token_id must be a whole number"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG_TOKENIZER)
def test_wrong_tokenizers(changes, message, path):
    metadata, tensors = gguf_llama()
    write_gguf(path, metadata | gguf_vocabulary(**changes), tensors)
    with pytest.raises(UserError, match=message) as raised:
        load_tokenizer(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_too_many_added_tokens(path):
    """A search for all of them would need gigabytes."""
    metadata, tensors = gguf_llama(n_layer=1)
    n = 2**16
    metadata["tokenizer.ggml.tokens"] += [f"<|{i}|>" for i in range(n)]
    metadata["tokenizer.ggml.token_type"] += [3] * n
    write_gguf(path, metadata, tensors)
    with pytest.raises(UserError, match="there are 65,537 added tokens; at most 65,536"):
        load_tokenizer(path)


def patched(content, place, form, value):
    return content[:place] + struct.pack(form, value) + content[place + struct.calcsize(form) :]


def entry(key, content):
    """Return a file with one entry of metadata, whose bytes are given."""
    key = key.encode()
    return struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, len(key)) + key + content


def tensor(axes=(2,), kind=0, offset=0, n=1, name=b"w", size=64):
    one = struct.pack("<Q", len(name)) + name + struct.pack(f"<I{len(axes)}Q", len(axes), *axes)
    one += struct.pack("<IQ", kind, offset)
    head = struct.pack("<4sIQQ", b"GGUF", 3, n, 0) + one * n
    return head + bytes(-len(head) % 32) + bytes(size)


NESTED = b"".join(struct.pack("<IQ", 9, 1) for _ in range(10**5))
BROKEN = {
    "empty": (b"", "does not begin with GGUF"),
    "another file": (b'{"a": 1}' * 9, "does not begin with GGUF"),
    "only the name": (b"GGUF\3\0\0\0", "cut short"),
    "version 1": (patched(tensor(), 4, "<I", 1), "of version 1; expected version 2 or 3"),
    "big-endian": (patched(tensor(), 4, ">I", 3), "big-endian"),
    "tensors": (patched(tensor(), 8, "<Q", 2**63), "at most 16,384"),
    "entries": (patched(tensor(), 16, "<Q", 2**15), "at most 16,384"),
    "a long text": (entry("a", struct.pack("<IQ", 8, 2**63)), "cut short"),
    "a long list of texts": (entry("a", struct.pack("<IIQ", 9, 8, 2**60)), "cut short"),
    "a long array": (entry("a", struct.pack("<IIQ", 9, 12, 2**62)), "cut short"),
    "nested arrays": (entry("a", struct.pack("<I", 9) + NESTED), "is an array again"),
    "an unknown type": (entry("a", struct.pack("<I", 13)), "unknown type 13"),
    "an unknown element": (entry("a", struct.pack("<IIQ", 9, 77, 1)), "unknown type 77"),
    "no UTF-8": (entry("a", struct.pack("<IQ", 8, 1) + b"\xff"), "utf-8"),
    "an alignment of 0": (entry("general.alignment", struct.pack("<II", 4, 0)), "alignment is 0"),
    "an alignment": (entry("general.alignment", struct.pack("<IIQ", 9, 4, 0)), "alignment is"),
    "a key that is none": (entry("a\x1b[2J", struct.pack("<II", 4, 0)), "or it is no key"),
    "many axes": (tensor(axes=[1] * 5), "w has 5 axes"),
    "a shape": (tensor(axes=[2**40, 2**40]), "cut short"),
    "a type": (tensor(kind=12), "w has the type Q4_K; known here are F32, F16, BF16, Q4_0"),
    "no type": (tensor(kind=99), "w has the type number 99"),
    "rows": (tensor(axes=[48, 2], kind=3), "no whole number of blocks"),
    "no rows": (tensor(axes=[], kind=3), "no whole number of blocks"),
    "an offset outside": (tensor(offset=64), "cut short"),
    "a far offset": (tensor(offset=2**63), "cut short"),
    "an offset between": (tensor(offset=4), "no multiple of 32"),
    "overlapping": (tensor(n=2), "before the tensor in front of it ends"),
    "two of a name": (tensor(n=2, axes=[0]), "two tensors of the name w"),
    "no name": (tensor(name=b"\x1b[2J"), "no name"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_files(what, path):
    content, message = BROKEN[what]
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as raised:
        open_gguf(path)
    message = str(raised.value)
    assert message.startswith(f"{path} is damaged, or no GGUF file") and message.isprintable()


def test_a_long_header(path):
    """A header is read up to a bound, however large the file is."""
    n = 2**22
    content = entry("a", struct.pack("<IIQ", 9, 8, 2**40))
    with path.open("wb") as file:
        file.write(content)
        file.truncate(16 * n)
    with pytest.raises(UserError, match="header has more than 33,554,432 bytes"):
        open_gguf(path)


def test_files_that_are_cut_short(path):
    """Wherever a file ends, the message says so."""
    write(path, n_layer=1)
    content = path.read_bytes()
    header = content.index(b"blk.0.ffn_norm")
    for end in [*range(24, header, 97), header + 3, len(content) - 1]:
        path.write_bytes(content[:end])
        with pytest.raises(UserError, match="cut short"):
            open_gguf(path)
    path.write_bytes(content)
    cut(path, 1)
    with pytest.raises(UserError, match="cut short"):
        load_tokenizer(path)
