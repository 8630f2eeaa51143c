"""Tokenizers in Hugging Face's formats: our ids are those of transformers, or the file is refused.

Many small tokenizers are made with the tokenizers library, one for each part that a
``tokenizer.json`` may have and for pairs of such parts, and read by both.
"""

import itertools
import json
import os
import re
import warnings

import pytest
import regex

from npgpt import GPT, GPTConfig, UserError
from npgpt.tokenizers import (
    ByteTokenizer,
    CharTokenizer,
    GPT1Tokenizer,
    load_tokenizer,
    save_tokenizer,
    train_bpe,
)
from npgpt.tokenizers.huggingface import byte_letters, write_hugging_face
from npgpt.tokenizers.normalizers import make_normalizer
from npgpt.weights.export import export

if os.environ.get("NPGPT_TEST_ALL") == "1":  # where nothing may be skipped for want of it
    import tokenizers
else:
    tokenizers = pytest.importorskip("tokenizers")
from tokenizers import (  # noqa: E402
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

pytestmark = pytest.mark.usefixtures("oracle")

CORPUS = "The lower the slower, the newer the LOWEST; it's we'll, 3 cheers for 1234567 wolves! " * 9
TEXTS = [
    "", " ", "a", " a", "  the lower  ",
    "The LOWER\r\n\n the\tslower, it's we'll 1234567", "hello, world!",
    "Déjà vu ΣΑΣ İstanbul ﬁne Å Å ½²", "今天天气很好，天", "😀👩‍👩‍👧 x",
    "\0\x1c\x85\u2028a\u200d", "<s>the</s>", "the <s> lower<s>s </s>  x",
    "the<pad>x <pad>  y", "a 3124 b", "unnewer newer", "foo  <mask>  lower<mask>",
    "THE NEWER<S>", "<|endoftext|>the<|endoftext|>", "a   b    c", "low-er _x_ a_b",
    "ab12cd 3", "néw né Ġx", "$#@ !!",
]  # fmt: skip
LETTERS = byte_letters()


def byte_level(ignore_merges=False):
    """Return a GPT-2 of 320 tokens, as the tokenizers library describes it."""
    ours = train_bpe(CORPUS + " ".join(TEXTS), 320, special_tokens=())
    spelled = {t: "".join(LETTERS[byte] for byte in t) for t in ours.ranks}
    vocab = {spelled[token]: i for token, i in ours.ranks.items()}
    merges = [(spelled[left], spelled[right]) for left, right in ours.merges]
    made = Tokenizer(models.BPE(vocab, merges, ignore_merges=ignore_merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return made


def compare(theirs, folder, decodes=True):
    """Demand that both read a folder the same; return our tokenizer."""
    ours = load_tokenizer(folder)
    save_tokenizer(ours, folder.parent)
    again = load_tokenizer(folder.parent)
    assert again.to_dict() == ours.to_dict()
    if not isinstance(theirs, Tokenizer):
        theirs = theirs._tokenizer
    for text in TEXTS:
        expected = theirs.encode(text).ids
        for mine in (ours, again):
            assert mine.encode(text, allowed_special="all").tolist() == expected, text
        plain = theirs.encode(text, add_special_tokens=False).ids
        given = dict(allowed_special="all", add_special_tokens=False)
        assert ours.encode(text, **given).tolist() == plain, text
        if decodes:
            # theirs does not skip a special token that the normalizer changes
            unchanged = all(ours.normalize(token) == token for token in ours.special_tokens)
            for skip in (True, False) if unchanged else (False,):
                read = theirs.decode(expected, skip_special_tokens=skip)
                assert ours.decode(expected, skip_special_tokens=skip) == read, text
                stream = ours.decode_stream(expected, skip_special_tokens=skip)
                assert "".join(stream) == read
    return ours


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


N, P = normalizers, pre_tokenizers
NORMALIZERS = [
    None, N.Lowercase(), N.NFC(), N.NFD(), N.NFKC(), N.NFKD(), N.StripAccents(), N.Strip(),
    N.Strip(left=False), N.Strip(right=False), N.Replace("the", "The "),
    N.Replace(Regex(r"\s+"), " "), N.Replace(Regex(r"l\w"), "ab"), N.Prepend(" "), N.Prepend("the"),
    N.Sequence([N.NFD(), N.StripAccents(), N.Lowercase(), N.Strip()]), N.Sequence([]),
    N.Sequence([N.Sequence([N.Prepend("x")]), N.Replace(".", "!")]),
]  # fmt: skip
GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LAST = P.ByteLevel(False, use_regex=False)
CUTS = [
    P.ByteLevel(False), P.ByteLevel(True), LAST, P.ByteLevel(True, use_regex=False),
    *(P.Sequence([P.Split(Regex(p), "isolated"), LAST])
      for p in (GPT4, r"\w+", r"\p{L}+", "[^a]", r"[\w-]+|\W", "(b)c?", r"(?:\d| )+", r"\s+(?=l)",
                r"[!-$^({|}][A-Za-z]+|\p{P}| ", "(?i:'S|[lw]O)|(?#x)[^-a]", "(?i)LO|W")),
    P.Sequence([P.Split("er", "isolated"), LAST]),
    P.Sequence([P.Split(".", "isolated", invert=True), P.ByteLevel(False)]),
    P.Sequence([P.Digits(True), P.ByteLevel(False)]), P.Sequence([P.Digits(False), LAST]),
    P.Sequence([P.Punctuation("isolated"), P.Digits(True), P.ByteLevel(False)]),
    P.Sequence([P.Sequence([P.Split(Regex(r"\p{N}{1,3}"), "isolated")]), P.ByteLevel(False)]),
]  # fmt: skip
TEMPLATE = dict(special_tokens=[("<s>", 320), ("</s>", 321)])
PROCESSORS = [
    None, processors.ByteLevel(), processors.ByteLevel(trim_offsets=False),
    processors.TemplateProcessing("<s> $A", "<s> $A $B", **TEMPLATE),
    processors.TemplateProcessing("<s> <s> $A </s>", None, **TEMPLATE),
    processors.TemplateProcessing("$A:1 </s>:1", None, **TEMPLATE),
    processors.RobertaProcessing(("</s>", 321), ("<s>", 320)),
    processors.BertProcessing(("</s>", 321), ("<s>", 320)),
    processors.Sequence([processors.ByteLevel(),
                         processors.TemplateProcessing("<s> $A", None, **TEMPLATE)]),
    processors.Sequence([processors.Sequence(
        [processors.BertProcessing(("</s>", 321), ("<s>", 320))])]),
]  # fmt: skip
FLAGS = [dict(zip(("lstrip", "rstrip", "single_word", "normalized"), flags, strict=True))
         for flags in itertools.product((False, True), repeat=4)]  # fmt: skip


def settings():
    """Return settings of each part, and of pairs of parts, each part often enough."""
    for i, normalizer in enumerate(NORMALIZERS):
        yield normalizer, CUTS[0], PROCESSORS[0], FLAGS[i % 16]
        yield normalizer, CUTS[i % len(CUTS)], PROCESSORS[i % len(PROCESSORS)], FLAGS[-i % 16]
    for i, cut in enumerate(CUTS):
        yield NORMALIZERS[0], cut, PROCESSORS[0], FLAGS[0]
        yield NORMALIZERS[i * 5 % len(NORMALIZERS)], cut, PROCESSORS[0], FLAGS[i * 3 % 16]
    for i, processor in enumerate(PROCESSORS):
        yield NORMALIZERS[i], CUTS[i * 2 % len(CUTS)], processor, FLAGS[i]
    for i, flags in enumerate(FLAGS):
        yield NORMALIZERS[0], CUTS[0], PROCESSORS[0], flags
        yield NORMALIZERS[1 + i % 2 * 14], CUTS[1], PROCESSORS[3], flags


@pytest.mark.parametrize("number", range(len([*settings()])))
def test_the_parts_of_a_tokenizer_file(number, folder):
    normalizer, cut, processor, flags = [*settings()][number]
    made = byte_level(ignore_merges=number % 3 == 0)
    made.normalizer, made.pre_tokenizer = normalizer, cut
    if processor is not None:
        made.post_processor = processor
    made.add_special_tokens([AddedToken("<s>"), AddedToken("</s>", rstrip=True)])
    made.add_tokens([AddedToken("newer", **flags), AddedToken(" <mask>", **flags)])
    made.add_special_tokens([AddedToken("<pad>", **flags), AddedToken("foo ", **flags)])
    made.add_tokens(["new", "LOW", "今天", "a", AddedToken("  ", normalized=False)])
    made.save(str(folder / "tokenizer.json"))
    read = compare(made, folder)
    path = folder / "ours"
    path.mkdir()
    write_hugging_face(read, path)
    compare(Tokenizer.from_file(str(path / "tokenizer.json")), path)


REFUSED = {
    "Nmt": lambda t: setattr(t, "normalizer", N.Nmt()),
    "normalizer ByteLevel": lambda t: setattr(t, "normalizer", N.ByteLevel()),
    "normalizer BertNormalizer": lambda t: setattr(t, "normalizer", N.BertNormalizer()),
    "cuts by Whitespace": lambda t: setattr(t, "pre_tokenizer", P.Whitespace()),
    "cuts by nothing": lambda t: setattr(t, "pre_tokenizer", None),
    "Metaspace": lambda t: setattr(t, "pre_tokenizer", P.Metaspace()),
    "behavior Removed": lambda t: setattr(
        t, "pre_tokenizer", P.Sequence([P.Split(" ", "removed"), LAST])),
    "behavior MergedWithNext": lambda t: setattr(
        t, "pre_tokenizer", P.Sequence([P.Split(" ", "merged_with_next"), LAST])),
    "WhitespaceSplit is not known": lambda t: setattr(
        t, "pre_tokenizer", P.Sequence([P.WhitespaceSplit(), LAST])),
    "add_prefix_space": lambda t: setattr(
        t, "pre_tokenizer", P.Sequence([P.Digits(), P.ByteLevel(True)])),
    r"holds '\$'": lambda t: setattr(
        t, "pre_tokenizer", P.Sequence([P.Split(Regex("a$"), "isolated"), LAST])),
    "the decoder is None": lambda t: setattr(t, "decoder", None),
    "the decoder is .*Metaspace": lambda t: setattr(t, "decoder", decoders.Metaspace()),
    "dropout 0.5": lambda t: setattr(t.model, "dropout", 0.5),
    "continuing_subword_prefix": lambda t: setattr(t.model, "continuing_subword_prefix", "##"),
    "end_of_word_suffix '</x>'": lambda t: setattr(t.model, "end_of_word_suffix", "</x>"),
    "several templates": lambda t: setattr(t, "post_processor", processors.Sequence(
        [processors.TemplateProcessing("<s> $A", None, **TEMPLATE)] * 2)),
    "a WordPiece tokenizer": lambda t: setattr(t, "model", models.WordPiece({"a": 0})),
    "a Unigram tokenizer": lambda t: setattr(t, "model", models.Unigram([("a", 0.0)], 0, False)),
    "a WordLevel tokenizer": lambda t: setattr(t, "model", models.WordLevel({"a": 0}, "a")),
}  # fmt: skip


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_not_known_is_refused_by_its_name(message, folder):
    made = byte_level()
    REFUSED[message](made)
    made.save(str(folder / "tokenizer.json"))
    with pytest.raises(UserError, match=message) as error:
        load_tokenizer(folder)
    assert "\n" not in str(error.value) and "tokenizer.json" in str(error.value)


@pytest.mark.parametrize(("pattern", "text", "held"), [
    ("a{2}?", "aaaab", "{2}?"), ("a{,}b", "aab", "{,}"), (r"(a|b)\g<1>", "abab", r"\\g"),
    (r"\my", "my y", r"\\m"), (r"\Nx", "axy", r"\\N"), ("a(?i)b|C", "aB c", "(?"),
    ("(?i:ss)", "ß", "ss after (?i"), ("(?i)(x|ist)", "İSt", "i after (?i"),
    ("(?i:s|(?:st))", "ﬆ", "st after (?i"), ("(?i:[a-z])", "İ", "a-z after (?i"),
    (r"(?i:\p{Lu})", "a", r"\\p{Lu} after (?i"), (r"\p{Word}", "²", r"\\p{Word}"),
    (r"\p{XDigit}", "٣", r"\\p{XDigit}"), ("[[a]b]", "ab]", "["),
])  # fmt: skip
def test_patterns_that_mean_something_else_there_are_refused(pattern, text, held):
    theirs = N.Replace(Regex(pattern), "-").normalize_str(text)
    assert theirs != regex.sub(pattern, "-", text), "the two agree: no need to refuse the pattern"
    with pytest.raises(UserError, match=re.escape(f"holds '{held}'")):
        make_normalizer({"type": "Replace", "pattern": {"Regex": pattern}, "content": "-"})


def test_a_pattern_that_matches_the_empty_string_is_refused():
    """Oniguruma skips an empty match just after a match, and Python does not."""
    assert N.Replace(Regex("x*"), "-").normalize_str("axb") == "-a-b-" != re.sub("x*", "-", "axb")
    replace = make_normalizer({"type": "Replace", "pattern": {"Regex": "x*"}, "content": "-"})
    with pytest.raises(UserError, match="matches the empty string"):
        replace("axb")


@pytest.mark.parametrize(("vocab", "merges"), [
    ({"ab": 256, "bc": 257, "abc": 258}, [("a", "b"), ("b", "c"), ("a", "bc")]),
    ({"ab": 257, "bc": 256}, [("a", "b"), ("b", "c")]),
    ({"ab": 256, "abc": 257, "bc": 258}, [("a", "b"), ("a", "bc"), ("b", "c")]),
])  # fmt: skip
@pytest.mark.parametrize("ignore_merges", [False, True])
def test_merges_that_ranks_do_not_say_are_refused(vocab, merges, ignore_merges, folder):
    vocab = {letter: byte for byte, letter in LETTERS.items()} | vocab
    made = byte_level()
    made.model = models.BPE(vocab, merges, ignore_merges=ignore_merges)
    made.save(str(folder / "tokenizer.json"))
    with pytest.raises(
        UserError, match="tiktoken, which runs the encoding, needs merges in the order"
    ):
        load_tokenizer(folder)


@pytest.mark.parametrize("ignore_merges", [False, True])
def test_tokens_that_no_merge_makes(ignore_merges, folder):
    made = byte_level(ignore_merges)
    values = json.loads(made.to_str())
    whole = "Ġ3124" if ignore_merges else "wolves"  # which no pair of tokens spells
    values["model"]["vocab"] |= {whole: 320, "Ġ3Ġ3Ġ3": 321, "☃": 322}
    made = Tokenizer.from_str(json.dumps(values))
    made.save(str(folder / "tokenizer.json"))
    ours = compare(made, folder)
    for i in (320, 321, 322):
        assert ours.decode([i]) == made.decode([i])


def test_added_tokens_whose_id_the_library_changes(folder):
    made = byte_level()
    made.add_tokens(["<a>"])
    values = json.loads(made.to_str())
    values["added_tokens"][0]["id"] = 400
    (folder / "tokenizer.json").write_text(json.dumps(values))
    assert Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id("<a>") == 320
    with pytest.raises(UserError, match="'<a>' has the id 400, and the tokenizers library .* 320"):
        load_tokenizer(folder)


# ---- folders of version 4: vocab.json, merges.txt, and the added tokens beside them


def version_4(folder, files, merges_end="\n"):
    values = json.loads(byte_level().to_str())["model"]
    values["vocab"]["<|endoftext|>"] = 320
    (folder / "vocab.json").write_text(json.dumps(values["vocab"]), encoding="utf-8")
    lines = "".join(f"{left} {right}\n" for left, right in values["merges"])
    (folder / "merges.txt").write_text("#version: 0.2\n" + lines, encoding="utf-8")
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")


TOKEN = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
END = {"content": "<|endoftext|>", **TOKEN, "normalized": True}
FOLDERS = {
    "added_tokens": {
        "tokenizer_config": {"tokenizer_class": "GPT2Tokenizer"},
        "added_tokens": {"<s>": 321, "<mask>": 322, "unnew": 323},
        "special_tokens_map": {"bos_token": "<s>", "eos_token": END, "unk_token": "<|endoftext|>"},
    },
    "added_tokens out of order": {
        "added_tokens": {"unnew": 322, "<s>": 321},
        "special_tokens_map": {"bos_token": "<s>"},
    },
    "added_tokens_decoder": {
        "tokenizer_config": {
            "tokenizer_class": "GPT2Tokenizer",
            "added_tokens_decoder": {
                "320": {"content": "<|endoftext|>", **TOKEN, "special": True},
                "321": {"content": "<mask>", **TOKEN, "lstrip": True, "special": True},
                "322": {"content": "unnew", **TOKEN, "single_word": True, "special": False},
            },
            "mask_token": "<mask>",
            "bos_token": "<|endoftext|>",
        },
        "special_tokens_map": {"pad_token": "<ignored>"},
    },
    "special_tokens_map alone": {
        "special_tokens_map": {"pad_token": "<pad>", "additional_special_tokens": ["<s>", "</s>"]},
        "tokenizer_config": {},
    },
    "extra tokens in the configuration": {
        "tokenizer_config": {"extra_special_tokens": ["<s>", "</s>"], "image_token": "<mask>"},
    },
    "extra tokens as a dictionary": {
        "tokenizer_config": {"extra_special_tokens": {"image_token": "<mask>"}, "pad_token": "<s>"},
    },
    "add_bos_token": {"tokenizer_config": {"add_bos_token": True, "add_prefix_space": True}},
    "add_eos_token": {
        "tokenizer_config": {"add_eos_token": True, "eos_token": {"__type": "AddedToken", **END}}
    },
    "no end of text": {
        "tokenizer_config": {"bos_token": None, "eos_token": "</s>", "unk_token": None}
    },
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_folders_of_version_4(name, folder):
    from transformers import GPT2Tokenizer

    version_4(folder, FOLDERS[name])
    compare(GPT2Tokenizer.from_pretrained(folder), folder)


@pytest.mark.parametrize("name", [
    "added_tokens", "added_tokens_decoder", "special_tokens_map alone",
    "extra tokens in the configuration"])  # fmt: skip
def test_tokens_declared_beside_tokenizer_json(name, folder):
    from transformers import PreTrainedTokenizerFast

    made = byte_level()
    made.add_special_tokens(["<|endoftext|>"])
    made.save(str(folder / "tokenizer.json"))
    for file, content in FOLDERS[name].items():
        (folder / f"{file}.json").write_text(json.dumps(content), encoding="utf-8")
    compare(PreTrainedTokenizerFast.from_pretrained(folder), folder)


def test_classes_that_cut_otherwise_are_refused(folder):
    version_4(folder, {"tokenizer_config": {"tokenizer_class": "Qwen2Tokenizer"}})
    with pytest.raises(UserError, match="Qwen2Tokenizer, which cuts a text otherwise"):
        load_tokenizer(folder)


# ---- GPT-1's


def small_gpt1(**options):
    letters = "abcdefghijklmnopqrstuvwxyz0123456789!,;'天今<>|/_-"
    merges = [("l", "o"), ("lo", "w</w>"), ("e", "r</w>"), ("lo", "w"), ("low", "er</w>"),
              ("t", "h"), ("th", "e</w>"), ("e", "w"), ("s", "t</w>")]  # fmt: skip
    tokens = ["<unk>", *letters, *(c + "</w>" for c in letters), *map("".join, merges)]
    return GPT1Tokenizer({token: i for i, token in enumerate(tokens)}, merges, **options)


def test_gpt1_with_added_tokens(folder):
    from transformers import OpenAIGPTTokenizer

    plain = small_gpt1()
    theirs = OpenAIGPTTokenizer(vocab=dict(plain.vocab), merges=list(plain.merges))
    theirs.add_tokens([AddedToken("NEWER", normalized=True), AddedToken("Low", normalized=False)])
    theirs.add_special_tokens(
        {"pad_token": "<pad>", "mask_token": AddedToken("<mask>", lstrip=True)}
    )
    theirs.save_pretrained(folder)
    compare(theirs, folder)


@pytest.mark.parametrize(("part", "values"), [
    ("normalizer", None), ("normalizer", {"type": "Lowercase"}),
    ("normalizer", {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                    "strip_accents": False, "lowercase": True}),
    ("normalizer", {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                    "strip_accents": None, "lowercase": False}),
    ("decoder", None), ("decoder", {"type": "BPEDecoder", "suffix": "@"}),
    ("decoder", {"type": "Sequence", "decoders": [{"type": "BPEDecoder", "suffix": "@"}]}),
])  # fmt: skip
def test_gpt1_of_other_parts_is_refused(part, values, folder):
    write_hugging_face(small_gpt1(), folder)
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {part: values}))
    with pytest.raises(UserError, match=part):
        load_tokenizer(folder)


# ---- what we write


TOKENIZERS = {
    "char": lambda: CharTokenizer.from_text("".join(TEXTS)),
    "byte": ByteTokenizer,
    "bpe": lambda: train_bpe(CORPUS, 300),
    "bpe of words": lambda: train_bpe(CORPUS, 300, pattern=r"\w+"),
    "gpt1": small_gpt1,
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_written_tokenizers_open_in_transformers(name, folder, capfd):
    from transformers import AutoTokenizer

    ours = TOKENIZERS[name]()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_hugging_face(ours, folder, n_positions=64)
        theirs = AutoTokenizer.from_pretrained(folder)
    assert capfd.readouterr().err == ""
    read = compare(theirs, folder)
    assert type(read) is type(ours) and read.n_vocab == ours.n_vocab == len(theirs)
    for text in TEXTS:
        ids = ours.encode(text, allowed_special="all").tolist()
        assert theirs(text)["input_ids"] == ids
        assert theirs.decode(ids) == ours.decode(ids)


@pytest.mark.parametrize("preset", ["gpt1", "gpt2"])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_an_exported_run_opens_in_transformers(name, preset, tmp_path, caplog):
    """Without a warning, in any of the ways that transformers has, and with the same tokens."""
    import transformers

    ours = TOKENIZERS[name]()
    sizes = dict(n_positions=16, n_embd=16, n_layer=2, n_head=2)
    model = GPT(GPTConfig.preset(preset, vocab_size=ours.n_vocab, **sizes)).eval()
    model.save_pretrained(tmp_path / "run")
    save_tokenizer(ours, tmp_path / "run")
    folder = tmp_path / "exported"
    export(tmp_path / "run", folder)
    logger = transformers.logging.get_logger("transformers")
    logger.addHandler(caplog.handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
            theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
            ids = tokenizer("the lower", return_tensors="pt")
            written = theirs.generate(**ids, max_new_tokens=5, do_sample=False)
    finally:
        logger.removeHandler(caplog.handler)
    assert not caplog.records
    prompt = ours.encode("the lower")
    assert ids["input_ids"].tolist() == [prompt.tolist()]
    assert written.tolist() == model.generate(prompt, max_new_tokens=5).tolist()
    assert load_tokenizer(folder).encode("the lower").tolist() == prompt.tolist()
