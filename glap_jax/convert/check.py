"""Compares a converted model with activations recorded from its reference, output by output."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from glap_jax.errors import GlapError
from glap_jax.layers import Encoded

Arrays = Mapping[str, np.ndarray]

_AUDIO = ("waveform", "lengths", "sample_rate")
_TEXT = ("ids", "mask")
_FUSION = ("speech", "image")


def read_recording(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` file.

    Raises:
        GlapError: no such file, a damaged one, or one that holds more than numbers.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            found = {key: arrays[key] for key in arrays.files}
    # NumPy raises many types for files that are cut or no archives; it returns a bare array for a .npy file.
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise GlapError(
            f"check: '{path}' cannot be read ({reason:.200}); record it with numpy.savez"
        ) from error
    for key, array in found.items():
        if array.dtype.kind not in "biuf":
            raise GlapError(f"check: '{key}' in '{path}' is {array.dtype}; record numbers")
    return found


def check(module: nnx.Module, recorded: Arrays, *, limit: float) -> None:
    """Prints the worst error of each recorded output.

    Args:
        module: an encoder or a dual encoder.
        recorded: its inputs, and what the reference gives for them; without a batch axis they are one clip
            or text. Inputs: `waveform` (B T), `lengths` (B) where rows are padded and `sample_rate` to be
            sure; `ids` (B N), and `mask` (B N) where rows are padded; for a fusion `speech` and `image`.
            Outputs of an encoder: `tokens` (B N D, of which real ones are compared) and `pooled` (B D). Of a
            dual encoder: `audio` and `text` (unit rows B E), `score` (100 * cosine), and of its towers
            `audio_tokens`, `audio_pooled`, `text_tokens`, `text_pooled`. Of a fusion: `embedding`.
        limit: largest error allowed, in parts of the output's largest value.

    Raises:
        GlapError: arrays that are unknown, missing or of another shape; an error beyond `limit`.
    """
    inputs = _inputs(module)
    expected = {name: array for name, array in recorded.items() if name not in inputs}
    with jax.default_matmul_precision("highest"):
        found, real = _outputs(module, {name: recorded[name] for name in inputs if name in recorded})
    made = ", ".join(found) or "nothing"
    known = f"this model takes {', '.join(inputs)}, and of those recorded makes {made}"
    unknown = sorted(set(expected) - set(found))
    if unknown or not expected:
        what = f"'{', '.join(unknown)}'" if unknown else "no output"
        raise GlapError(f"check: the recording holds {what}; {known}; name its arrays so")
    print(f"{'output':14}{'largest':>10}{'worst error':>14}{'relative':>11}")
    errors = {}
    for name, array in expected.items():
        errors[name] = _compare(name, array, found[name], real.get(name))
    name = max(errors, key=lambda name: np.nan_to_num(errors[name], nan=np.inf))
    if not errors[name] <= limit:
        raise GlapError(
            f"check: '{name}' is off by {errors[name]:.1e} of its largest value, and {limit:.1e} is allowed; "
            "see that family, config and inputs are the reference's, or try --compat for its quirks"
        )


def _inputs(module: Any) -> tuple[str, ...]:
    if hasattr(module, "audio_head"):
        return _AUDIO + _TEXT
    if hasattr(module, "SAMPLE_RATE"):
        return _AUDIO
    return _TEXT if hasattr(module.config, "vocabulary") else _FUSION


def _outputs(module: Any, given: Arrays) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `module` makes of its inputs, by name; and of tokens, which are real."""
    if not hasattr(module, "audio_head"):
        if set(_FUSION) <= set(given):
            return {"embedding": module(*(jnp.asarray(_rows(given, name)) for name in _FUSION))}, {}
        encoded = _encode_audio(module, given) or _encode_text(module, given)
        if encoded is None:
            return {}, {}
        return {"tokens": encoded.tokens, "pooled": encoded.pooled}, {"tokens": encoded.mask}
    found, real = {}, {}
    towers = {
        "audio": (_encode_audio(module.audio, given), module.audio_head),
        "text": (_encode_text(module.text, given), module.text_head),
    }
    for name, (encoded, head) in towers.items():
        if encoded is not None:
            found |= {f"{name}_tokens": encoded.tokens, f"{name}_pooled": encoded.pooled}
            found[name], real[f"{name}_tokens"] = head(encoded.pooled), encoded.mask
    if "audio" in found and "text" in found:
        found["score"] = module.score(found["audio"], found["text"])
    return found, real


def _encode_audio(encoder: Any, given: Arrays) -> Encoded | None:
    if "waveform" not in given:
        return None
    waveform = _rows(given, "waveform").astype(np.float32)
    rate = int(given.get("sample_rate", encoder.SAMPLE_RATE))
    if rate != encoder.SAMPLE_RATE:
        raise GlapError(
            f"check: the waveform was recorded at {rate} Hz, and the model takes {encoder.SAMPLE_RATE} Hz"
        )
    if "lengths" not in given:
        return encoder(jnp.asarray(waveform), None)
    lengths = np.atleast_1d(given["lengths"]).astype(np.int32)
    if lengths.shape != waveform.shape[:1]:
        raise GlapError(
            f"check: 'lengths' is {list(lengths.shape)}; give one a row, {list(waveform.shape[:1])}"
        )
    return encoder(jnp.asarray(waveform), jnp.asarray(lengths))


def _encode_text(encoder: Any, given: Arrays) -> Encoded | None:
    if "ids" not in given:
        return None
    ids = _rows(given, "ids").astype(np.int32)
    mask = _rows(given, "mask").astype(bool) if "mask" in given else np.ones(ids.shape, bool)
    if mask.shape != ids.shape:
        raise GlapError(f"check: 'mask' is {list(mask.shape)} and 'ids' {list(ids.shape)}; give one a token")
    return encoder(jnp.asarray(ids), jnp.asarray(mask))


def _rows(given: Arrays, name: str) -> np.ndarray:
    array = np.atleast_2d(given[name])
    if array.ndim != 2:
        raise GlapError(f"check: '{name}' is {list(array.shape)}; give one row a clip or text")
    return array


def _compare(name: str, expected: np.ndarray, found: jax.Array, real: jax.Array | None) -> float:
    """Prints a line for one output; returns its worst error, in parts of its largest value."""
    ours, theirs = np.asarray(found, np.float64), expected.astype(np.float64)
    if theirs.shape == ours.shape[1:] and len(ours) == 1:
        theirs = theirs[None]
    if theirs.shape != ours.shape:
        raise GlapError(
            f"check: '{name}' is {list(theirs.shape)} in the recording and {list(ours.shape)} here; record "
            "what this model gives, batch first"
        )
    if real is not None:
        ours, theirs = ours[np.asarray(real)], theirs[np.asarray(real)]
    error, largest = np.abs(ours - theirs).max(initial=0.0), np.abs(theirs).max(initial=0.0)
    relative = error / largest if largest > 0 else error
    print(f"{name:14}{largest:10.4g}{error:14.2e}{relative:11.2e}")
    return float(relative)
