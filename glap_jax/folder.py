"""The model folder: `config.json`, parameters, and where there is one, the tokenizer.

Parameters are `parameters/` (Orbax), or `model.safetensors` in the published layout (see `glap_jax.publish`);
the tokenizer is `spm.model` (SentencePiece) or `tokenizer.json`.

`save` writes one, whole or not at all; `load_module` reads it back, strictly.
"""

import contextlib
import functools
import json
import shutil
from collections.abc import Generator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
from flax import nnx

import glap_jax
from glap_jax import families, hub, parameters
from glap_jax.config import from_json
from glap_jax.config import to_json as config_to_json
from glap_jax.convert.engine import materialise
from glap_jax.convert.layout import LAYOUT, TorchLayout
from glap_jax.convert.readers import open_checkpoint
from glap_jax.errors import GlapError
from glap_jax.layers import Remat
from glap_jax.text.tokenizers import open_tokenizer

FORMAT = 1
CONFIG = "config.json"
PARAMETERS = "parameters"
TOKENIZER, JSON = "spm.model", "tokenizer.json"


def is_model(folder: str | Path) -> bool:
    """Whether `folder` looks like a model folder (its `config.json` carries our format number)."""
    try:
        words = json.loads((Path(folder) / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(words, dict) and "glap_jax_format" in words


def find_model(path_or_hub_id: str | Path) -> Path:
    """The model folder or checkpoint that is meant by it, or by a run's folder or hf:organisation/name.

    Raises:
        GlapError: nothing there.
    """
    path = hub.local(path_or_hub_id)
    if not path.exists():
        raise GlapError(
            f"model: there is no '{path}'; `glap-jax quickstart` trains one into runs/quickstart/model, "
            "`glap-jax convert` makes one from published weights"
        )
    return path / "model" if not is_model(path) and is_model(path / "model") else path


def save(folder: str | Path, module: nnx.Module, config: Any, tokenizer: str | Path | None = None) -> None:
    """Writes the model folder of `module`, replacing an earlier one.

    It is built beside its place and renamed when complete, so that a crash or a full disk leaves the
    earlier folder as it was. Arrays are written one by one, so that those which a checkpoint on disk still
    holds (`families.open_module`) never fill memory.

    Args:
        folder: where to; missing, empty, or a model folder.
        module: a module of one of the known families.
        config: its sizes (`ModelConfig`, `DashengConfig`, ...).
        tokenizer: SentencePiece model or tokenizer.json of the text tower.

    Raises:
        GlapError: `folder` holds something else, the tokenizer does not fit, or the disk is full or
            read-only.
    """
    with whole(folder) as part:
        describe(part, module, config, tokenizer)
        parameters.write(part / PARAMETERS, nnx.to_pure_dict(nnx.state(module)), Path(folder).resolve())
        layout: TorchLayout | None = getattr(module, LAYOUT, None)
        if layout is not None:
            layout.save(part)


@contextlib.contextmanager
def whole(folder: str | Path) -> Generator[Path]:
    """A folder beside `folder` that takes its place when the block ends well, and is removed otherwise.

    Raises:
        GlapError: `folder` holds something else than a model, or the disk is full or read-only.
    """
    folder = Path(folder).resolve()
    _check_target(folder)
    part = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        yield part
        _put_in_place(part, folder)
    except OSError as error:
        raise parameters.unwritable(folder, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def describe(
    folder: Path,
    module: nnx.Module,
    config: Any,
    tokenizer: str | Path | None,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Writes `config.json`, with what `more` says besides, and the tokenizer.

    Raises:
        GlapError: the tokenizer does not fit.
    """
    text = getattr(config, "text", config)
    if tokenizer is not None and hasattr(text, "vocabulary"):
        open_tokenizer(tokenizer, text)
    name = None if tokenizer is None else JSON if Path(tokenizer).suffix == ".json" else TOKENIZER
    words = {
        **more,
        "glap_jax_format": FORMAT,
        "glap_jax_version": glap_jax.__version__,
        "family": families.family_of(module),
        "model": json.loads(config_to_json(config)),
        "tokenizer": name,
    }
    if tokenizer is not None and name is not None:
        shutil.copyfile(tokenizer, folder / name)
    (folder / CONFIG).write_text(json.dumps(words, indent=2, ensure_ascii=False), encoding="utf-8")


def _check_target(folder: Path) -> None:
    if folder.is_dir():
        if any(folder.iterdir()) and not is_model(folder):
            raise GlapError(f"model: '{folder}' is no model folder and not empty; give another place")
    elif folder.exists():
        raise GlapError(f"model: '{folder}' is a file; give the path of a folder")


def _put_in_place(part: Path, folder: Path) -> None:
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def read_config(folder: str | Path) -> tuple[str, Any]:
    """Family and configuration of the model in `folder`.

    Raises:
        GlapError: no model folder, one of another format, or a damaged `config.json`.
    """
    folder = Path(folder)
    if not is_model(folder):
        raise GlapError(
            f"model: '{folder}' is no model folder (no {CONFIG} of one); give a folder that training or "
            "`glap-jax convert` wrote"
        )
    where = f"model: '{folder / CONFIG}'"
    words = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if words["glap_jax_format"] != FORMAT:
        raise GlapError(
            f"{where} has format {words['glap_jax_format']} and this version {glap_jax.__version__} reads "
            f"format {FORMAT}; install glap_jax {words.get('glap_jax_version', 'of the same age')}"
        )
    if not isinstance(words.get("family"), str) or not isinstance(words.get("model"), dict):
        raise GlapError(f"{where} lacks 'family' or 'model'; it is damaged, get the folder again")
    kind = families.family_module(words["family"]).Config
    return words["family"], from_json(kind, json.dumps(words["model"]), where=where)


def load_module(
    folder: str | Path,
    *,
    config: Any = None,
    dtype: Any = jnp.float32,
    remat: Remat = "none",
    compat: bool = False,
    sharding: parameters.Shardings | None = None,
) -> tuple[nnx.Module, Any]:
    """The module in `folder` and its configuration.

    Args:
        folder: what `save` wrote.
        config: what to build in place of the folder's own configuration, of the same family and sizes.
        dtype: compute type; parameters are float32.
        remat: what a backward pass keeps of each layer.
        compat: reproduce the reference's quirks, for verification.
        sharding: where the parameters go: a sharding for all, or one for each path, such as
            `rules.apply(rules, paths)` gives. Each device reads its part only. By default they go to the
            default device.

    Raises:
        GlapError: no model folder, another format, missing or damaged parameters, or parameters whose names,
            shapes or types differ from what the configuration asks for.
    """
    folder = Path(folder).resolve()
    family, found = read_config(folder)
    config = found if config is None else config
    if compat:
        config = families.family_module(family).compat(config)
    build = families.family_module(family).Module
    module = nnx.eval_shape(lambda: build(config, dtype=jnp.dtype(dtype), remat=remat, rngs=nnx.Rngs(0)))
    if not (folder / PARAMETERS).is_dir() and any(folder.glob("*.safetensors")):
        module = families.fill_module(module, family, config, open_checkpoint(folder))
        place = functools.partial(parameters.place_of, sharding=sharding)
        return materialise(module, f"'{folder.name}'", place), config
    wanted = nnx.to_pure_dict(nnx.state(module))
    nnx.update(module, parameters.read(folder / PARAMETERS, wanted, folder, sharding))
    layout = TorchLayout.load(folder)
    if layout is not None:
        setattr(module, LAYOUT, layout)
    return module, config


def find_tokenizer(folder: str | Path) -> Path | None:
    """The tokenizer in `folder`: `spm.model`, `tokenizer.json`, its only `*.model` file, else none."""
    folder = Path(folder)
    for name in (TOKENIZER, JSON):
        if (folder / name).is_file():
            return folder / name
    found = sorted(folder.glob("*.model"))
    return found[0] if len(found) == 1 else None
