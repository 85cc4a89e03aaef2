"""Every family is strict: what is missing, unused or misshapen in a checkpoint stands in one error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glap_jax import families
from glap_jax.audio.ced import CedConfig
from glap_jax.audio.clara import ClaraAudioConfig
from glap_jax.audio.clasp_tower import ClaspAudioConfig
from glap_jax.config import ModelConfig
from glap_jax.errors import GlapError
from glap_jax.text.bert import BertConfig
from glap_jax.text.clara import ClaraTextConfig

SYSTEMS = {
    "ml_clap": ModelConfig(audio=CedConfig.base(), family="ml_clap"),
    "clara": ModelConfig(audio=ClaraAudioConfig(), text=ClaraTextConfig(), family="clara"),
    "clasp": ModelConfig(ClaspAudioConfig(), BertConfig.labse(), joint=768, family="clasp"),
}


def published(family):
    """A state dict of the family in its default sizes, of views of a single zero, and its config."""
    home = families.family_module(family)
    config = SYSTEMS.get(family) or home.Config()
    module = nnx.eval_shape(lambda: home.Module(config, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0)))
    zero = np.zeros((), np.float32)
    nnx.update(module, jax.tree.map(lambda leaf: np.broadcast_to(zero, leaf.shape), nnx.state(module)))
    return families.to_torch(module), home.config_to_torch(config)


@pytest.mark.parametrize("family", families.FAMILIES)
def test_all_problems_of_a_checkpoint_stand_in_one_line(family):
    tensors, config = published(family)
    # Vectors tell no size that the configuration could miss.
    vectors = [key for key, value in tensors.items() if value.ndim == 1 and key.endswith(("weight", "bias"))]
    missing, misshapen = vectors[-1], vectors[-2]
    del tensors[missing]
    tensors[misshapen] = np.zeros((*tensors[misshapen].shape, 2), np.float32)
    tensors["unheard.of"] = np.zeros(3, np.float32)
    with pytest.raises(GlapError) as raised:
        families.from_torch(family, tensors, config)
    message = str(raised.value)
    assert "\n" not in message
    assert f"does not fit family '{family}': tensors 1 missing: {missing}; " in message
    assert "1 that the model has no place for: unheard.of; " in message
    assert f"1 of another shape: {misshapen} is " in message
