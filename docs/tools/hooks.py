"""Hooks of mkdocs: pages for the files outside docs/ that pages link to, and a page for the notebook.

README.md, BENCHMARKS.md and their like become pages below `project/`. A link to another file of the repository, such as
a config, leads to a page below `files/` that shows it, so that the site needs no network. A link to a folder becomes
plain text.
"""

import json
import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PROJECT = ("README.md", "BENCHMARKS.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
NOTEBOOK, NOTEBOOK_PAGE = DOCS / "notebooks" / "first_run.ipynb", "tutorials/notebook.md"
LINK = re.compile(r"(?<!\\)(!?)\[((?:[^\[\]]|\[[^\]]*\]|(?<=!)\[)*)\]\((?!\w+:)([^)#\s]+)(#[^)\s]*)?\)")
LANGUAGES = {".yaml": "yaml", ".yml": "yaml", ".py": "python", ".sh": "sh", ".toml": "toml"}


def site_path(path: Path) -> str:
    """Where a file of the repository lies in the site's sources; empty for what has no page.

    Args:
        path: absolute, in the repository.
    """
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    name = path.relative_to(ROOT).as_posix()
    if name in PROJECT:
        return f"project/{name}"
    return f"files/{name}.md" if path.is_file() else ""


def rewrite(text: str, here: Path, page: str) -> str:
    """Let the links of a page lead to pages of the site.

    Args:
        text: Markdown.
        here: folder that its links are relative to.
        page: where the page lies in the site's sources.
    """

    def replace(match: re.Match[str]) -> str:
        sign, label, target, anchor = match.groups(default="")
        path = (here / target).resolve()
        if not path.is_relative_to(ROOT) or not path.exists():
            return match[0]  # mkdocs warns of it
        found = site_path(path)
        if not found:
            return label
        return f"{sign}[{label}]({posixpath.relpath(found, posixpath.dirname(page) or '.')}{anchor})"

    return LINK.sub(replace, text)


def linked_files() -> list[Path]:
    """Files outside docs/ that pages of docs/ or the project's pages link to, but for other pages."""
    found: set[Path] = set()
    for page in (*DOCS.rglob("*.md"), *(ROOT / name for name in PROJECT)):
        for match in LINK.finditer(page.read_text(encoding="utf-8")):
            path = (page.parent / match[3]).resolve()
            if path.is_file() and path.is_relative_to(ROOT) and site_path(path).startswith("files/"):
                found.add(path)
    return sorted(found)


def file_page(path: Path) -> str:
    """A page that shows a file; the search leaves it out.

    Args:
        path: of the file.
    """
    language = LANGUAGES.get(path.suffix, "text")
    text = path.read_text(encoding="utf-8").rstrip("\n")
    head = "---\nsearch:\n  exclude: true\n---\n"
    return f"{head}# {path.name}\n\n`{path.relative_to(ROOT)}`\n\n````{language}\n{text}\n````\n"


def notebook_page(path: Path) -> str:
    """A notebook's cells as a page.

    Args:
        path: of the notebook.
    """
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
    parts.insert(1, f"[Download the notebook](../notebooks/{path.name})")
    return "\n\n".join(parts) + "\n"


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are no files of docs/."""
    from mkdocs.structure.files import File, InclusionLevel  # pyright: ignore[reportMissingImports] (in .venv-docs)

    pages = {f"project/{name}": (ROOT / name).read_text(encoding="utf-8") for name in PROJECT}
    pages[NOTEBOOK_PAGE] = notebook_page(NOTEBOOK)
    for uri, text in pages.items():
        files.append(File.generated(config, uri, content=text))
    for path in linked_files():
        files.append(
            File.generated(config, site_path(path), content=file_page(path), inclusion=InclusionLevel.NOT_IN_NAV)
        )
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Rewrite links to files outside docs/."""
    uri = page.file.src_uri
    if uri.startswith("files/") or uri == NOTEBOOK_PAGE:
        return markdown
    here = ROOT if uri.startswith("project/") else (DOCS / uri).parent
    return rewrite(markdown, here, uri)
