"""The documentation site builds without a warning, and needs nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import roadworthy as rw
from tests.waiting import DEADLINE_S

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=4 * DEADLINE_S,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return folder


def external_resources(page: str) -> list[str]:
    """Addresses of other hosts that a browser would load to show the page; links are not loaded."""
    tags = re.findall(r"<(?:script|link|img|iframe|source|video|audio)\b[^>]*>", page)
    loaded = [tag for tag in tags if not re.search(r'rel="?(?:canonical|next|prev)\b', tag)]
    return [address for tag in loaded for address in re.findall(r'(?:src|href)="?((?:https?:)?//[^"\s>]+)', tag)]


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    """Fonts, scripts, styles and images come with the site."""
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 20
    assert {page.name: found for page in pages if (found := external_resources(page.read_text()))} == {}
    styles = "".join(path.read_text() for path in site.rglob("*.css"))
    assert not re.search(r"url\([\"']?(?:https?:)?//", styles)


def test_planted_resources_of_other_hosts_are_found() -> None:
    """Scripts, styles and fonts are found; a link and a canonical address are not."""
    page = (
        '<script src="https://a.example/x.js"></script><link rel="stylesheet" href=//b.example/y.css>'
        '<a href="https://c.example">c</a><link rel="canonical" href="https://d.example">'
    )
    assert external_resources(page) == ["https://a.example/x.js", "//b.example/y.css"]


def test_the_python_reference_has_every_public_name(site: Path) -> None:
    """Classes, functions and errors, each with an anchor."""
    anchors = set(re.findall(r'id="?(roadworthy[\w.]*)', (site / "python.html").read_text()))
    for name in set(rw.__all__) - {"__version__"}:
        value = getattr(rw, name)
        homes = {f"roadworthy.{name}", f"{value.__module__}.{name}"}
        assert homes & anchors, f"docs/python.md does not show {name}"
