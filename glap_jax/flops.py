"""How much arithmetic a model asks for: FLOPs of matrix products and convolutions, counted from jaxprs.

XLA's own count takes the body of a loop once, however often it runs, and a scanned stack is such a loop.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from glap_jax.config import TrainConfig
from glap_jax.encoders import pooled_width
from glap_jax.model import DualEncoder
from glap_jax.train import lora
from glap_jax.train import state as states

# A gradient takes twice the products of its forward pass: one for the inputs, one for the kernels.
TRAINED = 3


@dataclasses.dataclass(frozen=True)
class Flops:
    """FLOPs (a multiply-add is two) of the parts of a model, or of its training step.

    Attributes:
        audio, text: of the towers.
        heads: of what joins them to the joint space.
        loss: of the products of all pairs; they are no part of `model`.
    """

    audio: int
    text: int
    heads: int
    loss: int = 0

    @property
    def model(self) -> int:
        """What MFU (Chowdhery et al., arXiv:2204.02311, appendix B) is reckoned from: towers and heads."""
        return self.audio + self.text + self.heads


def count(function: Callable[..., Any], *arguments: Any) -> int:
    """FLOPs of the matrix products and convolutions that `function` makes of `arguments`; 2 a multiply-add.

    Nothing is computed. The body of a scan counts as often as it runs, of a choice the largest branch, and
    what `shard_map` runs on each device for all of them. Fused kernels, which show no products, are seen by
    the plain form that stands beside them for other platforms.

    Args:
        function: pure, traceable.
        arguments: arrays, or `jax.ShapeDtypeStruct`s in their place.

    Raises:
        ValueError: products inside a loop of which nothing says how often it runs.
    """
    return _of_jaxpr(jax.make_jaxpr(function)(*arguments).jaxpr)


def forward(config: TrainConfig, pairs: int = 1) -> Flops:
    """FLOPs of encoding `pairs` clips and captions of the run's lengths, padding included."""
    return _forward(_module(config), config, pairs)


def train(config: TrainConfig) -> Flops:
    """Model FLOPs of a step of the run: what its mathematics asks for, however it is computed.

    A tower in which anything learns counts three times its forward pass, a frozen one once, heads three
    times, and a tower that a cache stands for not at all. What is computed again to save memory does not
    count. The loss compares all pairs of the batch: one product forward, two backward. Clips are as long as
    `crop_seconds`, in whichever layout; those of packed rows ask for less.
    """
    module = _module(config)
    adapters = lora.adapters(module, config.lora, seed=config.seed)
    parts = states.part(module, config.frozen, adapters, alpha=config.lora_alpha)
    once, data = _forward(module, config, config.batch), config.data
    return Flops(
        audio=0 if data.audio_cache else once.audio * (TRAINED if parts.learns("audio") else 1),
        text=0 if data.text_cache else once.text * (TRAINED if parts.learns("text") else 1),
        heads=once.heads * TRAINED,
        loss=0 if config.loss.kind == "huber" else TRAINED * 2 * config.batch**2 * config.model.joint,
    )


def _module(config: TrainConfig) -> DualEncoder:
    """The run's model without values."""
    return nnx.eval_shape(lambda: DualEncoder(config.model, rngs=nnx.Rngs(0)))


def _forward(module: DualEncoder, config: TrainConfig, pairs: int) -> Flops:
    data, shape = config.data, jax.ShapeDtypeStruct
    samples = round(data.crop_seconds * data.sample_rate)
    sound = shape((pairs, samples), jnp.float32), shape((pairs,), jnp.int32)
    words = shape((pairs, data.max_tokens), jnp.int32), shape((pairs, data.max_tokens), jnp.bool_)

    def of(part: str, *inputs: jax.ShapeDtypeStruct) -> int:
        graph, state = nnx.split(getattr(module, part))
        return count(lambda state, *inputs: nnx.merge(graph, state)(*inputs), state, *inputs)

    heads = sum(
        of(f"{side}_head", shape((pairs, pooled_width(tower)), jnp.float32))
        for side, tower in (("audio", config.model.audio), ("text", config.model.text))
    )
    return Flops(audio=of("audio", *sound), text=of("text", *words), heads=heads)


def _of_jaxpr(jaxpr: Jaxpr) -> int:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: JaxprEqn) -> int:
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        factor = _shape(equation.invars[0])
        return 2 * math.prod(_shape(equation.outvars[0])) * math.prod(factor[axis] for axis in contracted)
    if name == "conv_general_dilated":
        # Each value of the output comes of a whole kernel of one output feature.
        kernel, place = _shape(equation.invars[1]), parameters["dimension_numbers"].rhs_spec[0]
        return 2 * math.prod(_shape(equation.outvars[0])) * math.prod(kernel) // kernel[place]
    inner = [_of_jaxpr(jaxpr) for jaxpr in _inner(parameters)]
    if not any(inner):
        return 0
    if name == "cond":
        return max(inner)
    if name == "scan":
        return sum(inner) * parameters["length"]
    if name == "shard_map":
        return sum(inner) * parameters["mesh"].size
    if name == "while":
        raise ValueError("matrix products in a loop of unknown length cannot be counted")
    return sum(inner)


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _inner(parameters: dict[str, Any]) -> Iterator[Jaxpr]:
    """The jaxprs that an equation calls."""
    for value in parameters.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            if isinstance(each, ClosedJaxpr):
                yield each.jaxpr
            elif isinstance(each, Jaxpr):
                yield each
