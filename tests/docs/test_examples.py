"""Examples in the README and docs/ work: Python runs, commands and their options exist, links have targets."""

from __future__ import annotations

import io
import os
import re
import shlex
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path

import pytest

from roadworthy.cli.main import run
from tests.waiting import DEADLINE_S
from tests.warm import nursery
from tests.warm_replays import MODULES

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), ROOT / "examples" / "README.md", *(ROOT / "docs").rglob("*.md")])
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]


def blocks(page: Path, *languages: str) -> list[str]:
    """The page's fenced blocks whose language is one of these; "" for blocks without one."""
    found = re.findall(r"^```([a-z]*)\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [text for language, text in found if language in languages]


def commands(page: Path) -> list[list[str]]:
    """Every `roadworthy …` that the page shows, in blocks and in running text, as words."""
    text = page.read_text()
    lines = [line for block in blocks(page, "", "bash", "sh", "shell") for line in block.splitlines()]
    lines += re.findall(r"`(roadworthy [^`]+)`", text)
    return [shlex.split(line, comments=True) for line in lines if line.startswith("roadworthy ")]


@cache
def help_of(*verb: str) -> str:
    """What `roadworthy VERB --help` prints, or "" when there is no such verb."""
    shown = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(shown):
        patch.setenv("COLUMNS", "300")
        status = run([*verb, "--help"])
    return shown.getvalue() if status == 0 else ""


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_python_examples_run(page: Path, tmp_path: Path) -> None:
    """The page's Python blocks run, one after the other, in an empty folder, with warnings as errors."""
    code = "\n".join(blocks(page, "python"))
    if not code:
        return
    script, empty = tmp_path / "page.py", tmp_path / "empty"
    script.write_text(code)
    empty.mkdir()
    warm = nursery("roadworthy", *MODULES, flags=("-W", "error"))
    result = warm.run([script], cwd=empty, env=os.environ, timeout=4 * DEADLINE_S)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_exist(page: Path) -> None:
    """Every verb that the page shows exists, and knows the options that are shown with it."""
    for words in commands(page):
        verb = words[1].rstrip("|,")
        shown = help_of(verb)
        assert shown, f"`roadworthy {verb}` does not exist"
        if " COMMAND " in shown.partition("\n\n")[0] and len(words) > 2 and re.fullmatch(r"[a-z]+", words[2]):
            shown = help_of(verb, words[2])
            assert shown, f"`roadworthy {verb} {words[2]}` does not exist"
        for option in (word.partition("=")[0] for word in words[2:] if re.fullmatch(r"--?[a-z].*", word)):
            assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", shown), f"`roadworthy {verb}` has no {option}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file of the repository."""
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_make_targets_exist(page: Path) -> None:
    """Every `make …` that the page shows is a target of the Makefile."""
    makefile = (ROOT / "Makefile").read_text()
    text = page.read_text()
    for target in re.findall(r"(?:`|^)make ([a-z-]+)", text, flags=re.MULTILINE):
        bench = ROOT / "bench" / target.removeprefix("bench-").replace("-", "_")
        by_rule = target.startswith("bench-") and (bench.with_suffix(".py").exists() or (bench / "__main__.py").exists())
        pattern = r"bench\-%" if by_rule else re.escape(target)
        assert re.search(rf"^{pattern}:", makefile, flags=re.MULTILINE), target


@pytest.mark.parametrize("folder", ["src", "docs", "demo", "bench", "README.md"])
def test_g3_nothing_sends_rows_by_the_to_json_of_pandas(folder: str) -> None:
    """`to_json` rounds to ten decimals, which can take another branch of a tree, and writes times as integers."""
    found = [ROOT / folder] if folder.endswith(".md") else (ROOT / folder).rglob("*")
    hidden = f"{ROOT / folder}/."  # where bench-peers installs its servers
    pages = [path for path in found if path.suffix in (".py", ".md", ".ipynb") and not str(path).startswith(hidden)]
    assert pages
    assert not [path for path in pages if re.search(r"\w\.to_json\(", path.read_text())]


def test_the_extractors_find_what_they_should(tmp_path: Path) -> None:
    """Blocks, commands and comments are distinguished: otherwise the tests above would check nothing."""
    page = tmp_path / "page.md"
    page.write_text("```python\nx = 1\n```\n\n`roadworthy status`\n\n```\nroadworthy push a.rw --allow-code D  # why\nls\n```\n")
    assert blocks(page, "python") == ["x = 1\n"]
    assert commands(page) == [["roadworthy", "push", "a.rw", "--allow-code", "D"], ["roadworthy", "status"]]
