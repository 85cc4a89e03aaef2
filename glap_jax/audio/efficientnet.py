"""EfficientNet over pictures of spectrograms, as in CLASP (Tan and Le, 2019; torchvision's)."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from glap_jax.audio import picture
from glap_jax.convert.constructor import Shapes, arguments, dimension, layers
from glap_jax.convert.rules import Kernel2d, Rule, Table, Transform, batch_norm, dense, prefixed
from glap_jax.errors import GlapError
from glap_jax.kernels import depthwise
from glap_jax.layers import BatchNorm, Encoded, Remat, Stack, linear


@dataclasses.dataclass(frozen=True)
class StageConfig:
    """Blocks of one width.

    Attributes:
        expand: hidden channels over the block's input channels.
        kernel: side of the depthwise convolution.
        stride: of the first block.
        inputs: channels that enter.
        outputs: channels that leave each block.
        layers: blocks.
    """

    expand: int
    kernel: int
    stride: int
    inputs: int
    outputs: int
    layers: int


# B0: expand, kernel, stride, inputs, outputs, layers.
_B0 = (
    (1, 3, 1, 32, 16, 1),
    (6, 3, 2, 16, 24, 2),
    (6, 5, 2, 24, 40, 2),
    (6, 3, 2, 40, 80, 3),
    (6, 5, 1, 80, 112, 3),
    (6, 5, 2, 112, 192, 4),
    (6, 3, 1, 192, 320, 1),
)


def _channels(wanted: float) -> int:
    """The nearest multiple of 8, but not less than nine tenths of what is wanted."""
    nearest = max(8, int(wanted + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * wanted else nearest


def _stages(width: float, depth: float) -> tuple[StageConfig, ...]:
    return tuple(
        StageConfig(expand, kernel, stride, _channels(a * width), _channels(b * width), math.ceil(n * depth))
        for expand, kernel, stride, a, b, n in _B0
    )


@dataclasses.dataclass(frozen=True)
class EfficientNetConfig:
    """Sizes of an EfficientNet.

    Attributes:
        stages: its blocks.
        last: channels of the last convolution; none takes four times the last stage's.
        classes: logits, which are the features that CLASP takes.
        epsilon: of the batch norms; B5 to B7 were trained with 1e-3.
        picture: rows and columns of pixels that a clip's spectrogram is drawn with.
    """

    stages: tuple[StageConfig, ...] = _stages(1.0, 1.0)
    last: int | None = None
    classes: int = 1000
    epsilon: float = 1e-5
    picture: tuple[int, int] = (480, 640)
    family: Literal["efficientnet"] = "efficientnet"

    @property
    def width(self) -> int:
        """Features that leave the encoder."""
        return self.classes

    @property
    def channels(self) -> int:
        """Channels of the last convolution."""
        return self.last or 4 * self.stages[-1].outputs

    @classmethod
    def b0(cls) -> "EfficientNetConfig":
        """5.3 M parameters."""
        return cls()

    @classmethod
    def b1(cls) -> "EfficientNetConfig":
        """7.8 M parameters."""
        return cls(_stages(1.0, 1.1))

    @classmethod
    def b2(cls) -> "EfficientNetConfig":
        """9.1 M parameters."""
        return cls(_stages(1.1, 1.2))

    @classmethod
    def b3(cls) -> "EfficientNetConfig":
        """12 M parameters."""
        return cls(_stages(1.2, 1.4))

    @classmethod
    def b4(cls) -> "EfficientNetConfig":
        """19 M parameters."""
        return cls(_stages(1.4, 1.8))

    @classmethod
    def b5(cls) -> "EfficientNetConfig":
        """30 M parameters."""
        return cls(_stages(1.6, 2.2), epsilon=1e-3)

    @classmethod
    def b6(cls) -> "EfficientNetConfig":
        """43 M parameters."""
        return cls(_stages(1.8, 2.6), epsilon=1e-3)

    @classmethod
    def b7(cls) -> "EfficientNetConfig":
        """66 M parameters: CLASP's."""
        return cls(_stages(2.0, 3.1), epsilon=1e-3)

    def build(self, *, dtype: DTypeLike, remat: Remat, rngs: nnx.Rngs) -> "EfficientNet":
        """A module with fresh parameters that computes in `dtype`."""
        return EfficientNet(self, dtype=dtype, remat=remat, rngs=rngs)


class ConvNorm(nnx.Module):
    """Convolution without bias, batch norm and, if `active`, SiLU; stride 1 keeps the size."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        active: bool = True,
        epsilon: float,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.active = active
        self.stride = stride
        self.convolution = nnx.Conv(
            inputs,
            outputs,
            (kernel, kernel),
            stride,
            padding=(kernel - 1) // 2,
            feature_group_count=groups,
            use_bias=False,
            dtype=dtype,
            param_dtype=jnp.float32,
            rngs=rngs,
        )
        self.norm = BatchNorm(outputs, epsilon=epsilon)

    def __call__(self, x: Float[Array, "B Y X D"]) -> Float[Array, "B Y2 X2 D2"]:
        kernel = self.convolution.kernel[...].astype(x.dtype)
        if self.convolution.feature_group_count > 1:
            x = depthwise(x, kernel, self.stride)
        elif kernel.shape[0] == 1:
            # A matrix product takes half the time of a convolution with one tap on a CPU.
            x = jnp.einsum("byxd,de->byxe", x, kernel[0, 0])
        else:
            x = self.convolution(x)
        x = self.norm(x)
        return jax.nn.silu(x) if self.active else x


class InvertedBlock(nnx.Module):
    """MBConv: widen, convolve each channel alone, weigh the channels by their means, narrow."""

    def __init__(self, config: StageConfig, *, first: bool, epsilon: float, dtype: DTypeLike, rngs: nnx.Rngs):
        inputs = config.inputs if first else config.outputs
        hidden, squeezed = inputs * config.expand, max(1, inputs // 4)
        rest: dict[str, Any] = {"epsilon": epsilon, "dtype": dtype, "rngs": rngs}
        stride = config.stride if first else 1
        self.residual = stride == 1 and inputs == config.outputs
        self.expand = ConvNorm(inputs, hidden, **rest) if config.expand > 1 else None
        self.depthwise = ConvNorm(hidden, hidden, config.kernel, stride=stride, groups=hidden, **rest)
        self.squeeze = linear(hidden, squeezed, dtype=dtype, rngs=rngs)
        self.excite = linear(squeezed, hidden, dtype=dtype, rngs=rngs)
        self.project = ConvNorm(hidden, config.outputs, active=False, **rest)

    def __call__(self, x: Float[Array, "B Y X D"]) -> Float[Array, "B Y2 X2 D2"]:
        y = self.depthwise(x if self.expand is None else self.expand(x))
        mean = y.astype(jnp.float32).mean(axis=(1, 2)).astype(y.dtype)
        weight = jax.nn.sigmoid(self.excite(jax.nn.silu(self.squeeze(mean))))
        y = self.project(y * weight[:, None, None])
        return x + y if self.residual else y


class Stage(nnx.Module):
    """A first block that changes sizes, and equal ones after it."""

    def __init__(
        self, config: StageConfig, *, epsilon: float, dtype: DTypeLike, remat: Remat, rngs: nnx.Rngs
    ):
        def make_block(rngs: nnx.Rngs) -> InvertedBlock:
            return InvertedBlock(config, first=False, epsilon=epsilon, dtype=dtype, rngs=rngs)

        self.first = InvertedBlock(config, first=True, epsilon=epsilon, dtype=dtype, rngs=rngs)
        more = config.layers - 1
        self.rest = Stack(make_block, more, remat=remat, rngs=rngs) if more else None

    def __call__(self, x: Float[Array, "B Y X D"]) -> Float[Array, "B Y2 X2 D2"]:
        x = self.first(x)
        return x if self.rest is None else self.rest(x)


class EfficientNet(nnx.Module):
    """Waveform at 22.05 kHz -> picture of its spectrogram -> logits, which are its one token.

    `classify` takes any picture: channels last, values 0 to 255, neither scaled nor normalised for CLASP.
    """

    SAMPLE_RATE = picture.SAMPLE_RATE

    def __init__(
        self, config: EfficientNetConfig, *, dtype: DTypeLike, remat: Remat = "none", rngs: nnx.Rngs
    ):
        self.config = config
        self.dtype = dtype
        stages = config.stages
        rest: dict[str, Any] = {"epsilon": config.epsilon, "dtype": dtype, "rngs": rngs}
        self.stem = ConvNorm(3, stages[0].inputs, 3, stride=2, **rest)
        self.stages = nnx.List([Stage(stage, remat=remat, **rest) for stage in stages])
        self.head = ConvNorm(stages[-1].outputs, config.channels, **rest)
        self.classifier = linear(config.channels, config.classes, dtype=dtype, rngs=rngs)

    def __call__(self, waveform: Float[Array, "B T"], lengths: Int[Array, " B"] | None = None) -> Encoded:
        """Encodes clips of up to T samples in [-1, 1]; `lengths` counts the real samples of each row."""
        height, width = self.config.picture
        logits = self.classify(picture.draw(waveform, lengths, height=height, width=width))
        return Encoded(logits[:, None], jnp.ones((logits.shape[0], 1), bool), logits.astype(jnp.float32))

    def classify(self, image: Float[Array, "B Y X 3"]) -> Float[Array, "B C"]:
        """Logits of pictures."""
        x = self.stem(image.astype(self.dtype))
        for stage in self.stages:
            x = stage(x)
        mean = self.head(x).astype(jnp.float32).mean(axis=(1, 2))
        return self.classifier(mean.astype(self.dtype))


# [out, in, 1, 1] to a matrix.
_POINT = Transform(lambda x: x[0][:, :, 0, 0].T, lambda x: (x.T[:, :, None, None],))


def _conv_norm(source: str, target: str) -> Table:
    return (
        Rule(f"{source}.0.weight", f"{target}/convolution/kernel", Kernel2d),
        *batch_norm(f"{source}.1", f"{target}/norm"),
    )


def _block(*, expanded: bool) -> Table:
    """Rules of a block, whose parts count from 0 also where the widening convolution is left out."""
    start = int(expanded)
    return (
        *(_conv_norm("0", "expand") if expanded else ()),
        *_conv_norm(f"{start}", "depthwise"),
        *dense(f"{start + 1}.fc1", "squeeze", weight=_POINT),
        *dense(f"{start + 1}.fc2", "excite", weight=_POINT),
        *_conv_norm(f"{start + 2}", "project"),
    )


def _stage(number: int) -> Table:
    """Rules of stage `number`, from 1; only the first one's blocks do not widen."""
    block, place = _block(expanded=number > 1), f"stages/{number - 1}/"
    rest = prefixed(block, f"features.{number}.{{layer}}.block.", f"{place}rest/layers/")
    return (
        *prefixed(block, f"features.{number}.0.block.", f"{place}first/"),
        *(dataclasses.replace(rule, first=1) if isinstance(rule, Rule) else rule for rule in rest),
    )


TORCH_RULES: Table = (
    *_conv_norm("features.0", "stem"),
    *(rule for number in range(1, 8) for rule in _stage(number)),
    # The last convolution follows the last stage; smaller nets than the published ones have fewer.
    *_conv_norm("features.(8|7|6|5|4|3|2)", "head"),
    *dense("classifier.1", "classifier"),
)

Config, Module = EfficientNetConfig, EfficientNet

_PUBLISHED = tuple(f"b{number}" for number in range(8))


def config_from_torch(shapes: Shapes, given: Mapping[str, Any]) -> EfficientNetConfig:
    """Sizes from tensor shapes; strides and norms' epsilon, which none shows, are the published net's.

    `given` may hold `name` (`efficientnet_b0` ... `b7`), for nothing but a check, or the `stages` of a net
    that is not published, rows of expand, kernel, stride, inputs, outputs and layers, and its `bn_eps`; also
    `picture`, rows and columns of pixels.

    Raises:
        GlapError: an argument that is unknown, or sizes of no published net where `stages` says nothing.
    """
    names = {f"efficientnet_{name}": getattr(EfficientNetConfig, name)() for name in _PUBLISHED}
    rest = {key: value for key, value in given.items() if key not in ("stages", "picture")}
    told = arguments(rest, family="efficientnet", sizes=("bn_eps",), fixed={}, choices={"name": (*names,)})
    classes, last = (dimension(shapes, "classifier.1.weight", axis) for axis in (0, 1))
    height, width = given.get("picture", EfficientNetConfig.picture)
    outer: dict[str, Any] = {"classes": classes, "picture": (height, width)}
    if "stages" in given:
        stages = tuple(StageConfig(*row) for row in given["stages"])
        last = None if last == 4 * stages[-1].outputs else last
        return EfficientNetConfig(stages, last, epsilon=told.get("bn_eps", 1e-3), **outer)
    depths = [layers(shapes, f"features.{number}.") for number in range(1, 8)]
    for name, config in names.items():
        same = depths == [stage.layers for stage in config.stages] and last == config.channels
        if same and told.get("name", name) == name:
            return dataclasses.replace(config, epsilon=told.get("bn_eps", config.epsilon), **outer)
    raise GlapError(
        "config of efficientnet: these are no published net's sizes, or not those of 'name'; give 'stages', "
        "rows of [expand, kernel, stride, inputs, outputs, layers]"
    )


def config_to_torch(config: EfficientNetConfig) -> dict[str, Any]:
    """What `config_from_torch` reads as `config`, given its tensors' shapes."""
    stages = [list(dataclasses.astuple(stage)) for stage in config.stages]
    return {"stages": stages, "bn_eps": config.epsilon, "picture": list(config.picture)}


def compat(config: EfficientNetConfig) -> EfficientNetConfig:
    """`config` itself: there is no quirk to reproduce."""
    return config
