"""Examples in files, of every form."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npgpt import UserError
from npgpt.evaluation.examples import PARSERS, draw_examples, read_examples, read_rows

TWO = [("one", "yes"), ("two", "no")]


@pytest.mark.parametrize(
    ("name", "text", "columns"),
    [
        ("a.tsv", "one\tyes\r\n\ntwo \tno\n", ()),
        ("a", "one\tyes\ntwo\tno", ()),
        ("a.TSV", "label\ttext\nyes\tone\nno\ttwo\n", ()),
        ("a.csv", 'n,label,text\n1,yes,"one"\n2,no,two\n', ()),
        ("a.csv", "yes,one,3\nno,two,3\n", ("2", "1")),
        ("a.csv", "\ufeffReview,Mood\r\none,yes\r\ntwo,no\r\n", ("Review", "Mood")),
        ("a.jsonl", '{"input": "one", "output": "yes"}\n{"input": "two", "output": "no"}', ()),
        ("a.jsonl", '{"label": "yes", "text": "one"}\n{"text": " two", "label": "no"}\n', ()),
        ("a.trec", "yes:fine one\nno:other two\n", ()),
    ],
)
def test_forms(name, text, columns, tmp_path):
    path = tmp_path / name
    path.write_bytes(text.encode())
    assert read_examples(path, *columns) == TWO


def test_cells_of_other_kinds(tmp_path):
    """Quoted cells, detailed labels, numbers as labels, more than two columns, encodings."""
    path = tmp_path / "a.csv"
    path.write_text('text,label\n"a, ""b""\nc",x\n')
    assert read_examples(path) == [('a, "b"\nc', "x")]
    path.write_text("DESC:manner How ?\n")
    assert read_examples(path, "1", "3", form="trec") == [("How ?", "manner")]
    (tmp_path / "a.jsonl").write_text('{"a": "one", "b": "two", "score": 2.5}')
    rows = read_rows(tmp_path / "a.jsonl", ["a", "b", "score"])
    assert [row.cells for row in rows] == [["one", "two", "2.5"]]
    path.write_bytes("été,oui\n".encode("latin-1"))
    assert read_examples(path, encoding="latin-1") == [("été", "oui")]


@pytest.mark.parametrize("names", [("rt.pos", "rt.neg"), ("pos.txt", "neg.txt"), ("pos", "neg")])
def test_a_folder_has_a_file_for_each_label(names, tmp_path):
    for name, text in zip(names, ("a film\n\nb\n", "c\n"), strict=True):
        (tmp_path / name).write_text(text)
    (tmp_path / ".hidden").write_text("")
    assert read_examples(tmp_path) == [("c", "neg"), ("a film", "pos"), ("b", "pos")]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.tsv", b"a\tb\nc", "line 2 has 1 column, and line 1 has 2"),
        ("a.tsv", b"a b", "line 1 has 1 column; expected a text and a label"),
        ("a.tsv", b"a\tb\tc", "line 1 has 3 columns; expected a text and a label"),
        ("a.tsv", b" \n", "has no example"),
        ("a.csv", b"text,label\n", "has no example"),
        ("a.csv", b"text,label\na,b\n,b\n", "line 3: the text is empty"),
        ("a.csv", b"text,label\na,b\nc, \n", "line 3: the label is empty"),
        ("a.csv", b'text,label\n"a\nb",x\n"c" d,y\n', "line 4 is no row of CSV"),
        ("a.csv", b'text,label\n"a', "line 2 is no row of CSV"),
        ("a.csv", b"x,yes\n" * 3 + b"\xe9,yes\n", "line 4 is not utf-8; name the encoding"),
        ("a.csv", b"x,yes\ny,nno\n", "line 2: the label is 'nno'; did you mean 'no'"),
        ("a.jsonl", b'{"text": "a"}', "line 1 has no field 'input'"),
        ("a.jsonl", b'{"text": "a", "label": "yes"}\n{"text": "a"}', "line 2 has no field 'label'"),
        ("a.jsonl", b'{"text": "a", "label": null}', "line 1: the label is None"),
        ("a.jsonl", b"[1]", "line 1 is .* must be an object"),
        ("a.jsonl", b"{", "line 1 is damaged"),
        ("a.trec", b"A:b c\nd e", "line 2 begins with 'd', and not LABEL:detail"),
    ],
)
def test_files_that_are_wrong(name, content, said, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        read_examples(tmp_path / name, labels=["yes", "no"] if b"yes" in content else ())
    assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)


def test_columns_that_are_wrong(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("review,mood,mood\na,b,c\n")
    for columns, said in [
        (("reviews", "mood"), "line 1 names no column 'reviews'; did you mean 'review'"),
        (("review", "mood"), "line 1 names 2 columns 'mood'; expected one"),
        (("1", "4"), "line 1 has 3 columns, and no column 4"),
        (("0", "1"), "no column 0"),
        (("1", "9" * 5000), "no column 9999"),
        (("review", ""), "name both"),
    ]:
        with pytest.raises(UserError, match=said):
            read_examples(path, *columns)
    with pytest.raises(UserError, match="no encoding 'utf-9'"):
        read_examples(path, encoding="utf-9")
    with pytest.raises(UserError, match="no form 'xml'; known are csv"):
        read_examples(path, form="xml")


def test_folders_that_are_wrong(tmp_path):
    with pytest.raises(UserError, match="has no files; expected two or more"):
        read_examples(tmp_path)
    (tmp_path / "pos.txt").write_text("a\n")
    with pytest.raises(UserError, match="two or more with names that differ in one part"):
        read_examples(tmp_path)
    (tmp_path / "README").write_text("a\n")
    with pytest.raises(UserError, match="two or more with names that differ in one part"):
        read_examples(tmp_path)
    with pytest.raises(UserError, match="no columns, and no form"):
        read_examples(tmp_path, "1", "2")
    with pytest.raises(UserError, match="does not exist"):
        read_examples(tmp_path / "none")


def test_examples_are_drawn():
    """Without replacement, the same for a seed; more of them begin with the fewer."""
    found = draw_examples(TWO * 3, 6, seed=1)
    assert sorted(found) == sorted(TWO * 3) and draw_examples(TWO * 3, 2, seed=1) == found[:2]
    assert len({tuple(draw_examples(TWO * 3, 3, seed)) for seed in range(9)}) > 1
    with pytest.raises(UserError, match="k is 3, and there are 2 examples"):
        draw_examples(TWO, 3)


@given(st.binary(max_size=60), st.sampled_from([*PARSERS]), st.sampled_from(["utf-8", "utf-16"]))
def test_any_bytes_are_read_or_refused_in_one_line(tmp_path_factory, content, form, encoding):
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(content)
    try:
        examples = read_examples(path, form=form, encoding=encoding)
        assert all(text.strip() and label.strip() for text, label in examples)
    except UserError as error:
        assert "\n" not in str(error)


def test_real_data(shared):
    tasks = shared / "tasks"
    reviews = read_examples(tasks / "rt-polarity")
    assert len(reviews) == 10662 and {label for _, label in reviews} == {"pos", "neg"}
    questions = read_examples(tasks / "trec/TREC.train", form="trec", encoding="latin-1")
    assert len(questions) == 5452 and len({label for _, label in questions}) == 6
    with pytest.raises(UserError, match=r"TREC.train, line \d+ is not utf-8"):
        read_examples(tasks / "trec/TREC.train", form="trec")
    messages = read_examples(tasks / "sms-spam/sms.tsv", "2", "1", labels=["ham", "spam"])
    assert len(messages) == 5574
    pairs = read_rows(tasks / "stsb/stsb-en-dev.csv", ["1", "2", "3"])
    assert len(pairs) == 1500 and float(pairs[0].cells[2]) == 5
    chinese = read_examples(tasks / "chn-sentiment")
    assert len(chinese) == 16548 + 18576 - 1  # one line is empty
