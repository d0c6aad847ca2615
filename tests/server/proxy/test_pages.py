"""The dashboard's files, and the documentation that is made from openapi.json."""
import json
import re
from html.parser import HTMLParser

import pytest
from bert_serving.server.proxy import pages
from bert_serving.server.proxy.app import create_app

from .conftest import strict, told

DOCUMENT = json.loads(pages.OPENAPI.read_text(encoding="utf-8"))


@pytest.fixture
def dashboard(tmp_path):
    (tmp_path / "index.html").write_text("<!doctype html><script src='app.js'></script>")
    (tmp_path / "app.js").write_text("alert('hello')")
    (tmp_path / "README.md").write_text("not a part of the page")
    (tmp_path / "img").mkdir()
    (tmp_path / "img/icon.svg").write_text("<svg/>")
    return tmp_path


def test_the_dashboard_and_its_files(make, dashboard):
    http = make(dashboard=dashboard)
    for path, media_type, content in (("/", "text/html", b"<!doctype"),
                                      ("/index.html", "text/html", b"<!doctype"),
                                      ("/app.js", "text/javascript", b"alert"),
                                      ("/img/icon.svg", "image/svg+xml", b"<svg/>")):
        with http.get(path) as response:
            assert (response.status_code, response.mimetype) == (200, media_type)
            assert response.data.startswith(content)
        with http.get(path, headers={"If-None-Match": response.headers["ETag"]}) as again:
            assert again.status_code == 304


@pytest.mark.parametrize("path", ["/README.md", "/../conftest.py", "/img", "/img/", "/nowhere.js"])
def test_nothing_else_is_served(make, dashboard, path):
    assert make(dashboard=dashboard).get(path).status_code == 404


@pytest.mark.parametrize("path", ["/", "/index.html"])
def test_without_a_dashboard(make, tmp_path, path):
    response = make(dashboard=tmp_path / "none").get(path)
    assert response.status_code == 404
    assert strict(response)["type"] == "NotFound"


def test_the_real_dashboard_is_there(http):
    with http.get("/") as response:
        assert response.status_code == 200 and b"<html" in response.data


# ---- openapi.json ----------------------------------------------------------------------------------------------------

def test_the_document_has_every_route_and_no_other():
    routes = {(rule.rule, method.lower()) for rule in create_app(None, None, told()).url_map.iter_rules()
              for method in rule.methods - {"HEAD", "OPTIONS"}
              if rule.rule == "/" or not re.search(r"-(js|css|svg|html)$", rule.endpoint)}
    assert routes == {(path, method) for path, methods in DOCUMENT["paths"].items() for method in methods}


def test_it_is_served_as_it_is(http):
    with http.get("/openapi.json") as response:
        assert response.mimetype == "application/json"
        assert json.loads(response.data) == DOCUMENT


def test_every_reference_leads_somewhere():
    for reference in re.findall(r'"\$ref": "([^"]+)"', pages.OPENAPI.read_text(encoding="utf-8")):
        assert "description" in pages._resolved(DOCUMENT, {"$ref": reference}) or "/schemas/" in reference


def test_the_version_is_the_package_s():
    from bert_serving.server import __version__
    assert DOCUMENT["info"]["version"] == __version__


# ---- /docs -----------------------------------------------------------------------------------------------------------

class Strict(HTMLParser):
    """Checks that elements nest."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.links, self.ids = [], "", [], []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.links += [attributes[name] for name in ("href", "src") if name in attributes]
        self.ids += [attributes["id"]] if "id" in attributes else []
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_shows_every_route_and_loads_nothing_from_elsewhere(http):
    response = http.get("/docs")
    assert (response.status_code, response.mimetype) == (200, "text/html")
    page = Strict()
    page.feed(response.text)
    assert not page.open
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            assert f"{method.upper()} {path}" in page.text
            assert operation["summary"].replace("`", "") in page.text
    assert all(link == "openapi.json" or link.removeprefix("#") in page.ids for link in page.links)


def test_what_the_document_says_is_no_html():
    document = {"info": {"title": "<a>", "description": "<b> `<c>`"}, "paths": {}}
    page = pages.page(document)
    assert "<title>&lt;a&gt;</title>" in page and "&lt;b&gt; <code>&lt;c&gt;</code>" in page
