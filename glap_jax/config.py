"""Everything that configures a run: frozen dataclasses, read from a Python file and the command line.

`load` runs a configuration file, `override` applies typed command-line overrides, `to_json` and `from_json`
write and read the form that checkpoints carry. Each refuses unknown names and wrong types in one line.
"""

import dataclasses
import json
import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from glap_jax import arguments, encoders
from glap_jax.audio.dasheng import DashengConfig
from glap_jax.encoders import AudioConfig, TextConfig
from glap_jax.errors import GlapError
from glap_jax.layers import Remat
from glap_jax.losses.sharded import Strategy
from glap_jax.parallel.sharding import ParallelConfig
from glap_jax.pipeline.config import (
    AugmentConfig,
    BackgroundConfig,
    DataConfig,
    GroupConfig,
    LayoutConfig,
    NoiseConfig,
)
from glap_jax.text.sonar import SonarConfig

__all__ = [
    "AudioConfig",
    "AugmentConfig",
    "BackgroundConfig",
    "DataConfig",
    "GroupConfig",
    "LayoutConfig",
    "LossConfig",
    "ModelConfig",
    "NoiseConfig",
    "OptimizerConfig",
    "ParallelConfig",
    "TextConfig",
    "TrainConfig",
    "dotted",
    "from_json",
    "load",
    "override",
    "to_json",
]

T = TypeVar("T")

# What may differ from the model that a run starts from: the scalars' values come with its parameters, and the
# rest acts in training only.
FREE_MODEL_KEYS = r"^temperature$|^bias$|dropout$|masking\."
# An encoder alone may also be heard and pooled in another way than that of its folder.
FREE_PART_KEYS = rf"{FREE_MODEL_KEYS}|(^|\.)(window|pooling)$"


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Two towers, their heads and the loss scalars.

    Attributes:
        audio: the audio tower.
        text: the text tower.
        joint: width E of the shared space.
        temperature: initial tau.
        bias: initial beta of the code's form, s / tau + beta; a run with the paper's form starts at the same
            logits.
        family: what the towers are joined by. `glap`: heads of two layers, temperature and bias. `ml_clap`:
            the same without a bias, for InfoNCE. `clara`: heads of one layer, and a temperature for each
            direction, learnt as log(1 / tau). `clasp`: no heads, both towers giving vectors of width E, and a
            temperature.
        standardise: heads of two layers standardise what towers pool, by statistics that a fresh run measures
            on its first `calibrate_batches`.
    """

    audio: AudioConfig = DashengConfig()
    text: TextConfig = SonarConfig()
    joint: int = 1024
    temperature: float = 0.07
    bias: float = -10.0
    family: Literal["glap", "ml_clap", "clara", "clasp"] = "glap"
    standardise: bool = False

    def __post_init__(self) -> None:
        if self.standardise and self.family not in ("glap", "ml_clap"):
            raise GlapError(
                f"config: a model of family '{self.family}' has no heads of two layers, which alone "
                "'model.standardise' acts on; leave it out"
            )


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Which loss joins the towers.

    Attributes:
        kind: `sigmoid` (GLAP), `infonce` (ML-CLAP, CLARA, CLASP), or `huber` (LASP), which pulls clips, as
            they are before their unit norm, to their own texts' unit vectors and knows no other pairs.
        form: how the sigmoid's bias is trained: `code` is s / tau + beta, `paper` is (s + beta) / tau.
        positives: which pairs of a batch count as matching besides each pair itself: `pair` none (GLAP),
            `clip` those of the same recording (ML-CLAP), `caption` those of the same caption.
        regularise: GLAP's term mean|x| / ||X||_F for both towers.
        strategy: how the pairs of all devices come together: `dense`, `gather`, `ring`, or `auto`, which
            picks one by size. Results are the same.
        chunk: captions per block of logits; none takes a device's share of them.
        delta: difference from which on the Huber loss is linear.
    """

    kind: Literal["sigmoid", "infonce", "huber"] = "sigmoid"
    form: Literal["code", "paper"] = "code"
    positives: Literal["pair", "clip", "caption"] = "pair"
    regularise: bool = True
    strategy: Strategy = "auto"
    chunk: int | None = None
    delta: float = 0.6


# The heads of some towers belong above their layers; a tower's input, positions and embeddings below.
LAYER_RULES: tuple[tuple[str, Literal["below", "layers", "above"]], ...] = (
    (r"blocks/layers/", "layers"),
    (r"^(audio/norm|(audio|text)/(head|classifier|pooler|out|project(_norm)?|blocks_norm))/", "above"),
    (r"^(audio|text)/", "below"),
    (".*", "above"),
)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Adam with decoupled weight decay under a schedule with linear warm-up.

    Attributes:
        kind: `adam`, or `adam8bit`, which keeps its moments in 8 bits (GLAP).
        learning_rate: its peak.
        schedule: `cosine` down to the end of the run, `restarts` of it, or `stairs`.
        warmup_steps: steps up to the peak; with restarts, in each period.
        final_share: rate at the end of a cosine over the peak (GLAP: 0.1).
        period: steps between restarts or stairs.
        drop: what a stair multiplies the rate by.
        b1, b2, epsilon: Adam's constants.
        weight_decay: applied where `decay` says so.
        decay: (regex, on) rules over parameter paths.
        scale: (regex, factor) rules: learning rate of a parameter relative to the schedule.
        layer_decay: learning rate of a stacked layer over that of the layer above it; 1 treats all alike.
        learning_layers: how many of a tower's stacked layers learn, the topmost; those below rest, with what
            is before them, and take no backward pass. None lets all learn that are not `frozen`.
        layer_rules: (regex, place) rules for both: `layers` are stacked, `below` and `above` are before and
            after them.
        clip: largest global gradient norm; none turns clipping off.
        eight_bit: (regex, allowed) rules: which parameters' moments `adam8bit` may keep in 8 bits. Of fewer
            than 4096 values they never are.
    """

    kind: Literal["adam", "adam8bit"] = "adam"
    learning_rate: float = 1e-4
    schedule: Literal["cosine", "restarts", "stairs"] = "cosine"
    warmup_steps: int = 1000
    final_share: float = 0.1
    period: int = 5000
    drop: float = 0.4
    b1: float = 0.9
    b2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    decay: tuple[tuple[str, bool], ...] = ((r"bias$|scale$|norm|position|temperature", False), (".*", True))
    scale: tuple[tuple[str, float], ...] = ((".*", 1.0),)
    layer_decay: float = 1.0
    learning_layers: int | None = None
    layer_rules: tuple[tuple[str, Literal["below", "layers", "above"]], ...] = LAYER_RULES
    clip: float | None = 1.0
    eight_bit: tuple[tuple[str, bool], ...] = ((r"embedding|position", False), (".*", True))


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One training run.

    Attributes:
        name: what the run is called in reports.
        out: run folder: checkpoints, metrics, plots, report.
        model, data, loss, optimizer, parallel: the parts.
        initial: model folder to start from (`glap-jax convert` makes one of published weights); none starts
            from random parameters.
        parts: (place, model folder) pairs: towers, or encoders inside them, that start from a folder of their
            own, such as ("audio", "models/whisper") or ("text", "models/labse"), where `initial` does not
            have them. Of an audio-text model's folder it is the same place.
        frozen: (regex, frozen) rules over parameter paths. A tower without anything to learn works as in
            evaluation: it drops and blanks nothing, and its statistics stay.
        lora: (regex, rank) rules over the kernels of linear layers: those of a rank are frozen and learn by a
            low-rank adapter; 0 adds none.
        lora_alpha: adapters are scaled by it over their rank.
        steps: optimizer steps of the whole run.
        batch: pairs a step, over all devices.
        accumulation: parts that a step's batch is encoded in, one after the other; the loss still sees
            all negatives of the batch. A model with batch norms that learn (CLASP's) takes 1.
        dtype: compute type; `auto` is bfloat16 on TPU and GPU, float32 on CPU.
        remat: what the backward pass keeps of a layer.
        ema: decay of the averaged weights that evaluation uses; none keeps no average. Running statistics of
            batch norms are averages already, and used as they are.
        calibrate_batches: batches that a fresh model's input statistics are measured on.
        seed: of parameters and data order.
        log_every: steps between lines of metrics.
        checkpoint_every: steps between checkpoints.
        keep: newest checkpoints kept.
        eval_every: steps between evaluations; 0 evaluates at the end only.
        eval_tasks: evaluation tasks, by name or yaml file, that are measured beside `data.test`.
        eval_root: folder of the tasks' recordings.
        best_metric: figure of the evaluations, such as `t2a/r1` or `esc50/accuracy`, by which the best model
            is kept in the folder `best` of the run.
        patience: evaluations without a better one after which the run stops; 0 goes on to the end.
    """

    name: str = "glap"
    out: str = "runs/glap"
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    parallel: ParallelConfig = ParallelConfig()
    initial: str | None = None
    parts: tuple[tuple[str, str], ...] = ()
    frozen: tuple[tuple[str, bool], ...] = ((".*", False),)
    lora: tuple[tuple[str, int], ...] = ((".*", 0),)
    lora_alpha: float = 16.0
    steps: int = 200_000
    batch: int = 1024
    accumulation: int = 1
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    remat: Remat = "none"
    ema: float | None = None
    calibrate_batches: int = 4
    seed: int = 0
    log_every: int = 20
    checkpoint_every: int = 1000
    keep: int = 3
    eval_every: int = 0
    eval_tasks: tuple[str, ...] = ()
    eval_root: str = "data/eval"
    best_metric: str | None = None
    patience: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulation", "log_every", "checkpoint_every", "keep"):
            if getattr(self, name) < 1:
                raise GlapError(f"config: '{name}' is {getattr(self, name)}; it must be at least 1")
        if self.patience and (self.best_metric is None or not self.eval_every):
            raise GlapError(
                "config: 'patience' waits for a better evaluation; set 'best_metric' and 'eval_every' too"
            )
        if self.loss.kind == "sigmoid" and self.model.family != "glap":
            raise GlapError(
                f"config: a model of family '{self.model.family}' learns no bias, which the sigmoid loss "
                "needs; set 'loss.kind' to infonce or 'model.family' to glap"
            )
        if self.loss.kind == "huber" and (self.loss.regularise or self.loss.positives != "pair"):
            raise GlapError(
                "config: the huber loss compares true pairs alone; set 'loss.regularise' to False and "
                "'loss.positives' to pair"
            )
        if self.batch % self.accumulation:
            raise GlapError(
                f"config: batch {self.batch} cannot be cut into {self.accumulation} equal parts; "
                "change 'batch' or 'accumulation'"
            )


def load(path: str | Path) -> TrainConfig:
    """The `config` that the Python file at `path` defines.

    Raises:
        GlapError: no such file, it does not run, or it defines no `config` of type TrainConfig.
    """
    path = Path(path)
    if not path.is_file():
        known = sorted(str(file) for file in path.parent.glob("*.py"))
        raise GlapError(
            f"config: no file '{path}'; {f'there are {known}' if known else 'give the path of one'}"
        )
    try:
        config = runpy.run_path(str(path)).get("config")
    except GlapError:
        raise
    except Exception as error:
        raise GlapError(f"config: '{path}' does not run: {type(error).__name__}: {error}; mend it") from error
    if not isinstance(config, TrainConfig):
        raise GlapError(
            f"config: '{path}' must define `config = TrainConfig(...)`; it defines {config!r:.80}"
        )
    return config


def override(config: T, words: Sequence[str]) -> T:
    """`config` with typed overrides such as `--optimizer.learning-rate 3e-4` applied.

    In a run, `--audio-encoder whisper.base` and `--text-encoder bert.minilm` exchange a tower first, wherever
    they stand (see `encoders.exchange`).

    Raises:
        GlapError: an unknown name (the nearest known ones are offered) or a value of the wrong type.
    """
    about = None
    try:
        if isinstance(config, TrainConfig):
            config, words = encoders.exchange(config, words)
            about = f"One training run.\n\n{encoders.usage()}"
        return arguments.parse(
            type(config), words, prog="glap-jax train CONFIG", default=config, description=about
        )
    except GlapError as error:
        raise GlapError(f"config: {str(error).removeprefix('config: ')}") from None


def to_json(config: Any) -> str:
    """A dataclass as indented JSON that `from_json` reads back as an equal object."""
    return json.dumps(dataclasses.asdict(config), indent=2, ensure_ascii=False)


def dotted(config: Any) -> dict[str, Any]:
    """`{"audio.width": 768, ...}`: values of a dataclass, or of its JSON form as a dict, by dotted key."""
    settings = config if isinstance(config, dict) else json.loads(to_json(config))
    found: dict[str, Any] = {}
    for key, value in settings.items():
        inner = dotted(value) if isinstance(value, dict) else {"": value}
        found |= {f"{key}.{rest}".rstrip("."): each for rest, each in inner.items()}
    return found


def from_json(kind: type[T], text: str | bytes, *, where: str, mend: str = "mend or remove the file") -> T:
    """Reads a dataclass of type `kind`; `where` names the file in messages, and `mend` says what to do.

    Raises:
        GlapError: no JSON, an unknown key, a missing one, or a wrong type, all listed in one line.
    """
    import pydantic

    adapter = pydantic.TypeAdapter(kind)
    try:
        return adapter.validate_json(text, extra="forbid")
    except pydantic.ValidationError as error:
        found = error.errors()
        # Of several possible families, only what is wrong with the one that the file names matters.
        other = [item["loc"][:-1] for item in found if item["loc"][-1:] == ("family",)]
        told = [item for item in found if all(item["loc"][: len(place)] != place for place in other)]
        told = told or [item for item in found if item["loc"][-1:] == ("family",)]
        problems = [f"'{'.'.join(map(str, item['loc']))}': {item['msg']}" for item in told]
        raise GlapError(f"{where}: {'; '.join(problems)}; {mend}") from None
