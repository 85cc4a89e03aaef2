"""What `glap-jax score` and `glap-jax embed` do."""

import logging
import os
from collections import Counter
from pathlib import Path

import numpy as np

from glap_jax import inference
from glap_jax.errors import GlapError
from glap_jax.pipeline.bad import BadClip

log = logging.getLogger(__name__)

# What a folder is searched for; a file that is named is tried whatever its ending.
SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".w64", ".caf")


def score(model: str, clip: Path, captions: str, language: str = "eng_Latn") -> None:
    """Prints how well one recording matches captions: 100 * cosine and probability, best first.

    Models that learn no bias (those of InfoNCE and the Huber loss) have no probability.

    Args:
        model: model folder, run folder, checkpoint file, or hf:org/name.
        clip: a recording.
        captions: captions separated by `;`.
        language: NLLB code told to the text tower.

    Raises:
        GlapError: no caption, no such model, or a recording that cannot be used.
    """
    texts = [text.strip() for text in captions.split(";") if text.strip()]
    if not texts:
        raise GlapError('score: no captions; give one or several separated by ";", such as "a dog;un chien"')
    loaded = inference.load(model)
    audio = loaded.encode_audio([clip])
    embedded = loaded.encode_text(texts, language=language)
    scores = loaded.score(audio, embedded)[0]
    likely = loaded.probability(audio, embedded)[0] if loaded.config.family == "glap" else None
    print(f"{clip}\n\n  score  {'' if likely is None else 'probability  '}caption")
    for place in np.argsort(-scores, kind="stable"):
        middle = "" if likely is None else f"{likely[place]:11.4f}  "
        print(f"{scores[place]:7.2f}  {middle}{texts[place]}")


def embed(source: Path, out: Path, model: str) -> None:
    """Embeds recordings into an .npz file: `embeddings` (float32, one unit row a clip) and `paths`.

    Bad recordings are skipped, counted and named in the log.

    Args:
        source: a recording, or a folder that is searched for recordings.
        out: the file to write.
        model: model folder, run folder, checkpoint file, or hf:org/name.

    Raises:
        GlapError: no recordings, none that can be used, no such model, or a file that cannot be written.
    """
    paths = find_recordings(source)
    _check_writable(out)
    loaded = inference.load(model)
    rows, reasons = {}, Counter()
    for index, row in loaded.embed(paths):
        if isinstance(row, BadClip):
            reasons[row.reason] += 1
            log.warning("skipped %s: %s", paths[index], row)
        else:
            rows[index] = row
    skipped = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    if not rows:
        raise GlapError(f"embed: none of {len(paths)} recordings of '{source}' can be used ({skipped})")
    kept = sorted(rows)
    names = np.array([str(paths[index]) for index in kept])
    _write(out, embeddings=np.stack([rows[index] for index in kept]), paths=names)
    note = f"; skipped {len(paths) - len(kept)} ({skipped})" if skipped else ""
    print(f"embedded {len(kept)} of {len(paths)} recordings into {out}{note}")


def find_recordings(source: Path) -> list[Path]:
    """The recording `source`, or all below the folder `source`, sorted.

    Raises:
        GlapError: no such file or folder, or no recordings in it.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise GlapError(f"embed: there is no file or folder '{source}'; give the path of recordings")
    found = [
        Path(folder, name)
        for folder, _, names in os.walk(source)
        for name in names
        if name.lower().endswith(SUFFIXES) and not name.startswith(".")
    ]
    if not found:
        raise GlapError(f"embed: no recordings in '{source}'; their names end in one of {' '.join(SUFFIXES)}")
    return sorted(found)


def _check_writable(out: Path) -> None:
    """Finds out before the work, not after it, that the result has no place."""
    if out.is_dir():
        raise GlapError(f"embed: '{out}' is a folder; give the name of an .npz file")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GlapError(f"embed: cannot make '{out.parent}' ({error}); give another place") from error
    if not os.access(out.parent, os.W_OK):
        raise GlapError(f"embed: '{out.parent}' cannot be written to; give another place")


def _write(out: Path, **arrays: np.ndarray) -> None:
    part = out.with_name(f".{out.name}.partial")
    try:
        with part.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        part.replace(out)
    except OSError as error:
        raise GlapError(f"embed: cannot write '{out}' ({error}); free some space or give another") from error
    finally:
        part.unlink(missing_ok=True)
