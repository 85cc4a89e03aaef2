"""What a run carries from step to step, and how a model's parameters are parted into trained and frozen."""

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Int

from glap_jax import config as configs
from glap_jax import folder, rules
from glap_jax.config import LossConfig, ModelConfig, TrainConfig
from glap_jax.errors import GlapError
from glap_jax.layers import RunningStat, compute_dtype
from glap_jax.losses import convert_bias
from glap_jax.model import DualEncoder
from glap_jax.parallel.sharding import abstract, like_parameters, place, shardings
from glap_jax.train import cached, lora
from glap_jax.train import optimizer as optimizers

# An `nnx.State`; named loosely because the run-time checker trips over a deprecated base of that class.
Weights = Any


class TrainState(NamedTuple):
    """All that changes during a run.

    Attributes:
        step: updates done so far.
        trainable: the parameters that learn, float32.
        optimizer: Optax state of those.
        average: their exponential moving average; None without `ema`.
        statistics: running statistics of batch norms that learn; None where there are none.
    """

    step: Int[Array, ""]
    trainable: Weights
    optimizer: optax.OptState
    average: Weights | None
    statistics: Weights | None = None

    def fixed(self, frozen: Weights) -> Weights:
        """All that a step's gradient leaves alone: `frozen` and the running statistics."""
        return frozen if self.statistics is None else nnx.merge_state(frozen, self.statistics)

    @property
    def published(self) -> Weights:
        """What evaluation and export use: the average where one is kept."""
        return self.trainable if self.average is None else self.average


class Parts(NamedTuple):
    """A model taken apart; `merge` puts it together again.

    Attributes:
        graph: its structure.
        trainable: parameters that no rule freezes, and adapters.
        statistics: running statistics, which steps update.
        frozen: all others, and every other stored statistic (such as a frontend's mean and variance).
        paths: names of all parameters, trainable or not.
        learning: names of those that are trained.
        alpha: LoRA's; without adapters it does nothing.
    """

    graph: nnx.GraphDef
    trainable: Weights
    statistics: Weights
    frozen: Weights
    paths: tuple[str, ...]
    learning: frozenset[str]
    alpha: float = 1.0

    def merge(self, trainable: Weights, frozen: Weights) -> DualEncoder:
        """The plain model of these parameters; adapters are merged into the kernels that they adapt.

        `frozen` is with the statistics, as `TrainState.fixed` gives it.
        """
        # Copied, for a module would otherwise write its running statistics into `frozen`.
        return nnx.merge(self.graph, *lora.merge(trainable, frozen, self.alpha), copy=True)

    def learns(self, prefix: str) -> bool:
        """Whether any parameter below `prefix` is trained."""
        return any(path.startswith(f"{prefix}/") for path in self.learning)


class Design(NamedTuple):
    """A run before it has any arrays.

    Attributes:
        parts: how the model of its steps is parted; without values.
        optimizer, schedule: what moves it.
        state, frozen: abstract arrays, each with its place on the mesh.
        places: of the model's arrays and the adapters, by name.
        whole, stored: as `parts` and `frozen`, of the whole model: steps do without towers that caches
            stand for.
    """

    parts: Parts
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    state: TrainState
    frozen: Weights
    places: dict[str, NamedSharding]
    whole: Parts
    stored: Weights


def design(config: TrainConfig, mesh: Mesh) -> Design:
    """Everything about a run but its numbers; nothing is computed.

    Raises:
        GlapError: rules that do not fit the model, data that come at another rate than the audio tower works
            at, a batch in parts where that is no choice, a schedule that does not fit the run, or a cache
            for a tower that learns.
    """
    module = nnx.eval_shape(lambda: fresh(config))
    if config.accumulation > 1 and nnx.to_flat_state(nnx.state(module, RunningStat)):
        raise GlapError(
            f"config: 'accumulation' is {config.accumulation}, and this model's batch norms learn from whole "
            "batches, which it would cut into parts; set it to 1"
        )
    if config.data.sample_rate != module.audio.SAMPLE_RATE:
        raise GlapError(
            f"config: 'data.sample_rate' is {config.data.sample_rate} and the audio tower works at "
            f"{module.audio.SAMPLE_RATE} Hz; give that"
        )
    adapters = jax.eval_shape(lambda: lora.adapters(module, config.lora, seed=config.seed))
    parts = part(module, config.frozen, adapters, alpha=config.lora_alpha)
    schedule = optimizers.schedule(config.optimizer, config.steps)
    optimizer = optimizers.adam(config.optimizer, schedule, parts.trainable, parts.paths)
    whole, still = lora.added(nnx.state(module), adapters), parts.frozen
    shapes = {name: x.shape for name, x in _named(nnx.filter_state(whole, nnx.Param)).items()}
    placed = place(config.parallel, shapes, mesh)
    begin = functools.partial(start, optimizer=optimizer, ema=config.ema)
    state = jax.eval_shape(begin, parts.trainable, parts.statistics)
    state, still = abstract((state, still), like_parameters((state, still), placed, shapes, mesh))
    places = _named(like_parameters(whole, placed, shapes, mesh))
    parts = parts._replace(trainable=None, statistics=None, frozen=None)
    step, frozen = parts, still
    if absent := cached.towers(config.data):
        step, frozen = _without(parts, module, absent), cached.without(still, absent)
    return Design(step, optimizer, schedule, state, frozen, places, parts, still)


def _without(parts: Parts, module: DualEncoder, absent: Sequence[str]) -> Parts:
    """The parts of a run in which caches stand for the towers that are named."""
    for tower in absent:
        learning = sorted(path for path in parts.learning if path.startswith(f"{tower}/"))
        if learning:
            raise GlapError(
                f"config: 'data.{tower}_cache' stands for a frozen {tower} tower, and '{learning[0]}' "
                f"learns; begin 'frozen' with ('^{tower}/', True), or leave the cache out"
            )
    return parts._replace(graph=nnx.graphdef(cached.remove(module, absent)))


def _named(tree: Any) -> dict[str, Any]:
    """Leaves of an `nnx.State` by the names of their variables."""
    return {optimizers.parameter_path(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def fresh(config: TrainConfig) -> DualEncoder:
    """A run's model with random parameters."""
    rngs = nnx.Rngs(config.seed)
    module = DualEncoder(config.model, dtype=compute_dtype(config.dtype), remat=config.remat, rngs=rngs)
    optimizers.rest(module, config.optimizer)
    return module


def build(config: TrainConfig, design: Design) -> DualEncoder:
    """The model that a run starts with, but for `parts`: fresh, or that of the model folder `initial`.

    Each device makes or reads what lies on it. The bias is of the form that the run trains.

    Raises:
        GlapError: `initial` is no model folder, or holds another model than `config.model`.
    """
    if config.initial is None:
        graph, weights = nnx.split(nnx.eval_shape(lambda: fresh(config)))
        where = jax.tree_util.tree_map_with_path(
            lambda path, _: design.places[optimizers.parameter_path(path)], weights
        )
        module = nnx.merge(graph, jax.jit(lambda: nnx.state(fresh(config)), out_shardings=where)())
    else:
        module = _initial(config, config.initial, design.places)
    write_bias(module, config.loss, source="code", target=config.loss.form)
    return module


def _initial(config: TrainConfig, initial: str, places: dict[str, NamedSharding]) -> DualEncoder:
    family, found = folder.read_config(initial)
    if not isinstance(found, ModelConfig):
        raise GlapError(
            f"initial: '{initial}' holds a model of family '{family}', no audio-text model; give one"
        )
    refuse_another(found, config.model, what="initial", where=initial)
    module, _ = folder.load_module(
        initial,
        config=config.model,
        dtype=compute_dtype(config.dtype),
        remat=config.remat,
        sharding=places,
    )
    assert isinstance(module, DualEncoder)
    return module


def refuse_another(
    found: Any,
    wanted: Any,
    *,
    what: str,
    where: str,
    key: str = "model",
    free: str = configs.FREE_MODEL_KEYS,
) -> None:
    """Raises GlapError naming the first field in which a folder's configuration is not that of the run.

    Args:
        found: of the model in the folder `where`.
        wanted: of this run, its entry `key`.
        what: the field of the run that names the folder.
        free: regex of the fields that may differ.
    """
    before = configs.dotted(found)
    for field, value in configs.dotted(wanted).items():
        if not re.search(free, field) and before.get(field) != value:
            raise GlapError(
                f"{what}: '{key}.{field}' is {value} in this run and {before.get(field, 'missing')} in "
                f"'{where}'; configure the model of that folder"
            )


def write_bias(module: DualEncoder, config: LossConfig, *, source: str, target: str) -> None:
    """Rewrites the sigmoid loss's bias from one form to the other, at the module's temperature.

    Configurations and model folders hold the code's form; while a run trains the paper's, its state does.
    """
    if config.kind == "sigmoid" and source != target:
        bias = convert_bias(module.bias[...], module.temperature[...], source=source, target=target)
        # A new variable: a merged module shares its own with the state that it was merged from.
        module.bias = nnx.Param(jnp.asarray(bias, jnp.float32))


def part(
    module: DualEncoder,
    frozen: Sequence[tuple[str, bool]],
    adapters: Mapping[lora.Path, nnx.Param] | None = None,
    *,
    alpha: float = 1.0,
) -> Parts:
    """Parts a model by the run's `frozen` rules; adapted kernels are frozen whatever these say.

    Args:
        module: the model.
        frozen: (regex, frozen) rules over its parameters.
        adapters: from `lora.adapters`; they are always trained.
        alpha: LoRA's.

    Raises:
        GlapError: a rule that matches nothing, a parameter that no rule covers, or nothing left to train.
    """
    adapters = adapters or {}
    variables = nnx.to_flat_state(nnx.state(module))
    paths = tuple(rules.path_name(path) for path, value in variables if isinstance(value, nnx.Param))
    still = rules.apply(frozen, paths, what="frozen")
    still |= {rules.path_name(lora.kernel_of(path)): True for path in adapters}
    learning = frozenset(path for path in paths if not still[path])
    more = tuple(rules.path_name(path) for path in adapters)
    if not learning and not more:
        raise GlapError("frozen: these rules freeze every parameter; leave at least one to train")
    graph, trainable, statistics, rest = nnx.split(
        module, lambda path, _: rules.path_name(path) in learning, RunningStat, ...
    )
    trainable = lora.added(trainable, adapters)
    return Parts(graph, trainable, statistics, rest, paths + more, learning | set(more), alpha)


def begin(module: DualEncoder, config: TrainConfig, design: Design) -> tuple[TrainState, Weights]:
    """The state before the first step and what stays (with the text tower), each array in its place.

    Args:
        module: from `build`, with all that it is to start with; not to be used any more.
        config: of the run.
        design: of the run.
    """
    adapters = lora.adapters(module, config.lora, seed=config.seed)
    parts = part(module, config.frozen, adapters, alpha=config.lora_alpha)
    places = shardings(design.state)
    trainable = jax.device_put(parts.trainable, places.trainable)

    first = functools.partial(start, optimizer=design.optimizer, ema=config.ema)
    state = jax.jit(first, out_shardings=places)(trainable, parts.statistics)
    return state, jax.device_put(parts.frozen, shardings(design.stored))


def start(
    trainable: Weights, statistics: Weights, *, optimizer: optax.GradientTransformation, ema: float | None
) -> TrainState:
    """The state before the first step; owns its arrays, so that a step may reuse their memory."""
    copy = functools.partial(jax.tree.map, jnp.copy)
    average = None if ema is None else copy(trainable)
    kept = copy(statistics) if jax.tree.leaves(statistics) else None
    return TrainState(jnp.zeros((), jnp.int32), copy(trainable), optimizer.init(trainable), average, kept)
