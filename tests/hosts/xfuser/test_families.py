"""What is known of a family is stated in its record, and nowhere else."""

from __future__ import annotations

import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.families import ALL_FAMILIES as SMALL
from tokenring_xdit.hosts.xfuser.families import FAMILIES
from tokenring_xdit.hosts.xfuser.family import XfuserFamily
from tokenring_xdit.hosts.xfuser.supported import compared, family_of, own_pipeline

PACKAGE = Path(__file__).parents[3] / "tokenring_xdit"

NEW = '''
"""A family that nobody has heard of."""

from tokenring_xdit.hosts.base import Pipeline, ReliedOn
from tokenring_xdit.hosts.xfuser.family import OwnPipeline, Shares, XfuserFamily
from tokenring_xdit.model_shapes import ModelShape

def repair_it(module):
    """Have it compute what one process does."""
    from tokenring_xdit.hosts.installation import INSTALLATION
    INSTALLATION.replace(module, "wrong", lambda: "right")

HOOKS = {"transformer_brand_new": repair_it}

FAMILY = XfuserFamily(
    pipelines=(
        Pipeline(
            name="BrandNewPipeline",
            spellings={"frames": "length"},
            each_prompt=("second_prompt",),
            image="start",
            packed=True,
        ),
    ),
    shapes={"brand-new": ModelShape(6, 64, calls=2, text=8)},
    heads="new_heads",
    wrapper="transformer_brand_new:Wrapper",
    own=(OwnPipeline(runs="BrandNewPipeline", module="pipeline_brand_new", name="Own", shares=Shares.ROWS),),
    runners=("BrandNewModel",),
    lora={"transformer_brand_new:Wrapper": "attention_kwargs"},
    repairs=__name__,
    attention=("transformer_brand_new:USP",),
    relied_on=(ReliedOn("transformer_brand_new", "Wrapper.forward", "told about padding"),),
)
'''

USES = """
import sys
from types import ModuleType, SimpleNamespace
from tokenring_xdit.cli import main

main(["plan", "--model", "brand-new", "--size", "512", "--topology", "mesh:4:1gbit", "--tflops", "1"])
assert "torch" not in sys.modules, "a record is read without it"

class BrandNewPipeline:
    def __call__(self, prompt, length=1, start=None, second_prompt=None, callback_on_step_end=None): ...

class BrandNewModel: ...

from tokenring_xdit.hosts import installed
from tokenring_xdit.hosts.refusals import heads_of
from tokenring_xdit.hosts.xfuser import register
from tokenring_xdit.hosts.xfuser.supported import (
    compared, family_of, own_pipeline, refuse_untested, refuse_untested_model
)
from tokenring_xdit.hosts.xfuser.upstream import RELIED_ON
from tokenring_xdit.pipelines.preview import Preview
from tokenring_xdit.pipelines.request import Request, call_arguments, image_keyword, is_video

refuse_untested(BrandNewPipeline())
refuse_untested_model(BrandNewModel, "brand-new", 2)
assert heads_of({"new_heads": 6}) == 6
assert own_pipeline("BrandNewPipeline").name == "Own"
found = {f"{name.module}.{name.path}": name.use for name in RELIED_ON}
assert found["transformer_brand_new.Wrapper.forward"] == "told about padding"
assert found["xfuser.model_executor.pipelines.pipeline_brand_new.Own.__call__"] == "made one call of all ranks"
assert "transformer_brand_new.USP" in found

request = Request(("a fox", "a boat"), frames=9, options={"second_prompt": ["one", "two"], "start": None})
assert call_arguments(BrandNewPipeline, request)["length"] == 9
assert request.part(1, 2).options["second_prompt"] == ["two"]
assert image_keyword(BrandNewPipeline) == "start" and is_video(BrandNewPipeline)
pipe = BrandNewPipeline()
pipe.vae, pipe.default_sample_size, pipe.vae_scale_factor = type("AutoencoderKL", (), {})(), 4, 8
assert Preview(pipe)._packed

register()
waiting = {(wait.what, wait.why) for wait in installed().waiting}
assert ("import of transformer_brand_new", "Have it compute what one process does.") in waiting
assert "import of xfuser.model_executor.pipelines.pipeline_brand_new" in {what for what, _ in waiting}
assert sum(wait.what == "import of transformer_brand_new" for wait in installed().waiting) == 2  # and the LoRA's
"""


@pytest.mark.e2e
@pytest.mark.matrix
def test_a_new_family_is_one_file(tmp_path: Path) -> None:
    """Copied and extended, the package plans, asks, refuses, looks at and repairs it, with nothing else changed."""
    copy = tmp_path / "tokenring_xdit"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "model", "shipped"))
    (copy / "hosts" / "xfuser" / "families" / "brand_new.py").write_text(NEW)
    environment = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin", "TOKENRING_AUTOLOAD": "0"}
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", USES],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_a_record_says_how_its_transformer_is_shared_out(family: XfuserFamily) -> None:
    assert (family.wrapper is None) != (family.cut is None)
    named = [pipeline.name for pipeline in family.pipelines]
    assert {own.runs for own in family.own} <= set(named)
    for name in named:
        assert family_of(name) is family
    for own in family.own:
        assert own_pipeline(own.runs) is own


def test_every_pipeline_that_is_let_through_is_compared_by_tests() -> None:
    """Xfuser's subclass of a pipeline runs under the key of the pipeline."""
    tested = {name for small in SMALL.values() for name in (small.runs, small.pipeline.partition(":")[2]) if name}
    tested.add("xFuserCausalWanPipeline")  # by test_streaming.py
    assert tested == set(compared())


def test_names_of_the_package_are_not_those_of_its_modules() -> None:
    """A name that is looked up late would become the module as soon as that is imported."""
    from tokenring_xdit.hosts import xfuser

    modules = {module.name for module in pkgutil.iter_modules(xfuser.__path__)}
    assert not modules & set(xfuser.__all__)
    assert set(xfuser.__all__) == set(xfuser._HOMES)
    assert all(callable(getattr(xfuser, name)) for name in xfuser.__all__)


def test_other_pipelines_have_no_record() -> None:
    assert own_pipeline("SanaPipeline") is None
    assert "SanaPipeline" not in compared()
    assert compared() == sorted(compared())
