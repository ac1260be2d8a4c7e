"""Test the output and the exit codes of the command line."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

import preimage
from conftest import Run
from preimage.cli import _shared
from preimage.inverters import Inverter, OutputRegion, UShapedConfig
from preimage.representations import create_representation
from preimage.spec import Spec
from preimage.store import FeatureStore

COMMANDS = (
    *("demo", "extract", "invert", "train", "evaluate", "sheet", "representations", "layers", "info", "verify"),
    *("convert", "export", "merge", "doctor", "study", "weights"),
)
HEAVY = ("torch", "numpy", "cv2", "safetensors", "torchmetrics", "rich")


def test_help_imports_nothing_heavy() -> None:
    script = f"""
import sys, typer
by_typer = set(sys.modules)  # old versions import rich
from preimage.cli import main
below = ["study", "disclosure"], ["study", "layers"], ["weights", "import"], ["weights", "convert"]
for command in ([], *[[name] for name in {COMMANDS!r}], *below):
    sys.argv = ["preimage", *command, "--help"]
    try:
        main()
    except SystemExit as stopped:
        assert not stopped.code, command
print("loaded:", *[name for name in {HEAVY!r} if name in sys.modules and name not in by_typer])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].strip() == "loaded:"
    assert all(re.search(rf"\b{name}\b", done.stdout) for name in COMMANDS)


def test_extract_and_invert_on_cpu_import_no_compiler(photo_folder: Path, tmp_path: Path) -> None:
    """Dynamo and inductor take longer to import than torch."""
    script = f"""
import sys
from preimage.cli import main
image, file = {str(photo_folder / "camera-0.jpg")!r}, {str(tmp_path / "f.hog")!r}
for command in (["extract", "hog", image, "-o", file], ["invert", file, "-o", {str(tmp_path / "out")!r}]):
    sys.argv = ["preimage", *command, "--device", "cpu"]
    try:
        main()
    except SystemExit as stopped:
        assert not stopped.code, command
print("loaded:", *[name for name in ("torch._dynamo", "torch._inductor") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].strip() == "loaded:"


@pytest.mark.parametrize("representation", ["hog", "lbp", "dense-sift", "sift"])
def test_extract_of_descriptors_imports_no_torch(representation: str, photo_folder: Path, tmp_path: Path) -> None:
    script = f"""
import sys, typer
by_typer = set(sys.modules)  # old versions import rich
from preimage.cli import main
photo, output = {str(photo_folder / "camera-0.jpg")!r}, {str(tmp_path / "f")!r}
sys.argv = ["preimage", "extract", {representation!r}, photo, "-o", output]
try:
    main()
except SystemExit as stopped:
    assert not stopped.code
unused = ("torch", "scipy", "rich", "h5py", "matplotlib")
print("loaded:", *[name for name in unused if name in sys.modules and name not in by_typer])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].strip() == "loaded:"
    assert len(FeatureStore(tmp_path / "f")) == 1


def test_python_dash_m_preimage() -> None:
    done = subprocess.run([sys.executable, "-m", "preimage", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"preimage {preimage.__version__}\n"


def test_extract_invert_info_and_evaluate(run: Run, photo_folder: Path, tiny: Path, tmp_path: Path) -> None:
    features, pictures = tmp_path / "f.safetensors", tmp_path / "out"
    code, out, err = run("extract", "hog", photo_folder, "-o", features, "--size", 64, "-p", "color=strongest")
    assert (code, err) == (0, "")
    assert re.search(r"hog vlfeat-uoctti.*cell_size.*8.*color.*strongest.*31 channels", out)
    assert "20 images" in out
    assert str(features) in out
    assert FeatureStore(features).spec.parameters["color"] == "strongest"

    code, out, err = run("invert", features, "-o", pictures, "--inverter", tiny)
    assert (code, out) == (1, "")
    assert re.fullmatch(r"error: .*parameters\.color: 'luma' != 'strongest'\n", err)
    assert not pictures.exists()

    assert run("extract", "hog", photo_folder, "-o", features, "--size", 64)[0] == 0
    code, out, err = run("invert", features, "-o", pictures, "--inverter", tiny)
    assert (code, err) == (0, "")
    assert "20 images" in out
    assert str(pictures) in out
    assert len(list(pictures.glob("*.png"))) == 20

    code, out, _ = run("info", features)
    assert code == 0
    assert re.search(r"kind +feature", out)
    assert re.search(r"checksum +\w", out)
    assert re.search(r"images +20", out)
    code, out, _ = run("info", tiny)
    assert code == 0
    assert re.search(r"kind +inverter", out)

    code, out, err = run("evaluate", tiny, photo_folder, "--size", 64, "--csv", tmp_path / "s.csv")
    assert (code, err) == (0, "")
    assert "normalized error" in out
    assert str(tmp_path / "s.csv") in out

    code, out, _ = run("sheet", photo_folder, "-o", tmp_path / "sheet.png", "--inverter", tiny, "--size", 64)
    assert code == 0
    assert str(tmp_path / "sheet.png") in out
    assert re.search(rf"20 images.*hog.*{tiny}.*normalized error", out)


def test_sheet_of_several_representations(
    run: Run, photo_folder: Path, tiny: Path, tiny_lbp: Path, tmp_path: Path
) -> None:
    some = sorted(photo_folder.iterdir())[:2]
    basis = (
        "sheet",
        *some,
        "-o",
        tmp_path / "s.png",
        "--size",
        64,
        "--tile",
        64,
        "--representation",
        "lbp",
        "--representation",
        "hog",
    )
    code, out, err = run(*basis, "--inverter", tiny, "--inverter", tiny_lbp)
    assert (code, err) == (0, "")
    first, second, wrote = out.splitlines()
    assert re.match(rf"2 images.*lbp.*{tiny_lbp}.*normalized error", first)
    assert re.match(rf"2 images.*hog.*{tiny}.*normalized error", second)
    assert str(tmp_path / "s.png") in wrote
    code, _, err = run(*basis, "-p", "cell_size=4")
    assert (code, bool(re.search("--param.*cell_size=4.*lbp, hog", err))) == (2, True)
    code, _, err = run(*basis[:-4], "-p", "cell_size=4")
    assert (code, bool(re.search("--param.*cell_size=4.*--representation", err))) == (2, True)


def test_json_is_one_object_on_stdout(run: Run, photo_folder: Path, tiny: Path, tmp_path: Path) -> None:
    features = tmp_path / "f"
    some = sorted(photo_folder.iterdir())[:2]
    calls: list[tuple[tuple[object, ...], dict[str, object]]] = [
        (("extract", "hog", photo_folder, "-o", features), {"images": 20, "output": str(features)}),
        (("invert", features, "-o", tmp_path / "out", "--inverter", tiny), {"images": 20}),
        (("evaluate", tiny, photo_folder, "--size", 64), {"images": 20, "csv": None}),
        (("sheet", *some, "-o", tmp_path / "s.png", "--inverter", tiny, "--size", 64), {"images": 2}),
        (("demo", "-o", tmp_path / "demo", "--inverter", tiny, "--size", 64), {"images": 5}),
        (("info", features), {"images": 20, "kind": "feature store", "shards": 1}),
        (("info", tiny), {"kind": "inverter", "checksum": "valid"}),
        (("doctor",), {}),
    ]
    for arguments, expected in calls:
        code, out, err = run(*arguments, "--json")
        assert code == 0, (arguments, err)
        assert out.count("\n") == 1, "one line"
        found = json.loads(out)
        assert isinstance(found, dict)
        assert expected.items() <= found.items()
        assert "\n" in err, "what was said for people went to stderr"


def test_json_has_null_for_nan_and_infinity() -> None:
    text = json.dumps(_shared.plain({"a": float("inf"), "b": [float("nan")], "c": (1.5, Path("x"))}), allow_nan=False)
    assert json.loads(text) == {"a": None, "b": [None], "c": [1.5, "x"]}


def test_invert_plain_arrays_with_spec(run: Run, photo_folder: Path, tiny: Path, tmp_path: Path) -> None:
    arrays, out_folder = tmp_path / "f.npy", tmp_path / "out"
    assert run("extract", "hog", photo_folder, "-o", arrays)[0] == 0
    assert np.load(arrays).shape == (20, 31, 12, 12)
    code, _, err = run("invert", arrays, "-o", out_folder, "--inverter", tiny)
    assert code == 1
    assert "--representation hog -p cell_size=8" in err
    assert run("invert", arrays, "-o", out_folder, "--inverter", tiny, "--representation", "hog")[0] == 0
    spec = tmp_path / "spec.json"
    spec.write_text(create_representation("hog").spec.to_json())
    shutil.rmtree(out_folder)
    assert run("invert", arrays, "-o", out_folder, "--inverter", tiny, "--spec", spec)[0] == 0
    assert len(list(out_folder.iterdir())) == 20
    spec.write_text('{"representation": "hog"}')
    code, _, err = run("invert", arrays, "-o", out_folder, "--inverter", tiny, "--spec", spec)
    assert (code, "spec.json: " in err) == (1, True)
    code, _, err = run("invert", arrays, "-o", out_folder, "-p", "cell_size=4")
    assert (code, bool(re.search("--param.*cell_size=4.*--representation", err))) == (2, True)
    code, _, err = run("invert", arrays, "-o", out_folder, "--spec", spec, "-p", "cell_size=4")
    assert (code, "--spec" in err) == (2, True)
    code, out, _ = run("info", arrays)
    assert (code, "arrays without a spec" in out) == (0, True)


def test_invert_features_of_the_matlab_toolbox(run: Run, photo_folder: Path, tiny: Path, tmp_path: Path) -> None:
    image = min(photo_folder.iterdir())
    hog = preimage.hog(preimage.read_image(image)).numpy()
    savemat(tmp_path / "f.mat", {"cat": hog.transpose(1, 2, 0)}, do_compression=True)
    options = ("--inverter", tiny, "--representation", "hog")
    assert run("invert", tmp_path / "f.mat", "-o", tmp_path / "out", *options, "--convention", "matlab")[0] == 0
    assert run("extract", "hog", image, "-o", tmp_path / "ours.h5")[0] == 0
    assert run("invert", tmp_path / "ours.h5", "-o", tmp_path / "again", "--inverter", tiny)[0] == 0
    (ours,) = (tmp_path / "again").iterdir()
    assert ours.read_bytes() == (tmp_path / "out" / "cat.png").read_bytes()
    code, out, _ = run("info", tmp_path / "ours.h5")
    assert (code, re.search("cell_size.*8", out) is not None) == (0, True)


@pytest.mark.parametrize(
    ("region", "words"),
    [
        (None, "images of any size"),
        (OutputRegion(64, 64, 64), "images of 64×64"),
        (OutputRegion(64, 64, 32), "images of 64×64, as 32×32"),
        (OutputRegion(64, 48, 48), "the central 48×48 of images of 64×64"),
        (OutputRegion(64, 48, 32), "the central 48×48 of images of 64×64, as 32×32"),
    ],
)
def test_info_describes_the_output_region(run: Run, tmp_path: Path, region: OutputRegion | None, words: str) -> None:
    network = UShapedConfig(widths=(8, 16), blocks_down=(1, 1), blocks_up=(1,), head=(8,))
    Inverter(Spec("network", "v", 8, 4), network, output_region=region).save(tmp_path / "inverter")
    code, out, err = run("info", tmp_path / "inverter")
    assert code == 0, err
    assert re.search(rf"^reconstructs +{words}$", out, re.MULTILINE)
    assert re.search(r"^can sample +no$", out, re.MULTILINE)


def test_samples_are_written_and_counted(run: Run, photo_folder: Path, tiny_sampler: Path, tmp_path: Path) -> None:
    assert run("extract", "hog", photo_folder, "-o", tmp_path / "f", "--size", 48)[0] == 0
    options = ["--inverter", tiny_sampler, "--samples", 2, "--seed", 4, "--spread", 0.5]
    code, out, err = run("invert", tmp_path / "f", "-o", tmp_path / "out", *options)
    assert (code, "20 images and 2 samples of each" in out) == (0, True), err
    assert len(list((tmp_path / "out").glob("*.png"))) == 20 * 4
    code, out, _ = run("info", tiny_sampler, "--json")
    assert json.loads(out)["can_sample"] is True
    assert "can sample       yes" in run("info", tiny_sampler)[1]
    photo = next(photo_folder.iterdir())
    options = ["--inverter", tiny_sampler, "--samples", 2, "--size", 64, "--tile", 64]
    code, out, err = run("sheet", photo, "-o", tmp_path / "s.png", *options, "--seed", 4, "--json")
    assert (code, json.loads(out)["columns"][0]["samples"]) == (0, 2), err
