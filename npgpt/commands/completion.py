"""``npgpt completion``: a script that lets a shell complete commands, options and files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any, Literal

from npgpt.errors import UserError
from npgpt.hub import KNOWN as KNOWN_MODELS
from npgpt.options import Argument, fields_of, parse
from npgpt.tokenizers.store import KNOWN


@dataclass
class Options:
    """Print a script that lets a shell complete commands, options and files."""

    shell: Annotated[Literal["bash", "zsh"] | None, Argument("bash|zsh")] = None
    """The shell, which runs the script: eval "$(npgpt completion bash)"."""


def run(args: list[str]) -> int:
    """Print the script."""
    shell = parse(Options, args, "completion").shell
    if shell is None:
        raise UserError('name the shell, as in: eval "$(npgpt completion bash)"')
    print(make_script(shell, dict(find_commands("npgpt.commands"))), end="")
    return 0


def find_commands(package: str, before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the name and the options of each command of a package, such as ``tokenizer add``."""
    for name in import_module(package).COMMANDS:
        module = import_module(f"{package}.{name}")
        if hasattr(module, "COMMANDS"):
            yield from find_commands(module.__name__, f"{before}{name} ")
        else:
            yield f"{before}{name}", module.Options


def make_script(shell: str, commands: dict[str, Any]) -> str:
    """Return the script for "bash" or "zsh" that completes commands, given their options."""
    by_value, by_command = [], []
    groups: dict[str, list[str]] = {}  # the inner commands of tokenizer, of models
    for command, kind in commands.items():
        name, _, inner = command.partition(" ")
        if inner:
            groups.setdefault(name, []).append(inner)
        fields = fields_of(kind).values()
        options = [field for field in fields if not field.argument]
        for field in options:
            if words := field.words or WORDS.get(field.option, []):
                by_value.append(f'    "{command} {field.option}") found="{" ".join(words)}";;')
        names = " ".join([field.option for field in options] + ["--help"])
        extra = " ".join(word for field in fields if field.argument for word in field.words)
        by_command.append(f'    "{command}") options="{names}" extra="{extra}";;')
    return (
        {"bash": BASH, "zsh": ZSH}[shell]
        .replace("COMMANDS", " ".join(dict.fromkeys(name.split()[0] for name in commands)))
        .replace(
            "    BY_GROUP",
            "\n".join(f'    {name}) inner="{" ".join(inner)}";;' for name, inner in groups.items()),
        )
        .replace("    BY_VALUE", "\n".join(by_value))
        .replace("    BY_COMMAND", "\n".join(by_command))
    )


WORDS = {"--tokenizer": ["char", "byte", *KNOWN], "--model": [*KNOWN_MODELS]}
"""What may stand in the place of an option's value, beside files."""
BASH = """\
# Completion of npgpt for bash. In ~/.bashrc: eval "$(npgpt completion bash)"
_npgpt() {
  local current="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}"
  local command="${COMP_WORDS[1]}" first=2 found= options= extra= inner=
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "COMMANDS" -- "$current")); return
  fi
  case "$command" in
    BY_GROUP
  esac
  if [ -n "$inner" ]; then
    if [ "$COMP_CWORD" -eq 2 ]; then
      COMPREPLY=($(compgen -W "$inner" -- "$current")); return
    fi
    command="$command ${COMP_WORDS[2]}" first=3
  fi
  case "$command $before" in
    BY_VALUE
  esac
  case "$command" in
    BY_COMMAND
  esac
  if [ "${current#-}" != "$current" ]; then
    COMPREPLY=($(compgen -W "$options" -- "$current"))
  elif [ -n "$found" ]; then
    COMPREPLY=($(compgen -W "$found" -- "$current"))
  elif [ "$COMP_CWORD" -eq "$first" ] && [ -n "$extra" ]; then
    COMPREPLY=($(compgen -W "$extra" -- "$current"))
  fi
}
complete -o default -o bashdefault -F _npgpt npgpt
"""
ZSH = """\
#compdef npgpt
# Completion of npgpt for zsh. In ~/.zshrc, after compinit: eval "$(npgpt completion zsh)"
_npgpt() {
  local current="$words[CURRENT]" before="$words[CURRENT-1]" command="$words[2]"
  local first=3 found= options= extra= inner=
  if (( CURRENT == 2 )); then
    compadd -- ${=:-COMMANDS}; return
  fi
  case "$command" in
    BY_GROUP
  esac
  if [[ -n $inner ]]; then
    if (( CURRENT == 3 )); then
      compadd -- ${=inner}; return
    fi
    command="$command $words[3]" first=4
  fi
  case "$command $before" in
    BY_VALUE
  esac
  case "$command" in
    BY_COMMAND
  esac
  if [[ $current == -* ]]; then
    compadd -- ${=options}
  elif [[ -n $found ]]; then
    compadd -- ${=found}
  else
    (( CURRENT == first )) && [[ -n $extra ]] && compadd -- ${=extra}
    _files
  fi
}
compdef _npgpt npgpt
"""
