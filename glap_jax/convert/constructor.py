"""Reads a reference's constructor arguments, and the sizes that tensor shapes give away."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from glap_jax.errors import GlapError

Shapes = Mapping[str, tuple[int, ...]]

# What any Hugging Face config.json may hold that does not change what a trained encoder computes.
HUGGING_FACE = (
    *("_name_or_path", "architectures", "auto_map", "finetuning_task", "model_type", "tokenizer_class"),
    *("transformers_version", "torch_dtype", "dtype", "torchscript", "use_bfloat16", "_attn_implementation"),
    *("_attn_implementation_autoset", "attn_implementation", "gradient_checkpointing", "initializer_range"),
    *("chunk_size_feed_forward", "use_cache", "return_dict", "output_attentions", "output_hidden_states"),
    *("id2label", "label2id", "num_labels", "problem_type", "classifier_dropout", "tie_word_embeddings"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id"),
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "hidden_dropout", "attention_dropout"),
    *("activation_dropout", "layerdrop", "language", "is_encoder_decoder"),
)


def arguments(
    given: Mapping[str, Any],
    *,
    family: str,
    sizes: Iterable[str],
    fixed: Mapping[str, Any],
    ignored: Iterable[str] = (),
    choices: Mapping[str, tuple[Any, ...]] | None = None,
) -> dict[str, Any]:
    """The entries of `given` that are named in `sizes` or `choices`.

    Args:
        given: constructor arguments of the reference.
        family: names the family in messages.
        sizes: arguments that are free, positive numbers.
        fixed: arguments whose value is built in here.
        ignored: arguments that change nothing in a trained model's output.
        choices: arguments that may take one of a few values.

    Raises:
        GlapError: unknown names, and values that cannot be honoured, all in one line.
    """
    sizes, choices = tuple(sizes), choices or {}
    problems = []
    for name, value in given.items():
        if name in sizes:
            if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                problems.append(f"'{name}' must be a positive number, not {value!r}")
        elif name in fixed:
            value = list(value) if isinstance(value, tuple) else value
            if value != fixed[name]:
                problems.append(f"'{name}' must be {fixed[name]!r}, not {value!r}")
        elif name in choices:
            if value not in choices[name]:
                problems.append(f"'{name}' must be one of {choices[name]!r}, not {value!r}")
        elif name not in ignored:
            problems.append(f"'{name}' is unknown (sizes are {', '.join(sizes)})")
    if problems:
        raise GlapError(f"config of {family}: {'; '.join(problems)}; mend or leave out those entries")
    return {name: given[name] for name in (*sizes, *choices) if name in given}


def below(shapes: Shapes, prefix: str) -> Shapes:
    """The shapes of the tensors below `prefix`, by the rest of their names."""
    return {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}


def dimension(shapes: Shapes, key: str, axis: int) -> int:
    """Length of `axis` of tensor `key`.

    Raises:
        GlapError: no such tensor or axis.
    """
    shape = shapes.get(key)
    if shape is None:
        raise GlapError(
            f"convert: the checkpoint has no tensor '{key}', from which sizes are read; is it complete?"
        )
    if axis >= len(shape):
        raise GlapError(
            f"convert: tensor '{key}' has shape {list(shape)}, too few axes; is it another family's?"
        )
    return shape[axis]


def layers(shapes: Shapes, prefix: str) -> int:
    """One more than the largest index that follows `prefix` in a key.

    Raises:
        GlapError: no key begins with `prefix` and a number.
    """
    found = [int(match[1]) for key in shapes if (match := re.match(re.escape(prefix) + r"(\d+)\.", key))]
    if not found:
        raise GlapError(f"convert: the checkpoint has no tensor '{prefix}0.*'; is it complete?")
    return 1 + max(found)


def heads(width: int, given: int | None, published: Mapping[int, int], *, family: str) -> int:
    """Attention heads, which no tensor shows: `given`, or those of the published model of this width.

    Raises:
        GlapError: neither is known, or the width cannot be divided by them.
    """
    count = given or published.get(width)
    if count is None:
        raise GlapError(
            f"config of {family}: no published model is {width} wide, so its attention heads are unknown; "
            "give 'num_heads' in the config (of a checkpoint in files: in config.json beside it)"
        )
    if width % count:
        raise GlapError(
            f"config of {family}: width {width} cannot be divided by {count} heads; mend 'num_heads'"
        )
    return count
