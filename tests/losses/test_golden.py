"""Every loss against numbers recorded from the PyTorch implementations: values and all gradients."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glap_jax import losses

SIGMOID = [f"sig_temp{t}_bias{b}_reg{r}" for t in ("0.1", "0.07") for b in ("-10.0", "-3.0") for r in (0, 1)]
SIGMOID += ["sig_temp0.1_biasNone_reg1", "sig_temp0.07_biasNone_reg1"]
PAPER = [
    f"paper_sigmoid_tau{p}_{r}" for p in ("0.07_beta-10.0", "0.5_beta-1.0") for r in ("mean", "sum_over_B")
]
INFONCE, BCE = (
    [f"{kind}_temp{t}_reg{r}{files}" for t in ("0.1", "0.07") for r in (0, 1) for files in ("", "_files")]
    for kind in ("infonce", "bce")
)
ML_CLAP = [f"mlclap_reg{r}{idx}" for r in (0, 1) for idx in ("", "_idx")]


@functools.cache
def value_and_gradients(loss, count, **static):
    """The jitted loss with all its gradients: compiled once for all starting values of its parameters."""
    return jax.jit(jax.value_and_grad(functools.partial(loss, **static), argnums=tuple(range(count))))


def check(recorded, prefix, loss, parameters, *, scales=(1.0, 1.0), **static):
    """`loss(audio, text, *parameters, **static)` and all its gradients against the record.

    `parameters`: name -> start. `scales` multiply the recorded rows before they enter the loss.
    """
    size = prefix.split("/")[0]
    inputs = [
        recorded[f"{size}/{side}"] * np.float32(s) for side, s in zip(("audio", "text"), scales, strict=True)
    ]
    inputs += [np.float32(start) for start in parameters.values()]
    value, gradients = value_and_gradients(loss, len(inputs), **static)(*map(jnp.asarray, inputs))
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, recorded[f"{prefix}/value_f64"], rtol=1e-5)
    for name, gradient in zip(["audio", "text", *parameters], gradients, strict=True):
        if size == "b64" and f"{prefix}/d_{name}" not in recorded and name in ("audio", "text"):
            continue  # the record keeps the large gradients of a few losses only
        np.testing.assert_allclose(
            gradient, recorded[f"{prefix}/d_{name}"], rtol=1e-4, atol=1e-6, err_msg=f"{prefix} d_{name}"
        )


def released_sigmoid(audio, text, temperature, bias=None, **options):
    return losses.sigmoid(audio, text, temperature=temperature, bias=bias, **options)


@pytest.mark.parametrize(("size", "chunk"), [("b16", None), ("b16", 5), ("b64", None), ("b64", 24)])
@pytest.mark.parametrize("name", SIGMOID)
def test_sigmoid_as_released(golden, name, size, chunk):
    temperature, bias, regularise = re.fullmatch(r"sig_temp(.+)_bias(.+)_reg(.)", name).groups()
    parameters = {"temperature": float(temperature)} | ({"bias": float(bias)} if bias != "None" else {})
    prefix = f"{size}/{name}"
    check(golden("losses"), prefix, released_sigmoid, parameters, regularise=regularise == "1", chunk=chunk)


def paper_sigmoid(audio, text, tau, beta, reduction):
    value = losses.sigmoid(audio, text, temperature=tau, bias=beta, form="paper")
    return value / audio.shape[0] if reduction == "mean" else value


@pytest.mark.parametrize("size", ["b16", "b64"])
@pytest.mark.parametrize("name", PAPER)
def test_sigmoid_as_in_the_paper(golden, name, size):
    tau, beta, reduction = re.fullmatch(r"paper_sigmoid_tau([\d.]+)_beta([-\d.]+)_(\w+)", name).groups()
    parameters = {"tau": float(tau), "beta": float(beta)}
    check(golden("losses"), f"{size}/{name}", paper_sigmoid, parameters, reduction=reduction)


def released_infonce(audio, text, log_scale, file_ids=None, regularise=False):
    targets = losses.diagonal_targets(np.asarray(file_ids)) if file_ids else None
    return losses.infonce(audio, text, log_scale=log_scale, targets=targets, regularise=regularise)


def released_bce(audio, text, temperature, file_ids=None, regularise=False):
    targets = losses.diagonal_targets(np.asarray(file_ids)) if file_ids else None
    return losses.bce(audio, text, temperature=temperature, targets=targets, regularise=regularise)


@pytest.mark.parametrize("size", ["b16", "b64"])
@pytest.mark.parametrize("name", INFONCE + BCE)
def test_infonce_and_bce(golden, name, size):
    kind, temperature, regularise, files = re.fullmatch(r"(\w+)_temp(.+)_reg(.)(_files)?", name).groups()
    recorded = golden("losses")
    static = {"file_ids": tuple(recorded[f"{size}/file_id"].tolist()) if files else None}
    loss, start = released_infonce, -np.log(float(temperature))
    if kind == "bce":
        loss, start = released_bce, float(temperature)
    check(recorded, f"{size}/{name}", loss, {"temperature": start}, regularise=regularise == "1", **static)


def ml_clap(audio, text, temperature, ids=None, regularise=False):
    targets = losses.joint_targets(np.asarray(ids)) if ids else None
    log_scale = -jnp.log(temperature)
    return losses.infonce(audio, text, log_scale=log_scale, targets=targets, regularise=regularise)


@pytest.mark.parametrize("size", ["b16", "b64"])
@pytest.mark.parametrize("name", ML_CLAP)
def test_ml_clap_with_joint_positives(golden, name, size):
    recorded = golden("losses")
    ids = tuple(recorded[f"{size}/file_id"].tolist()) if name.endswith("_idx") else None
    check(recorded, f"{size}/{name}", ml_clap, {"temperature": 0.07}, ids=ids, regularise="reg1" in name)


def clara(audio, text, audio_t, text_t):
    return losses.infonce(audio, text, log_scale=(audio_t, text_t))


@pytest.mark.parametrize("size", ["b16", "b64"])
def test_clara_with_two_temperatures(golden, size):
    starts = {"audio_t": np.log(1 / 0.11), "text_t": np.log(1 / 0.07)}
    check(golden("losses"), f"{size}/clara", clara, starts)


def clara_soft(audio, text, temp):
    alike = jnp.matmul(audio, audio.T) + jnp.matmul(text, text.T)
    targets = jax.nn.softmax(alike / 2 * temp, axis=1).T
    return losses.infonce(audio, text, log_scale=-jnp.log(temp), targets=targets)


@pytest.mark.parametrize("size", ["b16", "b64"])
@pytest.mark.parametrize("temperature", ["0.3", "1"])
def test_clara_with_targets_from_the_embeddings(golden, size, temperature):
    name = f"{size}/clara_cliploss_temp{temperature}"
    check(golden("losses"), name, clara_soft, {"temp": float(temperature)})


def clasp(audio, text):
    audio, text = (rows / jnp.linalg.norm(rows, axis=1, keepdims=True) for rows in (audio, text))
    return losses.infonce(audio, text, log_scale=float(np.log(0.07)))


@pytest.mark.parametrize("size", ["b16", "b64"])
def test_clasp_multiplies_by_its_temperature(golden, size):
    check(golden("losses"), f"{size}/clasp_contrastive", clasp, {}, scales=(3.0, 2.0))


@pytest.mark.parametrize("size", ["b16", "b64"])
@pytest.mark.parametrize("delta", ["0.1", "0.6", "1.0"])
def test_huber(golden, size, delta):
    name = f"{size}/huber_delta{delta}"
    check(golden("losses"), name, losses.huber, {}, scales=(5.0, 5.0), delta=float(delta))


def test_the_record_holds_no_loss_that_is_left_out(golden):
    named = {key.split("/")[1] for key in golden("losses") if key.endswith("/value")}
    others = {f"huber_delta{d}" for d in ("0.1", "0.6", "1.0")} | {"clara", "clasp_contrastive"}
    others |= {"clara_cliploss_temp0.3", "clara_cliploss_temp1"}
    assert named == {*SIGMOID, *PAPER, *INFONCE, *BCE, *ML_CLAP, *others}
