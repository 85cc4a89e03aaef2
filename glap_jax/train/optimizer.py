"""Adam with rules: where weight decay acts, how fast each parameter and each layer learns; schedules."""

import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, ArrayLike

from glap_jax import rules
from glap_jax.config import OptimizerConfig
from glap_jax.errors import GlapError
from glap_jax.layers import Stack
from glap_jax.train.adam8bit import scale_by_adam8bit


def schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Learning rate of the update that follows `count` earlier ones.

    Each begins with a linear warm-up; update number `warmup_steps` takes the peak, `learning_rate`.

    `cosine`: from 0, then half a cosine down to `final_share * learning_rate`, which the last of `steps`
    updates takes (GLAP, arXiv:2506.11350, 4.1).
    `restarts`: the same within every `period` updates, warm-up included, from `final_share * learning_rate`
    and back to it (CLARA faec8a5: 5000, warm-up 1000, share 0.01).
    `stairs`: times `drop` after every `period` updates (CLASP 905ce97: 0.4 after 100 epochs).

    Raises:
        GlapError: the warm-up is as long as the run or, with restarts, as the period; no period.
    """
    restarts, low = config.schedule == "restarts", config.final_share * config.learning_rate
    if config.period < 1:
        raise GlapError(f"config: 'optimizer.period' is {config.period}; it must be at least 1")
    end, whole, key = (
        (config.period, "a period", "optimizer.period") if restarts else (steps, "a run", "steps")
    )
    if not 0 <= config.warmup_steps < end:
        raise GlapError(
            f"config: 'optimizer.warmup_steps' is {config.warmup_steps} in {whole} of {end} steps; "
            f"choose fewer of them, or more '{key}'"
        )
    curve = optax.warmup_cosine_decay_schedule(
        init_value=low if restarts else 0.0,
        peak_value=config.learning_rate,
        warmup_steps=config.warmup_steps,
        decay_steps=end,
        end_value=low,
    )
    stairs = optax.exponential_decay(config.learning_rate, config.period, config.drop, staircase=True)

    def rate(count: ArrayLike) -> Array:
        count = jnp.asarray(count, jnp.float32)
        if config.schedule == "stairs":
            warm = jnp.minimum((count + 1.0) / max(config.warmup_steps, 1), 1.0)
            return jnp.asarray(warm * stairs(count), jnp.float32)
        # Counting from 1: an update at rate 0 would waste the first batch.
        place = jnp.mod(count, float(config.period)) if restarts else count
        return jnp.asarray(curve(place + 1.0), jnp.float32)

    return rate


def rest(module: nnx.Module, config: OptimizerConfig) -> None:
    """Lets the lower layers of `module` rest, as `learning_layers` says.

    Raises:
        GlapError: it is less than 1.
    """
    learning = config.learning_layers
    if learning is None:
        return
    if learning < 1:
        raise GlapError(f"config: 'optimizer.learning_layers' is {learning}; 'frozen' says which towers rest")
    for path, stack in nnx.iter_modules(module):
        stacked = rules.match(config.layer_rules, f"{rules.path_name(path)}/layers/")
        if isinstance(stack, Stack) and stacked == "layers":
            stack.resting = max(0, len(jax.tree.leaves(nnx.state(stack))[0]) - learning)


def layer_factors(config: OptimizerConfig, trainable: Any, paths: Sequence[str]) -> Any:
    """Rate of each parameter relative to the schedule, by `layer_decay` d (BEiT, arXiv:2106.08254, A).

    Where `layer_rules` say `layers`, the leading axis counts a tower's L stacked layers: number l, from 0,
    has d^(L - l). `below` is what comes before them, d^(L + 1), and `above` what comes after, 1. Of
    `learning_layers`, what rests has 0.

    Args:
        config: constants and rules.
        trainable: an `nnx.State`.
        paths: all parameters of the model.

    Returns:
        As `trainable`: numbers, or float32 arrays that broadcast from the leading axis.

    Raises:
        GlapError: a rule that matches no parameter, or a parameter that no rule covers.
    """
    learning = config.learning_layers
    if config.layer_decay == 1.0 and learning is None:
        return jax.tree.map(lambda _: 1.0, trainable)
    places = rules.apply(config.layer_rules, paths, what="optimizer.layer_rules")
    leaves = {parameter_path(path): x for path, x in jax.tree_util.tree_leaves_with_path(trainable)}
    layers: dict[str, int] = {}
    for name, leaf in leaves.items():
        if places[name] == "layers":
            tower = name.partition("/")[0]
            layers[tower] = max(len(leaf), layers.get(tower, 0))

    def factor(path: Any, leaf: Any) -> Any:
        name = parameter_path(path)
        if places[name] == "layers":
            left = np.arange(len(leaf), 0, -1, dtype=np.float32)
            factors = np.where(left <= (learning or len(leaf)), config.layer_decay**left, np.float32(0))
            return factors.reshape(-1, *[1] * (leaf.ndim - 1))
        count = layers.get(name.partition("/")[0], 0)
        if places[name] == "above":
            return 1.0
        return 0.0 if learning is not None and learning < count else config.layer_decay ** (count + 1)

    return jax.tree_util.tree_map_with_path(factor, trainable)


def adam(
    config: OptimizerConfig, rate: optax.Schedule, trainable: Any, paths: Sequence[str]
) -> optax.GradientTransformation:
    """Clipping, Adam's moments, decoupled weight decay, then each parameter's own rate.

    The gradient norm that is clipped runs over every trainable parameter, the loss's temperature and bias
    included.

    Args:
        config: constants and rules.
        rate: from `schedule`.
        trainable: an `nnx.State`, what the optimizer will hold state for.
        paths: all parameters of the model, frozen ones too, so that a rule may name a frozen tower.

    Raises:
        GlapError: a rule that matches no parameter, or a parameter that no rule covers.
    """
    decay = rules.apply(config.decay, paths, what="optimizer.decay")
    scale = rules.apply(config.scale, paths, what="optimizer.scale")

    def spread(values: dict) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: values[parameter_path(path)], trainable)

    factors = jax.tree.map(operator.mul, spread(scale), layer_factors(config, trainable, paths))
    moments = optax.scale_by_adam(config.b1, config.b2, config.epsilon)
    if config.kind == "adam8bit":
        eight_bit = rules.apply(config.eight_bit, paths, what="optimizer.eight_bit")
        moments = scale_by_adam8bit(config.b1, config.b2, config.epsilon, mask=spread(eight_bit))
    chain = optax.chain(
        # `identity` keeps the state's form when clipping is switched on or off between two parts of a run.
        optax.identity() if config.clip is None else optax.clip_by_global_norm(config.clip),
        moments,
        optax.add_decayed_weights(config.weight_decay, mask=spread(decay)),
        optax.stateless(lambda updates, _: jax.tree.map(lambda u, factor: u * factor, updates, factors)),
        optax.scale_by_learning_rate(rate),
    )

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        # Optax multiplies its integer counters with floats.
        with jax.numpy_dtype_promotion("standard"):
            return chain.update(updates, state, params)

    return optax.GradientTransformation(chain.init, update)


def parameter_path(path: Sequence[object]) -> str:
    """`audio/norm/scale` for the key path of an array inside an `nnx.State`."""
    # The last key is the variable's own slot for its array.
    return rules.path_name(path[:-1])
