"""Draw the pictures of docs/schedules.md again, each for the schedule that it says it shows.

    python scripts/draw_schedules.py

A new one is made by ``tokenring-xdit schedule draw NAME --ranks N --output docs/images/schedules/NAME-N.svg``.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

from tokenring_xdit.schedule import Mask, build
from tokenring_xdit.schedule.drawing import draw

PICTURES = Path(__file__).parents[1] / "docs" / "images" / "schedules"


def redrawn(picture: Path) -> str:
    """What a picture has to be, now."""
    shown = ET.parse(picture).getroot().attrib
    verified = build(shown["data-schedule"], int(shown["data-ranks"]), Mask(shown["data-mask"]))
    return draw(verified, animated="data-animated" in shown)


def main() -> None:
    """Write those that changed."""
    for picture in sorted(PICTURES.glob("*.svg")):
        content = redrawn(picture)
        if content != picture.read_text(encoding="utf-8"):
            picture.write_text(content, encoding="utf-8")
            print(f"drew {picture.name}")


if __name__ == "__main__":
    main()
