"""The documentation says what the code says: generated pages, links, commands, byte layouts."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from scripts import gen_docs

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "CHANGELOG.md"])
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]


@pytest.mark.parametrize("name", sorted(gen_docs.PAGES))
def test_a_generated_page_equals_its_rendering(name: str) -> None:
    on_disk = (DOCS / "reference" / name).read_text("utf-8")
    assert on_disk == gen_docs.PAGES[name](), "run make docs"


def anchors(page: Path) -> set[str]:
    """Return the names that a link may point to: headings as GitHub names them, and ids."""
    text = page.read_text("utf-8")
    headings = re.findall(r"^#+ (.+?)\s*$", text, re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
    return slugs | set(re.findall(r'<a id="([^"]+)"', text))


def links(text: str) -> Iterator[str]:
    """Yield the targets of the links of a page, those in code left out."""
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    yield from re.findall(r"\]\(([^)\s]+)\)", prose)


def dead_links(page: Path, text: str) -> list[str]:
    """Return the relative links of a page that lead nowhere."""
    dead = []
    for link in links(text):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            dead.append(link)
    return dead


@pytest.mark.parametrize("name", NAMES)
def test_every_relative_link_leads_somewhere(name: str) -> None:
    page = ROOT / name
    assert dead_links(page, page.read_text("utf-8")) == []


def test_a_dead_link_is_seen() -> None:
    text = "[a](docs/none.md) [b](CHANGELOG.md#nothing) [c](CHANGELOG.md#changelog) `[d](x.md)`"
    assert dead_links(ROOT / "README.md", text) == ["docs/none.md", "CHANGELOG.md#nothing"]


def test_every_page_can_be_reached_from_the_index() -> None:
    linked = {(DOCS / link.partition("#")[0]).resolve() for link in links(index_text())}
    unlinked = [n for n in NAMES if n.startswith("docs/") and (ROOT / n).resolve() not in linked]
    assert unlinked == ["docs/README.md"]


def index_text() -> str:
    """Return the text of the index of the documentation."""
    return (DOCS / "README.md").read_text("utf-8")


def bad_citations(text: str) -> list[str]:
    """Return the pages that a source file cites and that do not exist, or lack the section."""
    bad = []
    for name, section in re.findall(r'(docs/[\w/-]+\.md)(?:,\s+"([^"]+)")?', text):
        page = ROOT / name
        if not page.exists():
            bad.append(name)
        elif section and f"# {section}\n" not in page.read_text("utf-8"):
            bad.append(f"{name}: {section}")
    return bad


def test_every_page_that_the_code_cites_exists() -> None:
    files = [p for top in ("molia", "migrations", "scripts") for p in (ROOT / top).rglob("*.py")]
    cited = {p.name: bad_citations(p.read_text("utf-8")) for p in files}
    assert {name: bad for name, bad in cited.items() if bad} == {}


def test_a_citation_of_nothing_is_seen() -> None:
    text = 'Source: docs/none.md; docs/README.md, "Nowhere"; docs/reference/ids.md, "Peer key".'
    assert bad_citations(text) == ["docs/none.md", "docs/README.md: Nowhere"]


# ---------------------------------------------------------------------------- what to type


def shell_lines(text: str) -> Iterator[str]:
    """Yield the commands of the `console` blocks of a page, without their prompts."""
    for block in re.findall(r"^```console\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith(("$ ", "# ")):
                yield line[2:]


def words_of(line: str) -> list[list[str]]:
    """Return the words of each command of a pipe or a list."""
    commands: list[list[str]] = [[]]
    for word in shlex.split(line, comments=True):
        if word in ("|", "&&", ";", "&", "<", ">"):
            commands.append([])
        else:
            commands[-1].append(word)
    return [words for words in commands if words]


def option_names(command: click.Command) -> set[str]:
    """Return every spelling of every option of a command."""
    return {name for p in command.params for name in (*p.opts, *p.secondary_opts)}


def unknown_in(words: list[str]) -> list[str]:
    """Return the verbs and options of one `molia` command line that do not exist."""
    command: click.Command = gen_docs.root_command()
    known, bad = option_names(command), []
    descending = True
    for word in words[1:]:
        if word.startswith("--"):
            known |= {"--help", "--version"}
            if word.partition("=")[0] not in known:
                bad.append(word)
        elif descending and isinstance(command, click.Group):
            below = command.get_command(click.Context(command), word)
            if below is None:
                return [*bad, word]
            command, known = below, known | option_names(below)
            descending = isinstance(below, click.Group)
    return bad


@pytest.mark.parametrize("name", NAMES)
def test_every_command_on_a_page_exists(name: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in shell_lines((ROOT / name).read_text("utf-8")):
        for words in words_of(line):
            if words[0] == "molia":
                assert unknown_in(words) == [], line
            if words[0] == "make":
                assert {w for w in words[1:] if "=" not in w} <= targets, line


def test_a_command_that_does_not_exist_is_seen() -> None:
    assert unknown_in(["molia", "put", "--no-progress", "x"]) == []
    assert unknown_in(["molia", "putt", "x"]) == ["putt"]
    assert unknown_in(["molia", "put", "--fast", "x"]) == ["--fast"]


def test_every_route_that_curl_is_told_to_ask_exists() -> None:
    routes = [re.sub(r"\{(address|key|peer)\}", ".+", path) for path in gen_docs.openapi()["paths"]]
    paths = [re.sub(r"\{\w+\}", "[^/]+", path) for path in routes]
    known = [re.compile(path + "$") for path in [*paths, "/openapi.json", "/docs"]]
    for name in NAMES:
        for line in shell_lines((ROOT / name).read_text("utf-8")):
            for asked in re.findall(r"(?:localhost|127\.0\.0\.1):7070(/[^\s?\"']*)", line):
                path = asked.rstrip("/") or "/"
                assert any(pattern.match(path) for pattern in known), f"{name}: {line}"
