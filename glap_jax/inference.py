"""Embeddings from recordings and texts: `load` a model, then `encode_audio`, `encode_text`, `score`."""

import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from glap_jax import families
from glap_jax.batching import ceiling, groups
from glap_jax.errors import GlapError
from glap_jax.folder import find_model, find_tokenizer, is_model, load_module
from glap_jax.layers import compute_dtype
from glap_jax.model import DualEncoder
from glap_jax.parameters import Shardings
from glap_jax.pipeline.bad import BadClip
from glap_jax.progress import bar
from glap_jax.text.tokenizers import Tokenizer, open_tokenizer, pad

# Seconds that clips are padded to, so that few shapes are compiled, unless the tower says better. The last is
# 1008 frames, what Dasheng encodes at once.
_CHUNK_SECONDS = 10.08
_SECONDS = (1.0, 2.0, 5.0, _CHUNK_SECONDS)
_TOKENS = (16, 32, 64, 128, 256)
# Clips of up to one chunk, and texts of up to 64 tokens, that are encoded together by default.
_CLIPS, _TEXTS = 32, 64
# Decoded clips that wait to be sorted by length: at most so many batches, or samples (160 MB).
_WINDOW_BATCHES, _WINDOW_SAMPLES = 8, 40_000_000

Clip = str | Path | bytes | tuple[Any, int] | Any
# Lengths differ from clip to clip and from batch to batch, hence no letters.
Waveform = Float[np.ndarray, " _"]
Read = tuple[int, Waveform | BadClip]


@functools.partial(jax.jit, static_argnums=0)
def _encode_audio(
    graph: Any, state: Any, waveform: Float[Array, "B T"], lengths: Int[Array, " B"]
) -> Float[Array, "B E"]:
    return nnx.merge(graph, state).encode_audio(waveform, lengths)


@functools.partial(jax.jit, static_argnums=0)
def _pool_audio(
    graph: Any, state: Any, waveform: Float[Array, "B T"], lengths: Int[Array, " B"]
) -> Float[Array, "B D"]:
    return nnx.merge(graph, state).audio(waveform, lengths).pooled.astype(jnp.float32)


@functools.partial(jax.jit, static_argnums=0)
def _encode_text(
    graph: Any, state: Any, ids: Int[Array, "B N"], mask: Bool[Array, "B N"]
) -> Float[Array, "B E"]:
    return nnx.merge(graph, state).encode_text(ids, mask)


class Model:
    """An audio-text model with its tokenizer. Embeddings are unit rows of width E, float32, in NumPy.

    An embedding does not depend on what else is encoded in the same call.

    Args:
        module: a dual encoder.
        tokenizer: of its text tower; without one, `encode_text` cannot be used.
    """

    def __init__(self, module: DualEncoder, tokenizer: Tokenizer | None = None):
        self.module = module
        self.tokenizer = tokenizer
        self.config = self.module.config
        self._graph, self._state = nnx.split(module)

    @property
    def sample_rate(self) -> int:
        """Hz that the audio tower works at; clips are resampled to it."""
        return self.module.audio.SAMPLE_RATE

    def require_tokenizer(self) -> Tokenizer:
        """The tokenizer.

        Raises:
            GlapError: the model was loaded without one.
        """
        if self.tokenizer is None:
            raise GlapError(
                "model: it came without a tokenizer; load it with tokenizer='spm.model' (the SentencePiece "
                "model that it was trained with), or put that file into its folder"
            )
        return self.tokenizer

    def encode_audio(
        self, clips: Clip | Sequence[Clip], sample_rate: int = 16_000, batch: int | None = None
    ) -> Float[np.ndarray, "B E"]:
        """Embeds recordings of any length, rate and channels, in the order given.

        Args:
            clips: one clip or a sequence of them: a path (flac, wav, ogg, opus, mp3), the bytes of
                such a file, an array of samples in [-1, 1] at `sample_rate` Hz, (T,) or with channels, or a
                pair (array, Hz).
            sample_rate: Hz of arrays that come without their own.
            batch: clips of up to 10 s that are encoded together; longer ones in proportion fewer.

        Raises:
            GlapError: a clip cannot be used; it is named.
        """
        clips = _as_list(clips)
        rows = np.zeros((len(clips), self.config.joint), np.float32)
        for index, row in self.embed(clips, sample_rate, batch):
            if isinstance(row, BadClip):
                name = clips[index] if isinstance(clips[index], str | Path) else f"clip {index}"
                raise GlapError(f"audio: '{name}': {row.detail} ({row.reason}); leave it out or mend it")
            rows[index] = row
        return rows

    def embed(
        self, clips: Sequence[Clip], sample_rate: int = 16_000, batch: int | None = None
    ) -> Iterator[tuple[int, Float[np.ndarray, " E"] | BadClip]]:
        """`encode_audio` one by one: yields (index, embedding, or why the clip cannot be used) in any order.

        A progress bar shows when there is more than one batch.
        """
        batch = _CLIPS if batch is None else batch
        if batch < 1:
            raise GlapError(f"audio: batch is {batch}; give at least 1")
        with bar("embedding", total=len(clips), unit="clip", hidden=len(clips) <= batch) as shown:
            for window in self._windows(clips, sample_rate, batch):
                for index, read in window:
                    if isinstance(read, BadClip):
                        yield index, read
                        shown.update()
                good = [(index, read) for index, read in window if not isinstance(read, BadClip)]
                for indices, waveform, lengths in self._batches(good, batch):
                    rows = self.encode_waveforms(waveform, lengths)
                    yield from zip(indices, rows, strict=False)
                    shown.update(len(indices))

    def encode_waveforms(
        self, waveform: Float[np.ndarray, "B T"], lengths: Int[np.ndarray, " B"]
    ) -> Float[np.ndarray, "B E"]:
        """Embeds one padded batch at the tower's rate; every new shape is compiled."""
        return self._hear(_encode_audio, waveform, lengths)

    def pool_waveforms(
        self, waveform: Float[np.ndarray, "B T"], lengths: Int[np.ndarray, " B"]
    ) -> Float[np.ndarray, "B D"]:
        """The same up to the head: what the audio tower pools, float32 rows of any length."""
        return self._hear(_pool_audio, waveform, lengths)

    def _hear(
        self, program: Any, waveform: Float[np.ndarray, "B T"], lengths: Int[np.ndarray, " B"]
    ) -> Float[np.ndarray, "B _"]:
        lengths = lengths.astype(np.int32, copy=False)
        return np.asarray(program(self._graph, self._state, jnp.asarray(waveform), jnp.asarray(lengths)))

    def encode_text(
        self, texts: str | Sequence[Any], language: str | Sequence[str] = "eng_Latn", batch: int | None = None
    ) -> Float[np.ndarray, "B E"]:
        """Embeds texts of any language, in the order given.

        Texts that exceed the tower's longest input are cut, with a warning in the log.

        Args:
            texts: one text or a sequence of them.
            language: NLLB code told to the text tower, or one for each text. GLAP is trained with eng_Latn
                for all languages.
            batch: texts of up to 64 tokens that are encoded together; longer ones in proportion fewer.

        Raises:
            GlapError: no tokenizer, an unknown language, or no text.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        longest = self.module.text.config.max_tokens
        rows = self.require_tokenizer().encode_all(texts, language=language, max_tokens=longest)
        return self.encode_ids(rows, batch)

    def encode_ids(self, rows: Sequence[Sequence[int]], batch: int | None = None) -> Float[np.ndarray, "B E"]:
        """Embeds rows of token ids, in the order given.

        Raises:
            GlapError: an id beyond the embedding table, which a compiled program could not notice.
        """
        vocabulary = self.module.text.config.vocabulary
        if (largest := max((max(row, default=0) for row in rows), default=0)) >= vocabulary:
            raise GlapError(
                f"text: token id {largest} in a vocabulary of {vocabulary}; use the model's own tokenizer"
            )
        result = np.zeros((len(rows), self.config.joint), np.float32)
        longest = max(self.module.text.config.max_tokens, *map(len, rows), 1)
        parts = groups(
            list(map(len, rows)),
            lambda size: min(ceiling(size, _TOKENS), longest),
            lambda size: (_TEXTS if batch is None else batch) * 64 // max(size, 64),
        )
        with bar("embedding", total=len(rows), unit="text", hidden=len(rows) <= 16 * _TEXTS) as shown:
            for size, count, indices in parts:
                ids, mask = pad([rows[index] for index in indices] + [[]] * (count - len(indices)), size)
                found = _encode_text(self._graph, self._state, jnp.asarray(ids), jnp.asarray(mask))
                result[indices] = np.asarray(found)[: len(indices)]
                shown.update(len(indices))
        return result

    def score(
        self, audio: Float[np.ndarray, "A E"], text: Float[np.ndarray, "C E"]
    ) -> Float[np.ndarray, "A C"]:
        """100 * cosine of every clip with every text, from their embeddings."""
        return np.float32(100.0) * (audio @ text.T)

    def probability(
        self,
        audio: Float[np.ndarray, "A E"],
        text: Float[np.ndarray, "C E"],
    ) -> Float[np.ndarray, "A C"]:
        """How likely each clip and text belong together, as the sigmoid loss sees it, from their embeddings.

        Raises:
            GlapError: a family that is trained by InfoNCE and has no bias.
        """
        if self.config.family != "glap":
            raise GlapError(
                f"model: one of family '{self.config.family}' has learned no bias, so that its scores are "
                "cosines without a probability; use score"
            )
        temperature, bias = float(self.module.temperature[...]), float(self.module.bias[...])
        logits = audio @ text.T / temperature + bias
        return np.exp(-np.logaddexp(np.float32(0.0), -logits))

    def _read(self, clip: Clip, sample_rate: int) -> Waveform | BadClip:
        from glap_jax.pipeline.decode import as_waveform, decode

        try:
            if isinstance(clip, str | Path | bytes):
                return decode(clip, sample_rate=self.sample_rate)
            array, rate = clip if isinstance(clip, tuple) else (clip, sample_rate)
            return as_waveform(np.asarray(array), rate, self.sample_rate)
        except BadClip as bad:
            return bad

    def _windows(self, clips: Sequence[Clip], sample_rate: int, batch: int) -> Iterator[list[Read]]:
        """Decoded clips with their indices, as many at a time as memory is meant for."""
        with ThreadPoolExecutor() as pool:
            window, samples = [], 0
            for start in range(0, len(clips), batch):
                part = clips[start : start + batch]
                reads = pool.map(lambda clip: self._read(clip, sample_rate), part)
                for index, read in enumerate(reads, start):
                    window.append((index, read))
                    samples += 0 if isinstance(read, BadClip) else len(read)
                if samples > _WINDOW_SAMPLES or len(window) >= _WINDOW_BATCHES * batch:
                    yield window
                    window, samples = [], 0
            yield window

    def _batches(
        self, clips: list[tuple[int, Waveform]], batch: int
    ) -> Iterator[tuple[list[int], Float[np.ndarray, "_ _"], Int[np.ndarray, " _"]]]:
        """Padded batches, clips of like length together, with the indices that their first rows have."""
        chunk = round(_CHUNK_SECONDS * self.sample_rate)
        steps = padded_steps(self.module.audio)
        # A verification mode in which padding changes the result takes one clip at a time, as it is.
        exact = getattr(self.module.audio.config, "mode", "sound") != "sound"
        parts = groups(
            [len(waveform) for _, waveform in clips],
            (lambda size: size) if exact else (lambda size: ceiling(size, steps)),
            (lambda size: 1) if exact else (lambda size: batch * chunk // max(size, chunk)),
        )
        for size, count, places in parts:
            waveform, lengths = np.zeros((count, size), np.float32), np.ones(count, np.int32)
            for line, place in enumerate(places):
                samples = clips[place][1]
                waveform[line, : len(samples)] = samples
                lengths[line] = len(samples)
            yield [clips[place][0] for place in places], waveform, lengths


def padded_steps(tower: Any) -> list[int]:
    """Samples that clips are padded to, up to what the tower encodes at once; longer ones to whole chunks."""
    steps = usual = [round(seconds * tower.SAMPLE_RATE) for seconds in _SECONDS]
    chunk = getattr(tower, "chunk_samples", usual[-1])
    while steps[-1] < chunk:
        steps = [*steps, ceiling(steps[-1] + 1, usual)]
    # A step just below the chunk would cost a compilation and save next to nothing.
    return [*(step for step in steps if step < 0.9 * chunk), chunk]


def _as_list(clips: Clip | Sequence[Clip]) -> list[Clip]:
    """A list of clips, also from a single one."""
    pair = isinstance(clips, tuple) and len(clips) == 2 and isinstance(clips[1], int | np.integer)
    if isinstance(clips, str | Path | bytes) or pair:
        return [clips]
    if not isinstance(clips, Sequence) and hasattr(clips, "shape"):
        if len(clips.shape) < 2:
            return [clips]
        raise GlapError(
            f"audio: an array of shape {tuple(clips.shape)} may be channels or clips; give [array] for one "
            "clip of several channels, or list(array) for one clip a row"
        )
    return list(clips)


def load(
    path_or_hub_id: str | Path,
    *,
    family: str = "glap",
    tokenizer: str | Path | None = None,
    dtype: Any = None,
    sharding: Shardings | None = None,
) -> Model:
    """Loads an audio-text model.

    Args:
        path_or_hub_id: a model folder, a training run's folder, a published checkpoint (torch `.pt`,
            safetensors file or folder), or `hf:organisation/name` on the Hugging Face hub.
        family: what a published checkpoint holds; a model folder knows.
        tokenizer: SentencePiece model or tokenizer.json; by default the one in the folder.
        dtype: compute type; by default bfloat16 on TPU and GPU, float32 on CPU.
        sharding: where the parameters of a model folder go, as `folder.load_module` takes it.

    Raises:
        GlapError: nothing there, no such model, damaged files, or another model's tokenizer.
    """
    path = find_model(path_or_hub_id)
    dtype = compute_dtype() if dtype is None else dtype
    if is_model(path):
        module, _ = load_module(path, dtype=dtype, sharding=sharding)
    elif sharding is not None:
        raise GlapError(f"model: '{path}' is no model folder; shard one that `glap-jax convert` made of it")
    else:
        from glap_jax.convert.readers import open_checkpoint

        module = families.from_torch(family, open_checkpoint(path), dtype=jnp.dtype(dtype))
    if not isinstance(module, DualEncoder):
        raise GlapError(f"model: '{path}' is a single encoder ({type(module).__name__}), no audio-text model")
    found = tokenizer or find_tokenizer(path if path.is_dir() else path.parent)
    return Model(module, None if found is None else open_tokenizer(found, module.text.config))
