"""How Sphinx makes the documentation's site of these pages: ``make docs``.

The pages are written to be read on GitHub, too: links are to files, and some of the pages are files outside of this
folder. Such a page has a place in the site that is nothing but a link to it (``project/changelog.md``), and is filled
here; all links between pages are turned to those places.
"""
import os
import re
from pathlib import Path

from bert_serving.client import __version__ as release
from sphinx.application import Sphinx

project = "bert-as-service"
author = "the founders of bert-as-service"
version = release

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["requirements.txt"]

# Headings get the anchors that GitHub gives them, so that links into a page work in both places.
myst_heading_anchors = 4
myst_links_external_new_tab = False
suppress_warnings = ["myst.header"]  # a page that begins below the first level is a part of another one

autoclass_content = "both"
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
toc_object_entries_show_parents = "hide"
autodoc_preserve_defaults = True
napoleon_use_ivar = True
napoleon_use_admonition_for_examples = False

html_theme = "furo"
html_title = f"bert-as-service {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = html_show_copyright = False
pygments_style = "friendly"
pygments_dark_style = "monokai"

# `make docs-links` asks every address that the pages link to. These are examples, not places.
linkcheck_ignore = [r"https?://(localhost|127\.0\.0\.1|10\.0\.0\.\d+)", r"https?://[\w.]*example\.org"]

DOCS = Path(__file__).parent
ROOT = DOCS.parent
LINK = re.compile(r"(?<=\]\()(?!\w+:)([^)#\s]*)((?:#[^)\s]*)?)(?=\))")
LISTING = re.compile(r"^\[(example/[^]]+)\]\([^)]+\)$", re.MULTILINE)
PLACE = re.compile(r"\[[^]]*\]\(((?:\.\./)+[^)\s]+\.md)\)\s*")


def guests() -> dict[Path, str]:
    """File outside of this folder -> name of the page that shows it."""
    found = {}
    for page in DOCS.rglob("*.md"):
        place = PLACE.fullmatch(page.read_text(encoding="utf-8"))
        if place:
            found[(page.parent / place[1]).resolve()] = page.relative_to(DOCS).with_suffix("").as_posix()
    return found


def relink(text: str, origin: Path, page: Path, places: dict[Path, str]) -> str:
    """The text of ``origin``, with its relative links made right for where ``page`` is.

    A link to a folder is left out, since a site has no view of one; one to any other file lets it be downloaded.
    """
    def target(link: re.Match[str]) -> str:
        path, anchor = link.groups()
        if not path:
            return anchor
        found = (origin.parent / path).resolve()
        if found in places:
            found = DOCS / (places[found] + ".md")
        outside = "" if found.is_relative_to(DOCS) else "path:"
        return outside + os.path.relpath(found, page.parent) + anchor

    text = re.sub(r"\[([^]]*)\]\(([^)#\s:]+)\)",
                  lambda link: link[1] if (origin.parent / link[2]).is_dir() else link[0], text)
    return LINK.sub(target, text)


def show(link: re.Match[str]) -> str:
    """The program itself, in the place of a line that is nothing but a link to an example."""
    language = {".py": "python", ".sh": "sh", ".mjs": "javascript"}[Path(link[1]).suffix]
    return f"{link[0]}\n\n```{{literalinclude}} /../{link[1]}\n:language: {language}\n```"


def read(app: Sphinx, name: str, source: list[str]) -> None:
    """Fill a place with what belongs there, and turn the links of every page."""
    places = guests()
    page = origin = DOCS / f"{name}.md"
    for file, place in places.items():
        if place == name:
            origin = file
            source[0] = file.read_text(encoding="utf-8")
            app.env.note_dependency(str(file))
    source[0] = LISTING.sub(show, relink(source[0], origin, page, places))


def setup(app: Sphinx) -> None:
    app.connect("source-read", read)
