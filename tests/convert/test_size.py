"""A large GLAP checkpoint: time and memory of its conversion to a model folder, and the way back bit for bit.

By default at a sixth of the size; `GLAP_JAX_FULL_SIZE=1` takes the published sizes, 855 million parameters.
"""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from glap_jax.convert.readers import open_checkpoint

torch = pytest.importorskip("torch", reason="install the extra 'torch'")

MANIFEST = Path(__file__).parents[1] / "golden" / "manifests" / "state_dicts.json"
FULL = os.environ.get("GLAP_JAX_FULL_SIZE") == "1"
# Bytes that torch takes to open any checkpoint, and JAX for its first array.
OPENING = 0.15e9

CHILD = """
import sys
from pathlib import Path
import orbax.checkpoint, torch._subclasses.fake_tensor
from glap_jax.convert.command import convert
print(Path("/proc/self/status").read_text())
convert(Path(sys.argv[1]), Path(sys.argv[2]), to=sys.argv[3])
print(Path("/proc/self/status").read_text())
"""


def shapes() -> dict[str, tuple[int, ...]]:
    """Shapes of the released GLAP; when reduced, with fewer text layers and pieces."""
    found = json.loads(MANIFEST.read_text(encoding="utf-8"))["glap"]["state_dict"]
    if not FULL:
        found["text_encoder.model.encoder_frontend.embed.weight"][0] = 20_000
        late = re.compile(r"text_encoder\.model\.encoder\.layers\.([2-9]|\d\d)\.")
        found = {key: shape for key, shape in found.items() if not late.match(key)}
    return {key: tuple(shape) for key, shape in found.items()}


def random_checkpoint(path: Path) -> int:
    """Writes random weights in the released layout; returns the bytes of its tensors."""
    from glap_jax.audio.frontend import LogMel, hann

    generator = torch.Generator().manual_seed(0)
    model = {}
    for key, shape in shapes().items():
        if key.endswith("num_batches_tracked"):
            model[key] = torch.tensor(1234)
        elif key.endswith("window"):
            model[key] = torch.from_numpy(hann(512).copy())
        elif key.endswith("fb"):
            model[key] = torch.from_numpy(LogMel.filters().copy())
        else:
            model[key] = torch.rand(shape, generator=generator) - 0.5
    torch.save({"model": model, "config": {"outputpath": Path("experiments"), "model_args": {}}}, path)
    return sum(tensor.nbytes for tensor in model.values())


def convert(source: Path, out: Path, to: str) -> tuple[float, int]:
    """Seconds and growth of the peak of resident bytes of a conversion, in a process of its own."""
    start = time.perf_counter()
    words = [sys.executable, "-c", CHILD, str(source), str(out), to]
    # The fake devices of the tests would split nothing here, and cost memory.
    environment = {**os.environ, "XLA_FLAGS": ""}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=True)
    before, peak = re.findall(r"VmHWM:\s+(\d+) kB", done.stdout)
    return time.perf_counter() - start, (int(peak) - int(before)) * 1024


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads its peak memory from /proc")
def test_memory_time_and_the_way_back(tmp_path, capsys):
    source = tmp_path / "glap.pt"
    size = random_checkpoint(source)
    report = [f"{size / 1e9:.2f} GB"]
    steps = [(source, tmp_path / "jax", "jax"), (tmp_path / "jax", tmp_path / "back.pt", "pt")]
    steps.append((tmp_path / "jax", tmp_path / "hf", "safetensors"))
    for place, out, to in steps:
        seconds, peak = convert(place, out, to)
        report.append(f"{to}: {seconds:.0f} s, {peak / 1e9:.2f} GB at most, {peak / size:.2f} of the size")
        assert seconds < 180
        # A checkpoint streams into a folder; the other two begin with the whole model in memory.
        most = (0.5 if to == "jax" else 1.6) * size + OPENING
        assert peak < most, report
    original = open_checkpoint(source)
    for back in (open_checkpoint(tmp_path / "back.pt"), open_checkpoint(tmp_path / "hf")):
        assert set(back) == set(original)
        for key, value in original.items():
            found = back[key]
            assert found.dtype == value.dtype
            np.testing.assert_array_equal(found, value)
    with capsys.disabled():
        print("\n" + "\n".join(report))
