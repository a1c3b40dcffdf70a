"""What records of all hosts say together, without a library being loaded."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.hosts.models import families, model_shape, model_shapes, pipeline_named, pipelines
from tokenring_xdit.hosts.refusals import heads_of

PACKAGE = Path(__file__).parents[2] / "tokenring_xdit"


def test_records_are_read_without_torch() -> None:
    code = """
import sys
from tokenring_xdit.hosts.models import model_shapes, pipelines
assert model_shapes() and pipelines()
print(*{name.partition(".")[0] for name in sys.modules} & {"torch", "diffusers", "xfuser", "transformers", "numpy"})
"""
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "\n"


def test_every_fact_has_one_home() -> None:
    assert len(pipelines()) == sum(len(family.pipelines) for family in families())
    assert len(model_shapes()) == sum(len(family.shapes) for family in families())


def test_of_others_the_usual_is_known() -> None:
    other = pipeline_named("SomePipeline")
    assert (other.name, other.image, other.packed, dict(other.spellings)) == ("SomePipeline", "image", False, {})
    with pytest.raises(ConfigurationError, match="there is no model 'fluxx' to plan for"):
        model_shape("fluxx")


def test_heads_are_found_by_whichever_name_a_family_has_for_them() -> None:
    assert heads_of({"num_attention_heads": 6}) == heads_of({"n_heads": 6}) == 6
    assert heads_of({"n_layers": 2}) is None


def names(path: Path) -> Iterator[str]:
    """Texts of a module that are not documentation, and names in it."""
    tree = ast.parse(path.read_text())
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said:
            yield node.value
        elif isinstance(node, (ast.Name, ast.Attribute)):
            yield node.id if isinstance(node, ast.Name) else node.attr
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name


UPSTREAM = {"_calc_cogvideox_patches_metadata"}
"""A method of xfuser's runtime state."""


@pytest.mark.parametrize("room", ["attention", "hosts", "planning", "schedule", "topology"])
def test_no_family_is_named_outside_of_its_record(room: str) -> None:
    stems = {path.stem for path in PACKAGE.glob("hosts/*/families/*")} - {"__init__", "__pycache__"}
    assert {"flux", "wan", "z_image"} <= stems
    known = "|".join(sorted(stems))
    words = re.compile(rf"(?<![A-Za-z])(?:{known})(?![a-z])|{'|'.join(pipelines())}|(?:Flux|Wan|PixArt|SD3)(?![a-z])")
    found = {
        (str(path.relative_to(PACKAGE)), text)
        for path in (PACKAGE / room).rglob("*.py")
        if "families" not in path.parts
        for text in names(path)
        if words.search(text) and text not in UPSTREAM
    }
    assert found == set()
