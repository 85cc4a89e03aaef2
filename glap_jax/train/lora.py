"""Low-rank adapters of linear layers (LoRA, Hu et al., arXiv:2106.09685), kept beside the model.

An adapted kernel W stays as it is, and the model computes with W + alpha / r * A B, where A has r columns.
The sum is made anew wherever the model is put together, so that no module knows of adapters, evaluation and
export see a plain model, and scanned layers (whose kernels, A and B have a leading axis L) need nothing more.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from glap_jax import rules
from glap_jax.errors import GlapError

# Names of A and B, where a linear layer has its `kernel`.
DOWN, UP = "lora_a", "lora_b"

Path = tuple[Any, ...]


def adapters(module: nnx.Module, ranks: Sequence[tuple[str, int]], *, seed: int) -> dict[Path, nnx.Param]:
    """Fresh A and B, by the paths that they would have inside `module`, float32.

    A is drawn uniformly from +-1 / sqrt(inputs) as in the authors' loralib; B is zero, so that the model is
    what it was.

    Args:
        module: the model.
        ranks: (regex, r) rules over the paths of linear layers' kernels; 0 leaves a kernel alone.
        seed: of A.

    Raises:
        GlapError: a rule that matches no kernel, a kernel that no rule covers, or a rank that is negative or
            exceeds the sides of a kernel.
    """
    found = {
        (*path, "kernel"): layer.kernel
        for path, layer in nnx.iter_modules(module)
        if isinstance(layer, nnx.Linear)
    }
    chosen = rules.apply(ranks, [rules.path_name(path) for path in found], what="lora")
    rngs, made = nnx.Rngs(seed), {}
    for path, kernel in found.items():
        name = rules.path_name(path)
        rank, (*stack, inputs, outputs) = chosen[name], kernel.shape
        most = min(inputs, outputs)
        if not 0 <= rank <= most:
            raise GlapError(
                f"lora: rank {rank} for '{name}', which is {inputs} x {outputs}; give 0 to {most}"
            )
        if rank:
            bound = 1.0 / math.sqrt(inputs)
            down = jax.random.uniform(rngs.params(), (*stack, inputs, rank), jnp.float32, -bound, bound)
            made[*path[:-1], DOWN] = nnx.Param(down)
            made[*path[:-1], UP] = nnx.Param(jnp.zeros((*stack, rank, outputs), jnp.float32))
    return made


def kernel_of(path: Path) -> Path:
    """The path of the kernel that an adapter's matrix belongs to."""
    return (*path[:-1], "kernel")


def merge(trainable: Any, frozen: Any, alpha: float) -> tuple[Any, Any]:
    """The two states without adapters, whose products have been added to the frozen kernels.

    Both are an `nnx.State`; the sums are new variables, those of `frozen` keep their values.
    """
    learning, still = dict(nnx.to_flat_state(trainable)), dict(nnx.to_flat_state(frozen))
    downs = {path: value for path, value in learning.items() if path[-1] == DOWN}
    if not downs:
        return trainable, frozen
    for path, down in downs.items():
        up = learning[*path[:-1], UP]
        product = jnp.matmul(down[...], up[...], precision=jax.lax.Precision.HIGHEST)
        kernel = still[kernel_of(path)]
        still[kernel_of(path)] = kernel.replace(kernel[...] + alpha / down.shape[-1] * product)
    plain = {path: value for path, value in learning.items() if path[-1] not in (DOWN, UP)}
    return nnx.from_flat_state(plain), nnx.from_flat_state(still)


def added(state: Any, made: Mapping[Path, nnx.Param]) -> Any:
    """An `nnx.State` with adapters besides what `state` holds."""
    return nnx.from_flat_state({**dict(nnx.to_flat_state(state)), **made}) if made else state
