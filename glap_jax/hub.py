"""Models on the Hugging Face hub: `hf:organisation/name` in the place of a path."""

from collections.abc import Sequence
from pathlib import Path

from glap_jax.errors import GlapError

_PREFIX = "hf:"
# What a model is made of here, and where checkpoints lie; older repositories have torch files only.
_WORDS = ("*.json", "*.model", "*.npz", "parameters/**")
_TENSORS = (("*.safetensors",), ("*.pt", "*.pth"), ("*.bin",))


def local(path_or_hub_id: str | Path) -> Path:
    """The path itself, or the folder that `hf:organisation/name` was downloaded into.

    Of the forms in which a repository holds its tensors one is fetched: safetensors, else torch's.

    Raises:
        GlapError: no network, no such repository, or no access to it.
    """
    name = str(path_or_hub_id)
    if not name.startswith(_PREFIX):
        return Path(path_or_hub_id)
    folder = Path()
    for patterns in _TENSORS:
        folder = _download(name, _WORDS + patterns)
        if (folder / "parameters").is_dir() or any(any(folder.glob(pattern)) for pattern in patterns):
            break
    return folder


def _download(name: str, patterns: Sequence[str]) -> Path:
    import huggingface_hub

    try:
        return Path(
            huggingface_hub.snapshot_download(name.removeprefix(_PREFIX), allow_patterns=list(patterns))
        )
    # The hub's client raises many types: no network, no such repository, no access, a malformed name.
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise GlapError(
            f"model: '{name}' cannot be downloaded ({reason:.200}); check the name and the network, or "
            "download it elsewhere and give its folder"
        ) from error
