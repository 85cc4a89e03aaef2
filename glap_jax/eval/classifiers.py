"""Classifiers that are learned on frozen embeddings: CLARA's three layers, and logistic regression."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from glap_jax.config import OptimizerConfig
from glap_jax.drawing import dropout
from glap_jax.eval.precision import mean_precision
from glap_jax.progress import bar
from glap_jax.train.optimizer import adam, parameter_path, schedule

# What logistic regression's inverse strength of regularisation is chosen from.
STRENGTHS = tuple(10.0**power for power in range(-4, 3))
# Multiplications in a step from which on logistic regression has several threads.
LARGE = 1_000_000_000


class Labelled(NamedTuple):
    """Embeddings `A E` and whether each is of each class, `A C`."""

    rows: Float[np.ndarray, "A E"]
    truth: Bool[np.ndarray, "A C"]


@dataclasses.dataclass(frozen=True)
class LayersConfig:
    """How three layers are learned: CLARA faec8a5, linear_probe.yaml and crema-d.yaml.

    Attributes:
        hidden: widths of the first two layers.
        dropout: after each of them.
        learning_rate, least_rate: AdamW's, in cosines with restarts that begin with a warm-up.
        period, warmup: of these, in epochs.
        weight_decay, clip: PyTorch's default decay; largest gradient norm.
        batch: clips; what is left at the end of an epoch is dropped.
        epochs: at most.
        patience: epochs without a better loss on the validation clips until it ends. The best parameters
            count (CLARA keeps the last).
    """

    hidden: tuple[int, int] = (512, 128)
    dropout: float = 0.6
    learning_rate: float = 1e-4
    least_rate: float = 2e-5
    period: int = 50
    warmup: int = 5
    weight_decay: float = 0.01
    clip: float = 1.0
    batch: int = 16
    epochs: int = 1000
    patience: int = 50


class Layers(nnx.Module):
    """Three linear layers with ReLU between them, from `B E` to `B C` logits."""

    def __init__(self, width: int, classes: int, config: LayersConfig, *, rngs: nnx.Rngs):
        first, second = config.hidden
        self.first = nnx.Linear(width, first, rngs=rngs)
        self.second = nnx.Linear(first, second, rngs=rngs)
        self.out = nnx.Linear(second, classes, rngs=rngs)
        self.rate = config.dropout

    def __call__(self, rows: Float[Array, "B E"], key: Key[Array, ""] | None = None) -> Float[Array, "B C"]:
        """Logits; without a key nothing is dropped."""
        keys = (None, None) if key is None else jax.random.split(key)
        for layer, each in zip((self.first, self.second), keys, strict=True):
            rows = dropout(nnx.relu(layer(rows)), self.rate, each)
        return self.out(rows)


def layers(
    train: Labelled,
    val: Labelled,
    rows: Float[np.ndarray, "A E"],
    *,
    several: bool,
    seed: int = 0,
    config: LayersConfig | None = None,
) -> Float[np.ndarray, "A C"]:
    """Logits of three layers that learned on `train`, stopped early by `val`, for other rows.

    Args:
        train, val: frozen embeddings and their classes.
        rows: what is classified.
        several: a clip may be of several classes, or of none: one sigmoid a class instead of a softmax.
        seed: of parameters, batches and dropout.
        config: constants; by default CLARA's.
    """
    config = config or LayersConfig()
    width, classes = train.rows.shape[1], train.truth.shape[1]
    graph, params = nnx.split(Layers(width, classes, config, rngs=nnx.Rngs(seed)))
    size = min(config.batch, len(train.rows))
    whole = len(train.rows) // size * size
    rule, learn = _learner(width, classes, config, whole // size, several)
    moments, draw = rule.init(params), np.random.default_rng(seed)
    known, checked = (tuple(map(jnp.asarray, each)) for each in (train, val))
    best, least, waited = params, np.inf, 0
    with bar("learning three layers", total=config.epochs, unit="epoch") as shown:
        for epoch in range(config.epochs):
            order = jnp.asarray(draw.permutation(len(train.rows))[:whole].reshape(-1, size))
            key = jax.random.fold_in(jax.random.key(seed), epoch)
            params, moments, loss = learn(params, moments, known, checked, order, key)
            shown.update()
            best, least, waited = (params, loss, 0) if loss < least else (best, least, waited + 1)
            if waited == config.patience:
                break
    return np.asarray(nnx.merge(graph, best)(jnp.asarray(rows)))


def logistic(
    train: Labelled, val: Labelled, rows: Float[np.ndarray, "A E"], *, several: bool, seed: int = 0
) -> Float[np.ndarray, "A C"]:
    """Logits by logistic regression on standardised embeddings, with the C of `STRENGTHS` that
    does best on `val`, the strongest regularisation of equals; one regression a class if `several`.

    A class that `train` lacks (or that all its clips are of) is never (or always) found. Arguments are those
    of `layers`; nothing is drawn.
    """
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    scaler = StandardScaler().fit(train.rows)
    x, checked, wanted = (scaler.transform(each) for each in (train.rows, val.rows, rows))
    fit = _several if several else _single
    # Threads that wait for each other in every step of a small problem cost a busy machine 100 times as much.
    with threadpool_limits(1 if x.size * train.truth.shape[1] < LARGE else None):
        fitted = [fit(x, train.truth, strength) for strength in STRENGTHS]
        found = [predict(checked) for predict in fitted]
        scores = [(_precision if several else _accuracy)(one, val) for one in found]
        return fitted[int(np.argmax(scores))](wanted)


CLASSIFIERS: dict[str, Callable[..., Float[np.ndarray, "A C"]]] = {"layers": layers, "logistic": logistic}

Predict = Callable[[np.ndarray], Float[np.ndarray, "A C"]]


def _rule(config: LayersConfig, params: Any, per_epoch: int) -> optax.GradientTransformation:
    """AdamW at a rate that changes with the epoch, all parameters alike."""
    settings = OptimizerConfig(
        schedule="restarts",
        learning_rate=config.learning_rate,
        final_share=config.least_rate / config.learning_rate,
        period=config.period,
        warmup_steps=config.warmup,
        weight_decay=config.weight_decay,
        decay=((".*", True),),
        clip=config.clip,
    )
    rates = schedule(settings, config.epochs)
    paths = [parameter_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    return adam(settings, lambda count: rates(jnp.asarray(count) // per_epoch), params, paths)


@functools.cache
def _learner(
    width: int, classes: int, config: LayersConfig, per_epoch: int, several: bool
) -> tuple[optax.GradientTransformation, Callable[..., Any]]:
    """The optimizer, and a compiled pass over training clips in an order of batches, which also gives the
    loss on others. Folds share it."""
    shapes = nnx.eval_shape(lambda: Layers(width, classes, config, rngs=nnx.Rngs(0)))
    graph, params = nnx.split(shapes)
    rule = _rule(config, params, per_epoch)

    def loss(params: Any, rows: Array, truth: Array, key: Any) -> Float[Array, ""]:
        logits, wanted = nnx.merge(graph, params)(rows, key), truth.astype(jnp.float32)
        if several:
            return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, wanted))
        return jnp.mean(optax.softmax_cross_entropy(logits, wanted))

    @jax.jit
    def epoch(
        params: Any,
        moments: Any,
        train: tuple[Float[Array, "A E"], Bool[Array, "A C"]],
        val: tuple[Float[Array, "V E"], Bool[Array, "V C"]],
        order: Int[Array, "steps B"],
        key: Key[Array, ""],
    ) -> tuple[Any, Any, Float[Array, ""]]:
        def step(carried: tuple[Any, Any], drawn: tuple[Array, Array]) -> tuple[tuple[Any, Any], None]:
            params, moments = carried
            some, key = drawn
            gradients = jax.grad(loss)(params, train[0][some], train[1][some], key)
            updates, moments = rule.update(gradients, moments, params)
            return (optax.apply_updates(params, updates), moments), None

        keys = jax.random.split(key, len(order))
        (params, moments), _ = jax.lax.scan(step, (params, moments), (order, keys))
        return params, moments, loss(params, *val, None)

    return rule, epoch


def _single(x: np.ndarray, truth: Bool[np.ndarray, "A C"], strength: float) -> Predict:
    from sklearn.linear_model import LogisticRegression

    # Of clips with one class, the multinomial model is fitted over the classes that occur.
    labels, classes = truth.argmax(axis=1), truth.shape[1]
    found = np.unique(labels)
    model = LogisticRegression(C=strength, max_iter=2000).fit(x, labels) if len(found) > 1 else None

    def predict(rows: np.ndarray) -> Float[np.ndarray, "A C"]:
        scores = np.full((len(rows), classes), -np.inf)
        logits = np.zeros(len(rows)) if model is None else model.decision_function(rows)
        # Of two classes it is the logit of the second.
        pair = len(found) == 2
        scores[:, found] = np.stack([-logits, logits], axis=1) if pair else logits.reshape(len(rows), -1)
        return scores

    return predict


def _several(x: np.ndarray, truth: Bool[np.ndarray, "A C"], strength: float) -> Predict:
    pairs = [np.stack([~column, column], axis=1) for column in truth.T]
    each = [_single(x, pair, strength) for pair in pairs]
    # A class that is never there is less likely than any that is.
    least = np.finfo(np.float64).min
    return lambda rows: np.stack([np.maximum(predict(rows)[:, 1], least) for predict in each], axis=1)


def _precision(scores: Float[np.ndarray, "A C"], known: Labelled) -> float:
    return mean_precision(lambda one: scores[:, one], known.truth, draws=0)[0]


def _accuracy(scores: Float[np.ndarray, "A C"], known: Labelled) -> float:
    return float(np.mean(scores.argmax(axis=1) == known.truth.argmax(axis=1)))
