"""Training. The module itself is callable: `glap_jax.train(config)`."""

import sys
import types
from typing import Any


class _Train(types.ModuleType):
    """Lets `glap_jax.train` be both the room's name and the function, in whatever order they are imported."""

    def __call__(self, config: Any, **options: Any) -> Any:
        from glap_jax.train.loop import train

        return train(config, **options)


sys.modules[__name__].__class__ = _Train
