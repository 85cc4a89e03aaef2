"""The public names: complete, lazy, and cheap to import."""

import json
import subprocess
import sys
from importlib.metadata import version

import pytest

import glap_jax

HEAVY = (
    "torch",
    "transformers",
    "matplotlib",
    "grain",
    "orbax",
    "tyro",
    "sentencepiece",
    "soundfile",
    "flax",
)


def run(script):
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_import_is_quick_and_light():
    seconds, loaded = run(f"""
import json, sys, time
began = time.perf_counter()
import glap_jax
print(json.dumps([time.perf_counter() - began, [name for name in {HEAVY} if name in sys.modules]]))
""")
    assert seconds < 2
    assert loaded == []


def test_using_the_api_imports_no_torch():
    assert (
        run("""
import json, sys
import glap_jax
glap_jax.load, glap_jax.from_torch, glap_jax.retrieval_metrics, glap_jax.losses.sigmoid
print(json.dumps([name for name in ("torch", "transformers", "matplotlib", "tyro") if name in sys.modules]))
""")
        == []
    )


def test_every_public_name_is_there():
    for name in glap_jax.__all__:
        assert getattr(glap_jax, name) is not None
    assert set(glap_jax.__all__) <= set(dir(glap_jax))
    assert glap_jax.__version__ == version("glap_jax")
    assert callable(glap_jax.losses.sigmoid)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        glap_jax.trian  # noqa: B018


@pytest.mark.parametrize(
    "imports",
    [
        "import glap_jax",
        "import glap_jax.train.loop, glap_jax",
        "import glap_jax; glap_jax.train; import glap_jax.train.loop",
        "import glap_jax; from glap_jax.train.loop import train; import glap_jax.train.step",
    ],
)
def test_train_is_a_function_and_a_room(imports):
    """The call reaches the loop (which refuses what is no configuration), whatever was imported before."""
    assert run(f"""
import json
{imports}
try:
    glap_jax.train(None)
except AttributeError as error:
    print(json.dumps("NoneType" in str(error)))
""")
