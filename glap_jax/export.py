"""The encoding functions as StableHLO programs (`jax.export`), which run without the code of this package.

A folder holds `audio.stablehlo` and `text.stablehlo`, each with its parameters in a safetensors file of that
name, and `export.json`. Parameters are arguments of the programs, not constants inside: a program stays below
a megabyte where GLAP's 3.4 GB would exceed what its format can hold, and they can be placed, split over
devices, shared by programs and replaced. Each program takes any number of rows.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.export as jax_export
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

import glap_jax
from glap_jax.errors import GlapError

FORMAT = 1
WORDS = "export.json"

Platform = Literal["cpu", "cuda", "tpu"]
Frontend = Literal["inside", "apart"]


def save(
    model: str | Path,
    out: Path,
    *,
    platforms: Sequence[Platform] = ("cpu", "cuda", "tpu"),
    seconds: float = 10.0,
    tokens: int = 128,
    frontend: Frontend = "inside",
    dtype: DTypeLike = jnp.float32,
) -> None:
    """Writes the programs of an audio-text model into the folder `out`.

    Args:
        model: model folder, run folder, checkpoint file, or hf:org/name.
        out: folder to write; earlier programs in it are replaced.
        platforms: what the programs run on.
        seconds: length of the rows of samples; shorter clips are padded and counted in `lengths`.
        tokens: length of the rows of token ids, at most the tower's longest input; shorter texts are padded
            and masked.
        frontend: `inside` the program `audio`, which takes samples; or `apart`, in a program of its own
            that makes the features which `audio` takes then.
        dtype: compute type; parameters and embeddings are float32.

    Raises:
        GlapError: no audio-text model, lengths that it cannot take, a frontend that cannot be apart, or a
            folder that cannot be written.
    """
    from glap_jax import inference
    from glap_jax.convert.writers import written
    from glap_jax.folder import find_model, find_tokenizer

    if seconds <= 0 or tokens <= 0 or not platforms:
        raise GlapError("export: seconds, tokens and platforms must be more than nothing; give some")
    place = find_model(model)
    module: Any = inference.load(place, dtype=dtype).module
    tokenizer = find_tokenizer(place if place.is_dir() else place.parent)
    programs = _programs(module, seconds, min(tokens, module.text.config.max_tokens), frontend)
    _empty(out)
    described = {name: _write(out, name, *program, platforms) for name, program in programs.items()}
    if tokenizer is not None:
        shutil.copyfile(tokenizer, out / tokenizer.name)
    words = {
        "glap_jax_export": FORMAT,
        "glap_jax_version": glap_jax.__version__,
        "family": module.config.family,
        "sample_rate": module.audio.SAMPLE_RATE,
        "platforms": list(platforms),
        "tokenizer": None if tokenizer is None else tokenizer.name,
        "programs": described,
    }
    with written(out / WORDS) as file:
        file.write(json.dumps(words, indent=2).encode())
    print(f"{model} -> {out} ({', '.join(programs)} for {', '.join(platforms)})")


def _programs(
    module: Any, seconds: float, tokens: int, frontend: Frontend
) -> dict[str, tuple[dict[str, Any], Callable[..., Any], dict[str, Any]]]:
    """By name: the parts of `module` that a program runs, what it does with them, and its inputs."""
    (batch,) = jax_export.symbolic_shape("b")
    samples = round(seconds * module.audio.SAMPLE_RATE)
    waveform = {
        "waveform": jax.ShapeDtypeStruct((batch, samples), jnp.float32),
        "lengths": jax.ShapeDtypeStruct((batch,), jnp.int32),
    }
    text = {
        "ids": jax.ShapeDtypeStruct((batch, tokens), jnp.int32),
        "mask": jax.ShapeDtypeStruct((batch, tokens), jnp.bool_),
    }
    text_parts = {"text": module.text, "head": module.text_head}
    audio_parts = {"audio": module.audio, "head": module.audio_head}
    found = {"text": (text_parts, lambda part, *x: part["head"](part["text"](*x).pooled), text)}
    if frontend == "inside":
        found["audio"] = (audio_parts, lambda part, *x: part["head"](part["audio"](*x).pooled), waveform)
        return found
    if not hasattr(module.audio, "from_features"):
        raise GlapError(
            f"export: the frontend of '{module.audio.config.family}' cannot stand apart; leave out --frontend"
        )
    made = jax.eval_shape(module.audio.features, *waveform.values())
    features = dict(zip(("features", "frames"), made, strict=True))

    def from_features(part: Any, *x: Array) -> Array:
        return part["head"](part["audio"].from_features(*x).pooled)

    found["audio"] = (audio_parts, from_features, features)
    found["frontend"] = ({"audio": module.audio}, lambda part, *x: part["audio"].features(*x), waveform)
    return found


def _write(
    out: Path,
    name: str,
    parts: dict[str, Any],
    run: Callable[..., Any],
    inputs: dict[str, Any],
    platforms: Sequence[Platform],
) -> dict[str, Any]:
    """Writes one program and its parameters; returns what `export.json` says of it."""
    from flax import nnx

    from glap_jax.convert.writers import save_safetensors, written
    from glap_jax.rules import path_name

    graph, state = nnx.split(parts)
    flat, structure = jax.tree_util.tree_flatten_with_path(state)
    # The last step of each path is only NNX's word for a variable's value.
    names = [path_name(path[:-1]) for path, _ in flat]

    def program(parameters: dict[str, Array], *inputs: Array) -> Any:
        state = jax.tree.unflatten(structure, [parameters[name] for name in names])
        return run(nnx.merge(graph, state), *inputs)

    parameters = {name: value for name, (_, value) in zip(names, flat, strict=True)}
    kinds = {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in parameters.items()}
    exported = jax_export.export(jax.jit(program), platforms=platforms)(kinds, *inputs.values())
    save_safetensors(out / f"{name}.safetensors", parameters)
    with written(out / f"{name}.stablehlo") as file:
        file.write(exported.serialize())
    outputs = [_kind(shape) for shape in exported.out_avals]
    return {"inputs": {key: _kind(shape) for key, shape in inputs.items()}, "outputs": outputs}


def _kind(shape: Any) -> dict[str, Any]:
    """Shape and type as `export.json` has them; the dimension that is free is a name."""
    return {
        "shape": [size if isinstance(size, int) else str(size) for size in shape.shape],
        "dtype": str(shape.dtype),
    }


def _empty(out: Path) -> None:
    """Makes `out` a folder without earlier programs."""
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / WORDS).is_file()):
        raise GlapError(f"export: '{out}' holds something else; give the name of another folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
        for pattern in (WORDS, "*.stablehlo", "*.safetensors"):
            for file in out.glob(pattern):
                file.unlink()
    except OSError as error:
        raise GlapError(f"export: '{out}' cannot be written ({error}); give another place") from error


class Exported:
    """Programs that `save` wrote, with their parameters on the default device: see `load`."""

    def __init__(self, folder: str | Path):
        from safetensors.numpy import load_file

        folder = Path(folder)
        if not (folder / WORDS).is_file():
            raise GlapError(f"export: '{folder}' has no {WORDS}; give a folder that `glap-jax export` wrote")
        try:
            self.words = json.loads((folder / WORDS).read_text(encoding="utf-8"))
            if self.words["glap_jax_export"] != FORMAT:
                raise GlapError(f"export: '{folder}' has a format unknown here; export the model again")
            self._programs = {}
            for name in self.words["programs"]:
                program = jax_export.deserialize(bytearray((folder / f"{name}.stablehlo").read_bytes()))
                parameters = jax.device_put(load_file(folder / f"{name}.safetensors"))
                self._programs[name] = (jax.jit(program.call), parameters)
        except GlapError:
            raise
        # JSON, safetensors and JAX each raise types of their own for files that are missing or cut.
        except Exception as error:
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise GlapError(
                f"export: '{folder}' is damaged ({reason:.200}); get it or export the model again"
            ) from error

    def call(self, name: str, *inputs: Any) -> Any:
        """Runs the program `name` on arrays as `words["programs"]` describes them, of any number of rows."""
        program, parameters = self._programs[name]
        return program(parameters, *inputs)

    def features(
        self, waveform: Float[Array, "B T"], lengths: Int[Array, " B"]
    ) -> tuple[Float[Array, "B S F"], Bool[Array, "B S"]]:
        """What a frontend that stands apart gives, and which frames are real; int32 `lengths` in samples."""
        return self.call("frontend", waveform, lengths)

    def encode_audio(self, waveform: Float[Array, "B T"], lengths: Int[Array, " B"]) -> Float[Array, "B E"]:
        """Unit rows of clips at `words["sample_rate"]` Hz; int32 `lengths` counts the samples of each."""
        if "frontend" in self._programs:
            return self.call("audio", *self.features(waveform, lengths))
        return self.call("audio", waveform, lengths)

    def encode_text(self, ids: Int[Array, "B N"], mask: Bool[Array, "B N"]) -> Float[Array, "B E"]:
        """Unit rows of int32 token ids; `mask` is True where a token is real."""
        return self.call("text", ids, mask)


def load(folder: str | Path) -> Exported:
    """The programs in `folder`, ready to run.

    Raises:
        GlapError: no such folder, another format, or damaged files.
    """
    return Exported(folder)
