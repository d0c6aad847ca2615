"""The documentation's site is made without a warning, and every link within it leads somewhere."""
import runpy
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlparse

import bert_serving.client
import bert_serving.server
import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """As ``make docs`` makes it, and Read the Docs."""
    directory = tmp_path_factory.mktemp("site")
    made = subprocess.run([sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html",
                           "-d", directory / "doctrees", DOCS, directory / "html"],
                          capture_output=True, text=True, timeout=150)
    assert made.returncode == 0, made.stderr
    return directory / "html"


class Page(HTMLParser):
    """What a page can be asked for, and what it asks for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name == "id":
                self.anchors.add(value)
            elif name in ("href", "src") and value and not urlparse(value).scheme:
                self.links.append(unquote(value))


def dead_links(site: Path) -> list[str]:
    """A line for each; files that are there to be downloaded are no pages of the site."""
    pages = {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")
             if "_downloads" not in path.parts}
    dead = []
    for path, page in pages.items():
        for link in page.links:
            file, anchor = urldefrag(link)
            target = (path.parent / file.partition("?")[0]).resolve() if file else path
            if not target.is_file() or anchor and target in pages and anchor not in pages[target].anchors:
                dead.append(f"{path.relative_to(site.resolve())} links to {link}")
    return dead


def test_every_link_leads_somewhere(site):
    assert not dead_links(site)


def test_every_file_that_is_a_page_elsewhere_is_a_page_here(site):
    """The README of a folder, the changelog and the like are written where GitHub shows them."""
    guests = runpy.run_path(str(DOCS / "conf.py"))["guests"]()
    assert {ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"} <= set(guests)
    for file, name in guests.items():
        title = file.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        assert f"<title>{title} - " in (site / f"{name}.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("package", [bert_serving.client, bert_serving.server])
def test_every_public_name_is_on_its_page(site, package):
    page = Page((site / f"api/{package.__name__.split('.')[1]}.html").read_text(encoding="utf-8"))
    for name in set(package.__all__) - {"__version__"}:
        assert any(anchor.endswith(f".{name}") for anchor in page.anchors), f"{name} is not described"


@pytest.mark.parametrize("link", ["nowhere.html", "#nothing", "there.html#nothing", "nothing.png"])
def test_dead_links_are_found(tmp_path, link):
    (tmp_path / "there.html").write_text("<p id=something><a href='#something'>", encoding="utf-8")
    (tmp_path / "here.html").write_text(f"<a href='there.html#something'><a href='https://example.org'>"
                                        f"<a href='{link}'>", encoding="utf-8")
    assert dead_links(tmp_path) == [f"here.html links to {link}"]
