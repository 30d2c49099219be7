"""The reader of official EDM pickles: the reference's own file reproduces, hostile ones are refused by name."""

import contextlib
import io
import os
import pickle
import pickletools
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rp_models import CheckpointError, load, save, zoo
from rp_models.importers import read_nvlabs
from rp_testing import GOLDEN_FILES, Golden

FIXTURE = GOLDEN_FILES / "edm_network_fixture.pkl"


class Call:
    """An object whose pickle is a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def call(name, *arguments):
    """The pickle of a call of a function that need not exist here."""
    module, _, function = name.rpartition(".")
    packed = pickle.dumps(arguments, protocol=3)[2:-1]
    return b"\x80\x03c" + f"{module}\n{function}\n".encode() + packed + b"R."


def refused(tmp_path, data):
    path = tmp_path / "network.pkl"
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        read_nvlabs(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_the_references_own_pickle_gives_its_configuration_and_outputs():
    golden = Golden("edm_ddpmpp_tiny")
    imported = read_nvlabs(FIXTURE)
    assert imported.architecture == "edm"
    assert imported.arguments == {**golden.config["build"]["kwargs"], "use_fp16": False}
    golden.check_keys(zoo.build(imported.architecture, **imported.arguments))
    assert list(imported.state) == list(golden.shapes)
    model = imported.build()
    golden.check(out_D=model(golden["in_x"], golden["in_sigma"], golden["in_class_labels"]))


def test_an_imported_network_survives_our_own_format_bit_for_bit(tmp_path):
    imported = read_nvlabs(FIXTURE)
    save(imported.build(), tmp_path / "edm.safetensors")
    state = load(tmp_path / "edm.safetensors").state_dict()
    assert state.keys() == imported.state.keys()
    assert all(torch.equal(value, imported.state[key]) for key, value in state.items())


def test_numpys_older_name_is_known(tmp_path):
    data = bytearray(FIXTURE.read_bytes())
    frames = [position for opcode, _, position in pickletools.genops(bytes(data)) if opcode.name == "FRAME"]
    for position in reversed(frames):  # their lengths would no longer be right
        del data[position : position + 9]
    data = data.replace(b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray")
    assert b"numpy._core" not in data
    path = tmp_path / "network.pkl"
    path.write_bytes(data)
    assert read_nvlabs(path).state.keys() == read_nvlabs(FIXTURE).state.keys()


def test_a_network_may_stand_alone_and_have_positional_arguments(tmp_path):
    layer = {"_parameters": {}, "_buffers": {}, "_non_persistent_buffers_set": [], "_modules": {}}
    layer |= {"_init_args": (8, 1), "_init_kwargs": {"channel_mult": (1, 2), "sigma_data": 0.3}}
    path = tmp_path / "network.pkl"
    path.write_bytes(
        call("torch_utils.persistence._reconstruct_persistent_obj", {"class_name": "VEPrecond", "state": layer})
    )
    imported = read_nvlabs(path)
    assert imported.architecture == "ve-precond"
    assert imported.arguments == {"img_resolution": 8, "img_channels": 1, "channel_mult": [1, 2], "sigma_data": 0.3}


def test_a_call_of_the_shell_is_refused_by_name_and_not_made(tmp_path):
    marker = tmp_path / "was run"
    evil = Call(os.system, f"touch '{marker}'")
    for content in (evil, {"ema": evil}, [evil], {"ema": {"state": evil}}):
        assert f"{os.system.__module__}.system" in refused(tmp_path, pickle.dumps(content))
    buffer = io.BytesIO()
    torch.save(evil, buffer, _use_new_zipfile_serialization=False)
    for inner in (pickle.dumps(evil), buffer.getvalue()):
        message = refused(tmp_path, call("torch.storage._load_from_bytes", inner))
        assert f"{os.system.__module__}.system" in message
    assert not marker.exists()


@pytest.mark.parametrize(
    "name",
    [
        "builtins.eval",
        "builtins.getattr",
        "torch.load",
        "torch.storage._load_from_bytes.__globals__",
        "torch_utils.persistence.import_hook",
        "numpy.core.multiarray._reconstruct",
        "collections.defaultdict",
        "rp_models.importers.nvlabs._memory",
    ],
)
def test_foreign_names_are_refused(tmp_path, name):
    assert f"asks for {name}" in refused(tmp_path, call(name, "x"))


@pytest.mark.parametrize("size", [0, 1, 50, 5_000, 56_491, 700_000, 1_133_816])
def test_a_truncated_file_is_refused(tmp_path, size):
    assert "not a complete EDM pickle" in refused(tmp_path, FIXTURE.read_bytes()[:size])


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"abc.",  # bytes of a tebibyte
        b"\x80\x04B" + struct.pack("<I", 10**9) + b"abc.",
        b"\x80\x04\x95" + struct.pack("<Q", 2**50) + b"N.",  # a frame
        b"\x80\x02]r" + struct.pack("<I", 10**9) + b".",  # place number 10^9 in the table of objects
    ],
    ids=["bytes", "shorter bytes", "frame", "table"],
)
def test_claims_of_enormous_sizes_are_refused_at_once(tmp_path, data):
    refused(tmp_path, data)


def test_a_tensor_larger_than_its_memory_is_refused(tmp_path):
    opcodes = pickletools.genops(FIXTURE.read_bytes())
    memory = next(value for _, value, _ in opcodes if isinstance(value, bytes) and len(value) > 100)
    parts = [call("torch.storage._load_from_bytes", memory)]
    parts += [pickle.dumps(value, protocol=3) for value in (0, (10**9,), (0,), False, {})]
    arguments = b"".join(part[2:-1] for part in parts)  # without protocol and stop
    message = refused(tmp_path, b"\x80\x03ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR.")
    assert "shape (1000000000,)" in message
    cut = call("torch.storage._load_from_bytes", memory[:-4])
    assert "memory" in refused(tmp_path, cut)


def test_what_is_no_edm_network_is_refused(tmp_path):
    assert "found a list" in refused(tmp_path, pickle.dumps([1, 2]))
    assert "found a NoneType" in refused(tmp_path, pickle.dumps({"model": 1}))
    other = {"class_name": "iDDPMPrecond", "state": {}}
    message = refused(tmp_path, call("torch_utils.persistence._reconstruct_persistent_obj", other))
    assert "EDMPrecond or VPPrecond or VEPrecond, found iDDPMPrecond" in message
    assert "not a complete EDM pickle" in refused(tmp_path, b"<!DOCTYPE html>")
    with pytest.raises(CheckpointError, match="no such file"):
        read_nvlabs(tmp_path / "absent.pkl")


@settings(deadline=None, max_examples=40)
@given(changes=st.lists(st.tuples(st.integers(0, 60_000), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_file_is_read_or_refused_but_nothing_else(tmp_path_factory, changes):
    data = bytearray(FIXTURE.read_bytes())
    for position, value in changes:
        data[position] = value
    path = tmp_path_factory.mktemp("damaged") / "network.pkl"
    path.write_bytes(data)
    with contextlib.suppress(CheckpointError):  # any other error fails the test
        read_nvlabs(path)
