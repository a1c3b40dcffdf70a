"""All of xfuser's registry is compared, or refused for a reason of upstream's that is shown here.

When one of these fails that call unmodified upstream, the reason is gone: compare the model, and drop the refusal.
"""

from __future__ import annotations

import pytest

from tests.hosts.xfuser import upstreams
from tests.support.ranks import RankPool
from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.hosts.xfuser.families import FAMILIES
from tokenring_xdit.hosts.xfuser.refused import PIPELINES_REFUSED, RUNNERS_REFUSED
from tokenring_xdit.hosts.xfuser.supported import compared, refuse_untested

SHOWN = {
    "xFuserFastH3Model": "test_sparse_attention_of_fasth3_has_no_log_sum_exp",
    "xFuserFastH3V2Model": "test_sparse_attention_of_fasth3_has_no_log_sum_exp",
    "xFuserHunyuanvideo15SparseModel": "test_sparse_attention_of_hunyuan_video_needs_other_packages",
    "xFuserLingBotVideoDenseModel": "test_lingbot_needs_a_package_that_is_nowhere",
    "xFuserLingBotVideoMoEModel": "test_lingbot_needs_a_package_that_is_nowhere",
    "SanaPAGPipeline": "test_self_attention_of_sana_is_linear",
    "SanaPipeline": "test_self_attention_of_sana_is_linear",
    "SanaSprintPipeline": "test_self_attention_of_sana_is_linear",
    "StableDiffusionXLPipeline": "test_a_u_net_is_not_divided_by_its_sequence",
}
"""Which test shows the reason."""


@pytest.fixture(scope="module")
def registry(ranks: RankPool) -> dict[str, list[str]]:
    return ranks.run(1, upstreams.registry, timeout=300)[0]


def test_every_model_is_compared_or_refused_for_a_reason(registry: dict[str, list[str]]) -> None:
    run = [name for family in FAMILIES.values() for name in family.runners]
    assert len(run) == len(set(run))
    assert not set(run) & set(RUNNERS_REFUSED)
    assert set(registry) - set(run) - set(RUNNERS_REFUSED) == set(), "nobody compared these"


@pytest.mark.family("cosmos3")
def test_the_registry_is_that_of_the_release(registry: dict[str, list[str]]) -> None:
    assert len(registry) == 39
    assert set(RUNNERS_REFUSED) <= set(registry)


@pytest.mark.family("cosmos3")
def test_what_a_name_and_a_task_load_is_known_before_ranks_start(
    ranks: RankPool, registry: dict[str, list[str]]
) -> None:
    """Some runners say it in no setting of their class; one loads another branch."""
    known = {
        ("Wan2.1-VACE-1.3B", None): ("Wan-AI/Wan2.1-VACE-1.3B-diffusers", None),
        ("HunyuanVideo", None): ("tencent/HunyuanVideo", "refs/pr/18"),
        ("tencent/HunyuanVideo-1.5", "i2v"): ("hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-720p_i2v", None),
        ("Qwen-Image-2512", None): ("Qwen/Qwen-Image-2512", None),
    }
    every = [(name, None) for names in registry.values() for name in names]
    (found,) = ranks.run(1, upstreams.checkpoints, *known, *every, timeout=300)
    assert dict(zip(known, found, strict=False)) == known
    assert all("/" in name for name, _ in found)


def test_every_reason_is_shown_by_a_test() -> None:
    assert set(SHOWN) == {*RUNNERS_REFUSED, *PIPELINES_REFUSED}
    assert set(SHOWN.values()) <= set(globals())
    assert not set(PIPELINES_REFUSED) & set(compared())


@pytest.mark.family("cosmos3")
def test_models_are_refused_in_a_sentence(ranks: RankPool, registry: dict[str, list[str]]) -> None:
    names = {kind: known[0] for kind, known in registry.items()}
    (said,) = ranks.run(1, upstreams.refusals, names, timeout=300)
    assert {kind for kind, sentence in said.items() if sentence} == set(RUNNERS_REFUSED)
    for kind in RUNNERS_REFUSED:
        sentence = said[kind]
        assert sentence.startswith(f"tokenring_degree=2 was asked for with {names[kind]}: ")
        assert sentence.endswith(RUNNERS_REFUSED[kind].instead)


@pytest.mark.parametrize("name", PIPELINES_REFUSED)
def test_pipelines_are_refused_in_a_sentence(name: str) -> None:
    with pytest.raises(UnsupportedError, match=f"TokenRing was asked for in {name}: .*Use "):
        refuse_untested(type(name, (), {})())


def test_lingbot_needs_a_package_that_is_nowhere(ranks: RankPool) -> None:
    assert ranks.run(1, upstreams.lingbot) == ["No module named 'lingbot_video'"]


@pytest.mark.family("cosmos3")
def test_sparse_attention_of_fasth3_has_no_log_sum_exp(ranks: RankPool) -> None:
    assert ranks.run(1, upstreams.vsa, timeout=300) == [((1, 2, 64 + 256, 16), False)]


def test_sparse_attention_of_hunyuan_video_needs_other_packages(ranks: RankPool) -> None:
    (raised,) = ranks.run(1, upstreams.sparse_blocks, timeout=300)
    assert raised == {
        "FLEX_BLOCK_ATTN": "name 'flex_block_attn_func' is not defined",
        "AITER_SPARSE_SAGE": "name 'get_sage_fwd_configs' is not defined",
        "AITER_SPARSE_SAGE_V2": "name 'get_sage_fwd_configs_mxfp4' is not defined",
    }


def test_a_u_net_is_not_divided_by_its_sequence(ranks: RankPool) -> None:
    said = ranks.run(2, upstreams.a_u_net, timeout=300)
    assert said == ["Sequence parallelism is not supported by the model"] * 2


def test_self_attention_of_sana_is_linear(ranks: RankPool) -> None:
    assert ranks.run(1, upstreams.sana_attends) == [[]]
