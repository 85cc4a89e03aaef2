"""Adam with rules: where weight decay acts, how fast each parameter learns, and a cosine schedule."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike

from glap_jax import rules
from glap_jax.config import OptimizerConfig
from glap_jax.errors import GlapError
from glap_jax.train.adam8bit import scale_by_adam8bit


def cosine(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Learning rate of the update that follows `count` earlier ones.

    Linear from 0 to `learning_rate`, which update number `warmup_steps` takes, then half a cosine down to
    `final_share * learning_rate`, which the last of `steps` updates takes (GLAP, arXiv:2506.11350, 4.1).

    Raises:
        GlapError: the warm-up is as long as the run.
    """
    if not 0 <= config.warmup_steps < steps:
        raise GlapError(
            f"config: 'optimizer.warmup_steps' is {config.warmup_steps} in a run of {steps} steps; "
            "choose fewer of them, or more 'steps'"
        )
    curve = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.learning_rate,
        warmup_steps=config.warmup_steps,
        decay_steps=steps,
        end_value=config.final_share * config.learning_rate,
    )

    def rate(count: ArrayLike) -> Array:
        # Counting from 1: an update at rate 0 would waste the first batch.
        return jnp.asarray(curve(jnp.asarray(count, jnp.float32) + 1.0), jnp.float32)

    return rate


def adam(
    config: OptimizerConfig, schedule: optax.Schedule, trainable: Any, paths: Sequence[str]
) -> optax.GradientTransformation:
    """Clipping, Adam's moments, decoupled weight decay, then each parameter's own rate.

    The gradient norm that is clipped runs over every trainable parameter, the loss's temperature and bias
    included.

    Args:
        config: constants and rules.
        schedule: from `cosine`.
        trainable: an `nnx.State`, what the optimizer will hold state for.
        paths: all parameters of the model, frozen ones too, so that a rule may name a frozen tower.

    Raises:
        GlapError: a rule that matches no parameter, or a parameter that no rule covers.
    """
    decay = rules.apply(config.decay, paths, what="optimizer.decay")
    scale = rules.apply(config.scale, paths, what="optimizer.scale")

    def spread(values: dict) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: values[parameter_path(path)], trainable)

    factors = spread(scale)
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
        optax.scale_by_learning_rate(schedule),
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
