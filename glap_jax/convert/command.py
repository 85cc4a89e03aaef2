"""`glap-jax convert`: published checkpoints to model folders, and back."""

import json
from pathlib import Path
from typing import Annotated, Literal

import tyro

from glap_jax import families, folder, hub
from glap_jax.convert.check import check as compare
from glap_jax.convert.check import read_recording
from glap_jax.convert.checkpoint import Checkpoint
from glap_jax.convert.readers import TORCH_SUFFIXES, open_checkpoint
from glap_jax.convert.writers import save_pt, save_shards, written
from glap_jax.errors import GlapError

Source = Annotated[str | Path, tyro.conf.arg(metavar="SOURCE")]
Out = Annotated[Path | None, tyro.conf.arg(metavar="OUT")]


def convert(
    source: Source,
    out: Out = None,
    /,
    *,
    family: str = "glap",
    to: Literal["jax", "safetensors", "pt", "hub"] = "jax",
    tokenizer: Path | None = None,
    license: str | None = None,
    report: Path | None = None,
    check: Path | None = None,
    compat: bool = False,
    limit: float = 1e-4,
) -> None:
    """Converts a published checkpoint to a model folder, or a model folder back to the published form.

    --check compares the model with its reference. Record in PyTorch, for a dual encoder:
    numpy.savez("io.npz", waveform=clips, lengths=n, ids=ids, mask=mask, audio=model.encode_audio(clips),
    text=model.encode_text(ids)); for one encoder waveform or ids, with outputs tokens and pooled. Towers
    inside a dual encoder give audio_tokens, audio_pooled, text_tokens, text_pooled.

    Args:
        source: torch .pt, safetensors file or folder, hf:org/name, or a model folder.
        out: model folder (jax), folder (safetensors, hub) or .pt file to write; not needed with --check.
        family: which system or encoder the checkpoint holds; a model folder knows its own.
        to: `jax` writes a model folder; `safetensors` and `pt` write the published keys, bit for bit; `hub`
            writes a folder for the Hugging Face hub with a model card, which `hf upload` takes there.
        tokenizer: SentencePiece model to put into the folder, so that it can read text; by default the one
            that lies in the source folder.
        license: what the card calls the licence, in the hub's words: apache-2.0, cc-by-4.0, ...
        report: folder of a report of `glap-jax eval` that the card shows; by default that of the run.
        check: .npz with inputs and outputs of the reference; prints the worst error of each output.
        compat: reproduce the reference's quirks while checking; what is written is the sound model.
        limit: largest error allowed, in parts of an output's largest value; beyond it the exit status is 2.
    """
    if out is None and check is None:
        raise GlapError("convert: nothing to do; name what to write (OUT), or a recording to --check")
    if compat and check is None:
        raise GlapError("convert: --compat acts on --check only, what is written is the sound model; drop it")
    if to != "hub" and (license or report):
        raise GlapError("convert: --license and --report are for the card that --to hub writes; drop them")
    recorded = {} if check is None else read_recording(check)
    if out is not None:
        _check_target(out, to)
    name, source = source, hub.local(source)
    if out is not None:
        if to == "hub":
            from glap_jax.publish import publish

            told = {"license": license, "report": report}
            publish(source, out, family=family, tokenizer=tokenizer, **told)
        else:
            _write(source, out, family, to, tokenizer)
        print(f"{name} -> {out} ({to})")
    if check is not None:
        place = out if out is not None and to in ("jax", "hub") else source
        if folder.is_model(place):
            module, _ = folder.load_module(place, compat=compat)
        else:
            module = families.from_torch(family, open_checkpoint(place), compat=compat)
        compare(module, recorded, limit=limit)


def _check_target(out: Path, to: str) -> None:
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


def _write(source: Path, out: Path, family: str, to: str, tokenizer: Path | None) -> None:
    if tokenizer is None and source.is_dir():
        tokenizer = folder.find_tokenizer(source)
    if folder.is_model(source):
        module, config = folder.load_module(source)
    else:
        # Parameters go from file to file one by one; the way back wants all of them at hand.
        read = families.open_module if to == "jax" else families.from_torch
        module = read(family, open_checkpoint(source))
        config = vars(module)["config"]
    if to == "jax":
        folder.save(out, module, config, tokenizer)
        return
    checkpoint = families.to_checkpoint(module)
    # From here on the tensors alone keep the parameters, and free them as they are written.
    del module
    if to == "pt":
        save_pt(out, checkpoint)
    else:
        _write_folder(out, checkpoint, tokenizer)


def _write_folder(out: Path, checkpoint: Checkpoint, tokenizer: Path | None) -> None:
    """The files of the Hugging Face layout: tensors, sizes, and the tokenizer where there is one."""
    save_shards(out, checkpoint)
    with written(out / "config.json") as file:
        file.write(json.dumps(checkpoint.config, indent=2).encode())
    if tokenizer is not None:
        with written(out / tokenizer.name) as file:
            file.write(tokenizer.read_bytes())
