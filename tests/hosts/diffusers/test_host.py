"""What the host takes, refuses and undoes."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
from diffusers.models.transformers.transformer_flux import FluxIPAdapterAttnProcessor
from torch import nn

from tests.hosts.diffusers import jobs
from tests.support.ranks import RankPool
from tokenring_xdit.errors import ConfigurationError, UnsupportedError
from tokenring_xdit.hosts.diffusers import offer, undo
from tokenring_xdit.hosts.diffusers.families import FAMILIES
from tokenring_xdit.hosts.diffusers.family import DiffusersFamily
from tokenring_xdit.hosts.diffusers.sharding import DiffusersSharding
from tokenring_xdit.hosts.diffusers.upstream import RELIED_ON
from tokenring_xdit.hosts.parallelize import chosen, parallelize
from tokenring_xdit.hosts.weights import Weights

HOSTS = ("diffusers", "xfuser")


def a_pipeline(name: str) -> object:
    return type(name, (), {"__module__": "diffusers"})()


@pytest.mark.parametrize("family", ["flux", "sd3"])
def test_diffusers_own_call_takes_our_config(ranks: RankPool, family: str) -> None:
    for found in ranks.run(2, jobs.enabled, family, timeout=300):
        assert found["error"] <= 1e-5
        assert found["alone"] == 0.0
        assert found["hooks"] == 0
        assert found["same"]
        assert "was made parallel before" in found["again"]
        assert "diffusers.models.modeling_utils.ModelMixin.enable_parallelism" in found["changes"]


def test_what_was_not_compared_is_refused_in_a_sentence(ranks: RankPool) -> None:
    first, second = ranks.run(2, jobs.refusals, timeout=300)
    print(first)
    assert first == second
    assert all("\n" not in said for said in first.values())
    for what, words in {
        "backend before": "set_attention_backend('_native_math') would be without effect",
        "pipeline": "was asked for in SanaPipeline",
        "degree": "tokenring_degree=3 is 3 ranks, and 2 were started",
        "ulysses": "it has no ulysses_degree=2",
        "kernel": "attention_backend=cudnn is xfuser's",
        "schedule": "no_such_thing",
        "host": "there is no host 'megatron'",
        "plan": "was asked for a plan of its own",
        "model": "was asked for AutoencoderKL",
        "backend after": "set_attention_backend('_native_math') was not compared",
        "kernel of GPUs": "'_native_flash' runs on cuda, not on cpu",
        "backend inside": "'_native_math' was chosen",
        "other host": "host='diffusers' before",
        "undone": "was undone",
        "blocks of frames": "has num_frame_per_block=3, and only 1 was compared",
    }.items():
        assert words in first[what], what


def test_arguments_that_were_not_compared_are_refused(ranks: RankPool) -> None:
    """The same on both ranks, also where one alone has the part of a mask that is amiss."""
    first, second = ranks.run(2, jobs.refused_arguments, timeout=300)
    assert first == second
    for what, words in {
        "hole inside": "hidden tokens are in front of real ones",
        "hole in front": "hidden tokens are in front of real ones",
        "half": "the ChromaTransformer2DModel got an attention_mask of other numbers than 0 and 1",
        "perturbed": "perturbation_mask reached the LTX2VideoTransformer3DModel",
        "xlabs": "controlnet_blocks_repeat reached the FluxTransformer2DModel",
    }.items():
        assert words in first[what], what


@pytest.mark.cuda
@pytest.mark.parametrize("backend", ["native", "_native_flash", "_native_cudnn"])
def test_kernels_that_diffusers_was_told_are_used(gpu_ranks: RankPool, backend: str) -> None:
    for ratio in gpu_ranks.run(2, jobs.rounded, "flux", backend, timeout=300):
        assert ratio <= 2


def test_the_host_with_fewer_repairs_is_chosen() -> None:
    name, why = chosen(a_pipeline("FluxPipeline"), HOSTS, {"tokenring_degree": 2})
    assert name == "diffusers"
    assert "diffusers 0, xfuser " in why


def test_older_ones_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offer, "version", lambda name: "0.41.0")
    name, why = chosen(a_pipeline("FluxPipeline"), HOSTS, {})
    assert name == "xfuser"
    assert "diffusers 0.41.0 is installed, and 0.42 is the oldest that was compared" in why


@pytest.mark.parametrize("options", [{"ulysses_degree": 2}, {"attention_backend": "sdpa_flash"}])
def test_what_diffusers_has_not_is_xfusers(options: dict[str, object]) -> None:
    name, why = chosen(a_pipeline("FluxPipeline"), HOSTS, options)
    assert name == "xfuser"
    assert "diffusers: " in why


def test_a_second_transformer_that_the_other_host_has_spread() -> None:
    pipe: Any = a_pipeline("WanPipeline")
    pipe.transformer, pipe.transformer_2 = nn.Module(), nn.Module()
    pipe.transformer_2._tokenring_sharding = SimpleNamespace(host="xfuser")
    name, why = chosen(pipe, HOSTS, {})
    assert name == "xfuser"
    assert "diffusers: xfuser has spread its transformer_2 already" in why


def test_undo_changes_nothing_where_it_refuses() -> None:
    pipe: Any = a_pipeline("WanPipeline")
    pipe.transformer, pipe.transformer_2 = nn.Module(), nn.Module()
    for model in (pipe.transformer, pipe.transformer_2):
        model._tokenring_sharding = object.__new__(DiffusersSharding)
    pipe.transformer_2.forward = print
    with pytest.raises(UnsupportedError, match="was replaced after parallelize"):
        undo(pipe)
    assert pipe.transformer._tokenring_sharding is not None


def test_ranks_compare_how_strong_an_ip_adapter_is() -> None:
    model = nn.Module()
    model.processor = FluxIPAdapterAttnProcessor(hidden_size=8, cross_attention_dim=8, num_tokens=(4,), scale=[0.5])
    weights = Weights(model)
    before = weights.summary()
    assert weights.summary() == before
    model.processor.scale = [0.6]
    assert {name for name, digest in weights.summary().items() if digest != before[name]} == {"adapters"}


def test_without_xfuser_it_is_diffusers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xfuser", None)
    for name in ("FluxPipeline", "SanaPipeline"):
        found, why = chosen(a_pipeline(name), HOSTS, {})
        assert found == "diffusers"
        assert "xfuser: it is not installed" in why


def test_a_host_of_another_library_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="there is no host 'transformers' for a FluxPipeline"):
        parallelize(a_pipeline("FluxPipeline"), host="transformers")


@pytest.mark.parametrize("name", RELIED_ON, ids=lambda n: f"{n.module.removeprefix('diffusers.')}.{n.path}")
def test_a_name_relied_on_exists(name: object) -> None:
    assert name.problem() is None  # type: ignore[attr-defined]


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_a_record_names_its_attention_and_pipelines(family: DiffusersFamily) -> None:
    assert family.spread
    assert family.names()
    assert not family.spread.keys() & family.local.keys()
