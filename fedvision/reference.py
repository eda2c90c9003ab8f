"""The reference of the `fedvision` command, as Markdown, from the command itself.

python -m fedvision.reference > docs/cli.md
"""

import inspect
from collections.abc import Iterator
from typing import Any

EXIT_CODES = {
    0: "done",
    1: "the run failed: data that cannot be used, a round without its replies, a folder that cannot be written",
    2: "a mistake in a config or on the command line; one message names it, and nothing was begun",
    130: "interrupted (Ctrl-C); a simulation says how it goes on",
}


def reference() -> str:
    """docs/cli.md: every command with its arguments, options and an example, and the exit codes."""
    import typer

    from fedvision.cli import app, mount

    mount()
    group = typer.main.get_command(app)
    lines = ["# The `fedvision` command", "", inspect.cleandoc(group.help or ""), ""]
    lines += ["Written by `python -m fedvision.reference > docs/cli.md`; a test compares the two.", ""]
    for name, command in commands(group):
        lines += _section(name, command)
    lines += ["## Exit codes", "", "| Code | Means |", "|---|---|", *(f"| {code} | {means} |" for code, means in EXIT_CODES.items()), ""]
    lines += ["## Where things are said", "", *_SAID, "## Completion", "", *_COMPLETION]
    return "\n".join(lines)


_SAID = [
    "Progress and figures for a person go to stderr.  With `--json` the last line of stdout is one object, and stdout holds nothing else:",
    "`run_dir`, `rounds`, `metrics` (name to number, of the final model), `model_sha256` (null for `local`, which has no one model),",
    "`seconds`, and for `local` also `sites`, each site's own metrics.",
    "",
]
_COMPLETION = [
    "`fedvision --install-completion` sets up the completion of commands and options for bash, zsh, fish or PowerShell;",
    "`fedvision --show-completion` prints it.",
    "",
]


def commands(group: Any, before: str = "fedvision") -> Iterator[tuple[str, Any]]:
    """(full name, command) of every command that does something, in the order of the names."""
    for name, command in sorted(group.commands.items()):
        if hasattr(command, "commands"):
            yield from commands(command, f"{before} {name}")
        else:
            yield f"{before} {name}", command


def _section(name: str, command: Any) -> list[str]:
    import click

    usage = " ".join(command.collect_usage_pieces(click.Context(command, info_name=name)))
    lines = [f"## {name}", "", inspect.cleandoc(command.help or ""), "", "```", f"{name} {usage}", "```", ""]
    for param in command.params:
        if param.name != "help":
            lines.append(f"- `{_written(param)}`: {' '.join((getattr(param, 'help', None) or '').split())}")
    return [*lines, "", f"{command.epilog or ''}".replace("Example: ", "Example: `", 1) + "`", ""]


def _written(param: Any) -> str:
    if param.param_type_name == "argument":
        return param.metavar or param.name.upper()
    value = "" if param.is_flag else f" {param.metavar or param.type.name.upper()}"
    return ", ".join(param.opts) + value


if __name__ == "__main__":
    print(reference(), end="")
