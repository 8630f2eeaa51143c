"""BERT's tokenizer: our ids, texts and batches are those of transformers, from all its files."""

import json
import os
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npgpt import UserError, load_tokenizer
from npgpt.tokenizers import AddedToken, WordPieceTokenizer, save_tokenizer, train_wordpiece
from npgpt.tokenizers.base import shorten
from npgpt.tokenizers.huggingface import write_hugging_face
from npgpt.training.data import read_texts

if os.environ.get("NPGPT_TEST_ALL") == "1":  # where nothing may be skipped for want of it
    import tokenizers
else:
    tokenizers = pytest.importorskip("tokenizers")
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers  # noqa: E402
from tokenizers.processors import TemplateProcessing  # noqa: E402

pytestmark = pytest.mark.usefixtures("oracle")

TEXTS = [
    "", " ", "a", "The LOWER\r\n\n the\tslower, it's we'll 1234567", "hello, world!",
    "Déjà vu ΣΑΣ İstanbul ﬁne Å Å ½²", "今天天气很好，天 kanji仮名", "😀👩‍👩‍👧 x",
    "\0\x1c\x85\u2028a\u200d\ufffd", "unaffable unaffableness", "low-er _x_ a_b $#@ !!",
    "naïve café, ça va? élève", "x" * 99 + " " + "x" * 100 + " " + "x" * 101, "a\u0301e\u0301",
    "the [MASK] sat [SEP] here", "don't. won't! (it's)", "Ωmega ΑΒΓ ß ẞ",
]  # fmt: skip
WORDS = """[PAD] [UNK] [CLS] [SEP] [MASK] un aff ##aff ##able ##ness the low lower ##er it ' s don t
won ##ll we hello world , . ! ? ( ) - _ # $ @ ; : deja vu cafe naive istanbul x ##x ##xx 天 今 气
好 ， 😀 ω ##mega α ##β ##γ ss ß fine""".split()
LETTERS = "abcdefghijklmnopqrstuvwxyzåäöüéèêçñβ0123456789"
VOCAB = {
    token: i
    for i, token in enumerate(dict.fromkeys([*WORDS, *LETTERS, *(f"##{c}" for c in LETTERS)]))
}
OPTIONS = {
    "uncased": {},
    "cased": dict(lowercase=False),
    "cased, no accents": dict(lowercase=False, strip_accents=True),
    "uncased with accents": dict(strip_accents=False),
    "not cleaned": dict(clean_text=False),
    "no Chinese": dict(handle_chinese_chars=False),
}


def theirs_of(vocab=VOCAB, **options):
    """Return BERT's tokenizer of the tokenizers library."""
    made = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    made.normalizer = normalizers.BertNormalizer(**options)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    made.add_special_tokens([t for t in WORDS[:5] if t in vocab])
    return made


def old(c):
    """Whether all versions of Unicode agree on a character: that of 2002 has it already."""
    return unicodedata.ucd_3_2_0.category(c) == unicodedata.category(c) != "Cn"


characters = st.characters(exclude_categories=["Cs"]).filter(old)
texts = st.text(st.one_of(characters, st.sampled_from("aeun éÀ天，😀. \t\u0301İΣß'")), max_size=40)
ids = st.lists(st.integers(0, len(VOCAB) - 1), max_size=12)


@pytest.mark.parametrize("name", OPTIONS)
@given(text=texts)
def test_ids_of_any_text(name, text):
    ours, theirs = WordPieceTokenizer(VOCAB, **OPTIONS[name]), theirs_of(**OPTIONS[name])
    expected = theirs.encode(text).ids
    found = ours.encode(text, allowed_special="all").tolist()
    assert found == expected
    assert ours.decode(found, skip_special_tokens=True) == theirs.decode(expected)


@pytest.mark.parametrize("name", OPTIONS)
def test_ids_of_texts(name):
    ours, theirs = WordPieceTokenizer(VOCAB, **OPTIONS[name]), theirs_of(**OPTIONS[name])
    for text in TEXTS:
        assert ours.encode(text, allowed_special="all").tolist() == theirs.encode(text).ids, text


@given(found=ids, skip=st.booleans())
def test_decoding_any_ids(found, skip):
    ours, theirs = WordPieceTokenizer(VOCAB), theirs_of()
    expected = theirs.decode(found, skip_special_tokens=skip)
    assert ours.decode(found, skip_special_tokens=skip) == expected
    assert "".join(ours.decode_stream(found, skip_special_tokens=skip)) == expected


def their_fast(folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@given(
    pairs=st.lists(st.tuples(texts, texts), min_size=1, max_size=4),
    max_length=st.none() | st.integers(5, 24),
    with_pairs=st.booleans(),
)
def test_batches_pairs_padding_and_truncation(pairs, max_length, with_pairs):
    ours, theirs = WordPieceTokenizer(VOCAB), theirs_of()
    if max_length is not None:
        theirs.enable_truncation(max_length)
    theirs.enable_padding(pad_id=0, pad_token="[PAD]")
    firsts, seconds = [a for a, _ in pairs], [b for _, b in pairs] if with_pairs else None
    plain = str.maketrans("[]", "()")  # special tokens in a text are text here
    firsts = [text.translate(plain) for text in firsts]
    seconds = seconds and [text.translate(plain) for text in seconds]
    found = ours.encode_batch(firsts, seconds, max_length=max_length)
    expected = theirs.encode_batch([*zip(firsts, seconds, strict=True)] if seconds else firsts)
    for name, key in (
        ("input_ids", "ids"), ("attention_mask", "attention_mask"), ("token_type_ids", "type_ids")
    ):  # fmt: skip
        values = np.array([getattr(row, key) for row in expected])
        np.testing.assert_array_equal(getattr(found, name), values)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("tokenizer.json", name) for name in OPTIONS]
    # a folder with vocab.txt cannot say that texts are not cleaned
    + [("vocab.txt", name) for name in OPTIONS if name != "not cleaned"],
)
def test_files_in_and_out(name, kind, tmp_path):
    """From transformers' folder, and back to transformers through a folder of ours."""
    from transformers import PreTrainedTokenizerFast

    options = OPTIONS[name]
    fast = PreTrainedTokenizerFast(
        tokenizer_object=theirs_of(**options), unk_token="[UNK]", sep_token="[SEP]",
        pad_token="[PAD]", cls_token="[CLS]", mask_token="[MASK]",
    )  # fmt: skip
    if kind == "vocab.txt":
        (tmp_path / "theirs").mkdir()
        names = {"lowercase": "do_lower_case", "handle_chinese_chars": "tokenize_chinese_chars"}
        config = {names.get(key, key): value for key, value in options.items()}
        config["tokenizer_class"] = "BertTokenizer"
        (tmp_path / "theirs/tokenizer_config.json").write_text(json.dumps(config))
        (tmp_path / "theirs/vocab.txt").write_text("".join(f"{t}\n" for t in VOCAB), "utf-8")
    else:
        fast.save_pretrained(tmp_path / "theirs")
    ours = load_tokenizer(tmp_path / "theirs")
    assert isinstance(ours, WordPieceTokenizer)
    write_hugging_face(ours, tmp_path / "ours", 64)
    (tmp_path / "own").mkdir()
    save_tokenizer(ours, tmp_path / "own")
    own = load_tokenizer(tmp_path / "own")
    again = load_tokenizer(tmp_path / "ours")
    back = their_fast(tmp_path / "ours")
    found = [ours, own, again]
    if (tmp_path / "ours/vocab.txt").exists():
        (tmp_path / "ours/tokenizer.json").unlink()
        found.append(load_tokenizer(tmp_path / "ours"))
    assert len(found) == 3 + ("clean_text" not in options)
    for text in TEXTS:
        expected = fast(text)["input_ids"]
        for tokenizer in found:
            assert tokenizer.encode(text, allowed_special="all").tolist() == expected, text
        assert back(text)["input_ids"] == expected, text
    expected = dict(fast("un aff", "the low", return_token_type_ids=True))
    assert dict(back("un aff", "the low", return_token_type_ids=True)) == expected
    found = ours.encode_batch(["un aff"], ["the low"])
    assert {key: [*value[0]] for key, value in found._asdict().items()} == expected


def test_a_corpus_with_the_real_vocabulary(minilm, shared):
    """Accents, Chinese and emoji: every line of several texts."""
    ours, theirs = load_tokenizer(minilm), their_fast(minilm)
    chinese = (shared / "text/hongloumeng.txt").read_text("utf-8").splitlines()[:1500]
    english = (shared / "text/wikitext2_valid.txt").read_text("utf-8").splitlines()[:1500]
    pairs = (shared / "tasks/tatoeba-en-zh/cmn.txt").read_text("utf-8").splitlines()[::10]
    (source,), _ = read_texts((__file__,))
    lines = [*chinese, *english, *pairs, *source.splitlines(), *TEXTS]
    expected = theirs(lines)["input_ids"]
    for line, row in zip(lines, expected, strict=True):
        assert ours.encode(line, allowed_special="all").tolist() == row, line
    for row in expected[::7]:
        assert ours.decode(row, skip_special_tokens=True) == theirs.decode(
            row, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )


def test_wrong_input_is_one_line(tmp_path):
    tokenizer = WordPieceTokenizer(VOCAB)
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    cases = [
        (lambda: WordPieceTokenizer({"a": 0}), r"lacks \[UNK\]"),
        (lambda: tokenizer.encode_batch([]), "one text or more"),
        (lambda: tokenizer.encode_batch("text"), "one text or more"),
        (lambda: tokenizer.encode_batch(["a"], ["b", "c"]), "1 texts and 2 pairs"),
        (lambda: tokenizer.encode_batch(["a"], max_length=2), "2 tokens stand before and after"),
        (lambda: load_tokenizer(tmp_path), r"no line \[UNK\]"),
    ]
    for call, said in cases:
        with pytest.raises(UserError, match=said) as error:
            call()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: v["decoder"].update(type="Fuse"), "the decoder is Fuse"),
        (lambda v: v["decoder"].update(prefix="@@"), "the decoder's prefix is '@@'"),
        (lambda v: v["normalizer"].update(type="NFC"), "the normalizer NFC"),
        (lambda v: v["model"].update(unk_token="<unk>"), "lacks <unk>"),
        (lambda v: v["post_processor"]["pair"].pop(), "the template of a pair"),
    ],
)
def test_other_parts_are_refused(change, said, tmp_path):
    write_hugging_face(WordPieceTokenizer(VOCAB), tmp_path)
    path = tmp_path / "tokenizer.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=said):
        load_tokenizer(tmp_path)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(2, 30))
def test_a_pair_fills_the_room(first, second, room):
    a, b = shorten(first, second, room)
    assert 0 <= a <= first and 0 <= b <= second and a + b == min(first + second, room)


def test_an_added_token_of_its_own():
    entity = AddedToken("<entity>", len(VOCAB), special=False)
    tokenizer = WordPieceTokenizer(VOCAB, added_tokens=[entity])
    assert tokenizer.encode("un <entity>", add_special_tokens=False).tolist() == [5, len(VOCAB)]


def test_a_trained_vocabulary_is_that_of_the_tokenizers_library(shared):
    """Up to the first pairs that are equally frequent: the library's choice there is random."""
    from tokenizers.trainers import WordPieceTrainer

    text = (shared / "tokenizers/bpe_reference/corpus.en").read_text(encoding="utf-8")
    for n in (150, 200):
        theirs = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        theirs.normalizer = normalizers.BertNormalizer()
        theirs.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        special = WORDS[:5]
        theirs.train_from_iterator(
            [text], WordPieceTrainer(vocab_size=n, special_tokens=special, show_progress=False)
        )
        ours = train_wordpiece(text, n)
        assert len(ours.vocab) == n and ours.vocab.keys() == theirs.get_vocab().keys()
        length = len(ours.encode(text, add_special_tokens=False))
        assert length == pytest.approx(len(theirs.encode(text).ids), rel=1e-4)
