"""Reading the pages: their code blocks, what they are said to print, their links and their tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(r"^(?P<indent> *)```(?P<info>.*)$")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.*)$")


@dataclass(frozen=True)
class Block:
    """One fenced block: what stands behind the fence, the number of its first line, and its lines."""

    info: str
    start: int
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page."""
    found, opened, info, lines = [], 0, "", list[str]()
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        if fence is None:
            lines.append(line)
        elif opened:
            found.append(Block(info, opened + 1, tuple(lines)))
            opened = 0
        else:
            opened, info, lines = number, fence["info"].strip(), []
    assert not opened, f"{page.name}:{opened}: a block that does not end"
    return found


def program(page: Path) -> str:
    """The page's Python blocks as one program, each line where it stands in the page."""
    lines = list[str]()
    for block in blocks(page):
        if block.info == "python":
            lines += [""] * (block.start - 1 - len(lines))
            lines += block.lines
    return "\n".join(lines) + "\n" if lines else ""


def expected_output(page: Path) -> list[str]:
    """What the page says that its program prints; ``…`` stands for anything."""
    return [line for block in blocks(page) if block.info == "text output" for line in block.lines]


def commands(page: Path) -> Iterator[str]:
    """The lines of shell blocks that call the installed command line."""
    for block in blocks(page):
        if block.info == "sh":
            yield from (line for line in block.lines if line.startswith("python -m pooling"))


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    inside, kept = False, []
    for line in page.read_text(encoding="utf-8").splitlines():
        if _FENCE.match(line):
            inside = not inside
        elif not inside:
            kept.append(line)
    return "\n".join(kept)


def links(page: Path) -> list[str]:
    return _LINK.findall(prose(page))


def anchors(page: Path) -> set[str]:
    """The headings of a page as the fragments that link to them."""
    found = set()
    for line in prose(page).splitlines():
        if heading := _HEADING.match(line):
            found.add(re.sub(r"[^\w\- ]", "", heading[1].lower()).strip().replace(" ", "-"))
    return found


def table(page: Path, first: str) -> list[list[str]]:
    """The rows of the table whose first column is headed ``first``, without backquotes around a cell."""
    rows, inside = list[list[str]](), False
    for line in prose(page).splitlines():
        if not line.startswith("|"):
            inside = False
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if cells[0] == first:
            inside = True
        elif inside and set(cells[0]) - set("-: "):
            rows.append([cell.replace("\\|", "|") for cell in cells])
    return rows


def bare(cell: str) -> str:
    """A cell's text without the backquotes around it."""
    return cell[1:-1] if cell.startswith("`") and cell.endswith("`") else cell
