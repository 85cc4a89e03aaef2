"""What a converted module remembers of its checkpoint, so that the way back is bit for bit."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from glap_jax.errors import GlapError

# Attribute of a module that holds its layout.
LAYOUT = "torch_layout"
_WORDS = "torch_layout.json"
_ARRAYS = "torch_layout.npz"


@dataclasses.dataclass(frozen=True, eq=False)
class TorchLayout:
    """Spelling and extras of a published layout.

    Compared by identity, so that it can be a static attribute of a module.

    Attributes:
        family: the family whose table was used.
        table: its number among the tables of the family, one for each published layout.
        spelling: alternatives of the table's keys, as `glap_jax.convert.spelling.choose` gives them.
        absent: optional keys (buffers, counters, parameters with a default) that the checkpoint did without.
        dtypes: types other than float32, by key.
        kept: counters, extras, and buffers that differ in the last bits from what the constants give, by key.
    """

    family: str
    table: int = 0
    spelling: dict[str, str] = dataclasses.field(default_factory=dict)
    absent: tuple[str, ...] = ()
    dtypes: dict[str, str] = dataclasses.field(default_factory=dict)
    kept: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Writes `torch_layout.json` and `torch_layout.npz` (small without extras) into `folder`."""
        words = {name: getattr(self, name) for name in ("family", "table", "spelling", "absent", "dtypes")}
        (folder / _WORDS).write_text(json.dumps(words, indent=2), encoding="utf-8")
        np.savez(folder / _ARRAYS, allow_pickle=False, **self.kept)

    @classmethod
    def load(cls, folder: Path) -> "TorchLayout | None":
        """The layout that `save` wrote, or none where there is none.

        Raises:
            GlapError: the files are damaged.
        """
        if not (folder / _WORDS).is_file():
            return None
        try:
            words = json.loads((folder / _WORDS).read_text(encoding="utf-8"))
            with np.load(folder / _ARRAYS, allow_pickle=False) as arrays:
                # NumPy's format forgets the name of bfloat16, not its bits.
                kept = {
                    key: arrays[key].view(words["dtypes"].get(key, arrays[key].dtype)) for key in arrays.files
                }
            words["absent"] = tuple(words["absent"])
            return cls(**words, kept=kept)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise GlapError(
                f"'{folder / _WORDS}' or its arrays are damaged ({error}); remove {_WORDS} to do without them"
            ) from error
