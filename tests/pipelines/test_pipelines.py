"""Test extraction, inversion, evaluation, sheets and the demo as library calls."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from extractions import contents
from preimage.cli._shared import plain
from preimage.errors import FileFormatError
from preimage.inverters import Inverter, pretrained
from preimage.io import FeatureRecord, decode_file, list_images
from preimage.pipelines import image_loading
from preimage.pipelines.convert import convert
from preimage.pipelines.demo import demo
from preimage.pipelines.evaluate import evaluate
from preimage.pipelines.extract import ExtractSummary, extract, extract_with_summary
from preimage.pipelines.image_loading import decodable_listing
from preimage.pipelines.invert import invert
from preimage.pipelines.inverter_choice import pairings
from preimage.pipelines.sheet import sheet
from preimage.representations import create_representation
from preimage.store import FeatureStore, merge, write_features
from sizes import pairs

HOG = create_representation("hog")


def _extracted(images: Path, output: Path, **options: object) -> ExtractSummary:
    return extract_with_summary(HOG, images, output, **options)  # type: ignore[arg-type]


def test_images_have_the_processed_size(mixed: Path, tiny: Path, tmp_path: Path) -> None:
    _extracted(mixed, tmp_path / "f")
    file = FeatureStore(tmp_path / "f")
    shutil.rmtree(mixed)
    summary = invert(tmp_path / "f", tmp_path / "out", inverter=str(tiny), batch_size=2)
    assert (summary.images, summary.inverter) == (5, str(tiny))
    written = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*"))
    assert written == ["astronaut.png", "camera.png", "chelsea.png", "coffee.png", "sub/rocket.png"]
    network = Inverter.load(tiny)
    for key, size in zip(file, pairs(file.processed_sizes), strict=True):
        picture = decode_file(tmp_path / "out" / f"{key}.png")
        assert picture.shape == (*size, 3)
        alone = network(file[key][None], size=size)[0].permute(1, 2, 0).numpy() * 255
        assert np.abs(picture - alone).max() <= 0.51 + 0.01


def test_plain_arrays_need_a_spec(photo_folder: Path, tiny: Path, tmp_path: Path) -> None:
    extract(HOG, photo_folder, tmp_path / "f.npy")
    with pytest.raises(ValueError, match=r"f\.npy: .*--representation"):
        invert(tmp_path / "f.npy", tmp_path / "out", inverter=tiny)
    assert invert(tmp_path / "f.npy", tmp_path / "out", inverter=tiny, spec=HOG.spec).images == 20


def test_images_inverted_from_an_npy_have_their_names(mixed: Path, tiny: Path, tmp_path: Path) -> None:
    extract(HOG, mixed, tmp_path / "photos.hog", size=64)
    convert(tmp_path / "photos.hog", tmp_path / "c.npy")
    extract(HOG, mixed, tmp_path / "e.npy", size=64)
    for name in ("c", "e"):
        assert (tmp_path / f"{name}.keys.txt").read_text().splitlines() == list(FeatureStore(tmp_path / "photos.hog"))
        invert(tmp_path / f"{name}.npy", tmp_path / name, inverter=tiny, spec=HOG.spec)
        assert (tmp_path / name / "sub" / "rocket.png").is_file() and not list((tmp_path / name).glob("0*"))
    (tmp_path / "e.keys.txt").write_text("astronaut\n")
    with pytest.raises(FileFormatError, match=r"e\.keys\.txt: 1 key for 5 images in .*e\.npy"):
        invert(tmp_path / "e.npy", tmp_path / "stale", inverter=tiny, spec=HOG.spec)
    assert not (tmp_path / "stale").exists()
    (tmp_path / "e.keys.txt").unlink()
    invert(tmp_path / "e.npy", tmp_path / "numbered", inverter=tiny, spec=HOG.spec)
    assert (tmp_path / "numbered" / "00004.png").is_file()


def test_other_spec_names_the_field(photo_folder: Path, tiny: Path, tmp_path: Path) -> None:
    extract(create_representation("hog", cell_size=4), photo_folder, tmp_path / "f")
    with pytest.raises(ValueError, match=r"inverter != features\): parameters\.cell_size: 8 != 4"):
        invert(tmp_path / "f", tmp_path / "out", inverter=tiny)
    with pytest.raises(LookupError, match="--inverter"):
        invert(tmp_path / "f", tmp_path / "out")
    with pytest.raises(ValueError, match=r"file != spec\): parameters\.cell_size: 4 != 8"):
        invert(tmp_path / "f", tmp_path / "out", inverter=tiny, spec=HOG.spec)
    assert not (tmp_path / "out").exists()


def test_images_are_not_written_through_a_link(tiny: Path, tmp_path: Path) -> None:
    record = FeatureRecord("link/a", np.zeros((31, 8, 8), np.float32), (64, 64), (64, 64))
    write_features(tmp_path / "f", HOG.spec, [record])
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="'link/a'"):
        invert(tmp_path / "f", tmp_path / "out", inverter=tiny)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_nonfinite_features_are_named(tiny: Path, tmp_path: Path) -> None:
    good, bad = np.zeros((31, 8, 8), np.float32), np.full((31, 8, 8), np.nan, np.float32)
    records = [FeatureRecord(key, value, (64, 64), (64, 64)) for key, value in (("good", good), ("bad", bad))]
    write_features(tmp_path / "f", HOG.spec, records)
    with pytest.raises(ValueError, match=r"'bad'.*NaN"):
        invert(tmp_path / "f", tmp_path / "out", inverter=tiny)


@pytest.mark.usefixtures("one_thread")
def test_shards_are_inverted_to_the_images_of_one_run(photo_folder: Path, tiny: Path, tmp_path: Path) -> None:
    features = extract(HOG, photo_folder, tmp_path / "f", size=48).path
    options = {"inverter": tiny, "batch_size": 1, "device": "cpu"}
    invert(features, tmp_path / "whole", **options)  # type: ignore[arg-type]
    done: list[tuple[int, int]] = []
    summaries = [
        invert(features, tmp_path / "shards", **options, shard=(i, 3), progress=lambda *now: done.append(now))  # type: ignore[arg-type]
        for i in range(3)
    ]
    assert [summary.images for summary in summaries] == [8, 8, 4], "ranges of 8 times the batch size"
    assert done[7] == (8, 8)
    assert contents(tmp_path / "shards") == contents(tmp_path / "whole")
    assert invert(features, tmp_path / "none", inverter=tiny, shard=(1, 2)).images == 0, "there is only one range"
    with pytest.raises(ValueError, match=r"shard.*\(2, 2\)"):
        invert(features, tmp_path / "none", inverter=tiny, shard=(2, 2))


def test_shards_are_not_inverted_to_names_that_differ_only_in_case(
    photo_folder: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = extract(HOG, photo_folder, tmp_path / "f", size=48)
    monkeypatch.setattr(
        "preimage.pipelines.image_writer.file_problem", lambda keys: "the same" if len(keys) > 8 else None
    )
    with pytest.raises(ValueError, match="the same"):
        invert(features, tmp_path / "out", inverter=tiny, batch_size=1, shard=(0, 3))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("output", ["s3://bucket/new", "file:///new", "https://user:secret@host/new"])
def test_outputs_at_urls_are_errors(
    output: str, photo_folder: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = extract(HOG, photo_folder, tmp_path / "f", size=48)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    for write in (
        lambda: extract(HOG, photo_folder, output, size=48),
        lambda: extract(HOG, photo_folder, f"{output}.npz", size=48),
        lambda: extract(HOG, photo_folder, Path(f"{output}.safetensors"), size=48),
        lambda: invert(features, output, inverter=tiny, device="cpu"),
        lambda: merge([features], output),
        lambda: convert(features, f"{output}.npy"),
        lambda: evaluate(tiny, photo_folder, size=48, csv=output),
        lambda: sheet(photo_folder, f"{output}.png", inverter=[tiny], size=48),
    ):
        with pytest.raises(ValueError, match=rf"{output.partition(':')[0]}:.*new.*URL") as refused:
            write()
        assert "secret" not in str(refused.value)
    assert list(Path().iterdir()) == []


def test_outputs_that_cannot_be_written_are_found_before_anything_is_computed(
    photo_folder: Path, tiny: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    computed: list[tuple[int, int]] = []
    for output, error in (("folder.png", ValueError), ("file/new.png", OSError)):
        with pytest.raises(error, match=output.partition("/")[0]):
            evaluate(tiny, photo_folder, size=48, csv=tmp_path / output, progress=lambda *n: computed.append(n))
        with pytest.raises(error, match=output.partition("/")[0]):
            sheet(photo_folder, tmp_path / output, inverter=[tiny], size=48)
    assert not computed


def test_damaged_features_and_unknown_devices(photo_folder: Path, tiny: Path, tmp_path: Path) -> None:
    _extracted(photo_folder, tmp_path / "f")
    with pytest.raises(ValueError, match="device"):
        invert(tmp_path / "f", tmp_path / "out", inverter=tiny, device="cuba")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="'cuda'"):
            invert(tmp_path / "f", tmp_path / "out", inverter=tiny, device="cuda")
    (shard,) = (tmp_path / "f").glob("shard-*")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 8
    shard.write_bytes(data)
    with pytest.raises(FileFormatError, match=f"{shard.name}: "):
        invert(tmp_path / "f", tmp_path / "out", inverter=tiny)


def test_evaluation_agrees_with_the_definitions(photo_folder: Path, tiny: Path, tmp_path: Path) -> None:
    summary = evaluate(tiny, photo_folder, size=64, batch_size=3, csv=tmp_path / "new" / "scores.csv")
    _extracted(photo_folder, tmp_path / "f", size=64)
    originals = [decode_file(source.path) for source in list_images(photo_folder)]
    images = np.stack([cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA) for image in originals])
    assert images.shape == (20, 64, 64, 3)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    y = Inverter.load(tiny)(FeatureStore(tmp_path / "f").stack())
    between = torch.cdist(x.flatten(1).double(), x.flatten(1).double())
    normalizer = float(between.sum() / (20 * 19))
    distances = (x - y).flatten(1).norm(dim=1).double()
    # The originals pass through another resizing here than in the library, hence the tolerance.
    assert summary.error == pytest.approx(float(distances.mean()) / normalizer, rel=0.02)
    to_mean = float((x - x.mean(dim=0)).flatten(1).norm(dim=1).mean()) / normalizer
    assert summary.mean_image_error == pytest.approx(to_mean, rel=0.02)
    psnr = -10 * (x - y).square().mean(dim=(1, 2, 3)).log10()
    assert summary.psnr == pytest.approx(float(psnr.mean()), rel=0.02)
    assert -1 <= summary.ssim <= 1
    with open(tmp_path / "new" / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["key"] for row in rows[:20]] == [source.key for source in list_images(photo_folder)]
    assert rows[20]["key"] == "(mean)"
    assert float(rows[20]["normalized_error"]) == pytest.approx(summary.error, abs=1e-6)
    assert np.mean([float(row["psnr_db"]) for row in rows[:20]]) == pytest.approx(summary.psnr, abs=1e-3)


def test_evaluate_rejects_bad_input(photo_folder: Path, tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"two images.*1"):
        evaluate(tiny, list_images(photo_folder)[:1], size=64)
    with pytest.raises(ValueError, match=r"size.*11"):
        evaluate(tiny, photo_folder, size=8)
    (tmp_path / "x.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"x\.png"):
        evaluate(tiny, [photo_folder, tmp_path / "x.png"], size=64)


def test_bad_images_are_skipped_and_listed(mixed: Path, tiny: Path, tmp_path: Path) -> None:
    (mixed / "broken.png").write_bytes(b"no image")
    (mixed / "gone.png").symlink_to("nowhere.png")
    for run in (
        lambda: evaluate(tiny, mixed, size=64),
        lambda: sheet(mixed, tmp_path / "s.png", inverter=tiny, size=64, tile=96),
        lambda: decodable_listing(mixed, skip_bad=False),
    ):
        with pytest.raises(ValueError, match=r"gone\.png: .*link.*--skip-bad"):
            run()
    seen: list[tuple[int, int]] = []
    scores = evaluate(tiny, mixed, size=64, skip_bad=True, progress=lambda *counts: seen.append(counts))
    drawn = sheet(mixed, tmp_path / "s.png", inverter=tiny, size=64, tile=96, skip_bad=True)
    listing = decodable_listing(mixed, skip_bad=True)
    assert scores.images == drawn.images == len(listing.sources) == 5 and seen[-1] == (6, 6)
    for skipped in (scores.skipped, drawn.skipped, listing.skipped):
        assert [Path(name).name for name, _ in skipped] == ["gone.png", "broken.png"]
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"no image")
    for run in (
        lambda: evaluate(tiny, tmp_path / "bad", size=64, skip_bad=True),
        lambda: sheet(tmp_path / "bad", tmp_path / "s.png", inverter=tiny, size=64, tile=96, skip_bad=True),
        lambda: decodable_listing(tmp_path / "bad", skip_bad=True),
    ):
        with pytest.raises(ValueError, match=r"1 images.*a\.png"):
            run()


def test_invert_and_evaluate_fit_the_memory_budget(
    photo_folder: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _extracted(photo_folder, tmp_path / "f", size=64)
    scores = evaluate(tiny, photo_folder, size=64)
    largest: list[int] = []
    call = Inverter.forward

    def noted(self: Inverter, features: torch.Tensor, **options: object) -> torch.Tensor:
        largest.append(len(features))
        return call(self, features, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Inverter, "forward", noted)
    monkeypatch.setattr(image_loading, "BATCH_BYTES", 2 * image_loading.working_bytes(HOG, 64, 64, inverted=True))
    invert(tmp_path / "f", tmp_path / "out", inverter=tiny)
    again = evaluate(tiny, photo_folder, size=64)
    assert max(largest) == 2
    assert again.error == pytest.approx(scores.error, rel=1e-5)


def test_sheet_shows_image_drawing_and_reconstruction(mixed: Path, tiny: Path, tmp_path: Path) -> None:
    summary = sheet(mixed, tmp_path / "new" / "sheet.png", inverter=tiny, size=64, tile=96)
    page = decode_file(tmp_path / "new" / "sheet.png")
    assert page.shape == (summary.height, summary.width, 3)
    assert summary.images == 5
    assert page.shape[1] > 3 * 96
    with pytest.raises(ValueError, match=r"cell_size: 8 != 4"):
        sheet(mixed, tmp_path / "s.png", inverter=tiny, representation=create_representation("hog", cell_size=4))


def test_sheets_without_errors(mixed: Path, tiny: Path, tmp_path: Path) -> None:
    shutil.copy(mixed / "camera.png", mixed / "again.png")
    twice = [mixed / "camera.png", mixed / "again.png"]
    (column,) = sheet(twice, tmp_path / "sheet.png", inverter=tiny, size=64, tile=96).columns
    assert column.error is None, "there is no distance between two of them to compare with"
    with pytest.raises(ValueError, match=r"PNG.*s\.jpg"):
        sheet(tmp_path / "absent", tmp_path / "s.jpg", inverter=tiny)
    with pytest.raises(ValueError, match=r"PNG.*folder"):
        sheet(tmp_path / "absent", tmp_path, inverter=tiny)
    with pytest.raises(ValueError, match=r"3×3 pixels.*HOG"):
        sheet(tmp_path / "absent", tmp_path / "s.png", inverter=tiny, size=3)
    with pytest.raises(ValueError, match=r"tile.*32.*31"):
        sheet(tmp_path / "absent", tmp_path / "s.png", inverter=tiny, tile=31)


def test_sheet_of_several_representations(
    mixed: Path, tiny: Path, tiny_lbp: Path, use_as_pretrained: Callable[..., None], tmp_path: Path
) -> None:
    use_as_pretrained()
    sparse = create_representation("sift", variant="opencv")
    asked = [HOG, sparse, "lbp"]
    summary = sheet(mixed, tmp_path / "s.png", inverter=[tiny_lbp, tiny], representation=asked, size=64, tile=96)
    page = decode_file(summary.output)
    assert page.shape[:2] == (summary.height, summary.width)
    assert page.shape[1] == 4 * 96 + 7 * 12
    assert page.shape[0] > 2 * 5 * (96 + 12)
    assert [(column.representation, column.inverter) for column in summary.columns] == [
        ("hog", str(tiny)),
        ("sift", None),
        ("lbp", str(tiny_lbp)),
    ]
    assert summary.columns[1].error is None
    assert re.search("inverter.*sift", summary.columns[1].missing)
    by_itself = evaluate(tiny, mixed, size=64)
    assert summary.columns[0].error == pytest.approx(by_itself.error, rel=1e-5)
    alone = sheet(sorted(mixed.glob("*.png"))[:1], tmp_path / "t.png", inverter=[tiny, tiny_lbp], size=64, tile=96)
    assert [(column.representation, column.error) for column in alone.columns] == [("hog", None), ("lbp", None)]
    only_features = sheet(mixed, tmp_path / "u.png", representation=[sparse, "lbp"], size=64, tile=96)
    assert only_features.height < summary.height / 1.5, "no row of reconstructions"


def test_sheet_with_samples(tiny_sampler: Path, tiny: Path, tiny_lbp: Path, mixed: Path, tmp_path: Path) -> None:
    images, options = sorted(mixed.glob("*.png"))[:2], {"size": 64, "tile": 64}
    plain_sheet = sheet(images, tmp_path / "plain.png", inverter=tiny_sampler, **options)  # type: ignore[arg-type]
    summary = sheet(images, tmp_path / "s.png", inverter=tiny_sampler, samples=2, **options)  # type: ignore[arg-type]
    assert summary.width == plain_sheet.width + 3 * (64 + 12), "two samples and a map"
    assert [column.samples for column in summary.columns] == [2]
    page = decode_file(summary.output)
    extract(HOG, images, tmp_path / "f", size=64, dtype="float32")
    invert(tmp_path / "f", tmp_path / "out", inverter=tiny_sampler, samples=2)
    for number in (1, 2):
        picture = decode_file(tmp_path / "out" / f"{images[1].stem}.sample-{number}.png")
        there = [
            int(np.abs(page[top : top + 64, left : left + 64].astype(int) - picture).max())
            for left in [24 + (2 + number) * (64 + 12)]
            for top in range(page.shape[0] - 64)
        ]
        assert min(there) <= 1, "the samples are those of `invert`"
    other = sheet(images, tmp_path / "o.png", inverter=tiny_sampler, samples=2, seed=1, **options)  # type: ignore[arg-type]
    assert not np.array_equal(decode_file(other.output), page)
    both = sheet(images, tmp_path / "b.png", inverter=[tiny_sampler, tiny_lbp], samples=2, **options)  # type: ignore[arg-type]
    assert [column.samples for column in both.columns] == [2, 0]
    assert both.height > 2 * 5 * 64
    for inverter in (tiny, [tiny, tiny_lbp]):
        with pytest.raises(ValueError, match="cannot sample"):
            sheet(images, tmp_path / "n.png", inverter=inverter, samples=1)
    with pytest.raises(ValueError, match=r"samples.*inverter"):
        sheet(images, tmp_path / "n.png", representation=create_representation("hog", cell_size=4), samples=1)
    with pytest.raises(ValueError, match=r"samples.*-1"):
        sheet(images, tmp_path / "n.png", inverter=tiny_sampler, samples=-1)
    assert not (tmp_path / "n.png").exists()


def test_inverters_find_their_representations(
    tiny: Path, tiny_lbp: Path, use_as_pretrained: Callable[..., None]
) -> None:
    use_as_pretrained(pretrained.resolve("hog-compact"))
    assert [pair.representation.name for pair in pairings([tiny_lbp, tiny], None)] == ["lbp", "hog"]
    assert [pair.name for pair in pairings(tiny_lbp, ["hog", "lbp"])] == ["hog-compact", str(tiny_lbp)]
    assert pairings(None, None)[0].name == "hog-compact"
    assert re.search("inverter.*lbp", pairings(None, "lbp")[0].missing)
    other = create_representation("hog", cell_size=4)
    assert re.search(r"hog-compact.*parameters\.cell_size: 8 != 4", pairings(None, other)[0].missing)
    with pytest.raises(ValueError, match=r"inverter .*tiny-lbp.*lbp.*hog"):
        pairings(tiny_lbp, "hog")
    with pytest.raises(ValueError, match=r"hog: .*tiny and hog-compact"):
        pairings([tiny, "hog-compact"], None)
    with pytest.raises(ValueError, match=r"hog.*once"):
        pairings(None, ["hog", HOG])
    with pytest.raises(ValueError, match=r"representation.*'hock'"):
        pairings(None, ["hog", "hock"])


def test_folder_of_the_same_name_does_not_hide_a_pretrained_inverter(
    mixed: Path, tiny: Path, use_as_pretrained: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_as_pretrained(tiny)
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    assert [pair.name for pair in pairings(None, None)] == ["tiny"]
    _extracted(mixed, tmp_path / "f")
    assert invert(tmp_path / "f", tmp_path / "out").inverter == "tiny"
    with pytest.raises(FileFormatError, match=r"tiny: .*inverter"):
        invert(tmp_path / "f", tmp_path / "out", inverter="tiny")


def test_demo_reconstructs_from_stored_features(tiny: Path, tmp_path: Path) -> None:
    summary = demo(output=tmp_path / "demo", inverter=tiny, size=64, command="preimage demo --x")
    (result,) = summary.results
    assert summary.images == len(result.scores) == 5
    assert decode_file(summary.sheet).shape[2] == 3
    page = summary.page.read_text()
    assert page.count("<img ") == 15
    assert "preimage demo --x" in page
    assert len(page) < 2_000_000
    assert f"{result.error:.3f}" in page
    file = FeatureStore(result.features)
    picture = decode_file(tmp_path / "demo" / "reconstructions" / "hog" / "coffee.png")
    again = Inverter.load(tiny)(file["coffee"][None])[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(picture - again).max() <= 0.52
    assert json.loads(json.dumps(plain(summary)))["results"][0]["inverter"] == str(tiny)


def test_demo_of_several_representations(tiny: Path, tiny_lbp: Path, mixed: Path, tmp_path: Path) -> None:
    summary = demo(mixed, tmp_path / "demo", inverter=[tiny, tiny_lbp], size=64)
    assert [result.features.name for result in summary.results] == ["photographs.hog", "photographs.lbp"]
    page = summary.page.read_text()
    assert page.count("<img ") == 25
    assert "Photographs from their HOG and LBP features" in page
    assert "scikit-image" not in page
    for result in summary.results:
        assert result.shape == tuple(FeatureStore(result.features)[0].shape)
        assert all(f"<td>{score.error:.3f}</td>" in page for score in result.scores)
        assert (result.reconstructions / "sub" / "rocket.png").is_file()


def test_demo_shows_samples(tiny_sampler: Path, tiny_lbp: Path, mixed: Path, tmp_path: Path) -> None:
    some = sorted(mixed.glob("*.png"))[:2]
    plain_sheet = demo(some, tmp_path / "without", inverter=tiny_lbp, size=64).sheet
    summary = demo(some, tmp_path / "demo", inverter=[tiny_sampler, tiny_lbp], size=64)
    assert [result.samples for result in summary.results] == [8, 0]
    page = summary.page.read_text()
    assert page.count("<h2>Determined and guessed") == 1
    assert "<h2>Determined and guessed: HOG</h2>" in page
    assert "Determined and guessed" not in (plain_sheet.parent / "index.html").read_text()
    assert page.count("<img ") == 2 * 5 + 1 + 2 * 6, (
        "a scale, and for each photograph its reconstruction, 4 samples, map"
    )
    assert (summary.results[0].reconstructions / "camera.sample-8.png").is_file()


def test_demo_uses_the_pretrained_inverters_by_default(
    mixed: Path, tiny: Path, tiny_lbp: Path, use_as_pretrained: Callable[..., None], tmp_path: Path
) -> None:
    some = sorted(mixed.glob("*.png"))[:2]
    second = Inverter.load(tiny).save(tmp_path / "tiny-2")
    use_as_pretrained(tiny_lbp, second, tiny)
    summary = demo(some, tmp_path / "demo", size=64)
    assert [result.inverter for result in summary.results] == ["tiny", "tiny-lbp"], "one for each, HOG first"


def test_demo_rejects_bad_input(
    mixed: Path, tiny_lbp: Path, use_as_pretrained: Callable[..., None], tmp_path: Path
) -> None:
    use_as_pretrained()
    with pytest.raises(ValueError, match=r"camera\.png.*folder"):
        demo(mixed, mixed / "camera.png")
    for error, words, options in (
        (LookupError, r"inverter.*hog", {}),
        (ValueError, r"two.*1", {"images": mixed / "camera.png"}),
        (ValueError, r"size.*11.*10", {"size": 10}),
        (ValueError, r"12×12 pixels.*LBP.*16.*16$", {"size": 12}),
    ):
        with pytest.raises(error, match=words):
            demo(
                output=tmp_path / "demo",
                **{"images": mixed, **options},
                inverter=tiny_lbp if "size" in options else None,
            )
    assert not (tmp_path / "demo").exists()
