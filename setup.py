"""The long description: README.md, where links to files of the repository become the names of these files.

An index of packages shows the description away from the repository, where relative links lead nowhere. All other
metadata is in pyproject.toml.
"""

import re
from pathlib import Path

from setuptools import setup

WHERE = "\n\nFiles named above are in the source archive, whose README.md has links to them.\n"


def name_of(link: re.Match[str]) -> str:
    """The text of a relative link with the file it leads to, once where they are alike."""
    text, file = link["text"], link["file"].partition("#")[0]
    return f"`{file}`" if text == file else f"{text} (`{file}`)"


RELATIVE = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<file>(?![a-z]+:|#)[^)\s]+)\)")

setup(
    long_description=RELATIVE.sub(name_of, Path(__file__).with_name("README.md").read_text(encoding="utf-8")) + WHERE,
    long_description_content_type="text/markdown",
)
