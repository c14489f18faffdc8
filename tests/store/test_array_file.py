"""Packed arrays: read by the safetensors library and by ours, and damaged ones."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import load, save

from datus.store.array_file import pack, read_writable, unpack

TYPES = ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?")


@st.composite
def tables(draw):
    name, side = st.sampled_from(["keys", "a/b", "é"]), st.integers(0, 3)
    array = arrays.arrays(
        st.sampled_from(TYPES).map(np.dtype), st.lists(side, max_size=3).map(tuple)
    )
    images = draw(st.lists(st.sampled_from("abc"), unique=True))
    return {image: draw(st.dictionaries(name, array, max_size=3)) for image in images}


def joined(images, table):
    return memoryview(bytearray(b"".join(pack(images, table))))


def test_arrays_are_not_copied_and_may_lie_in_any_order():
    keys = np.arange(6.0).reshape(2, 3)
    assert np.shares_memory(np.frombuffer(pack(["a"], {"a": {"keys": keys}})[1]), keys)
    for other in (keys.astype(">f8"), np.asfortranarray(keys)):
        assert joined(["a"], {"a": {"keys": other}}) == joined(["a"], {"a": {"keys": keys}})


@settings(max_examples=60, deadline=None)
@given(tables())
def test_what_is_packed_comes_back_as_the_library_reads_it(table):
    images = sorted(table)
    packed = joined(images, table)
    found = unpack(images, packed)
    library = load(bytes(packed))
    tensors = {f"{images.index(i):06d}/{n}": a for i in table for n, a in table[i].items()}
    assert bytes(packed) == save(tensors)
    assert found.keys() == table.keys()
    for row, image in enumerate(images):
        assert found[image].keys() == table[image].keys()
        for name, array in table[image].items():
            one, other = found[image][name], library[f"{row:06d}/{name}"]
            assert (one.dtype, one.shape) == (array.dtype, array.shape)
            assert one.tobytes() == array.tobytes() == other.tobytes()


def test_arrays_lie_in_the_memory_that_was_read_and_can_be_written_to():
    packed = joined(["a"], {"a": {"keys": np.arange(6.0).reshape(2, 3)}})
    keys = unpack(["a"], packed)["a"]["keys"]
    assert keys.flags.writeable
    assert keys.flags.aligned
    keys[1, 2] = 7.5
    assert unpack(["a"], packed)["a"]["keys"][1, 2] == 7.5


def crooked(**changes):
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes
    header = json.dumps({"000000/keys": entry}).encode()
    return bytearray(len(header).to_bytes(8, "little") + header + bytes(8))


@pytest.mark.parametrize(
    "packed",
    [
        bytearray(),
        bytearray(b"\xff" * 8),
        bytearray(b"\x02" + bytes(7) + b"{}more"),
        bytearray(b"\x02" + bytes(7) + b"[]"),
        crooked(dtype="F33"),
        crooked(dtype=None),
        crooked(shape=[-2]),
        crooked(shape=[3]),
        crooked(shape=[2.0]),
        crooked(shape="2"),
        crooked(shape=[2**40, 2**40]),
        crooked(data_offsets=[0, 4]),
        crooked(data_offsets=[4, 12]),
        crooked(data_offsets=[-8, 0]),
        crooked(data_offsets=[0]),
        crooked()[:-1],
        bytearray(save({"keys": np.zeros(2)})),
        bytearray(save({"000001/keys": np.zeros(2)})),
    ],
    ids=repr,
)
def test_other_bytes_are_refused(packed):
    with pytest.raises((ValueError, LookupError, TypeError, AttributeError)):
        unpack(["a"], packed)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 200), st.integers(0, 255))
def test_a_changed_byte_is_an_error_or_arrays(place, value):
    packed = joined(["a"], {"a": {"keys": np.ones((2, 3), np.float32)}})
    packed[place % len(packed)] = value
    try:
        found = unpack(["a"], packed)
    except (ValueError, LookupError, TypeError, AttributeError):
        return
    assert all(isinstance(one, np.ndarray) for one in found["a"].values())


@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_a_file_is_read_whole(tmp_path, size):
    content = np.random.default_rng(0).bytes(size)
    (tmp_path / "file").write_bytes(content)
    assert read_writable(str(tmp_path / "file")) == bytearray(content)
