"""Tokenizers: text comes back, ranks are merges, published vectors, and nothing is downloaded."""

import ast
import io
import itertools
import json
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from helpers import npgpt
from hypothesis import given
from hypothesis import strategies as st

from npgpt import UserError
from npgpt.generation import TextStreamer
from npgpt.tokenizers import (
    AddedToken,
    BPETokenizer,
    ByteTokenizer,
    CharTokenizer,
    GPT1Tokenizer,
    GPT2Tokenizer,
    load_tokenizer,
    make_tokenizer,
    save_tokenizer,
    train_bpe,
    train_wordpiece,
    write_tiktoken,
)
from npgpt.tokenizers.bpe import (
    PATTERN,
    cut_by,
    find_merges,
    follow_from,
    format_ranks,
    merge,
    merge_steps,
)
from npgpt.tokenizers.gpt1 import words
from npgpt.tokenizers.huggingface import byte_letters, to_hugging_face
from npgpt.tokenizers.training import count_pieces, learn_merges

TEXT = (
    """\
The lower the slower, the newer the lowest; it's we'll, 3 cheers for 1234567 lowest wolves!
  Déjà vu?  naïve\tcafé\r\n\n今天天气很好，我们去公园。今天天气不好，
我们不去公园。😀😀👩‍👩‍👧 Привет, мир\n"""
    * 3
)
# unassigned characters differ between the Unicode versions of Python, regex and tiktoken
STRINGS = st.text(st.characters(exclude_categories=["Cs", "Cn"]))
WORDS = st.text("abc '1!\n天é") | STRINGS


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Our own folder, empty, and nothing of tiktoken's."""
    monkeypatch.setenv("NPGPT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "cache"))
    import requests

    def offline(*args, **kwargs):
        raise AssertionError("a download was tried")

    monkeypatch.setattr(requests, "get", offline)
    return tmp_path / "home" / "tokenizers"


@pytest.fixture
def files(shared):
    return shared / "tokenizers"


@pytest.fixture(scope="module")
def trained():
    return train_bpe(TEXT, 330)


def small_gpt1():
    merges = [("l", "o"), ("lo", "w</w>"), ("e", "r</w>"), ("lo", "w"), ("low", "er</w>")]
    letters = "abcdefghijklmnopqrstuvwxyz!,'天"
    tokens = ["<unk>", *letters, *(c + "</w>" for c in letters), *map("".join, merges)]
    return GPT1Tokenizer({token: i for i, token in enumerate(tokens)}, merges)


TOKENIZERS = {
    "char": lambda: CharTokenizer.from_text(TEXT),
    "byte": ByteTokenizer,
    "bpe": lambda: train_bpe(TEXT, 330),
    "gpt1": small_gpt1,
}


# ---- every tokenizer


@given(STRINGS)
def test_every_text_comes_back(trained, text):
    assert trained.decode(trained.encode(text)) == text
    assert trained.decode(trained.encode(text, allowed_special="all")) == text


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(data=st.data())
def test_a_stream_is_what_decode_returns(kind, data):
    """For any ids, also those that are no UTF-8: whole characters, and nothing is lost."""
    tokenizer = TOKENIZERS[kind]()
    ids = data.draw(st.lists(st.sampled_from(sorted(tokenizer.tokens))))
    for skip in (False, True):
        pieces = list(tokenizer.decode_stream(iter(ids), skip_special_tokens=skip))
        assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=skip)
        assert all(pieces)


def test_a_stream_waits_for_the_rest_of_a_character():
    ids = ByteTokenizer().encode("a天😀")
    assert list(ByteTokenizer().decode_stream(ids)) == ["a", "天", "😀"]
    assert list(ByteTokenizer().decode_stream(ids[:-1])) == ["a", "天", "\ufffd"]


def test_a_stream_comes_as_soon_as_it_can():
    def ids():
        yield from b"ab"
        raise AssertionError("asked for too much")

    stream = ByteTokenizer().decode_stream(ids())
    assert next(stream) == "a" and next(stream) == "b"


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("n", [1, 3])
def test_streaming_looks_at_each_token_once(kind, n):
    """So the time of a stream is in proportion to its length, also a few tokens at a time."""

    class Counted(dict):
        n = 0

        def __getitem__(self, i):
            Counted.n += 1
            return super().__getitem__(i)

    tokenizer = TOKENIZERS[kind]()
    tokenizer.tokens = Counted(tokenizer.tokens)
    ids, pieces = [*tokenizer.tokens][:60] * 5, []
    streamer = TextStreamer(tokenizer)
    streamer.on_finalized_text = lambda text, stream_end: pieces.append(text)
    for start in range(0, len(ids), n):
        streamer.put(np.array(ids[start : start + n]))
    streamer.end()
    assert Counted.n == len(ids)
    assert "".join(pieces) == tokenizer.decode(ids)


@pytest.mark.parametrize("ids", [[1.0], [[1, 2]], ["a"], [None], np.ones((1, 2), int)])
def test_ids_that_are_no_whole_numbers(ids):
    with pytest.raises(UserError, match="must be whole numbers"):
        ByteTokenizer().decode(ids)


@pytest.mark.parametrize("kind", ["char", "byte", "bpe"])
@pytest.mark.parametrize("text", ["", "\0", "\r\n", "\n\r\n\r", "\ufeffa", "a\0b\x85\x1c \u2028"])
def test_texts_that_are_easily_changed(kind, text):
    tokenizer = CharTokenizer.from_text(text) if kind == "char" else TOKENIZERS[kind]()
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_tokenizer_is_saved_and_loaded(kind, tmp_path):
    tokenizer = TOKENIZERS[kind]()
    save_tokenizer(tokenizer, tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.to_dict() == tokenizer.to_dict() and type(loaded) is type(tokenizer)
    assert loaded.encode("The lower").tolist() == tokenizer.encode("The lower").tolist()
    assert loaded.n_vocab == tokenizer.n_vocab
    assert loaded.special_tokens == tokenizer.special_tokens


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_ids_that_stand_for_nothing(kind):
    tokenizer = TOKENIZERS[kind]()
    for i in (-1, tokenizer.n_vocab):
        with pytest.raises(UserError, match=f"token id {i} stands for nothing"):
            tokenizer.decode([i])


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_half_of_a_surrogate_pair(kind):
    with pytest.raises(UserError, match=r"character 1 of the text, '\\ud83d'"):
        TOKENIZERS[kind]().encode("a\ud83d")


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_ids_are_int64(kind):
    tokenizer = TOKENIZERS[kind]()
    for text in ("", "The lower"):
        ids = tokenizer.encode(text)
        assert isinstance(ids, np.ndarray) and ids.dtype == np.int64 and ids.ndim == 1
    assert tokenizer.decode([]) == "" and list(tokenizer.decode_stream([])) == []


# ---- special tokens

SPECIAL = {"<|a|>": 256, "<|a|>b": 257, "<|end|>": 259}  # 258 is a gap


def with_special():
    return BPETokenizer({bytes([i]): i for i in range(256)}, special_tokens=SPECIAL)


@pytest.mark.parametrize("allowed", ["all", ["<|end|>"], [], ["<|a|>", "unknown"]])
@pytest.mark.parametrize("disallowed", ["all", ["<|end|>"], [], ["x"]])
@given(parts=st.lists(st.sampled_from(["<|a|>", "<|end|>", "x", "<|", " ", "天"]), max_size=6))
def test_special_tokens_are_as_in_tiktoken(allowed, disallowed, parts):
    tokenizer, text = with_special(), "".join(parts)
    allowed = allowed if allowed == "all" else set(allowed)
    choice = dict(allowed_special=allowed, disallowed_special=disallowed)
    try:
        expected = tokenizer._encoding.encode(text, **choice)
    except ValueError:
        with pytest.raises(UserError, match="spells the special token"):
            tokenizer.encode(text, **choice)
    else:
        assert tokenizer.encode(text, **choice).tolist() == expected


def test_special_tokens():
    tokenizer = with_special()
    assert tokenizer.n_vocab == 260
    assert tokenizer.encode("<|end|>", disallowed_special=()).size == 7  # text like any other
    with pytest.raises(UserError, match=r"spells the special token '<\|end\|>'"):
        tokenizer.encode("hi<|end|>")
    assert tokenizer.encode("<|a|>b", allowed_special="all").tolist() == [257]  # the longest
    assert tokenizer.decode([104, 105, 259]) == "hi<|end|>"
    assert tokenizer.decode([104, 105, 259], skip_special_tokens=True) == "hi"
    with pytest.raises(UserError, match="258 stands for nothing"):
        tokenizer.decode([258])


# ---- byte-pair encoding


@given(WORDS)
def test_encoding_by_ranks_is_encoding_by_merges(trained, text):
    """tiktoken merges by ranks; the definition applies each merge of the list, in order."""
    by_merges, by_ranks = [], []
    for piece in trained.pieces(text):
        parts = list(piece)
        for left, right in trained.merges:
            merged = []
            for part in parts:
                if merged and merged[-1] == left and part == right:
                    merged[-1] = (left + right,)  # not to be merged again by this merge
                else:
                    merged.append(part)
            parts = [part[0] if isinstance(part, tuple) else part for part in merged]
        by_merges += parts
        by_ranks += [*itertools.chain([piece], trained.merge_steps(piece))][-1]
    ids = trained.encode(text).tolist()
    assert [trained.ranks[part] for part in by_merges] == ids
    assert [trained.ranks[part] for part in by_ranks] == ids


PAIRS = [*itertools.product("abc", repeat=2), ("ab", "c"), ("b", "ca"), ("aa", "a"), ("ab", "ab")]


@given(st.text("abc", max_size=12), st.permutations(PAIRS))
def test_merging_is_its_definition(text, order):
    """The first pair of the lowest rank, anew after every merge, for ranks in any order."""
    rank = {pair: i for i, pair in enumerate(order[:8])}
    parts = [*text]
    while found := [(rank[p], i) for i, p in enumerate(itertools.pairwise(parts)) if p in rank]:
        i = min(found)[1]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    assert merge([*text], lambda *pair: rank.get(pair)) == parts
    assert [[*text], *merge_steps([*text], lambda *pair: rank.get(pair))][-1] == parts


PATTERNS = [r"\p{L}+", r"\w+", "b", r"\s", r"(?i:A)|\d{1,2}", r" ?[^\s\p{L}]+", r"(?=b)b", "(b)c?"]


@pytest.mark.parametrize("pattern", PATTERNS)
@given(text=WORDS | st.text("ab c1!", max_size=8))
def test_what_a_pattern_does_not_match_is_a_piece(pattern, text):
    assert "".join(cut_by([pattern], [text])) == text
    tokenizer = train_bpe(text, 270, pattern=pattern)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert b"".join(itertools.chain(*tokenizer.pieces(text))).decode() == text
    several = BPETokenizer(tokenizer.ranks, [r"\d", pattern])
    assert several.decode(several.encode(text)) == text


def test_a_gap_is_one_piece():
    tokenizer = train_bpe("hello, world! " * 9, 300, pattern=r"\w+")
    assert {b", ", b"! ", b"hello"} <= tokenizer.ranks.keys()
    assert [*cut_by([r"\w+"], ["hello, world!!"])] == ["hello", ", ", "world", "!!"]
    with pytest.raises(UserError, match="matches the empty string"):
        BPETokenizer(tokenizer.ranks, "a*").encode("baa")


@given(st.lists(st.text("ab天", min_size=1), min_size=1), st.integers(1, 3))
def test_training_is_its_definition(words, min_frequency):
    """Count all pairs anew before every merge: the same merges come out."""
    pieces = {word.encode(): n for word, n in Counter(words).items()}
    parts = {piece: [bytes([byte]) for byte in piece] for piece in pieces}
    expected = []
    while True:
        counts = Counter()
        for piece, n in pieces.items():
            for pair in itertools.pairwise(parts[piece]):
                counts[pair] += n
        best = max(counts, key=lambda pair: (counts[pair], pair), default=None)
        if best is None or counts[best] < min_frequency:
            break
        expected.append(best)
        for piece, old in parts.items():
            new, i = [], 0
            while i < len(old):
                both = tuple(old[i : i + 2]) == best
                new.append(b"".join(best) if both else old[i])
                i += 1 + both
            parts[piece] = new
    assert list(learn_merges(pieces, min_frequency)) == expected


@given(st.lists(st.text("abÉ天!", min_size=1), min_size=1), st.integers(1, 3), st.booleans())
def test_training_wordpiece_is_its_definition(words, min_frequency, lowercase):
    """Count all pairs anew before every merge: the same tokens come out."""
    text = " ".join(words)
    tokenizer = train_wordpiece(text, 60, min_frequency=min_frequency, lowercase=lowercase)
    spelled = (tokenizer.normalize(text).replace("!", " ! ")).split()
    parts = [[f" {word[0]}", *word[1:]] for word in spelled]  # a space begins a word
    inside = {part for word in parts for part in word[1:]}
    expected = [*sorted({f" {c}" for c in inside} | {word[0] for word in parts}), *sorted(inside)]
    while len(expected) < 55:
        counts = Counter(pair for word in parts for pair in itertools.pairwise(word))
        best = max(
            counts, key=lambda pair: (counts[pair], *(x.encode() for x in pair)), default=None
        )
        if best is None or counts[best] < min_frequency:
            break
        expected.append("".join(best))
        for word in parts:
            for i in range(len(word) - 1):
                if tuple(word[i : i + 2]) == best:
                    word[i : i + 2] = ["".join(best)]
    marked = [token[1:] if token[0] == " " else f"##{token}" for token in expected]
    assert list(tokenizer.vocab) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *marked]
    ids = tokenizer.encode(text)
    assert 1 not in ids  # no word is unknown
    joined = tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "")
    assert joined == "".join(spelled)


def test_wordpiece_that_cannot_be_trained():
    with pytest.raises(UserError, match="at least 9: 5 special tokens, and 4 characters"):
        train_wordpiece("ab ba", 8)
    with pytest.raises(UserError, match="no word"):
        train_wordpiece(" \n", 100)
    with pytest.raises(UserError, match="min_frequency is 0"):
        train_wordpiece("ab", 100, min_frequency=0)
    with pytest.raises(UserError, match="surrogate"):
        train_wordpiece("\ud800", 100)
    long = train_wordpiece("ab " * 9 + "ab" * 5000, 100)  # cut: a merge reads the whole word
    assert "ab" in long.vocab and len(long.encode("ab")) == 3


@given(WORDS)
def test_trained_on_anything_it_encodes_anything(text):
    tokenizer = train_bpe(text, 280)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    merged = [left + right for left, right in tokenizer.merges]
    assert [token for token in tokenizer.ranks if len(token) > 1] == merged


def test_the_merges_that_were_learned_are_those_of_the_ranks(trained):
    learned = itertools.islice(learn_merges(count_pieces(TEXT, PATTERN)), len(trained.merges))
    assert trained.merges == list(learned) and len(trained.merges) == 330 - 256 - 1


def test_the_reference_merges(files):
    folder = files / "bpe_reference"
    text = (folder / "corpus.en").read_text(encoding="utf-8")
    lines = (folder / "train-bpe-reference-merges.txt").read_text(encoding="utf-8").splitlines()
    tokenizer = train_bpe(text, 500)
    letters = byte_letters()

    def spelled(token):
        return "".join(letters[byte] for byte in token)

    merges = [f"{spelled(left)} {spelled(right)}" for left, right in tokenizer.merges]
    assert merges == lines and len(merges) == 243
    vocab = json.loads((folder / "train-bpe-reference-vocab.json").read_text(encoding="utf-8"))
    assert {spelled(token) for token in tokenizer.ranks} | {"<|endoftext|>"} == set(vocab)
    assert tokenizer.n_vocab == 500


def test_training_is_deterministic():
    assert train_bpe(TEXT, 300).to_dict() == train_bpe(TEXT, 300).to_dict()


def test_equal_counts_take_the_greater_pair():
    assert train_bpe("ab cd ab cd", 258, special_tokens=()).merges == [(b"c", b"d"), (b"a", b"b")]
    pairs = learn_merges({b"ab": 2, b"abc": 2, b"a": 9}, 1)
    assert list(pairs) == [(b"a", b"b"), (b"ab", b"c")]


def test_special_tokens_are_not_trained_on():
    tokenizer = train_bpe("x<|endoftext|>" * 9, 300)
    assert tokenizer.merges == [] and tokenizer.n_vocab == 257
    assert len(train_bpe("x<|endoftext|>" * 9, 300, special_tokens=()).merges) > 3


def test_chinese_is_trained_to_characters_and_words():
    tokens = train_bpe("今天天气很好，" * 5 + "今天不好，" * 4, 290).ranks
    assert {"今天".encode(), "天气".encode()} & tokens.keys() and "好".encode() in tokens


def test_a_long_piece_is_trained_on():
    assert len(train_bpe("ab" * 100_000, 270).merges) == 12  # to 4,096 bytes, twice each
    assert sum(count_pieces("天" * 100_000, PATTERN).values()) == 74


def test_a_long_word_of_gpt1():
    tokenizer = small_gpt1()
    assert tokenizer.encode("low" * 30_000 + "er").size == 30_000
    assert tokenizer.decode(tokenizer.encode("q" * 50_000)) == "q" * 50_000


def test_progress_is_told():
    told = []
    train_bpe(TEXT, 270, progress=told.append)
    assert told == list(range(257, 270))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(vocab_size=256), "at least 257: 256 bytes and 1 special"),
        (dict(vocab_size=300, min_frequency=0), "min_frequency is 0"),
        (dict(vocab_size=300, special_tokens=("a", "a")), "different from each other"),
        (dict(vocab_size=300, special_tokens=("",)), "not empty"),
        (dict(vocab_size=300, pattern="("), "no regular expression"),
        (dict(vocab_size=300, pattern=r"|\s+|\S+"), "matches the empty string"),
        (dict(vocab_size=300, text="\ud800"), "surrogate"),
    ],
)
def test_training_that_cannot_be(options, message):
    with pytest.raises(UserError, match=message):
        train_bpe(options.pop("text", TEXT), **options)


@pytest.mark.parametrize("long", [" ", "\n", "a", "天", "!"])
def test_long_runs(trained, long):
    """A million white spaces are more than tiktoken's regular expressions can take."""
    text = long * 1_000_000 + "b"
    assert trained.decode(trained.encode(text)) == text


def test_ranks_that_cannot_be():
    with pytest.raises(UserError, match="255 of the 256 single bytes are no tokens"):
        BPETokenizer({b"a": 0})
    ranks = {bytes([i]): i for i in range(256)}
    with pytest.raises(UserError, match="stands for two tokens"):
        BPETokenizer(ranks | {b"ab": 7})
    with pytest.raises(UserError, match="stands for two tokens"):
        BPETokenizer(ranks, special_tokens={"<|end|>": 255})
    with pytest.raises(UserError, match="no regular expression"):
        BPETokenizer(ranks, "(")
    with pytest.raises(UserError, match="there is no pattern"):
        BPETokenizer(ranks, [])


# ---- GPT-2's, and files


def test_published_vectors(files, home):
    npgpt("tokenizer", "add", files / "gpt2")
    tokenizer = make_tokenizer("gpt2")
    plans = (files / "vectors" / "TestPlans.txt").read_text(encoding="utf-8")
    rows = re.findall(r"EncodingName: r50k_base\nSample: (.*)\nEncoded: (.*)\n", plans)
    assert len(rows) == 64
    for sample, encoded in rows:
        assert tokenizer.encode(sample).tolist() == ast.literal_eval(encoded)
        assert tokenizer.decode(ast.literal_eval(encoded)) == sample


def test_gpt2_by_its_name_and_from_its_files(files, tmp_path):
    npgpt("tokenizer", "add", files / "gpt2" / "vocab.bpe", files / "gpt2" / "encoder.json")
    named = GPT2Tokenizer()
    assert named.to_dict() == {"kind": "gpt2"} and named.name == "gpt2"
    assert named.ranks == make_tokenizer("r50k_base").ranks  # the same, as tiktoken's hash says
    for name in ("encoder.json", "vocab.bpe", ""):
        read = make_tokenizer(str(files / "gpt2" / name))
        assert read.ranks == named.ranks and read.special_tokens == named.special_tokens
        assert read.encode(TEXT).tolist() == named.encode(TEXT).tolist()
    assert read.to_dict()["kind"] == "bpe"  # whole: the files may go
    save_tokenizer(read, tmp_path)
    assert load_tokenizer(tmp_path).encode(TEXT).tolist() == named.encode(TEXT).tolist()


def test_a_folder_of_hugging_face(files, tmp_path):
    for ours, theirs in (("encoder.json", "vocab.json"), ("vocab.bpe", "merges.txt")):
        (tmp_path / theirs).write_bytes((files / "gpt2" / ours).read_bytes())
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode("hello world").tolist() == [31373, 995]
    assert tokenizer.special_tokens == {"<|endoftext|>": 50256}


def test_the_reference_vocabulary_as_files(files, tmp_path):
    """Ids that begin with the special token; the merges stand in the order of theirs."""
    for name in ("vocab.json", "merges.txt"):
        source = files / "bpe_reference" / f"train-bpe-reference-{name}"
        (tmp_path / name).write_bytes(source.read_bytes())
    tokenizer = make_tokenizer(str(tmp_path))
    assert tokenizer.special_tokens == {"<|endoftext|>": 0} and tokenizer.n_vocab == 500
    text = (files / "bpe_reference" / "german.txt").read_text(encoding="utf-8")
    assert tokenizer.decode(tokenizer.encode(text)) == text
    theirs = train_bpe((files / "bpe_reference" / "corpus.en").read_text(encoding="utf-8"), 500)
    pieces = [[t.tokens[i] for i in t.encode(text)] for t in (tokenizer, theirs)]
    assert pieces[0] == pieces[1]


@pytest.mark.parametrize("name", ["gpt1", "gpt2", "r50k_base", "cl100k_base", "o200k_harmony"])
def test_what_is_missing_is_named(name, capsys):
    with pytest.raises(UserError, match=f"{name} needs .*npgpt tokenizer add") as caught:
        make_tokenizer(name)
    assert "\n" not in str(caught.value)


def test_published_files_are_checked(files, tmp_path, home, capsys):
    (tmp_path / "encoder.json").write_bytes((files / "gpt2" / "encoder.json").read_bytes() + b" ")
    assert npgpt("tokenizer", "add", tmp_path / "encoder.json") == 2
    assert "not the encoder.json that was published" in capsys.readouterr().err
    assert npgpt("tokenizer", "add", files / "gpt2" / "encoder.json") == 2
    assert "gpt2 needs encoder.json and vocab.bpe" in capsys.readouterr().err
    assert npgpt("tokenizer", "add", files / "gpt2" / "vocab.bpe") == 0
    assert capsys.readouterr().out.startswith("gpt2: 50,257 tokens")
    for file in ("r50k_base.tiktoken", "vocab.bpe"):  # of which each alone will do
        assert make_tokenizer("gpt2").n_vocab == 50257
        (home / "published" / file).write_text("changed")
    with pytest.raises(UserError, match="replace it with npgpt tokenizer add vocab.bpe"):
        make_tokenizer("gpt2")


def test_the_file_of_a_known_encoding(files, tmp_path, capsys):
    """r50k_base is GPT-2's vocabulary as a .tiktoken file: known by its hash, no sidecar."""
    text = format_ranks(make_tokenizer(str(files / "gpt2")).ranks)
    path = tmp_path / "r50k_base.tiktoken"
    path.write_text(text)
    tokenizer = make_tokenizer(str(path))
    assert tokenizer.special_tokens == {"<|endoftext|>": 50256}
    assert npgpt("tokenizer", "add", path) == 0
    assert "r50k_base: 50,257 tokens" in capsys.readouterr().out
    named = make_tokenizer("r50k_base")
    assert named.to_dict() == {"kind": "r50k_base"}
    save_tokenizer(named, tmp_path)
    assert load_tokenizer(tmp_path).encode("hello world").tolist() == [31373, 995]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "holds no tokenizer"),
        ({"a.tiktoken": "YQ== 0\n"}, "needs a.json beside it"),
        ({"a.tiktoken": "YQ== 0\n", "a.json": "{}"}, "a.json is damaged: lacks the key 'pattern'"),
        ({"a.tiktoken": "!!\n", "a.json": "{}"}, "line 1: expected a token in base64"),
        ({"a.tiktoken": "YQ== 0\nYg== x", "a.json": "{}"}, "line 2"),
        ({"vocab.json": '{"a": 0}'}, "needs merges.txt beside it"),
        ({"vocab.json": '{"a": 0}', "merges.txt": "a b c"}, "line 1: expected two tokens"),
        ({"vocab.json": '{"a": "b"}', "merges.txt": ""}, "must be a whole number, and is 'b'"),
        ({"vocab.json": '{"a": 0}', "merges.txt": ""}, "lacks"),
        ({"vocab.json": "{", "merges.txt": ""}, "damaged"),
        ({"vocab.json": '{"a</w>": 0}', "merges.txt": ""}, "lacks <unk>"),
        ({"tokenizer.json": '{"kind": "bpe", "ranks": "a"}'}, "line 1"),
        ({"tokenizer.json": '{"kind": "gpt1", "vocab": 3}'}, "damaged"),
        ({"tokenizer.json": '{"kind": "runes"}'}, "no tokenizer that is known here"),
        ({"tokenizer.json": '{"model": {"type": "Unigram"}}'}, "is a Unigram tokenizer"),
        (
            {
                "tokenizer.json": '{"model": {"type": "BPE"}, '
                '"pre_tokenizer": {"type": "ByteLevel"}}'
            },
            "damaged",
        ),
    ],
)
def test_damaged_files(content, message, tmp_path):
    folder = tmp_path / "given"
    folder.mkdir()
    for name, text in content.items():
        (folder / name).write_text(text)
    with pytest.raises(UserError, match=message):
        make_tokenizer(str(folder))


WHOLE = BPETokenizer(
    {bytes([i]): i for i in range(256)} | {b"th": 256, b"the": 257},
    [r"\d", PATTERN],
    {"<s>": 258},
    added_tokens=[AddedToken("New", 259, special=False, lstrip=True, normalized=True)],
    before=[258],
    after=[258, 258],
    normalizer={"type": "Sequence", "normalizers": [
        {"type": "Lowercase"}, {"type": "Replace", "pattern": {"String": "a"}, "content": "b"}]},
    add_prefix_space=True,
    unreached={b"unseen": 260},
)  # fmt: skip


def test_all_that_a_tokenizer_may_have_is_kept(tmp_path):
    text = "The a NEW 12 <s>"
    ids = WHOLE.encode(text, allowed_special="all").tolist()
    assert WHOLE.decode(ids) == "<s> the b" + "new" + " 12 " + "<s><s><s>"
    assert WHOLE.encode(text, allowed_special="all", add_special_tokens=False).tolist() == ids[1:-2]
    assert WHOLE.decode([260], skip_special_tokens=True) == "unseen"
    assert WHOLE.decode(ids, skip_special_tokens=True) == " the bnew 12 "
    save_tokenizer(WHOLE, tmp_path)
    write_tiktoken(WHOLE, tmp_path / "whole.tiktoken")
    for read in (load_tokenizer(tmp_path), make_tokenizer(str(tmp_path / "whole.tiktoken"))):
        assert read.encode(text, allowed_special="all").tolist() == ids
        assert read.tokens == WHOLE.tokens and read.added_tokens == WHOLE.added_tokens


def places(values, path=()):
    """Yield the place of every value in a JSON file, few of those in long ones."""
    yield path
    keys = range(len(values)) if isinstance(values, list) else values
    for key in [*keys][:12] if isinstance(values, list | dict) else ():
        yield from places(values[key], (*path, key))


ODD = [None, -1, 1.5, "", "(", "\ud800", [], {}, [[]], {"type": "x"}, True, 10**30, float("nan")]


@pytest.mark.parametrize("theirs", [False, True])
@given(data=st.data())
def test_changed_files_end_in_one_message(theirs, data, tmp_path_factory):
    """Any value of a file may be any other: it is read, or refused in one line."""
    values = WHOLE.to_dict()
    if theirs:
        several = BPETokenizer(WHOLE.ranks, WHOLE.pattern, {"<s>": 258}, before=[258],
                               normalizer=WHOLE.normalizer)  # fmt: skip
        values = to_hugging_face(several)
    values = json.loads(json.dumps(values))
    *path, key = data.draw(st.sampled_from([*places(values)][1:]))
    inner = values
    for part in path:
        inner = inner[part]
    inner[key] = data.draw(st.sampled_from(ODD))
    folder = tmp_path_factory.mktemp("changed")
    (folder / "tokenizer.json").write_text(json.dumps(values))
    try:
        tokenizer = load_tokenizer(folder)
        tokenizer.decode(tokenizer.encode("The a NEW 12 <s>", disallowed_special=()))
    except UserError as error:
        assert "\n" not in str(error)


def test_merges_out_of_order(tmp_path):
    letters = byte_letters()
    vocab = {letter: byte for byte, letter in letters.items()} | {"ab": 257, "bc": 256}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\nb c\n")
    with pytest.raises(UserError, match="in the order of their tokens. ids"):
        make_tokenizer(str(tmp_path))


def test_unknown_names(tmp_path):
    with pytest.raises(UserError, match="did you mean 'cl100k_base'"):
        make_tokenizer("cl100k")
    with pytest.raises(UserError, match="nothing.tiktoken does not exist"):
        make_tokenizer("nothing.tiktoken")
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(UserError, match="is no tokenizer; give a .tiktoken file"):
        make_tokenizer(str(tmp_path / "a.txt"))


# ---- GPT-1's


def test_gpt1_words():
    tokenizer = small_gpt1()
    ids = tokenizer.encode("Low, LÓWER  z!é天天\n")
    assert tokenizer.decode(ids) == "low , lower z ! e 天 天"
    assert tokenizer.decode(tokenizer.encode("low 😀 low")) == "low <unk>low"  # as there
    assert tokenizer.decode(tokenizer.encode("low 😀 low"), skip_special_tokens=True) == "low low"
    assert tokenizer.encode("<unk>", allowed_special="all").tolist() == [0]


def test_gpt1_is_that_of_transformers(files, shared, oracle):
    from transformers import OpenAIGPTTokenizer

    npgpt("tokenizer", "add", files / "gpt1")
    ours = make_tokenizer("gpt1")
    assert ours.n_vocab == 40478 and ours.to_dict() == {"kind": "gpt1"}
    theirs = OpenAIGPTTokenizer(vocab=dict(ours.vocab), merges=list(ours.merges))
    for path in sorted((shared / "text").iterdir()):
        text = path.read_text(encoding="utf-8")[:200_000]
        ids = ours.encode(text, allowed_special="all")  # as transformers always does
        assert ids.tolist() == theirs(text)["input_ids"], path.name
        some = ids[:5000].tolist()
        assert ours.decode(some) == theirs.decode(some, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("name", ["gpt1", "gpt2"])
def test_a_folder_that_transformers_wrote(name, files, shared, tmp_path, oracle):
    """Newer versions write one tokenizer.json, and no other file."""
    import transformers

    npgpt("tokenizer", "add", files / name)
    ours = make_tokenizer(name)
    if name == "gpt1":
        theirs = transformers.OpenAIGPTTokenizer(vocab=dict(ours.vocab), merges=list(ours.merges))
    else:
        vocab = json.loads((files / "gpt2" / "encoder.json").read_text(encoding="utf-8"))
        lines = (files / "gpt2" / "vocab.bpe").read_text(encoding="utf-8").splitlines()[1:]
        theirs = transformers.GPT2Tokenizer(vocab, [tuple(line.split()) for line in lines])
    theirs.save_pretrained(tmp_path)
    read = load_tokenizer(tmp_path)
    assert read.n_vocab == ours.n_vocab and read.special_tokens == ours.special_tokens
    text = (shared / "text" / "hongloumeng.txt").read_text(encoding="utf-8")[:20_000] + TEXT
    assert read.encode(text).tolist() == ours.encode(text).tolist() == theirs(text)["input_ids"]
    (tmp_path / "vocab.json").unlink(missing_ok=True)
    assert make_tokenizer(str(tmp_path)).encode(text).tolist() == ours.encode(text).tolist()


def test_gpt1_cleans_each_character_as_transformers_does(oracle):
    """Its tables are of Unicode 8 or so, and Python's newer: compared is what both have."""
    from unicodedata import category, ucd_3_2_0

    from transformers import OpenAIGPTTokenizer

    backend = OpenAIGPTTokenizer(vocab={"<unk>": 0}, merges=[])._tokenizer
    for c in map(chr, [*range(0x3500), *range(0xA000, 0xAC10), *range(0xF8F0, 0x10430)]):
        if ucd_3_2_0.category(c) == category(c) not in ("Cn", "Cs"):
            normal = backend.normalizer.normalize_str(f"a{c}b")
            expected = [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(normal)]
            assert words(f"a{c}b") == expected, hex(ord(c))


# ---- the command


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT * 20, encoding="utf-8")
    return tmp_path


def test_train_show_and_use_a_tokenizer(here, capsys):
    command = ["tokenizer", "train", "--data", "text.txt", "--vocab_size", 300, "--out"]
    assert npgpt(*command, "mine.tiktoken") == 0
    captured = capsys.readouterr()
    assert "mine.tiktoken: 300 tokens" in captured.out and not captured.err
    sidecar = json.loads((here / "mine.json").read_text())
    assert sidecar["special_tokens"] == {"<|endoftext|>": 299} and sidecar["pattern"] == PATTERN
    assert npgpt(*command, "mine.tiktoken") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert npgpt(*command, "mine.tiktoken", "--overwrite") == 0

    from tiktoken import Encoding
    from tiktoken.load import load_tiktoken_bpe

    ranks = load_tiktoken_bpe("mine.tiktoken")
    encoding = Encoding("mine", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    tokenizer = make_tokenizer("mine.tiktoken")
    assert encoding.encode(TEXT) == tokenizer.encode(TEXT).tolist()

    capsys.readouterr()
    assert npgpt("tokenizer", "show", "the lower", "--tokenizer", "mine.tiktoken") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "".join(line.split("\t")[1] for line in lines) == "the·lower"
    assert [int(line.split("\t")[0]) for line in lines] == tokenizer.encode("the lower").tolist()

    tiny = ("--n_layer 1 --n_head 2 --n_embd 8 --block_size 8 --batch_size 2 --max_iters 2 "
            "--eval_interval 2 --eval_iters 1").split()  # fmt: skip
    assert npgpt("train", "--data", "text.txt", "--out_dir", "run",
                 "--tokenizer", "mine.tiktoken", *tiny) == 0  # fmt: skip
    for file in ("mine.tiktoken", "mine.json"):
        (here / file).unlink()  # the run has all of it
    assert npgpt("train", "--resume", "run", "--max_iters", 4) == 0
    assert npgpt("generate", "--model", "run", "--prompt", "the", "--max_new_tokens", 3) == 0
    assert npgpt("tokenizer", "show", "the", "--tokenizer", "run") == 0


def test_wordpiece_is_trained_and_used(here, capsys):
    assert npgpt("tokenizer", "train", "--kind", "wordpiece", "--data", "text.txt",
                 "--vocab_size", 99, "--out", "my-vocab.txt") == 0  # fmt: skip
    out = capsys.readouterr().out
    assert out.endswith("npgpt train --task masked --tokenizer my-vocab.txt\n")
    tokenizer = make_tokenizer("my-vocab.txt")
    text = (here / "text.txt").read_text()
    trained = train_wordpiece(text, 99)
    assert tokenizer.vocab == trained.vocab and tokenizer.n_vocab <= 99
    assert np.array_equal(tokenizer.encode(text), trained.encode(text))
    assert npgpt("tokenizer", "train", "--kind", "wordpiece", "--data", "text.txt",
                 "--vocab_size", 99, "--out", "my-vocab.txt") == 2  # fmt: skip
    assert "my-vocab.txt exists" in capsys.readouterr().err


def test_steps(here, capsys):
    write_tiktoken(train_bpe("low low lower", 260), here / "mine.tiktoken")
    assert npgpt("tokenizer", "show", "low low", "--steps", "--tokenizer", "mine.tiktoken") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["l", "o", "w"] and lines[2] == ["low", "low", "=", "257"]
    assert lines[3] == ["·", "l", "o", "w"] and len(lines) == 7
    assert npgpt("tokenizer", "show", "a", "--steps", "--tokenizer", "byte") == 2
    assert "merges nothing" in capsys.readouterr().err


def test_what_cannot_be_seen_is_shown(here, capsys, monkeypatch):
    def show(content):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), "ascii"))
        return npgpt("tokenizer", "show", "-", "--tokenizer", "byte")

    assert show(b"caf\xe9") == 2 and "standard input is not UTF-8" in capsys.readouterr().err
    assert show("é\x1b[1m[/i]\n".encode()) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[:3] == ["195\t\\xc3", "169\t\\xa9", "27\t\\x1b"] and "\x1b" not in out


def test_added_tokenizers_are_listed_and_used(here, home, capsys):
    write_tiktoken(train_bpe(TEXT, 300), here / "mine.tiktoken")
    assert npgpt("tokenizer", "add", "mine.tiktoken", "mine.json", "--name", "ours") == 0
    (here / "mine.tiktoken").unlink()
    assert npgpt("tokenizer", "list") == 0
    out = capsys.readouterr().out
    assert "ours           300 tokens" in out and "gpt2           not here" in out
    assert make_tokenizer("ours").n_vocab == 300
    assert npgpt("tokenizer", "add", "mine.json", "--name", "gpt2") == 2


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["nonsense"], "unknown command 'nonsense'"),
        (["add"], "name what to add"),
        (["add", "missing.tiktoken"], "missing.tiktoken does not exist"),
        (["add", "text.txt"], "is no tokenizer"),
        (["train", "--data", "missing.txt"], "missing.txt does not exist"),
        (["train", "--data", "text.txt", "--out", "a.json"], "must end in .tiktoken"),
        (["train", "--kind", "wordpiece", "--out", "a.json"], "must end in vocab.txt"),
        (["train", "--kind", "wordpiece", "--pattern", "a"], "leave out --pattern"),
        (["train", "--data", "text.txt", "--out", "no/a.tiktoken"], "there is no folder no"),
        (["train", "--data", "text.txt", "--vocab_size", "10"], "at least 257"),
        (["train", "--vocabulary", "10"], "unknown option --vocabulary"),
        (["show"], "give a text first"),
        (["show", "a"], "npgpt tokenizer add encoder.json vocab.bpe"),
        (["show", "a", "--tokenizer", "gpt3"], "unknown tokenizer 'gpt3'"),
    ],
)
def test_mistakes_end_in_one_message(command, message, here, capsys):
    assert npgpt("tokenizer", *command) == 2
    err = capsys.readouterr().err
    assert message in err and err.startswith("npgpt: ") and err.count("\n") == 1


def test_help(capsys):
    assert npgpt("tokenizer") == 0
    assert "npgpt tokenizer train" in capsys.readouterr().out
    for command in ("list", "add", "train", "show"):
        assert npgpt("tokenizer", command, "--help") == 0


def test_ctrl_c_leaves_nothing(here):
    code = (
        "import sys, npgpt.commands.tokenizer.train as command\n"
        "from npgpt.cli import main\n"
        "learn = command.train_bpe\n"
        "def train_bpe(*args, progress, **options):\n"
        "    def interrupted(n):\n"
        "        if n == 280: raise KeyboardInterrupt\n"
        "    return learn(*args, progress=interrupted, **options)\n"
        "command.train_bpe = train_bpe\n"
        "sys.exit(main(['tokenizer', 'train', '--data', 'text.txt', '--out', 'x.tiktoken']))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 130 and result.stderr == "npgpt: interrupted\n"
    assert sorted(path.name for path in here.iterdir() if path.name != "home") == ["text.txt"]


LETTERS = st.sampled_from([b"a", b"b", b"c"])
TOKENS = st.lists(st.lists(LETTERS, min_size=2, max_size=6).map(b"".join), max_size=14, unique=True)


@given(tokens=TOKENS, data=st.data())
def test_merges_that_follow_from_the_ranks_are_known(tokens, data):
    """The quick way says what the merges of every token say, also of merges that do not follow."""
    ranks = {token: i for i, token in enumerate([b"a", b"b", b"c", *tokens])}
    merges = find_merges(ranks)
    assert follow_from(ranks, merges)
    wrong = list(merges)
    for _ in range(data.draw(st.integers(1, 2))):
        i = data.draw(st.integers(0, max(len(wrong) - 1, 0)))
        way = data.draw(st.sampled_from(["split", "drop", "swap", "more"]))
        if way == "split" and wrong:  # the same token, of two other parts
            token = b"".join(wrong[i])
            cut = data.draw(st.integers(1, len(token) - 1))
            wrong[i] = token[:cut], token[cut:]
        elif way == "drop" and wrong:
            del wrong[i]
        elif way == "swap" and wrong:
            wrong[0], wrong[i] = wrong[i], wrong[0]
        elif way == "more" and tokens:
            token = data.draw(st.sampled_from(tokens))
            wrong.append((token[:1], token[1:]))
    assert follow_from(ranks, wrong) == (wrong == merges)
