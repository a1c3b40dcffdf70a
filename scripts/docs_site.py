"""What makes the documents of this repository a site: hooks of mkdocs (``mkdocs.yml``).

Pages are written to be read in the repository. On the site the README is the first page, what the root of the
repository has for users are pages as well, and links to its other files become their names. Diagrams are drawn when
the site is built, so that a browser fetches nothing for them.
"""

from __future__ import annotations

import importlib.util
import re
import zlib
from pathlib import Path, PurePosixPath
from posixpath import normpath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]

PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
"""Files of the root that are pages, with what they are called there."""

LINK = re.compile(r"(?P<before>!?\[[^\]]*\]\(|<img src=\")(?P<file>(?![a-z]+:|#)[^)\s\"#]+)(?P<after>[^)\"]*[)\"])")

DIAGRAM = re.compile(r"^```mermaid\n(.*?)^```$", re.MULTILINE | re.DOTALL)

THEMES = {"light": "neutral", "dark": "dark"}
"""Of Mermaid, by how the page looks."""

SPACING = {"flowchart": {"nodeSpacing": 10, "rankSpacing": 30, "wrappingWidth": 90, "padding": 6}}
"""Diagrams have to be readable in a column of text."""

ROLE = re.compile(r":(?:class|func|meth|mod|data|attr):<code>[~.]?(?:[\w.]*\.)?(\w+)</code>")


def on_files(files: Files, config: Any) -> Files:
    """Take in the pages of the root."""
    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Point links to where things are on the site, and let what is folded away be Markdown."""
    folder = "" if page.file.src_uri in PAGES.values() else "docs"

    def pointed(link: re.Match[str]) -> str:
        target = normpath(f"{folder}/{link['file']}".lstrip("/"))
        if target in PAGES:
            return f"{link['before']}{PAGES[target]}{link['after']}"
        if PurePosixPath(target).parts[0] == "docs":
            return f"{link['before']}{target.removeprefix('docs/')}{link['after']}"
        text = link["before"].strip("![](")
        return f"`{target}`" if text in {target, link["file"]} else f"{text} (`{target}`)"

    drawn = [diagram(found[1]) for found in DIAGRAM.finditer(markdown)] if importlib.util.find_spec("mermaidx") else []
    page.meta["diagrams"] = drawn
    if drawn:
        numbers = iter(range(len(drawn)))
        markdown = DIAGRAM.sub(lambda _: f'<div class="diagram" id="diagram-{next(numbers)}"></div>', markdown)
    return LINK.sub(pointed, markdown).replace("<details>", '<details markdown="1">')


def diagram(source: str) -> str:
    """A diagram as SVG, for light and for dark pages; without the package ``mermaidx`` its source is shown."""
    import mermaidx

    def drawn(look: str, theme: str) -> str:
        found: str = mermaidx.render(source, theme=theme, config=SPACING).svg()
        name = f"{look}-{zlib.crc32(source.encode()):08x}"
        return f'<div class="{look}">{found.replace("my-svg", name)}</div>'

    return "".join(drawn(look, theme) for look, theme in THEMES.items())


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Write names in docstrings, which are in Sphinx' notation, as code, and put diagrams in their places."""
    html = ROLE.sub(r"<code>\1</code>", html)
    for number, drawn in enumerate(page.meta.get("diagrams", [])):
        place = f'<div class="diagram" id="diagram-{number}"></div>'
        html = html.replace(place, place.replace("></div>", f">{drawn}</div>"))
    return html
