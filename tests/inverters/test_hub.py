"""Test inverters in the Hugging Face Hub's cache, and what is asked of the Hub, which is a server of this process."""

from __future__ import annotations

import hashlib
import http.server
import json
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import preimage
from hub_cache import COMMIT, add_to_cache
from preimage.errors import FileFormatError
from preimage.inverters import Inverter, hub, list_inverters
from preimage.optional import import_optional

huggingface_hub = pytest.importorskip("huggingface_hub")
constants: Any = import_optional("huggingface_hub", "huggingface_hub.constants")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty cache, which is the default one, without a connection to the Hub."""
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return folder


class Hub(http.server.BaseHTTPRequestHandler):
    """The Hub's addresses of files, and its errors."""

    repositories: ClassVar[dict[str, dict[str, bytes]]] = {}
    asked: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        self.answer(with_data=False)

    def do_GET(self) -> None:
        self.answer(with_data=True)

    def answer(self, *, with_data: bool) -> None:
        repository, _, rest = self.path.removeprefix("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        if with_data:
            self.asked.append(name)
        if repository == "gated/one":
            self.refuse(403, "GatedRepo")
        elif repository == "broken/one":
            self.refuse(400, "")
        elif repository not in self.repositories:
            self.refuse(404, "RepoNotFound")
        elif revision not in ("main", COMMIT):
            self.refuse(404, "RevisionNotFound")
        elif name not in self.repositories[repository]:
            self.refuse(404, "EntryNotFound")
        else:
            data = self.repositories[repository][name]
            self.send_response(200)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data if with_data else b"")

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def forget_connections() -> None:
    """Make huggingface_hub read its settings again: versions before 1.0 keep a session that may be offline."""
    getattr(huggingface_hub.utils, "reset_sessions", lambda: None)()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[str]]]:
    """Return a function that puts files on the Hub, and returns the list of the files that are downloaded."""
    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{listening.server_port}"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    downloads: Any = import_optional("huggingface_hub", "huggingface_hub.file_download")
    monkeypatch.setattr(downloads, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)  # before 1.0

    def put(repository: str, files: dict[str, bytes]) -> list[str]:
        Hub.repositories[repository] = files
        return Hub.asked

    Hub.repositories.clear()
    Hub.asked.clear()
    forget_connections()
    yield put
    forget_connections()
    listening.shutdown()
    listening.server_close()
    thread.join()


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("config.json", "model.safetensors")}


# ---- In the cache ----


def test_an_inverter_in_the_cache_loads_by_its_name(tiny: Path, cache: Path, tmp_path: Path) -> None:
    add_to_cache(cache, "someone/hog-mine", tiny)
    add_to_cache(cache, "someone/hog-mine", tiny, revision="v1", commit="b" * 40)
    expected = preimage.load_inverter(tiny, "cpu").state_dict()
    other = tmp_path / "other"
    add_to_cache(other, "someone/elsewhere", tiny)
    for loaded in (
        preimage.load_inverter("someone/hog-mine", "cpu"),
        preimage.load_inverter("someone/hog-mine@v1", "cpu"),
        preimage.load_inverter("someone/hog-mine", "cpu", revision="v1"),
        preimage.load_inverter("someone/hog-mine", "cpu", revision="b" * 40),
        preimage.load_inverter("someone/elsewhere", "cpu", cache_dir=other),
        Inverter.load("someone/hog-mine"),
    ):
        found = loaded.state_dict()
        assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("someone/none", {}, r"someone/none: .*no such folder.*cache.*HF_HUB_OFFLINE"),
        ("someone/mine", {"revision": "v9"}, r"someone/mine@v9: .*HF_HUB_OFFLINE"),
        ("someone/mine@v9", {}, r"someone/mine@v9: .*HF_HUB_OFFLINE"),
        ("someone/mine@v9", {"revision": "v1"}, r"revision must be None for someone/mine@v9.*'v1'"),
        ("hog-compact", {"revision": "v1"}, r"revision must be None for a pretrained inverter.*'v1'"),
        ("folder", {"revision": "v1"}, r"revision must be None for a folder.*'v1'"),
        ("folder/none@refs/pr/1", {}, r"folder/none@refs/pr/1: neither a folder"),
        ("folder/none", {}, r"folder/none: neither a folder.*hog-compact.*user/name"),  # a path, not a repository
        ("a/b/c", {}, "a/b/c: neither a folder"),
        ("../b", {}, r"\.\./b: neither a folder"),
        ("user/na--me", {}, "user/na--me: neither a folder"),
    ],
)
def test_names_that_are_not_in_the_cache(
    name: str, options: dict[str, str], message: str, tiny: Path, cache: Path, tmp_path: Path
) -> None:
    add_to_cache(cache, "someone/mine", tiny)
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match=message):
        preimage.load_inverter(name, "cpu", **options)


def test_a_folder_of_the_same_path_comes_first(tiny: Path, tiny_lbp: Path, cache: Path, tmp_path: Path) -> None:
    add_to_cache(cache, "someone/mine", tiny)
    assert preimage.load_inverter("someone/mine", "cpu").spec.representation == "hog"
    Inverter.load(tiny_lbp).save(tmp_path / "someone" / "mine")
    assert preimage.load_inverter("someone/mine", "cpu").spec.representation == "lbp"


def test_files_in_the_cache_are_checked_as_those_of_a_folder(tiny: Path, cache: Path) -> None:
    snapshot = add_to_cache(cache, "someone/mine", tiny)
    blob = (snapshot / "model.safetensors").resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"x")
    with pytest.raises(FileFormatError, match=r"model\.safetensors: is damaged"):
        preimage.load_inverter("someone/mine", "cpu")
    (snapshot / "config.json").resolve().write_text('{"format": "other"}')
    with pytest.raises(FileFormatError, match=r"someone--mine.*config\.json: is not the config of an inverter"):
        preimage.load_inverter("someone/mine", "cpu")


def test_list_inverters_lists_those_in_the_cache_on_request(tiny: Path, cache: Path, tmp_path: Path) -> None:
    add_to_cache(cache, "someone/mine", tiny)
    add_to_cache(cache, "someone/mine", tiny, revision="v1", commit="b" * 40)
    add_to_cache(cache, "a-team/its-own", tiny)
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "bert"}')
    add_to_cache(cache, "someone/bert", other)
    assert list_inverters(cached=True) == [*list_inverters(), "a-team/its-own", "someone/mine"]
    assert "someone/mine" not in list_inverters()


def test_commands_and_functions_take_the_name(
    tiny: Path, cache: Path, photo_folder: Path, tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    add_to_cache(cache, "someone/mine", tiny)
    code, out, _ = run("info", "someone/mine", "--json")
    assert code == 0 and json.loads(out)["kind"] == "inverter"
    code, _, err = run("info", "photos/cat.npz")
    assert code == 1 and "photos/cat.npz: no such file" in err
    assert run("extract", "hog", photo_folder, "-o", tmp_path / "p.hog")[0] == 0
    assert run("invert", tmp_path / "p.hog", "-o", tmp_path / "out", "--inverter", "someone/mine@main")[0] == 0
    assert any((tmp_path / "out").rglob("*.png"))
    image = torch.rand(3, 64, 64)
    again = preimage.Reconstructor(inverter="someone/mine", device="cpu")(image)
    assert torch.equal(again, preimage.Reconstructor(inverter=tiny, device="cpu")(image))
    code, _, err = run("invert", tmp_path / "p.hog", "-o", tmp_path / "out2", "--inverter", "someone/none")
    assert code == 1 and "someone/none" in err and not (tmp_path / "out2").exists()


def test_without_huggingface_hub(tiny: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_to_cache(cache, "someone/mine", tiny)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setitem(sys.modules, "huggingface_hub.constants", None)
    for call in (lambda: preimage.load_inverter("someone/mine"), lambda: list_inverters(cached=True)):
        with pytest.raises(ImportError, match=r"huggingface_hub.*pip install 'preimage\[hub\]'"):
            call()
    assert preimage.load_inverter(tiny, "cpu").spec.representation == "hog"


# ---- From the Hub ----


def test_only_an_inverters_files_are_downloaded(tiny: Path, server: Callable[..., list[str]], tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "evil",))

    code = {"pytorch_model.bin": pickle.dumps(Evil()), "modeling.py": b"raise SystemExit", "MODEL_CARD.md": b"# Card"}
    asked = server("someone/mine", contents(tiny) | code)
    loaded = preimage.load_inverter("someone/mine", "cpu").state_dict()
    assert sorted(asked) == ["MODEL_CARD.md", "config.json", "model.safetensors"]
    assert not (tmp_path / "evil").exists()
    expected = Inverter.load(tiny).state_dict()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)
    preimage.load_inverter("someone/mine", "cpu")
    assert len(asked) == 3
    assert list_inverters(cached=True)[-1] == "someone/mine"


def test_weights_of_other_models_are_not_downloaded(server: Callable[..., list[str]]) -> None:
    asked = server("someone/bert", {"config.json": b'{"model_type": "bert"}', "model.safetensors": b"many gigabytes"})
    with pytest.raises(FileFormatError, match=r"someone--bert.*not the config of an inverter"):
        preimage.load_inverter("someone/bert", "cpu")
    assert asked == ["config.json"]


@pytest.mark.parametrize(
    ("name", "files", "message"),
    [
        ("someone/none", {}, r"someone/none: .*no such folder.*no such repository.*hf auth login"),
        ("someone/mine@v9", {}, r"someone/mine@v9: .*no such revision.*branch"),
        ("gated/one", {}, r"gated/one: .*on request"),
        ("broken/one", {}, r"broken/one: .*cannot be reached: Bad"),
        ("someone/mine", {"README.md": b""}, r"someone/mine: is a repository without config\.json"),
        ("someone/mine", {"config.json": b""}, r"someone/mine@a+: is a repository without model\.safetensors"),
    ],
)
def test_errors_of_the_hub(
    name: str, files: dict[str, bytes], message: str, tiny: Path, server: Callable[..., list[str]]
) -> None:
    server("someone/mine", {key: value or contents(tiny).get(key, b"x") for key, value in files.items()})
    with pytest.raises(ValueError, match=message):
        preimage.load_inverter(name, "cpu")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("user/name", ("user/name", None)),
        ("user/name@v1.0", ("user/name", "v1.0")),
        (Path("user/name"), ("user/name", None)),
        ("user/name@refs/pr/1", ("user/name", "refs/pr/1")),
        ("name", None),
        ("/user/name", None),
        ("./name", None),
        ("user/name/", None),
        ("user/..", None),
        ("user/name.", None),
        ("user/name.git", None),
        ("user-/name", None),
        ("u/n", ("u/n", None)),
        ("user/" + 96 * "n", ("user/" + 96 * "n", None)),
        ("user/" + 97 * "n", None),
        ("https://x/y", None),
        ("user\\name", None),
    ],
)
def test_split_name(name: str | Path, expected: tuple[str, str | None] | None) -> None:
    assert hub.split_name(name) == expected
