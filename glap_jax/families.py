"""The model families by name: their configuration, and conversion from and to the original tensors."""

import importlib
from collections.abc import Iterable, Mapping
from types import MappingProxyType, ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from glap_jax.convert.checkpoint import Checkpoint, in_memory
from glap_jax.convert.engine import export, fill, materialise
from glap_jax.convert.layout import LAYOUT
from glap_jax.convert.rules import Table
from glap_jax.convert.spelling import canonical, choose
from glap_jax.errors import GlapError

# A module offers `Config` (a frozen dataclass), `Module` (made by `Module(config, dtype=..., rngs=...)`),
# `TORCH_RULES`, `config_from_torch(shapes, given) -> Config`, `config_to_torch(config) -> dict` (what `given`
# may be), and `compat(config) -> Config` (the reference's quirks turned on). A family that is published in
# layouts which no spelling of one table covers has `OTHER_TORCH_RULES` too, a tuple of tables. One whose
# towers may be of many families has `composed_torch_rules(given) -> Table | None`, the table of those named.
# One whose published files hold but a part of the model has `part_of(keys) -> family | None`, that part's.
FAMILIES = {
    "dasheng": "glap_jax.audio.dasheng",
    "ced": "glap_jax.audio.ced",
    "whisper": "glap_jax.audio.whisper",
    "efficientnet": "glap_jax.audio.efficientnet",
    "clasp_fusion": "glap_jax.audio.clasp",
    "clasp_audio": "glap_jax.audio.clasp_tower",
    "beats": "glap_jax.audio.beats",
    "wav2vec2": "glap_jax.audio.wav2vec2",
    "hubert": "glap_jax.audio.hubert",
    "wavlm": "glap_jax.audio.wavlm",
    "sonar_speech": "glap_jax.audio.sonar_speech",
    "w2v_bert": "glap_jax.audio.w2v_bert",
    "sonar": "glap_jax.text.sonar",
    "bert": "glap_jax.text.bert",
    "xlm_roberta": "glap_jax.text.xlm_roberta",
    "clara_audio": "glap_jax.audio.clara",
    "clara_text": "glap_jax.text.clara",
    "glap": "glap_jax.model",
    "ml_clap": "glap_jax.systems.ml_clap",
    "clara": "glap_jax.systems.clara",
    "clasp": "glap_jax.systems.clasp",
}


def family_module(family: str) -> ModuleType:
    """The module that defines `family`.

    Raises:
        GlapError: no such family.
    """
    if family not in FAMILIES:
        raise GlapError(f"family '{family}' is unknown; choose one of {', '.join(FAMILIES)}")
    return importlib.import_module(FAMILIES[family])


def from_torch(
    family: str,
    state_dict: Mapping[str, Any],
    config: Mapping[str, Any] | None = None,
    compat: bool = False,
    *,
    dtype: DTypeLike = jnp.float32,
) -> nnx.Module:
    """A module filled from original tensors.

    Args:
        family: one of `FAMILIES`.
        state_dict: NumPy, JAX or torch arrays by their original names; or an open `Checkpoint`.
        config: the reference's constructor arguments, or its HF config.json, as a dict; for dual encoders
            `{"audio": {...}, "text": {...}, "embed_size": n}`. Sizes that it leaves out are read off them.
        compat: reproduce the reference's quirks, as the family's docstring lists them.
        dtype: compute type of the module; its parameters are float32.

    Raises:
        GlapError: an unknown family or argument, or tensors that do not fit, all problems in one line.
    """
    source = in_memory(state_dict)
    return materialise(open_module(family, source, config, compat, dtype=dtype), source.where)


def open_module(
    family: str,
    source: Checkpoint,
    config: Mapping[str, Any] | None = None,
    compat: bool = False,
    *,
    dtype: DTypeLike = jnp.float32,
) -> nnx.Module:
    """`from_torch` whose parameters are still where `source` reads them from: `Lazy`, for `folder.save`."""
    config = source.config if config is None else config
    module = family_module(family)
    if hasattr(module, "part_of") and (part := module.part_of(source)):
        return open_module(part, source, config, compat, dtype=dtype)
    number, names = explained(module, source, config)
    if 2 * len(names) < len(source) or not names:
        unknown = ", ".join(sorted(set(source) - set(names.values()))[:3])
        hint = (
            f"it looks like family '{guess}'" if (guess := guess_family(source)) else "no known family fits"
        )
        raise GlapError(
            f"convert: {source.where} is no '{family}' checkpoint: {len(names)} of its {len(source)} tensors "
            f"are known there (unknown: {unknown}); {hint}"
        )
    shapes = {name: source.tensors[key].shape for name, key in names.items()}
    sizes = module.config_from_torch(shapes, config)
    if compat:
        sizes = module.compat(sizes)
    empty = nnx.eval_shape(lambda: module.Module(sizes, dtype=dtype, rngs=nnx.Rngs(0)))
    return fill(empty, tables(module, config)[number], source, family=family, number=number)


def fill_module(module: nnx.Module, family: str, config: Any, source: Checkpoint) -> nnx.Module:
    """`module` (abstract, of configuration `config`) with parameters that are still where `source` has them.

    Raises:
        GlapError: tensors that do not fit, all problems in one line.
    """
    home = family_module(family)
    given = home.config_to_torch(config)
    number, _ = explained(home, source, given)
    return fill(module, tables(home, given)[number], source, family=family, number=number)


def tables(module: ModuleType, given: Mapping[str, Any] = MappingProxyType({})) -> tuple[Table, ...]:
    """The conversion tables of a family's module; the first is what new models are written in.

    Args:
        module: of the family.
        given: constructor arguments, which may name the towers of a system.
    """
    if hasattr(module, "composed_torch_rules") and (table := module.composed_torch_rules(given)):
        return (table,)
    return (module.TORCH_RULES, *getattr(module, "OTHER_TORCH_RULES", ()))


def explained(
    module: ModuleType, keys: Iterable[str], given: Mapping[str, Any] = MappingProxyType({})
) -> tuple[int, dict[str, str]]:
    """The number of the table that explains most of `keys`, and these by names in its first spelling."""
    keys = list(keys)
    names = [canonical(table, choose(table, keys), keys) for table in tables(module, given)]
    number = max(range(len(names)), key=lambda number: len(names[number]))
    return number, names[number]


def guess_family(keys: Iterable[str]) -> str | None:
    """The family whose table explains most of `keys`, if it explains at least half of them."""
    keys = list(keys)
    best, share = None, 0.5
    for family in FAMILIES:
        _, names = explained(family_module(family), keys)
        if len(names) / max(1, len(keys)) > share:
            best, share = family, len(names) / len(keys)
    return best


def family_of(module: nnx.Module) -> str:
    """The family that a module belongs to.

    Raises:
        GlapError: none does.
    """
    layout = getattr(module, LAYOUT, None)
    if layout is not None:
        return layout.family
    config = getattr(module, "config", None)
    family = getattr(config, "family", None)
    if family in FAMILIES and isinstance(config, family_module(family).Config):
        return family
    raise GlapError(f"convert: {type(module).__name__} is no model of a known family ({', '.join(FAMILIES)})")


def to_checkpoint(module: nnx.Module) -> Checkpoint:
    """The original tensors of `module` and its constructor arguments; each tensor is made when it is read."""
    family = family_of(module)
    source = family_module(family)
    layout = getattr(module, LAYOUT, None)
    config = source.config_to_torch(vars(module)["config"])
    tensors = export(module, tables(source, config)[layout.table if layout else 0], family=family)
    return Checkpoint(tensors, config=config, where=f"the {family} module")


def to_torch(module: nnx.Module) -> dict[str, np.ndarray]:
    """The exact inverse of `from_torch`: NumPy arrays by their original names, bit for bit.

    A module that did not come from a checkpoint is written in the layout that its family is published in.

    Raises:
        GlapError: the module belongs to no known family.
    """
    return dict(to_checkpoint(module))
