"""Parameters on disk: written one at a time from where they are, and read by each device in its own part."""

import functools
import gc
import math
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from glap_jax import families, folder, parameters, rules
from glap_jax.convert.checkpoint import Lazy, in_memory
from glap_jax.errors import GlapError

GIVEN = {"audio": {"num_heads": 4}, "text": {"num_heads": 4}}


def values(module):
    return {rules.path_name(path): leaf.get_value() for path, leaf in nnx.to_flat_state(nnx.state(module))}


@pytest.fixture(scope="module")
def mesh():
    return Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "fsdp"))


def test_a_checkpoint_streams_into_a_folder(weights, tmp_path):
    """Parameters that are still on disk give the folder that those in memory give, and the same way back."""
    tensors = weights("glap")
    whole = families.from_torch("glap", tensors, GIVEN)
    streamed = families.open_module("glap", in_memory(tensors), GIVEN)
    assert all(isinstance(value, Lazy) for value in values(streamed).values())
    for name, module in (("whole", whole), ("streamed", streamed)):
        folder.save(tmp_path / name, module, module.config)
    expected, found = (values(folder.load_module(tmp_path / name)[0]) for name in ("whole", "streamed"))
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        assert found[path].dtype == value.dtype
        assert np.asarray(found[path]).tobytes() == np.asarray(value).tobytes(), path
    again = families.to_torch(folder.load_module(tmp_path / "streamed")[0])
    assert {key: value.tobytes() for key, value in again.items()} == {
        key: value.tobytes() for key, value in tensors.items()
    }


def test_at_most_one_parameter_is_in_memory(tmp_path):
    """Each is read when the one before it was written and freed."""
    shape, read = (3, 1024, 512), []

    def fill(number):
        gc.collect()
        assert not [earlier for earlier in read if earlier() is not None]
        array = np.full(shape, number, np.float32)
        read.append(weakref.ref(array))
        return array

    kind = np.dtype("float32")
    tree = {str(number): Lazy(shape, kind, functools.partial(fill, number)) for number in range(4)}
    parameters.write(tmp_path / "parameters", tree, tmp_path)
    assert len(read) == 4
    wanted = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)
    for number, value in parameters.read(tmp_path / "parameters", wanted, tmp_path).items():
        np.testing.assert_array_equal(value, np.full(shape, int(number), np.float32))


def bytes_read() -> int:
    (found,) = tensorstore.experimental_collect_matching_metrics("/tensorstore/kvstore/file/bytes_read")
    return found["values"][0]["value"]


@pytest.mark.parametrize(
    ("shape", "devices", "spec"),
    [((4, 1024, 2048), (4, 2), P("data", None, "fsdp")), ((4102, 1024), (1, 2), P("fsdp"))],
)
def test_each_device_reads_its_part_only(tmp_path, shape, devices, spec):
    """Layer by layer and width by width, or rows of an awkward count: hardly a byte is read twice."""
    mesh = Mesh(np.array(jax.devices()[: math.prod(devices)]).reshape(devices), ("data", "fsdp"))
    array = np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
    parameters.write(tmp_path / "parameters", {"a": array}, tmp_path)
    wanted = {"a": jax.ShapeDtypeStruct(shape, jnp.float32)}
    before = bytes_read()
    found = parameters.read(tmp_path / "parameters", wanted, tmp_path, NamedSharding(mesh, spec))["a"]
    assert {shard.data.size for shard in found.addressable_shards} == {array.size // mesh.size}
    np.testing.assert_array_equal(found, array)
    assert bytes_read() - before < 1.25 * array.nbytes


def test_a_module_goes_where_rules_send_it(mesh, weights, tmp_path):
    module = families.from_torch("glap", weights("glap"), GIVEN)
    folder.save(tmp_path / "model", module, module.config)
    split, everywhere = NamedSharding(mesh, P(None, "fsdp")), NamedSharding(mesh, P())
    places = rules.apply([("_head/.*kernel", split), (".*", everywhere)], values(module))
    loaded, _ = folder.load_module(tmp_path / "model", sharding=places)
    for path, value in values(loaded).items():
        assert value.sharding == places[path], path
    expected = values(module)
    for path, value in values(loaded).items():
        np.testing.assert_array_equal(value, expected[path])
    del places["bias"]
    with pytest.raises(GlapError, match="name no place for 'bias'"):
        folder.load_module(tmp_path / "model", sharding=places)


def test_saving_and_loading_say_nothing(tmp_path, caplog, weights):
    module = families.from_torch("glap", weights("glap"), GIVEN)
    folder.save(tmp_path / "model", module, module.config)
    folder.load_module(tmp_path / "model")
    assert caplog.text == ""
