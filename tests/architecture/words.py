"""Turns of speech and private words that the code and the docs avoid, with what to write instead.

`python -m tests.architecture.words [PATH …]` lists the hits; docs/style-guide.md has the reasons, with examples.
"""

from __future__ import annotations

import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]

INSTEAD = {
    # English that sounds translated
    r"\b(?:nobody|anybody|somebody|everybody)\b": "no one, anyone, someone, everyone; better the noun: no caller, any process",
    r"\bwho(?:ever)? (?:asks|calls|runs|names|knows|may|has|sends|reads|writes|made|makes|packed)\b": "the caller, the operator",
    r"\bwhoever\b": "the noun: anyone who, the operator who",
    r"\b(?:is|are|was|were) none\b": "does not exist; no such …",
    r"\bnone is\b": "no … is",
    r"\b(?:the|a|of|its) (?:version|one|release|look|step|entry) before\b": "the previous …",
    r"\bshall\b": "must, should, will",
    r"\bbeside\b": "next to, besides, in addition to, while",
    r"\bas good as\b": "almost, equal to",
    r"\bbe it\b": "whether",
    r"\bno more\b(?! than)": "no longer",
    r"\bonce more\b": "again",
    r"\blikewise\b": "also",
    r"\bin (?:the|its) place of\b": "instead of",
    r"\bfor no reason\b": "without cause",
    r"\bat fault\b": "failing, unhealthy",
    r"\b(?:is|are|be|was|were) told\b": "learns, receives; the log says",
    r"\bof whom\b": "whose",
    r"\buntil then\b": "before that",
    r"\bthan that\b": "say what",
    # Words that were ours alone
    r"\b(?:arms?|trials?)\b": "variant, rollout assignment",
    r"\bapart\b": "isolated, in its own process, separately",
    r"\bdeep checks?\b": "golden probe",
    r"\bstand-?ins?\b": "fallback version, fake server (in tests)",
    r"\bstands? in\b": "replaces",
    r"\btickets?\b": "pending request",
    r"\b(?:household|courier|bulletin|border|deed)s?\b": "process group, dispatcher, publisher, edge, audit event",
    r"\bcautions?\b": "warning",
    r"\bpatience\b": "timeout, backoff",
    r"\bguards? of (?:a|the) (?:rollout|plan)\b": "criterion",
    r"\bdoors?\b": "entry point, admission",
    r"\bturns?\b": "lock, round",
}
"""Pattern to what to write instead."""
_PATTERNS = [(re.compile(pattern), instead) for pattern, instead in INSTEAD.items()]


class Hit(NamedTuple):
    """One hit. `line` from 1."""

    path: str
    line: int
    found: str
    instead: str


def hits(path: Path) -> Iterator[Hit]:
    """The hits in comments and texts of a Python file, or anywhere in a page."""
    text = path.read_text()
    name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
    parts = _texts(text) if path.suffix == ".py" else [(1, text)]
    for first, part in parts:
        for pattern, instead in _PATTERNS:
            for match in pattern.finditer(part):
                yield Hit(name, first + part.count("\n", 0, match.start()), match.group(0), instead)


def _texts(source: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.STRING, tokenize.COMMENT) or token.type == getattr(tokenize, "FSTRING_MIDDLE", -1):
            yield token.start[0], token.string


def texts_of(paths: list[Path]) -> Iterator[Path]:
    """The Python files and pages at or below these paths, without decisions (history) and the style guide (quotations)."""
    for path in paths:
        found = [path] if path.is_file() else sorted([*path.rglob("*.py"), *path.rglob("*.md")])
        yield from (each for each in found if "decisions" not in each.parts and each.name != "style-guide.md")


def main(arguments: list[str]) -> None:
    """Print the hits below the paths, or of all that is checked."""
    paths = [Path(argument).resolve() for argument in arguments] or [ROOT / "src", ROOT / "docs", ROOT / "README.md"]
    found = [hit for path in texts_of(paths) for hit in hits(path)]
    for hit in found:
        print(f"{hit.path}:{hit.line}: {hit.found!r}: write {hit.instead}")
    print(f"{len(found)} hits")


if __name__ == "__main__":
    main(sys.argv[1:])
