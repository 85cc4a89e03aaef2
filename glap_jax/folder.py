"""The model folder: `config.json`, `parameters/` (Orbax), and where there is one, the tokenizer.

That is `spm.model` (SentencePiece) or `tokenizer.json`.

`save` writes one, whole or not at all; `load_module` reads it back, strictly.
"""

import contextlib
import errno
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import glap_jax
from glap_jax import families
from glap_jax.config import from_json
from glap_jax.config import to_json as config_to_json
from glap_jax.convert.layout import LAYOUT, TorchLayout
from glap_jax.errors import GlapError
from glap_jax.layers import Remat
from glap_jax.rules import path_name
from glap_jax.text.tokenizers import open_tokenizer

FORMAT = 1
CONFIG = "config.json"
PARAMETERS = "parameters"
TOKENIZER, JSON = "spm.model", "tokenizer.json"
# Differing parameters that a message spells out; more are counted.
_SHOWN = 4


def is_model(folder: str | Path) -> bool:
    """Whether `folder` looks like a model folder (its `config.json` carries our format number)."""
    try:
        words = json.loads((Path(folder) / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(words, dict) and "glap_jax_format" in words


def save(folder: str | Path, module: nnx.Module, config: Any, tokenizer: str | Path | None = None) -> None:
    """Writes the model folder of `module`, replacing an earlier one.

    It is built beside its place and renamed when complete, so that a crash or a full disk leaves the
    earlier folder as it was. Arrays are handed to Orbax without a copy, uncompressed: memory hardly grows.

    Args:
        folder: where to; missing, empty, or a model folder.
        module: a module of one of the known families.
        config: its sizes (`ModelConfig`, `DashengConfig`, ...).
        tokenizer: SentencePiece model or tokenizer.json of the text tower.

    Raises:
        GlapError: `folder` holds something else, the tokenizer does not fit, or the disk is full or
            read-only.
    """
    folder = Path(folder).resolve()
    _check_target(folder)
    text = getattr(config, "text", config)
    if tokenizer is not None and hasattr(text, "vocabulary"):
        open_tokenizer(tokenizer, text)
    name = None if tokenizer is None else JSON if Path(tokenizer).suffix == ".json" else TOKENIZER
    words = {
        "glap_jax_format": FORMAT,
        "glap_jax_version": glap_jax.__version__,
        "family": families.family_of(module),
        "model": json.loads(config_to_json(config)),
        "tokenizer": name,
    }
    part = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        _write_parameters(part / PARAMETERS, module, folder)
        layout: TorchLayout | None = getattr(module, LAYOUT, None)
        if layout is not None:
            layout.save(part)
        if tokenizer is not None and name is not None:
            shutil.copyfile(tokenizer, part / name)
        (part / CONFIG).write_text(json.dumps(words, indent=2, ensure_ascii=False), encoding="utf-8")
        _put_in_place(part, folder)
    except OSError as error:
        raise _unwritable(folder, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


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


def _unwritable(folder: Path, error: Exception) -> GlapError:
    text = str(error)
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        # TensorStore passes the system's words on inside longer ones.
        if getattr(error, "errno", None) == number or os.strerror(number) in text:
            return GlapError(
                f"model: cannot write '{folder}': {os.strerror(number)}; free some space or give another "
                "place. Nothing was changed"
            )
    reason = next(iter(text.splitlines()), "") or type(error).__name__
    return GlapError(
        f"model: cannot write '{folder}': {reason:.300}; see that it can be written or give another place. "
        "Nothing was changed"
    )


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Silences Orbax, which logs at length what it then raises."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _ignore_late_reports() -> None:
    """Keeps quiet what comes after a failed write or read, for as long as it comes.

    Orbax has closed its event loop by then and TensorStore still reports its other work to it; Python would
    print a traceback for each of these reports.
    """
    hook = sys.unraisablehook
    sys.unraisablehook = lambda found: None if "loop is closed" in str(found.exc_value) else hook(found)


def _write_parameters(target: Path, module: nnx.Module, folder: Path) -> None:
    import orbax.checkpoint as ocp

    handlers = ocp.type_handlers
    registry = handlers.create_type_handler_registry(
        (np.ndarray, handlers.NumpyHandler(deepcopy_host_arrays=False))
    )
    tree = jax.tree.map(_host, nnx.to_pure_dict(nnx.state(module)))
    size, free = sum(leaf.nbytes for leaf in jax.tree.leaves(tree)), shutil.disk_usage(target.parent).free
    if size > free:
        raise GlapError(
            f"model: '{folder}' needs {size / 1e6:.0f} MB and {free / 1e6:.0f} MB are free; make room or "
            "give another place. Nothing was changed"
        )
    try:
        with _quiet():
            handler = ocp.PyTreeCheckpointHandler(use_compression=False, type_handler_registry=registry)
            with ocp.Checkpointer(handler) as checkpointer:
                checkpointer.save(target, args=ocp.args.PyTreeSave(tree))
    # TensorStore reports a full disk as ValueError, RuntimeError or its own types.
    except Exception as error:
        _ignore_late_reports()
        raise _unwritable(folder, error) from error


def _host(value: jax.Array) -> np.ndarray:
    """The values in host memory; on a CPU, those of JAX themselves."""
    return np.asarray(value)


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
    folder: str | Path, *, dtype: Any = jnp.float32, remat: Remat = "none"
) -> tuple[nnx.Module, Any]:
    """The module in `folder`, on the default device, and its configuration.

    Args:
        folder: what `save` wrote.
        dtype: compute type; parameters are float32.
        remat: what a backward pass keeps of each layer.

    Raises:
        GlapError: no model folder, another format, missing or damaged parameters, or parameters whose names,
            shapes or types differ from what the configuration asks for.
    """
    folder = Path(folder).resolve()
    family, config = read_config(folder)
    build = families.family_module(family).Module
    module = nnx.eval_shape(lambda: build(config, dtype=jnp.dtype(dtype), remat=remat, rngs=nnx.Rngs(0)))
    nnx.update(module, _read_parameters(folder, nnx.to_pure_dict(nnx.state(module))))
    layout = TorchLayout.load(folder)
    if layout is not None:
        setattr(module, LAYOUT, layout)
    return module, config


def _read_parameters(folder: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    import orbax.checkpoint as ocp
    from etils import epath

    source = folder / PARAMETERS
    if not source.is_dir():
        raise GlapError(f"model: '{folder}' has no '{PARAMETERS}'; it is incomplete, get or write it again")
    handler = ocp.PyTreeCheckpointHandler()
    stored = _or_damaged(folder, lambda: handler.metadata(epath.Path(source)).tree)
    _check_same(folder, _kinds(stored), _kinds(wanted))
    # By way of host memory, one array after the other: restoring to devices holds half of the model twice.
    arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
    restore = ocp.args.PyTreeRestore(wanted, restore_args=arguments)
    values = _or_damaged(folder, lambda: ocp.Checkpointer(handler).restore(source, args=restore))
    waiting, structure = jax.tree.flatten(values)
    del values
    waiting.reverse()
    return jax.tree.unflatten(
        structure, [jax.block_until_ready(jax.device_put(waiting.pop())) for _ in range(len(waiting))]
    )


def _or_damaged(folder: Path, read: Callable[[], Any]) -> Any:
    try:
        with _quiet():
            return read()
    # Orbax and TensorStore raise many types for files that are missing, cut or no checkpoint.
    except Exception as error:
        _ignore_late_reports()
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise GlapError(
            f"model: the parameters in '{folder}' cannot be read ({reason:.200}); they are incomplete or "
            "damaged, get or write the folder again"
        ) from error


def _kinds(tree: Any) -> dict[str, str]:
    """`{path: "float32[2, 3]"}` of arrays, abstract arrays or Orbax metadata."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {path_name(path): f"{np.dtype(leaf.dtype)}{list(leaf.shape)}" for path, leaf in flat}


def _check_same(folder: Path, stored: dict[str, str], wanted: dict[str, str]) -> None:
    problems = [f"{path} is missing" for path in sorted(set(wanted) - set(stored))]
    problems += [f"{path} has no place" for path in sorted(set(stored) - set(wanted))]
    problems += [
        f"{path} is {stored[path]} and should be {wanted[path]}"
        for path in sorted(set(stored) & set(wanted))
        if stored[path] != wanted[path]
    ]
    if problems:
        more = f", and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise GlapError(
            f"model: the parameters in '{folder}' are another model's than its {CONFIG} describes: "
            f"{'; '.join(problems[:_SHOWN])}{more}; put the right parameters and {CONFIG} together"
        )


def find_tokenizer(folder: str | Path) -> Path | None:
    """The tokenizer in `folder`: `spm.model`, `tokenizer.json`, its only `*.model` file, else none."""
    folder = Path(folder)
    for name in (TOKENIZER, JSON):
        if (folder / name).is_file():
            return folder / name
    found = sorted(folder.glob("*.model"))
    return found[0] if len(found) == 1 else None
