"""`glap-jax convert`: published checkpoints to model folders, and back."""

import json
from pathlib import Path
from typing import Literal

from glap_jax import families, folder
from glap_jax.convert.checkpoint import Checkpoint
from glap_jax.convert.readers import TORCH_SUFFIXES, open_checkpoint
from glap_jax.convert.writers import save_pt, save_safetensors, written
from glap_jax.errors import GlapError


def convert(
    source: Path,
    out: Path,
    *,
    family: str = "glap",
    to: Literal["jax", "safetensors", "pt"] = "jax",
    tokenizer: Path | None = None,
) -> None:
    """Converts a published checkpoint to a model folder, or a model folder back to the published form.

    Args:
        source: torch .pt, safetensors file or folder, or a model folder.
        out: model folder (`jax`), folder for `model.safetensors` and `config.json`, or `.pt` file to write.
        family: which system or encoder the checkpoint holds; a model folder knows its own.
        to: `jax` writes a model folder; `safetensors` and `pt` write the published keys, bit for bit.
        tokenizer: SentencePiece model to put into the folder, so that it can read text; by default the one
            that lies in the source folder.

    Raises:
        GlapError: the source does not fit, or the target cannot be written.
    """
    if to == "pt" and out.suffix not in TORCH_SUFFIXES:
        raise GlapError(
            f"convert: '{out}' must be a file that ends in .pt; name one, such as '{out}/model.pt'"
        )
    if to != "pt" and (out.suffix in (*TORCH_SUFFIXES, ".safetensors") or out.is_file()):
        raise GlapError(
            f"convert: '{out}' looks like a file, and --to {to} writes a folder; give a folder's name"
        )
    if to == "safetensors" and folder.is_model(out):
        raise GlapError(
            f"convert: '{out}' is a model folder, which --to safetensors would spoil; name another"
        )
    if tokenizer is None and source.is_dir():
        tokenizer = folder.find_tokenizer(source)
    if folder.is_model(source):
        module, config = folder.load_module(source)
    else:
        read = families.open_module if to == "jax" else families.from_torch
        module = read(family, open_checkpoint(source))
        config = vars(module)["config"]
    if to == "jax":
        folder.save(out, module, config, tokenizer)
    else:
        checkpoint = families.to_checkpoint(module)
        # From here on the tensors alone keep the parameters, and free them as they are written.
        del module
        if to == "pt":
            save_pt(out, checkpoint)
        else:
            _write_folder(out, checkpoint, tokenizer)
    print(f"{source} -> {out} ({to})")


def _write_folder(out: Path, checkpoint: Checkpoint, tokenizer: Path | None) -> None:
    """The files of the Hugging Face layout: tensors, sizes, and the tokenizer where there is one."""
    save_safetensors(out / "model.safetensors", checkpoint)
    with written(out / "config.json") as file:
        file.write(json.dumps(checkpoint.config, indent=2).encode())
    if tokenizer is not None:
        with written(out / tokenizer.name) as file:
            file.write(tokenizer.read_bytes())
