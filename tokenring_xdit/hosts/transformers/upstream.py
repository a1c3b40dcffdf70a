"""Every name that transformers documents nowhere, and this host relies on; a test looks each of them up."""

from __future__ import annotations

from tokenring_xdit.hosts.base import ReliedOn

__all__ = ["RELIED_ON"]

_CACHES = "transformers.cache_utils"
_GENERATION = "transformers.generation.utils"

RELIED_ON = (
    ReliedOn(
        _GENERATION,
        "GenerationMixin._prepare_cache_for_generation",
        "replaced, so that a cache is sharded where none was passed",
        ("generation_config", "model_kwargs"),
    ),
    ReliedOn(_GENERATION, "GenerateDecoderOnlyOutput", "made anew on the other ranks"),
    ReliedOn(_GENERATION, "GenerateBeamDecoderOnlyOutput", "made anew on the other ranks"),
    ReliedOn(_CACHES, "CacheLayerMixin", "what a layer of the sharded cache is"),
    ReliedOn(_CACHES, "Cache.update", "asked by models for keys", ("key_states", "value_states", "layer_idx")),
    ReliedOn(_CACHES, "Cache.get_mask_sizes", "asked by masks how many keys there are"),
    ReliedOn("transformers.masking_utils", "ALL_MASK_ATTENTION_FUNCTIONS.register", "masks are made by this host"),
    ReliedOn("transformers", "AttentionInterface.register", "attention is computed by this host", ("key", "value")),
)
