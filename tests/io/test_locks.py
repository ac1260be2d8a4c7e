"""Test locks of folders and temporary files: by whom they are held, without support, on Windows, and after kills."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import pytest

from preimage.io import atomic, atomic_write, locks
from preimage.io.folders import make_folders
from preimage.io.locks import LOCK, folder_lock, temporary_folder, try_lock

posix = pytest.mark.skipif(locks.fcntl is None, reason="without fcntl")


class _Msvcrt:
    """The locks of Windows: held ones are refused with EACCES."""

    LK_NBLCK = 2

    def __init__(self, error: int | None = None) -> None:
        self.error, self.held = error, dict[tuple[int, int], int]()

    def locking(self, descriptor: int, mode: int, length: int) -> None:
        assert (mode, length, os.lseek(descriptor, 0, os.SEEK_CUR)) == (self.LK_NBLCK, 1, 0)
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error))
        status = os.fstat(descriptor)
        if self._is_open(holder := self.held.get((status.st_dev, status.st_ino), -1)) and holder != descriptor:
            raise PermissionError(errno.EACCES, "Permission denied")
        self.held[status.st_dev, status.st_ino] = descriptor

    @staticmethod
    def _is_open(descriptor: int) -> bool:
        try:
            os.fstat(descriptor)
        except OSError:
            return False
        return True


@pytest.fixture(params=[pytest.param("posix", marks=posix), "windows"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "windows" and os.name != "nt":
        monkeypatch.setattr(locks, "fcntl", None)
        monkeypatch.setattr(locks, "msvcrt", _Msvcrt())
    return str(request.param)


@pytest.mark.usefixtures("system")
def test_a_folder_is_locked_once(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    with folder_lock(path), folder_lock(tmp_path), pytest.raises(ValueError, match=r"b: .*process"), folder_lock(path):
        pass
    with folder_lock(path):
        pass


@pytest.mark.usefixtures("system")
def test_a_folder_is_waited_for(tmp_path: Path) -> None:
    waits: list[float] = []
    release, order = threading.Event(), []

    def wait(waited: float) -> None:
        waits.append(waited)
        release.set()

    def second() -> None:
        with folder_lock(tmp_path, wait):
            order.append("second")

    thread = threading.Thread(target=second)
    with folder_lock(tmp_path):
        thread.start()
        assert release.wait(60)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert waits[0] == 0 and waits == sorted(waits)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
@pytest.mark.parametrize("windows", [False, True])
def test_file_systems_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, windows: bool) -> None:
    def unsupported(*arguments: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(locks, "msvcrt", _Msvcrt(code))
    fake = SimpleNamespace(flock=unsupported, LOCK_EX=2, LOCK_NB=4)
    monkeypatch.setattr(locks, "fcntl", None if windows else fake)
    with folder_lock(tmp_path), folder_lock(tmp_path):
        for _ in range(2):
            with atomic_write(tmp_path / "f") as first, atomic_write(tmp_path / "f") as second:
                first.write(b"first")
                second.write(b"second")
            assert (tmp_path / "f").read_bytes() == b"first"  # the last to be complete
    assert sorted(os.listdir(tmp_path)) == [LOCK, "f"]


def test_neither_fcntl_nor_msvcrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "fcntl", None)
    monkeypatch.setattr(locks, "msvcrt", None)
    with folder_lock(tmp_path), folder_lock(tmp_path), open(tmp_path / LOCK, "rb") as file:
        assert try_lock(file) is None


@posix
def test_a_lock_file_that_is_deleted_meanwhile(tmp_path: Path) -> None:
    """Whoever waited for it would otherwise hold a lock that a third process knows nothing of."""
    folder, waiting, proceed, locked = tmp_path / "f", threading.Event(), threading.Event(), threading.Event()

    def second() -> None:
        def wait(waited: float) -> None:
            waiting.set()
            assert proceed.wait(60)

        with folder_lock(folder, wait):
            assert os.listdir(folder) == [LOCK]
            with pytest.raises(ValueError, match="process"), folder_lock(folder):
                pass
            locked.set()

    thread = threading.Thread(target=second)
    with folder_lock(folder):
        thread.start()
        assert waiting.wait(60)
        (folder / LOCK).unlink()
        folder.rmdir()
    proceed.set()
    thread.join()
    assert locked.is_set()


@posix
def test_inodes_that_change_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "is_at", lambda file, path: False)  # as some network file systems say
    with folder_lock(tmp_path):
        pass
    with atomic_write(tmp_path / "f") as file:
        file.write(b"1")
    assert (tmp_path / "f").read_bytes() == b"1"


def test_temporary_folders(tmp_path: Path, system: str) -> None:
    """The next user deletes the folder of a killed process, but not that of one at work."""
    left = tmp_path / "out" / ".features-left"
    (left / "store").mkdir(parents=True)
    (left / "store" / "f").touch()
    with temporary_folder(tmp_path / "out", ".features-") as first:
        assert not left.exists()
        (first / "f").touch()
        with temporary_folder(tmp_path / "out", ".features-") as second:
            assert (first / "f").exists() and first != second
    assert os.listdir(tmp_path / "out") == []


def _left_by_kill(path: Path) -> Path:
    """Write what a process that was killed while it wrote the file has left, and return its path."""

    class _Killed(BaseException):
        pass

    left: list[Path] = []
    with pytest.MonkeyPatch.context() as patched, pytest.raises(_Killed), atomic_write(path) as file:
        patched.setattr(Path, "unlink", lambda path, **options: left.append(path))
        file.write(b"half")
        raise _Killed
    assert left[0].exists()
    return left[0]


@posix
def test_what_a_killed_writer_left_is_deleted(tmp_path: Path) -> None:
    left = _left_by_kill(tmp_path / "f")
    assert _left_by_kill(tmp_path / "f") == left and _left_by_kill(tmp_path / "g") != left
    for name in "fg":
        with atomic_write(tmp_path / name) as file:
            file.write(b"whole")
    assert sorted(os.listdir(tmp_path)) == ["f", "g"]


@posix
def test_a_writer_at_work_is_left_alone(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "f") as first:
        first.write(b"first")
        with atomic_write(tmp_path / "f") as second:
            second.write(b"second")
        assert (tmp_path / "f").read_bytes() == b"second"
    assert (tmp_path / "f").read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["f"]


@posix
@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "read-only"])
def test_a_foreign_file_under_the_temporary_name(tmp_path: Path, kind: str) -> None:
    """In a folder that several users write, others could have created it."""
    left = _left_by_kill(tmp_path / "f")
    left.unlink()
    (tmp_path / "mine").write_bytes(b"mine")
    if kind == "link":
        left.symlink_to("mine")
    elif kind == "pipe":
        os.mkfifo(left)
    elif kind == "folder":
        left.mkdir()
    else:
        left.touch(mode=0o400)
    with atomic_write(tmp_path / "f") as file:
        file.write(b"whole")
    assert (tmp_path / "f").read_bytes() == b"whole" and not (tmp_path / "f").is_symlink()
    assert (tmp_path / "mine").read_bytes() == b"mine"


@posix
def test_a_temporary_file_taken_for_an_abandoned_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another writer may find the file between its creation and its lock, and delete it."""
    lock, calls = atomic.try_lock, []

    def late(file: IO[Any]) -> bool | None:
        calls.append(file)
        if len(calls) == 1:
            assert atomic._delete_abandoned(next(tmp_path.glob(".preimage-*")))
        return lock(file)

    monkeypatch.setattr(atomic, "try_lock", late)
    with atomic_write(tmp_path / "f") as file:
        file.write(b"whole")
    assert len(calls) == 3, "the deleted file, its deletion, and another file"
    assert os.listdir(tmp_path) == ["f"]


def test_new_folders_are_synchronized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr("preimage.io.folders.sync_folders", synced.extend)
    make_folders(tmp_path / "a" / "b")
    assert synced == [tmp_path / "a", tmp_path]
    make_folders(tmp_path / "a" / "b")
    assert len(synced) == 2
    (tmp_path / "f").touch()
    for path in (tmp_path / "f", tmp_path / "dangling"):
        if path.name == "dangling":
            path.symlink_to("nowhere")
        with pytest.raises(FileExistsError, match="not a folder") as caught:
            make_folders(path)
        assert caught.value.filename == str(path)
