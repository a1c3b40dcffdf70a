"""The long description: README.md, where links to files of the repository become the names of these files.

An index of packages shows the description away from the repository, where relative links and pictures lead nowhere.
All other metadata is in pyproject.toml.
"""

import re
from pathlib import Path

from setuptools import setup

WHERE = "\n\nFiles named above are in the source archive, whose README.md has links to them.\n"


def name_of(link: re.Match[str]) -> str:
    """The text of a relative link, or picture, with the file it leads to, once where they are alike."""
    text, file = link["text"], link["file"].partition("#")[0]
    return f"`{file}`" if text == file else f"{text} (`{file}`)"


LINK = re.compile(r"!?\[(?P<text>[^\]]*)\]\((?P<file>(?![a-z]+:|#)[^)\s]+)\)")
PICTURE = re.compile(r'<img src="(?P<file>(?![a-z]+:)[^"]+)"[^>]* alt="(?P<text>[^"]*)">')


def description() -> str:
    """README.md as it can be read anywhere."""
    text = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
    return LINK.sub(name_of, PICTURE.sub(name_of, text)) + WHERE


setup(long_description=description(), long_description_content_type="text/markdown")
