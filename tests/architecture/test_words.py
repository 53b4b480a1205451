"""The field's words, in plain English: what `words.py` lists is found in few places, each with its reason."""

from __future__ import annotations

from pathlib import Path

from tests.architecture.words import ROOT, hits, texts_of

MOST = 30
"""Hits that are allowed in all; this number only falls."""


def test_few_turns_are_left() -> None:
    """Code, docs and README."""
    found = [hit for path in texts_of([ROOT / "src", ROOT / "docs", ROOT / "README.md"]) for hit in hits(path)]
    assert len(found) <= MOST, "\n".join(f"{hit.path}:{hit.line}: {hit.found!r}: write {hit.instead}" for hit in found)


def test_planted_turns_are_found(tmp_path: Path) -> None:
    """In texts and comments, with their lines; names in code are free."""
    page = tmp_path / "page.py"
    page.write_text('"""Let an endpoint serve the version before.\n\nNobody asks."""\n\narm = None  # an arm\n')
    assert [(hit.line, hit.found) for hit in hits(page)] == [(1, "the version before"), (5, "arm")]
