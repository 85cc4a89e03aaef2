"""One optimizer step as a pure, compiled function, with exact global negatives under accumulation.

A batch that is encoded in parts still meets all its negatives (GradCache, Gao et al., arXiv:2101.06983):
every part is encoded without keeping activations, the loss and its gradient are taken with respect to all
embeddings at once, then each part is encoded again and that gradient is sent back through it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Key

from glap_jax import losses
from glap_jax.audio.packed import Spans
from glap_jax.config import LossConfig, TrainConfig
from glap_jax.drawing import fold
from glap_jax.heads import unit
from glap_jax.layers import Encoded, RunningStat
from glap_jax.model import DualEncoder
from glap_jax.parallel.sharding import over_batch, replicated, shardings
from glap_jax.train.state import Design, Parts, TrainState, Weights

Batch = dict[str, Array]
Metrics = dict[str, Array]
Inputs = dict[str, Any]
Loss = Callable[[DualEncoder, Array, Array, Batch], Array]


def make_loss(config: LossConfig, mesh: Mesh | None = None) -> Loss:
    """`loss(module, audio, text, batch)`, a float32 scalar; audio, text: `B E` rows.

    Rows are unit rows; those of the clips are raw for the Huber loss, see `embed`. `mesh` is where they are
    sharded over; none is one device. Unless `config.positives` is `pair`, pairs of equal `identity` in the
    batch are positives of one another. Where `pair_mask` is False a pair takes no part.
    """

    def loss(
        module: DualEncoder, audio: Float[Array, "B E"], text: Float[Array, "B E"], batch: Batch
    ) -> Float[Array, ""]:
        mask, shared = batch["pair_mask"], None if config.positives == "pair" else batch["identity"]
        how: dict[str, Any] = {"regularise": config.regularise, "ids": shared, "mask": mask}
        how |= {"mesh": mesh, "strategy": config.strategy, "chunk": config.chunk}
        if config.kind == "infonce":
            return losses.infonce(audio, text, log_scale=module.log_scale(), **how)
        if config.kind == "huber":
            return losses.huber(audio, text, delta=config.delta, mask=mask)
        temperature, bias = module.temperature[...], module.bias[...]
        return losses.sigmoid(audio, text, temperature=temperature, bias=bias, form=config.form, **how)

    return loss


def row_keys(batch: Batch, key: Key[Array, ""]) -> dict[str, Array]:
    """What each clip and each text draws from in a step of that `key`, as they lie: clips R P in packed rows.

    A clip's depends on the number of its pair in the batch alone, whatever is encoded together.
    """
    rows = jnp.arange(batch["pair_mask"].shape[0])
    for_audio, for_text = jax.random.split(key)
    return {"audio": fold(for_audio, batch.get("numbers", rows)), "text": fold(for_text, rows)}


def prepare(module: DualEncoder, batch: Batch, keys: dict[str, Array], *, audio: bool, text: bool) -> Inputs:
    """Where a side's differentiated part starts: its input or, if its tower is frozen, the pooled vector.

    A batch with `audio_pooled` or `text_pooled` has that of the side already. The input carries the `keys` of
    what the tower draws, so that encoding it again draws the same. A frozen tower draws nothing.
    """
    inputs: Inputs = {"audio": batch.get("audio_pooled")}
    if "audio_pooled" not in batch:
        where = batch["lengths"]
        if "place" in batch:
            where = Spans(batch["starts"], batch["sizes"], batch["place"])
        sound = batch["waveform"], where
        inputs = {"audio": (*sound, keys["audio"]) if audio else encode(module.audio, *sound).pooled}
    if "text_pooled" in batch:
        return inputs | {"text": batch["text_pooled"]}
    words = batch["ids"], batch["text_mask"]
    return inputs | {"text": (*words, keys["text"]) if text else encode(module.text, *words).pooled}


def encode(tower: Any, what: Array, where: Array | Spans, **drawn: Array) -> Encoded:
    """What a tower makes of clips and their lengths, rows that clips share, or token rows and their mask."""
    if isinstance(where, Spans):
        return tower.encode_packed(what, where, **drawn)
    return tower(what, where, **drawn)


def embed(
    module: DualEncoder, inputs: Inputs, *, raw: bool = False
) -> tuple[Float[Array, "B E"], Float[Array, "B E"]]:
    """Unit rows of both sides from what `prepare` returned; `raw` leaves out the unit norm of the clips."""

    def pooled(tower: nnx.Module, side: Any) -> Float[Array, "B D"]:
        if not isinstance(side, tuple):
            return side
        *arrays, key = side
        # Only towers that draw in training take a key.
        drawn = {"key": key} if getattr(tower, "draws", False) else {}
        return encode(tower, *arrays, **drawn).pooled

    audio, text = pooled(module.audio, inputs["audio"]), pooled(module.text, inputs["text"])
    sound = module.audio_head.project(audio).astype(jnp.float32) if raw else module.audio_head(audio)
    return sound, module.text_head(text)


def step_key(seed: int, step: Int[Array, ""]) -> Key[Array, ""]:
    """The key of all that update number `step` (from 0) draws; it depends on nothing but the run's seed."""
    return jax.random.fold_in(jax.random.key(seed), step)


def value_and_gradient(
    parts: Parts,
    trainable: Weights,
    frozen: Weights,
    batch: Batch,
    key: Key[Array, ""],
    *,
    loss: Loss,
    accumulation: int,
    raw: bool = False,
) -> tuple[Float[Array, ""], Weights, tuple[Array, Array], Weights]:
    """Loss of a whole batch, gradient of every trainable parameter, the batch's rows, running statistics.

    `accumulation` parts of the batch are encoded one after the other; unless a tower draws for all rows at
    once, the result does not depend on it. A tower without trainable parameters runs
    once per part and takes no backward pass. `raw` is as for `embed`. The running statistics are those after
    the batch, of which a batch in parts, that they do not go with, changes none.
    """
    merge = lambda weights: parts.merge(weights, frozen)  # noqa: E731
    towers = {side: parts.learns(side) for side in ("audio", "text")}
    if accumulation == 1:
        inputs = prepare(merge(trainable), batch, row_keys(batch, key), **towers)

        def whole(weights: Weights) -> tuple[Array, tuple[tuple[Array, Array], Weights]]:
            module = merge(weights)
            rows = embed(module, inputs, raw=raw)
            return loss(module, *rows, batch), (rows, nnx.state(module, RunningStat))

        (value, (rows, statistics)), gradient = jax.value_and_grad(whole, has_aux=True)(trainable)
        return value, gradient, rows, statistics

    def encode(part: tuple[Batch, dict[str, Array]]) -> tuple[Inputs, tuple[Array, Array]]:
        module = merge(trainable)
        inputs = prepare(module, *part, **towers)
        return inputs, embed(module, inputs, raw=raw)

    pieces = jax.tree.map(lambda x: cut(x, accumulation), (batch, row_keys(batch, key)))
    inputs, parted = jax.lax.map(encode, pieces)
    rows = jax.tree.map(join, parted)

    def from_rows(weights: Weights, rows: tuple[Array, Array]) -> Array:
        return loss(merge(weights), *rows, batch)

    # With the rows held fixed only the loss's own scalars have a gradient; all others start as zeros.
    value, (scalars, cotangents) = jax.value_and_grad(from_rows, argnums=(0, 1))(trainable, rows)

    def back(total: Weights, part: tuple[Inputs, tuple[Array, Array]]) -> tuple[Weights, None]:
        inputs, cotangent = part
        _, pull = jax.vjp(lambda weights: embed(merge(weights), inputs, raw=raw), trainable)
        return jax.tree.map(jnp.add, total, pull(cotangent)[0]), None

    cotangents = jax.tree.map(lambda x: cut(x, accumulation), cotangents)
    gradient, _ = jax.lax.scan(back, scalars, (inputs, cotangents))
    return value, gradient, rows, nnx.state(merge(trainable), RunningStat)


def cut(x: Array, pieces: int) -> Array:
    """`B ...` to `pieces B/pieces ...` by striding, so that each piece stays spread over all devices."""
    return x.reshape(x.shape[0] // pieces, pieces, *x.shape[1:]).swapaxes(0, 1)


def join(x: Array) -> Array:
    """The inverse of `cut`."""
    return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])


def cosine_means(audio: Float[Array, "B E"], text: Float[Array, "B E"], mask: Bool[Array, " B"]) -> Metrics:
    """Mean cosine of true pairs and of all others, without the B x B matrix; `mask` tells the real ones."""
    weights = mask.astype(jnp.float32)
    audio, pairs = audio * weights[:, None], jnp.sum(weights)
    true = jnp.sum(audio * text)
    every = jnp.sum(jnp.sum(audio, axis=0) * jnp.sum(text * weights[:, None], axis=0))
    return {
        "positive": true / jnp.maximum(pairs, 1.0),
        "negative": (every - true) / jnp.maximum(pairs * (pairs - 1.0), 1.0),
    }


def moving_average(average: Weights, new: Weights, step: Int[Array, ""], decay: float) -> Weights:
    """`average + (1 - d) (new - average)`; d is `decay`, less in the first steps, (1 + n) / (10 + n).

    The slower start is TensorFlow's `ExponentialMovingAverage(num_updates)`: without it the random first
    weights would stay in the average of a short run.
    """
    updates = step.astype(jnp.float32)
    rate = 1.0 - jnp.minimum(decay, (1.0 + updates) / (10.0 + updates))
    return jax.tree.map(lambda old, fresh: old + rate * (fresh - old), average, new)


def make_step(
    config: TrainConfig, design: Design, mesh: Mesh
) -> Callable[[TrainState, Weights, Batch], tuple[TrainState, Metrics]]:
    """The compiled `step(state, frozen, batch) -> (state, metrics)`; it takes over the memory of `state`.

    The batch (keys `waveform` B T float32 and `lengths` B, or packed rows R T with their `starts` R P,
    `sizes` R P, `numbers` R P and `place` B; `ids` B N and `text_mask` B N; with caches `audio_pooled` and
    `text_pooled` B D float32 in their place; `identity` B, `pair_mask` B, `stopping` B) is spread over the
    mesh, state and frozen parameters lie where `design` says. Metrics are float32 scalars: loss, grad_norm
    (before clipping), learning_rate, the model's `scalars` (those that the loss was computed with), and the
    mean cosines `positive` and `negative`; the bool `stopping` says whether it stood in any row.
    """
    parts, optimizer, schedule = design.parts, design.optimizer, design.schedule
    loss = make_loss(config.loss, mesh if mesh.size > 1 else None)

    def step(state: TrainState, frozen: Weights, batch: Batch) -> tuple[TrainState, Metrics]:
        fixed, raw = state.fixed(frozen), config.loss.kind == "huber"
        # Fused attention asks the mesh what it is compiled for, and where the rows lie.
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            value, gradient, rows, statistics = value_and_gradient(
                parts,
                state.trainable,
                fixed,
                batch,
                step_key(config.seed, state.step),
                loss=loss,
                accumulation=config.accumulation,
                raw=raw,
            )
        updates, moments = optimizer.update(gradient, state.optimizer, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        average = state.average
        if average is not None and config.ema is not None:
            average = moving_average(average, trainable, state.step + 1, config.ema)
        module = parts.merge(state.trainable, fixed)
        metrics = {
            "loss": value,
            "grad_norm": jnp.asarray(optax.tree.norm(gradient)),
            "learning_rate": jnp.asarray(schedule(state.step)),
            "stopping": jnp.any(batch["stopping"]),
            **module.scalars(),
            **cosine_means(unit(rows[0]) if raw else rows[0], rows[1], batch["pair_mask"]),
        }
        kept = None if state.statistics is None else statistics
        return TrainState(state.step + 1, trainable, moments, average, kept), metrics

    state, frozen = shardings((design.state, design.frozen))
    return jax.jit(
        step,
        in_shardings=(state, frozen, over_batch(mesh)),
        out_shardings=(state, replicated(mesh)),
        donate_argnums=0,
    )
