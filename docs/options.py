"""Writes docs/reference/options.md from ServerConfig: ``make docs-options``. A test checks that the page is current."""
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from bert_serving.server.config import ENVIRONMENT_PREFIX, FromModel, ServerConfig

PAGE = Path(__file__).parent / "reference" / "options.md"

HEAD = """# Options of `bert-serving-start`

<!-- Written by `make docs-options` from server/bert_serving/server/config.py; do not edit. -->

`-option value`, `-option=value`, `--option value` and unambiguous beginnings of a name all work. Each option can also
be given in the environment, in capitals after `{prefix}`: `{prefix}NUM_WORKER=2`; flags take `1` or `0`, lists are
separated by blanks. The command line wins over the environment, the environment over what the model's own files say,
those over the default. `-version` shows the version, `-h` all of this.
"""


def page() -> str:
    """The whole page."""
    groups: dict[str, list[str]] = {}
    for field in fields(ServerConfig):
        groups.setdefault(field.metadata["group"], []).extend(rows(field))
    text = HEAD.format(prefix=ENVIRONMENT_PREFIX)
    for group, lines in groups.items():
        text += "\n".join(["", f"## {group}", "", "| option | default | meaning |", "|---|---|---|", *lines, ""])
    return text


def rows(field: "Field[Any]") -> list[str]:
    """A table row for each way of giving this field."""
    metadata = field.metadata
    if "flags" in metadata:
        return [row([flag], "the model's" + (", else this" if value == field.default.fallback else ""), help)
                for flag, (value, help) in metadata["flags"].items()]
    if metadata["type"] is None:
        return [row([field.name], "off", metadata["help"])]
    help = metadata["help"]
    if metadata["nargs"]:
        help += "; one or more"
    if metadata["metavar"] and metadata["metavar"].startswith("{"):
        help += ": " + ", ".join(f"`{name}`" for name in metadata["metavar"].strip("{}").split(","))
    return [row([field.name, *metadata["aliases"]], default(metadata["default"]), help)]


def row(names: list[str], default: str, help: str) -> str:
    return f"| {', '.join(f'`-{name}`' for name in names)} | {default} | {help.replace('|', chr(92) + '|')} |"


def default(value: Any) -> str:
    if value is None or value == []:
        return ""
    if isinstance(value, FromModel):
        return f"the model's, else {default(value.fallback) or 'none'}"
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"`{' '.join(map(str, value)) if isinstance(value, list) else value}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
