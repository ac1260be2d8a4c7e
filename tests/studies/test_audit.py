"""Test the audit: numbers against their definitions, what the attacker knew, files, and rejected arguments."""

from __future__ import annotations

import csv
import dataclasses
import html
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from conftest import Run, photographs
from preimage import create_representation, evaluate, extract, sift, write_keypoints
from preimage.inverters import Inverter, UShapedConfig
from preimage.io import KeypointRecord, decode_file
from preimage.pipelines.image_loading import as_sources, batches
from preimage.representations.sift import Sift
from preimage.spec import Spec
from preimage.studies.audit import AuditSummary, audit
from preimage.studies.audit_measurement import ConditionScore, Retrieval
from preimage.studies.audit_page import AuditStudy
from preimage.studies.bootstrap import Interval
from preimage.studies.mitigations import NOISE, add_noise, neighbor_overlap
from preimage.studies.reidentification import RankRates

SIZE = 96
HOG = create_representation("hog")

pytestmark = pytest.mark.usefixtures("one_thread")


def _tiny(spec: Spec, folder: Path) -> Path:
    """Return the folder of a small, fast, untrained inverter whose output depends on the features."""
    torch.manual_seed(0)
    entry = ("c3/2 8",) if spec.representation == "sift" else ("c3/1 8",)
    config = UShapedConfig(widths=(8, 12), blocks_down=(1, 1), blocks_up=(1,), entry=entry, head=(8, 4))
    network = Inverter(spec, config)
    network.feature_deviation.fill_(0.02)
    return network.save(folder)


@pytest.fixture(scope="module")
def store(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "photos.hog"
    extract(HOG, photo_folder, path, size=SIZE)
    return path


@pytest.fixture(scope="module")
def summary(store: Path, photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> AuditSummary:
    output = tmp_path_factory.mktemp("audit") / "new" / "out"
    return audit(store, photo_folder, output, embedding="hog", show_count=3, seed=3, batch_size=7, device="cpu")


def _by_name(summary: AuditSummary) -> dict[str, ConditionScore]:
    return {score.name: score for score in summary.scores}


def test_the_error_is_that_of_evaluate(summary: AuditSummary, photo_folder: Path) -> None:
    expected = evaluate("hog-compact", photo_folder, size=SIZE, device="cpu")
    scores = _by_name(summary)
    assert summary.images == 20 and summary.setting.side == SIZE
    unchanged, mean = scores["unchanged features"], scores["mean image"]
    assert unchanged.error.mean == pytest.approx(expected.error, abs=1e-4)
    assert unchanged.ssim.mean == pytest.approx(expected.ssim, abs=1e-4)
    assert unchanged.error.low < unchanged.error.mean < unchanged.error.high
    assert mean.error.mean == pytest.approx(expected.mean_image_error, abs=1e-4)
    errors = {score.key: score.error for score in expected.scores}
    assert {one.key: one.error for one in summary.each} == pytest.approx(errors, abs=1e-4)


def test_nearest_neighbors_are_of_the_other_half_and_not_matched(summary: AuditSummary, store: Path) -> None:
    nearest = _by_name(summary)["nearest neighbor"]
    assert nearest.reidentification == {}
    assert summary.setting.neighbors_from == "the other half of the audited photographs"
    assert nearest.error.mean > _by_name(summary)["unchanged features"].error.mean


def test_reconstructions_are_found_again_better_than_the_mean_image(summary: AuditSummary) -> None:
    scores = _by_name(summary)
    for way in ("sift", "hog"):
        unchanged, mean = (scores[name].reidentification[way] for name in ("unchanged features", "mean image"))
        assert unchanged.rank1.mean > {"sift": 0.5, "hog": 0.3}[way] > mean.rank1.mean
        assert unchanged.rank10.mean >= unchanged.rank1.mean
        assert mean.rank10.mean == pytest.approx(0.5, abs=0.01), "the same image every time: chance"
    right = [one.right_matches == one.matches and one.match == one.key for one in summary.each]
    assert np.mean(right) == pytest.approx(scores["unchanged features"].rank1, abs=0.15), "up to equal numbers"


def test_changed_features_are_scored_with_their_recall(summary: AuditSummary, store: Path, photo_folder: Path) -> None:
    changes = [score for score in summary.scores if score.kind]
    assert len(changes) == 4 + 4 + 3 + 3
    assert {tuple(score.reidentification) for score in changes} == {("sift",)}
    noise = [score for score in changes if score.kind == NOISE]
    assert [score.setting for score in noise] == ["0.1 σ", "0.25 σ", "0.5 σ", "1 σ"]
    assert noise[0].error.mean < noise[-1].error.mean
    assert noise[0].recall is not None and noise[-1].recall is not None
    assert noise[0].recall.mean > noise[-1].recall.mean
    images = torch.cat([batch for _, batch in batches(as_sources(photo_folder), SIZE, 32)])
    features = HOG(images)
    expected = neighbor_overlap(features, add_noise(features, 1.0, 3), 10)
    assert noise[-1].recall.mean == pytest.approx(np.mean(expected), abs=0.02)


def test_the_tables_contain_the_scores(summary: AuditSummary) -> None:
    with open(summary.csv, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["condition"] for row in rows] == [score.name for score in summary.scores]
    for row, score in zip(rows, summary.scores, strict=True):
        assert float(row["normalized_error"]) == pytest.approx(score.error.mean, abs=1e-6)
        assert float(row["normalized_error_low"]) == pytest.approx(score.error.low, abs=1e-6)
        assert row["rank1_sift"] == ("" if score.rank1 is None else f"{score.rank1:.6f}")
        assert (row["recall"] == "") == (score.recall is None)
    with open(summary.image_csv, newline="") as file:
        images = list(csv.DictReader(file))
    assert [row["key"] for row in images] == [one.key for one in summary.each]
    assert [int(row["matches"]) for row in images] == [one.matches for one in summary.each]


def test_the_json_file_says_what_was_measured_and_what_the_attacker_knew(summary: AuditSummary) -> None:
    found = json.loads(summary.json.read_text())
    assert found["spec"] == HOG.spec.to_dict()
    assert found["setting"]["seed"] == 3
    assert found["versions"].keys() == {"preimage", "torch", "numpy"}
    assert len(found["scores"]) == len(summary.scores) and len(found["each"]) == 20
    assert found["scores"][0]["error"]["mean"] == summary.scores[0].error.mean
    assert found["chance"] == {"rank1": 1 / 20, "rank10": 0.5}
    assert found["attacker"] == summary.knowledge
    assert "hog-compact" in found["attacker"]["Has"]
    assert "cell_size 8" in found["attacker"]["Knows"]
    assert "level" in found["attacker"]["Of changes"]
    assert "fewer keypoints" not in found["attacker"]["Of changes"]


def test_the_page_contains_the_numbers_and_no_verdict(summary: AuditSummary) -> None:
    page = html.unescape(summary.page.read_text())
    for text in (*summary.findings, *summary.knowledge.values(), "chance", "quantization, 2 bits"):
        assert text in page
    assert page.index("<strong>0.") < page.index("<dl") < page.index("<table") < page.index("<img")
    assert page.index("quantization, 2 bits") < page.index("data:image/jpeg")
    for word in ("OWASP", "GDPR", "compliant", "grade", "passed"):
        assert word not in page
    sheet = decode_file(summary.sheet)
    assert sheet.shape[1] > 5 * 192


def test_the_same_seed_gives_the_same_files(store: Path, photo_folder: Path, tmp_path: Path) -> None:
    def made(name: str, **options: Any) -> bytes:
        return audit(store, photo_folder, tmp_path / name, mitigations=False, max_images=6, **options).csv.read_bytes()

    first = made("a")
    assert made("a") == first
    assert made("b", seed=1) != first
    assert len(first.splitlines()) == 4


def test_other_photographs_are_neighbors_that_can_be_matched(store: Path, photo_folder: Path, tmp_path: Path) -> None:
    """With fewer audited photographs, the others of the index; with a database, those of it."""
    rest = audit(store, photo_folder, tmp_path / "rest", mitigations=False, max_images=8)
    assert (rest.images, rest.setting.own) == (8, 12)
    assert rest.setting.neighbors_from == "other photographs of the index (12)"
    assert "sift" in _by_name(rest)["nearest neighbor"].reidentification
    database = tmp_path / "database"
    database.mkdir()
    first = sorted(photo_folder.iterdir())[0]
    (database / "copy.jpg").write_bytes(first.read_bytes())
    for name, image in photographs().items():
        cv2.imwrite(str(database / f"{name}.png"), image[100:300, 100:300, ::-1])
    other = audit(store, photo_folder, tmp_path / "other", mitigations=False, database=database)
    assert other.setting.neighbors_from == "a database of other photographs (5)", "without the copy"
    only = tmp_path / "only"
    only.mkdir()
    (only / "copy.jpg").write_bytes(first.read_bytes())
    with pytest.raises(ValueError, match=r"database.*not audited.*none"):
        audit(store, photo_folder, tmp_path / "none", mitigations=False, database=only)


def test_an_inverter_is_trained_on_half_of_unknown_features(photo_folder: Path, tmp_path: Path) -> None:
    sources = sorted(as_sources(photo_folder), key=lambda source: source.key)
    means = [cv2.resize(decode_file(Path(source.path)), (3, 3), interpolation=cv2.INTER_AREA) for source in sources]
    np.save(tmp_path / "embedding.npy", np.stack(means).reshape(20, 27).astype(np.float32) / 255)
    said: list[str] = []
    output = tmp_path / "audit"
    made = audit(
        tmp_path / "embedding.npy",
        photo_folder,
        output,
        minutes=0.02,
        size=SIZE,
        mitigations=False,
        device="cpu",
        status=said.append,
    )
    assert (made.images, made.setting.own, made.setting.minutes) == (10, 10, 0.02)
    assert "10 photographs" in said[0]
    assert "10 other photographs" in made.knowledge["Has"]
    assert Inverter.load(output / "inverter").spec == Spec("embedding", "user", 27, None)
    assert sorted(path.name for path in output.iterdir() if path.name.startswith(".")) == [], "nothing temporary"
    again = audit(
        tmp_path / "embedding.npy", photo_folder, tmp_path / "b", inverter=output / "inverter", mitigations=False
    )
    assert again.images == 20 and again.setting.minutes is None


@pytest.fixture(scope="module")
def keypoint_file(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keypoints") / "map.npz"
    records = []
    for keys, images in batches(as_sources(photo_folder), SIZE, 32):
        found = sift(images.numpy())
        records += [KeypointRecord(f"{key}.jpg", found[place], (SIZE, SIZE)) for place, key in enumerate(keys)]
    write_keypoints(path, records)
    return path


def test_keypoints(keypoint_file: Path, photo_folder: Path, tmp_path: Path) -> None:
    inverter = _tiny(Sift().spec, tmp_path / "tiny-sift")
    made = audit(keypoint_file, photo_folder, tmp_path / "audit", inverter=inverter, size=SIZE, max_images=6)
    assert made.setting.retrieval == "match recall"
    changes = [score for score in made.scores if score.kind == "fewer keypoints"]
    assert [score.setting for score in changes] == ["50 %", "25 %", "10 %"]
    recalls = [score.recall.mean for score in changes if score.recall is not None]
    assert 1 > recalls[0] > recalls[1] > recalls[2] > 0
    assert "fewer keypoints" in made.knowledge["Of changes"]
    assert json.loads(made.json.read_text())["spec"] is None
    expected = evaluate(inverter, photo_folder, size=SIZE, device="cpu")
    errors = {one.key: one.error for one in expected.scores}
    ratio = [one.error / errors[one.key] for one in made.each]
    assert ratio == pytest.approx([ratio[0]] * 6, rel=1e-3), "up to the normalizer of another set"


def test_matches_with_a_second_view_are_kept_by_unchanged_keypoints(photo_folder: Path) -> None:
    image = torch.from_numpy(photographs()["coffee"][:256, 100:356].transpose(2, 0, 1).copy())[None]
    keypoints = sift(image)
    retrieval = Retrieval(keypoints, image, 10)
    assert retrieval.name == "match recall"
    assert retrieval._before[0] > 20
    assert retrieval.kept(keypoints) == [1.0]
    moved = type(keypoints)(**{**vars(keypoints), "x": keypoints.x + 10})
    assert retrieval.kept(moved)[0] < 0.1


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"minutes": 0}, r"minutes.*0"),
        ({"max_images": 3}, r"max_images.*4.*3"),
        ({"neighbors": 0}, r"neighbors.*1.*0"),
        ({"seed": -1}, r"seed.*-1"),
        ({"batch_size": 0}, r"batch_size.*0"),
        ({"size": 10}, r"size.*11.*10"),
        ({"size": 65}, r"photos\.hog.*96.*65"),
        ({"representation": "lbp"}, r"photos\.hog.*other features"),
        ({"embedding": "no-such"}, r"no-such"),
        ({"inverter": "lbp-compact"}, r"lbp-compact.*photos\.hog"),
        ({"device": "gpu"}, r"gpu"),
    ],
)
def test_rejected_arguments(
    store: Path, photo_folder: Path, tmp_path: Path, options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        audit(store, photo_folder, tmp_path / "out", **options)
    assert not (tmp_path / "out" / "index.html").exists()


def test_too_few_photographs_to_train_on(photo_folder: Path, tmp_path: Path) -> None:
    few = sorted(photo_folder.iterdir())[:6]
    np.save(tmp_path / "index.npy", np.eye(6, dtype=np.float32))
    with pytest.raises(ValueError, match=r"index\.npy.*at least 8.*got 6"):
        audit(tmp_path / "index.npy", few, tmp_path / "out")
    np.save(tmp_path / "all.npy", np.eye(20, dtype=np.float32))
    with pytest.raises(ValueError, match="images must be paths"):
        audit(tmp_path / "all.npy", as_sources(photo_folder), tmp_path / "out")


def test_a_bad_photograph_is_named_or_skipped(store: Path, photo_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in photo_folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    bad = folder / "coffee-2.jpg"
    bad.write_bytes(b"\xff\xd8\xff broken")
    with pytest.raises(ValueError, match=r"coffee-2\.jpg"):
        audit(store, folder, tmp_path / "out", mitigations=False)
    made = audit(store, folder, tmp_path / "out", mitigations=False, skip_bad=True)
    assert made.images == 19 and len(made.skipped) == 1
    assert any("coffee-2" in note for note in made.notes)


def test_names_are_escaped(photo_folder: Path, tmp_path: Path) -> None:
    name = "<script>alert(1)</script>".replace("/", "_")
    extract(HOG, photo_folder, tmp_path / f"{name}.hog", size=SIZE)
    made = audit(tmp_path / f"{name}.hog", photo_folder, tmp_path / "out", mitigations=False, max_images=4)
    page = made.page.read_text()
    assert "<script" not in page and "&lt;script" in page


def test_the_command(store: Path, photo_folder: Path, tmp_path: Path, run: Run) -> None:
    arguments = ("audit", store, photo_folder, "-o", tmp_path / "out", "--max-images", 6, "--no-mitigations", "--json")
    code, out, error = run(*arguments)
    assert code == 0, error
    assert json.loads(out)["images"] == 6
    assert (tmp_path / "out" / "audit.json").is_file()
    code, _, error = run("audit", tmp_path / "absent.npz", photo_folder)
    assert code == 1 and "absent.npz" in error
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nothing PAR1")
    pytest.importorskip("pyarrow")
    code, _, error = run("audit", tmp_path / "bad.parquet", photo_folder)
    assert code == 1 and "bad.parquet" in error and "Traceback" not in error


def test_without_matplotlib_the_page_has_no_curves(
    store: Path, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(*_: object) -> Callable[..., Any]:
        raise ImportError("plots need matplotlib")

    monkeypatch.setattr("preimage.viz.plots.import_optional", absent)
    made = audit(store, photo_folder, tmp_path / "out", mitigations=False, max_images=4)
    assert made.plot is None
    assert any("matplotlib" in note for note in made.notes)


def test_changes_are_not_credited_with_what_chance_explains(summary: AuditSummary) -> None:
    """If reconstructions from unchanged features are not recognized, no change hides them."""
    setting, each = summary.setting, summary.each
    assert any("lowers rank 1" in finding or "No change" in finding for finding in summary.findings)
    rates = RankRates(Interval(0.05, 0.0, 0.1), Interval(0.5, 0.4, 0.6))
    scores = [
        dataclasses.replace(score, reidentification=dict.fromkeys(score.reidentification, rates))
        for score in summary.scores
    ]
    findings = list(AuditStudy(scores, each, setting).findings())
    assert any("more reconstructions than chance" in finding for finding in findings)
    assert not any("rank 1" in finding for finding in findings)
