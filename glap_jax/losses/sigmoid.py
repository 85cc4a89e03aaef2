"""The pairwise sigmoid loss (SigLIP, arXiv:2303.15343; GLAP, arXiv:2506.11350), whole or in chunks."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from glap_jax.errors import GlapError
from glap_jax.losses.pairs import Rows, Scalar, cosines, embedding_regulariser, float32_pairs

FORMS = ("code", "paper")
STRATEGIES = ("auto", "dense")


def sigmoid(
    audio: Rows,
    text: Rows,
    *,
    temperature: Scalar,
    bias: Scalar | None,
    form: str = "code",
    regularise: bool = False,
    mesh: Mesh | None = None,
    strategy: str = "auto",
    chunk: int | None = None,
    ids: Int[Array | np.ndarray, " B"] | None = None,
) -> Float[Array, ""]:
    """Mean over clips of the summed binary losses of a clip with every caption of the batch.

    `-sum_ij log sigmoid(y_ij * z_ij) / B`, with y = +1 for a true pair and -1 otherwise, computed in
    float32 whatever the input's precision.

    Args:
        audio, text: `B E` unit rows; row i of one belongs to row i of the other.
        temperature: tau > 0, the divisor itself (not its logarithm); learnable.
        bias: beta, learnable; None leaves it out.
        form: the logit z of a cosine s. "code" is `s / tau + beta` (GLAP's released code and checkpoint),
            "paper" is `(s + beta) / tau` (its paper). `convert_bias` carries beta from one to the other.
        regularise: adds `embedding_regulariser(audio, text)`.
        mesh: a mesh (axes of type Auto) over which the batch is sharded. Each device keeps its audio rows
            and meets all captions: B must be a multiple of the number of devices. No result changes.
        strategy: how the loss runs on a mesh: "dense", or "auto" which picks it.
        chunk: captions at a time. No more than B * chunk logits then exist at once, forward or backward;
            None computes all B * B together. The result is the same.
        ids: `B` integers; pairs with equal ids (a clip that occurs twice) are positives of one another.
            By default only the pair itself is, as in the released code.

    Raises GlapError for rows that do not pair up and for an unknown form, strategy or chunk.
    """
    check_options(form, strategy, chunk)
    audio, text = float32_pairs(audio, text)
    batch = audio.shape[0]
    if mesh is not None:
        audio, text = place(audio, text, mesh)
    scale = 1.0 / jnp.asarray(temperature, jnp.float32)
    shift = jnp.zeros((), jnp.float32) if bias is None else jnp.asarray(bias, jnp.float32)
    if form == "paper":
        shift = shift * scale
    labels = jnp.arange(batch) if ids is None else jnp.asarray(ids)

    def block_sum(
        columns: Float[Array, "C E"], column_labels: Int[Array, " C"], real: Array
    ) -> Float[Array, ""]:
        logits = cosines(audio, columns) * scale + shift
        signed = jnp.where(labels[:, None] == column_labels[None, :], logits, -logits)
        return -jnp.sum(jnp.where(real[None, :], jax.nn.log_sigmoid(signed), 0.0))

    if chunk is None or chunk >= batch:
        total = block_sum(text, labels, jnp.ones(batch, bool))
    else:
        total = sum_over_chunks(block_sum, text, labels, chunk)
    loss = total / batch
    return loss + embedding_regulariser(audio, text) if regularise else loss


def sum_over_chunks(
    block_sum, text: Float[Array, "B E"], labels: Int[Array, " B"], chunk: int
) -> Float[Array, ""]:
    """Adds `block_sum` over blocks of `chunk` captions; the last one is padded and masked.

    Each block is recomputed in the backward pass, so that no logits are kept between the two passes.
    """
    batch = text.shape[0]
    blocks = math.ceil(batch / chunk)
    pad = blocks * chunk - batch
    columns = jnp.pad(text, ((0, pad), (0, 0))).reshape(blocks, chunk, -1)
    column_labels = jnp.pad(labels, (0, pad)).reshape(blocks, chunk)
    real = (jnp.arange(blocks * chunk) < batch).reshape(blocks, chunk)

    @jax.checkpoint
    def add(total, block):
        return total + block_sum(*block), None

    return jax.lax.scan(add, jnp.zeros((), jnp.float32), (columns, column_labels, real))[0]


def place(
    audio: Float[Array, "B E"], text: Float[Array, "B E"], mesh: Mesh
) -> tuple[Float[Array, "B E"], Float[Array, "B E"]]:
    """Asks the compiler for audio rows split over the whole mesh and for captions on every device.

    Raises GlapError when the devices cannot share the batch evenly.
    """
    if audio.shape[0] % mesh.size:
        raise GlapError(
            f"a batch of {audio.shape[0]} pairs does not split over {mesh.size} devices: "
            "choose a batch size that is a multiple of the number of devices"
        )
    split = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    everywhere = NamedSharding(mesh, PartitionSpec())
    constrain = jax.lax.with_sharding_constraint
    return constrain(audio, split), constrain(text, everywhere)


def check_options(form: str, strategy: str, chunk: int | None) -> None:
    """Raises GlapError for an option of `sigmoid` that does not exist."""
    if form not in FORMS:
        raise GlapError(f"the sigmoid loss has no form {form!r}: choose one of {', '.join(FORMS)}")
    if strategy not in STRATEGIES:
        raise GlapError(
            f"the sigmoid loss has no strategy {strategy!r}: choose one of {', '.join(STRATEGIES)}"
        )
    if chunk is not None and chunk < 1:
        raise GlapError(f"the sigmoid loss cannot work in chunks of {chunk}: give a positive chunk or none")


def convert_bias(bias: Scalar, temperature: Scalar, *, source: str, target: str) -> Scalar:
    """The bias that gives the logits of form `source` in form `target`, at this temperature.

    `b_code = beta_paper / tau`: a recipe that switches forms must convert its initial bias too, or it
    starts elsewhere (the paper's literal -10 at tau 0.07 is -143 in the form of the code).
    Raises GlapError for an unknown form.
    """
    for form in (source, target):
        check_options(form, "auto", None)
    if source == target:
        return bias
    return bias / temperature if source == "paper" else bias * temperature
