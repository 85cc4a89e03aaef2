"""glap_jax: contrastive audio-text pretraining for JAX.

The public names are imported when they are first used, so that `import glap_jax` takes no time.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glap_jax import encoders as encoders
    from glap_jax import export as export
    from glap_jax import losses as losses
    from glap_jax.eval.evaluate import evaluate as evaluate
    from glap_jax.eval.metrics import retrieval_metrics as retrieval_metrics
    from glap_jax.families import from_torch as from_torch
    from glap_jax.families import to_torch as to_torch
    from glap_jax.inference import Model as Model
    from glap_jax.inference import load as load
    from glap_jax.publish import save_hub as save_hub
    from glap_jax.text.tokenizers import SonarTokenizer as SonarTokenizer
    from glap_jax.train.adam8bit import adam8bit as adam8bit
    from glap_jax.train.loop import train as train

    __version__: str

# Public name -> module that defines it; none where the name is that of a module.
_PLACES = {
    "Model": "glap_jax.inference",
    "SonarTokenizer": "glap_jax.text.tokenizers",
    "adam8bit": "glap_jax.train.adam8bit",
    "encoders": None,
    "evaluate": "glap_jax.eval.evaluate",
    "export": None,
    "from_torch": "glap_jax.families",
    "load": "glap_jax.inference",
    "losses": None,
    "retrieval_metrics": "glap_jax.eval.metrics",
    "save_hub": "glap_jax.publish",
    "to_torch": "glap_jax.families",
    # The subpackage is callable, since importing any part of it binds this name to it.
    "train": None,
}

__all__ = ["__version__", *_PLACES]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("glap_jax")
    if name not in _PLACES:
        raise AttributeError(f"module 'glap_jax' has no attribute '{name}'")
    place = _PLACES[name]
    if place is None:
        return importlib.import_module(f"glap_jax.{name}")
    value = getattr(importlib.import_module(place), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
