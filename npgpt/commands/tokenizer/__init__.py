"""The commands of ``npgpt tokenizer``; see `npgpt.commands`."""

TITLE = "text to token ids, and back"
COMMANDS = {
    "list": ("", "The tokenizers that are installed, and the published ones that can be added."),
    "add": (
        "PATH ... [--name NAME]",
        "Install a tokenizer: encoder.json and vocab.bpe, vocab.json and merges.txt, a .tiktoken "
        "file.",
    ),
    "train": (
        "--vocab_size N [--data FILE|DIR|GLOB ...] [--out FILE]",
        "Train a tokenizer on a text. Without --data: on the source code of Python's own library.",
    ),
    "show": (
        "TEXT [--tokenizer NAME|FILE] [--steps]",
        "Print the tokens of a text; with --steps every merge. TEXT - is standard input.",
    ),
}
END = "NAME or FILE is also what npgpt train --tokenizer takes."
