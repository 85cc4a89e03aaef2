"""How `transformers` lays out wav2vec 2.0, HuBERT and WavLM: tensors and config.json."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from glap_jax.audio.context import EPSILON, conv_positions
from glap_jax.audio.speech import KERNELS, STRIDES, SpeechConfig
from glap_jax.convert.constructor import HUGGING_FACE, Shapes, arguments, dimension, heads, layers
from glap_jax.convert.rules import Extra, Kernel, Rule, Same, Table, dense, fused, norm, prefixed

C = TypeVar("C", bound=SpeechConfig)


def torch_rules(family: str, attention: Table = (), shared: Table = ()) -> Table:
    """The table of a family; `family.` stands before the encoder's keys in models that have a head.

    Args:
        family: its name in `transformers`.
        attention: further rules of a block's attention.
        shared: further rules of the encoder.
    """
    convolutions = []
    for index in range(len(KERNELS)):
        source, target = f"feature_extractor.conv_layers.{index}", f"convolutions/{index}"
        # Only one of the two norms is there; the other's rules find no parameter.
        kinds = ("norm", "time_norm") if index == 0 else ("norm",)
        convolutions += [
            Rule(f"{source}.conv.weight", f"{target}/conv/kernel", Kernel),
            Rule(f"{source}.conv.bias", f"{target}/conv/bias", Same),
            *(rule for kind in kinds for rule in norm(f"{source}.layer_norm", f"{target}/{kind}")),
        ]
    block: Table = (
        *fused(*(f"attention.{part}_proj" for part in "qkv"), "attention/qkv"),
        *dense("attention.out_proj", "attention/out"),
        *attention,
        *norm("layer_norm", "attention_norm"),
        *dense("feed_forward.intermediate_dense", "mlp/up"),
        *dense("feed_forward.output_dense", "mlp/down"),
        *norm("final_layer_norm", "mlp_norm"),
    )
    encoder: Table = (
        Extra("masked_spec_embed"),
        *convolutions,
        *norm("feature_projection.layer_norm", "feature_norm"),
        *dense("feature_projection.projection", "projection"),
        *conv_positions("encoder.pos_conv_embed.conv", "context/positions"),
        *norm("encoder.layer_norm", "context/norm"),
        *shared,
        *prefixed(block, "encoder.layers.{layer}.", "context/blocks/layers/"),
    )
    return (*prefixed(encoder, f"(|{family}.)", ""), *(Extra(key) for key in HEAD_KEYS))


# Heads of the published models: pre-training, recognition, classification, speaker verification.
HEAD_KEYS = (
    *("quantizer.codevectors", "quantizer.weight_proj.weight", "quantizer.weight_proj.bias"),
    *("project_q.weight", "project_q.bias", "project_hid.weight", "project_hid.bias"),
    *("lm_head.weight", "lm_head.bias", "layer_weights", "objective.weight"),
    *("projector.weight", "projector.bias", "classifier.weight", "classifier.bias"),
    *("tdnn.{layer}.kernel.weight", "tdnn.{layer}.kernel.bias"),
    *("feature_extractor.weight", "feature_extractor.bias"),
)

_HEADS = {768: 12, 1024: 16, 1280: 16, 1920: 16}
_FIXED: dict[str, Any] = {
    "conv_kernel": list(KERNELS),
    "conv_stride": list(STRIDES),
    "num_feat_extract_layers": len(KERNELS),
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
    "layer_norm_eps": EPSILON,
    "feat_proj_layer_norm": True,
    "conv_pos_batch_norm": False,
    "add_adapter": False,
    "adapter_attn_dim": None,
}
# These act in training only, or on a head that the encoder does not have.
IGNORED = (
    *HUGGING_FACE,
    *("feat_proj_dropout", "feat_quantizer_dropout", "feat_extract_dropout", "final_dropout"),
    *("apply_spec_augment", "mask_time_prob", "mask_time_length", "mask_time_min_masks"),
    *("mask_feature_prob", "mask_feature_length", "mask_feature_min_masks", "mask_channel_length"),
    *("mask_channel_min_space", "mask_channel_other", "mask_channel_prob", "mask_channel_selection"),
    *("mask_time_min_space", "mask_time_other", "mask_time_selection", "no_mask_channel_overlap"),
    *("no_mask_time_overlap", "num_codevectors_per_group", "num_codevector_groups", "num_negatives"),
    *("contrastive_logits_temperature", "codevector_dim", "proj_codevector_dim", "diversity_loss_weight"),
    *("ctc_loss_reduction", "ctc_zero_infinity", "num_ctc_classes", "use_weighted_layer_sum"),
    *("classifier_proj_size", "tdnn_dim", "tdnn_kernel", "tdnn_dilation", "xvector_output_dim"),
    *("adapter_kernel_size", "adapter_stride", "num_adapter_layers", "output_hidden_size"),
    "vocab_size",
)
_CHOICES = {
    "feat_extract_norm": ("group", "layer"),
    "conv_bias": (False, True),
    "do_stable_layer_norm": (False, True),
    "do_normalize": (False, True),
}
_SIZES = {
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "hidden": "intermediate_size",
    "position_taps": "num_conv_pos_embeddings",
    "position_groups": "num_conv_pos_embedding_groups",
}


def config_from_transformers(
    kind: type[C],
    shapes: Shapes,
    given: Mapping[str, Any],
    *,
    family: str,
    sizes: Mapping[str, str] | None = None,
) -> C:
    """Sizes from an HF config.json, the rest from tensor shapes.

    Args:
        kind: the family's configuration.
        shapes: tensors' shapes by key, without the family's prefix.
        given: the config.json; also `do_normalize` of preprocessor_config.json.
        family: its `model_type`.
        sizes: further fields of `kind` and the entries that set them.

    Raises:
        GlapError: an entry that is unknown or cannot be honoured, or sizes that nothing tells.
    """
    names = _SIZES | dict(sizes or {})
    channels = dimension(shapes, "feature_projection.layer_norm.weight", 0)
    fixed = _FIXED | {"model_type": family, "conv_dim": [channels] * len(KERNELS)}
    found = arguments(
        given, family=family, sizes=names.values(), fixed=fixed, ignored=IGNORED, choices=_CHOICES
    )
    width = found.get("hidden_size") or dimension(shapes, "encoder.layer_norm.weight", 0)
    layer = "encoder.layers.0.feed_forward.intermediate_dense.weight"
    direction = "encoder.pos_conv_embed.conv.parametrizations.weight.original1"
    derived: dict[str, Any] = {
        "width": width,
        "layers": layers(shapes, "encoder.layers."),
        "heads": heads(width, found.get("num_attention_heads"), _HEADS, family=family),
        "hidden": dimension(shapes, layer, 0),
        "position_taps": dimension(shapes, direction, 2),
        "position_groups": width // dimension(shapes, direction, 1),
    }
    normed = "feature_extractor.conv_layers.1.layer_norm.weight" in shapes
    biased = "feature_extractor.conv_layers.0.conv.bias" in shapes
    return kind(
        **(derived | {field: found[name] for field, name in names.items() if name in found}),
        conv_width=channels,
        conv_norm=found.get("feat_extract_norm", "layer" if normed else "group"),
        conv_bias=found.get("conv_bias", biased),
        placement="pre" if found.get("do_stable_layer_norm", normed) else "post",
        normalise=found.get("do_normalize", True),
    )


def config_to_transformers(
    config: SpeechConfig, *, family: str, sizes: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The HF config.json that `config_from_transformers` reads as `config`."""
    names = _SIZES | dict(sizes or {})
    return {
        "model_type": family,
        **{name: getattr(config, field) for field, name in names.items()},
        "conv_dim": [config.conv_width] * len(KERNELS),
        "feat_extract_norm": config.conv_norm,
        "conv_bias": config.conv_bias,
        "do_stable_layer_norm": config.placement == "pre",
        "do_normalize": config.normalise,
    }


def reference(config: C) -> C:
    """`config` with the quirk of `transformers`: group-norm statistics that include padding."""
    return dataclasses.replace(config, mode="reference")
