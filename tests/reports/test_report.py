"""Test reports: their scores against other functions, what they contain and leave out, and rejected arguments."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import Run
from layer_networks import ToyNetwork, saved
from preimage.inverters import Inverter, UShapedConfig
from preimage.io import FeatureRecord, decode_file, write_png
from preimage.io.csv_file import write_csv
from preimage.pipelines.evaluate import evaluate
from preimage.pipelines.extract import extract
from preimage.pipelines.reconstruct import Reconstructor
from preimage.reports.report import ReportSummary, report
from preimage.representations import create_representation
from preimage.spec import Spec
from preimage.store import write_features
from preimage.studies.perturb import study_perturb
from preimage.training import run as train
from training_runs import small_config

pytestmark = pytest.mark.usefixtures("one_thread", "no_plots")
SIDE = 64


@pytest.fixture
def plots() -> None:
    """Keep the plots, which take a second each."""


@pytest.fixture
def no_plots(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the plots out, as without matplotlib, in tests without the fixture `plots`."""
    if "plots" not in request.fixturenames:
        for name in ("matplotlib.figure", "matplotlib.backends.backend_agg"):
            monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture(scope="module")
def photos(photo_folder: Path) -> list[Path]:
    """Return seven photographs of 96² pixels."""
    return sorted(photo_folder.iterdir())[::3]


@pytest.fixture(scope="module")
def trained(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of three steps, with a model card."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    train(small_config(photo_folder, folder, steps=3, eval_every=1))
    (folder / "MODEL_CARD.md").write_text("# Card\n\nOf <b>three</b> steps, `hog`.\n")
    return folder


def _text(summary: ReportSummary) -> str:
    return summary.page.read_text(encoding="utf-8")


def _headings(page: str) -> list[str]:
    return [html.unescape(text) for text in re.findall(r"<h[234]>(.*?)</h[234]>", page)]


def _keys(page: str) -> list[str]:
    """Return the keys of the comparisons, in order."""
    return [html.unescape(key) for key in re.findall(r'<div class="comparison [^>]*>\n<p><strong>(.*?)</strong>', page)]


def test_an_inverter_is_measured_as_by_evaluate(tiny: Path, photos: list[Path], tmp_path: Path) -> None:
    summary = report(tiny, tmp_path / "new" / "out", images=photos, size=SIDE, show_count=3, device="cpu")
    [score] = summary.scores
    expected = evaluate(tiny, photos, size=SIDE)
    assert score.error is not None
    assert (score.images, score.representation, score.published) == (7, "HOG", 0.24)
    assert (score.error.mean, score.psnr, score.ssim) == pytest.approx((expected.error, expected.psnr, expected.ssim))
    assert score.mean_image_error == pytest.approx(expected.mean_image_error)
    assert score.error.low < score.error.mean < score.error.high
    page = _text(summary)
    assert summary.bytes == len(page.encode())
    assert [path.name for path in summary.page.parent.iterdir()] == ["index.html"]
    for value in (f"{score.error.mean:.3f}", f"{score.error.low:.3f} to {score.error.high:.3f}", "published: HOGgles"):
        assert value in page
    ranked = sorted(expected.scores, key=lambda one: one.error)
    assert _keys(page) == [ranked[0].key, ranked[3].key, ranked[6].key]
    assert f"4 of 7 · error {ranked[3].error:.3f} · " in page
    assert _headings(page)[:4] == [
        "Features and inverter",
        "Errors",
        "From the best to the worst reconstruction",
        "Best",
    ]
    assert "hog vlfeat-uoctti (cell_size 8, color luma), 31 channels" in page


def test_images_on_the_page_are_those_of_the_row(tiny: Path, photos: list[Path], tmp_path: Path) -> None:
    page = _text(report(tiny, tmp_path, images=photos[:3], size=SIDE, show_count=3, device="cpu"))
    assert "Photographs sorted by their error, all of them." in page
    rows = page.split('<div class="comparison ')[1:]
    reconstructor = Reconstructor(None, tiny, "cpu")
    for key, row in zip(_keys(page), rows, strict=True):
        sources = re.findall(r'src="data:image/jpeg;base64,([^"]*)"', row)[:3]
        image = decode_file(next(photo for photo in photos if photo.stem == key))
        small = np.asarray(image).reshape(48, 2, 48, 2, 3).mean(axis=(1, 3))  # a rough version of what is shown
        shown = [_decoded(source, tmp_path) for source in sources]
        assert [one.shape[:2] for one in (shown[0], shown[2])] == [(SIDE, SIDE)] * 2
        assert abs(shown[0].mean() - small.mean()) < 4
        made = reconstructor(torch.from_numpy(shown[0]).permute(2, 0, 1)) * 255
        assert abs(shown[2].mean() - float(made.mean())) < 4


def _decoded(base64_text: str, folder: Path) -> np.ndarray:
    import base64  # noqa: PLC0415

    path = folder / "shown.jpg"
    path.write_bytes(base64.b64decode(base64_text))
    return np.asarray(decode_file(path))


@pytest.mark.usefixtures("plots")
def test_a_run_is_measured_on_its_validation_images(trained: Path, tmp_path: Path) -> None:
    summary = report(trained, tmp_path, device="cpu")
    [score] = summary.scores
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert score.images == 4
    assert score.error is not None
    assert score.error.mean == pytest.approx([line["error"] for line in lines if "error" in line][-1], rel=1e-4)
    page = _text(summary)
    assert "on 4 photographs of 64 × 64 pixels" in page
    assert 'alt="Learning curve: error 0.' in page
    assert "<dt>Training images</dt><dd>16</dd>" in page
    assert "<h4>Card</h4>\n<p>Of &lt;b&gt;three&lt;/b&gt; steps, <code>hog</code>.</p>" in page
    assert {"Learning curve", "Errors", "Where the error is", "Model card"} <= set(_headings(page))
    notes = " ".join(summary.notes)
    assert "Samples are left out" in notes
    assert "Perturbed features are left out" in notes
    assert "nearest neighbor is left out" in notes
    assert "learning curve" not in notes


@pytest.mark.parametrize("what", ["missing", "changed", "no checkpoint", "one missing"])
def test_without_its_validation_images_a_run_is_described_all_the_same(
    what: str, photo_folder: Path, tmp_path: Path
) -> None:
    photos, folder = tmp_path / "photos", tmp_path / "run"
    shutil.copytree(photo_folder, photos)
    train(small_config(photos, folder, steps=1))
    first = sorted(photos.iterdir())[0]  # is held out
    words = "are not there"
    if what == "missing":
        shutil.rmtree(photos)
    elif what == "changed":
        write_png(first.with_suffix(".png"), np.zeros((96, 96, 3), np.uint8))
        first.with_suffix(".png").replace(first)
        words = f"{first.stem!r} has changed"
    elif what == "one missing":
        first.unlink()
        words = f"1 of the run's 4 validation images are missing, first {first.stem!r}"
    else:
        (folder / "checkpoint.safetensors").unlink()
        words = "no checkpoint"
    summary = report(folder, tmp_path / "out", device="cpu")
    assert summary.scores[0].error is None
    assert any(words in note for note in summary.notes), summary.notes
    page = html.unescape(_text(summary))
    assert words in page
    assert "learning curve is left out: plots need matplotlib" in page
    assert "<script" not in page


@pytest.mark.usefixtures("plots")
def test_odd_numbers_and_notes_of_a_run_are_shown_or_left_out(tiny: Path, tmp_path: Path) -> None:
    inverter = Inverter.load(tiny)
    inverter.training_notes = {
        "seconds": "<b>",
        "size": None,
        "steps": [1, {"a": 2}],
        "sampler": {"steps": 3},
        "": 1,
        "hours": 10**400,
    }
    folder = inverter.save(tmp_path / "odd")
    huge = f'{{"step": {10**400}, "loss": 1.0}}'
    lines = ['{"step": 1, "loss": "x"}', '{"step": 2, "loss": 1e300}', huge, '{"step": 2, "loss": NaN}', '{"step": 3']
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    summary = report(folder, tmp_path / "out", device="cpu")
    page = _text(summary)
    assert "<dt>Time</dt><dd>&lt;b&gt;</dd>" in page
    assert "<dt></dt><dd>1</dd>" in page
    assert any("metrics.jsonl has neither losses nor errors" in note for note in summary.notes)
    inverter.training_notes = {"seconds": 10**400}
    folder = inverter.save(folder)
    assert "<dt>Time</dt><dd>10,000,000" in _text(report(folder, tmp_path / "out", device="cpu"))
    (folder / "metrics.jsonl").write_text(
        "\n".join(f'{{"step": {step}, "loss": {1 / step}}}' for step in range(1, 400))
    )
    summary = report(folder, tmp_path / "out", device="cpu")
    assert "Learning curve: loss 0.003 at the last step" in _text(summary)


def test_a_database_adds_the_nearest_neighbor(tiny: Path, photo_folder: Path, tmp_path: Path) -> None:
    photos = sorted(photo_folder.iterdir())
    summary = report(tiny, tmp_path, images=photos[:4], database=photos[4:9], size=SIDE, device="cpu")
    [score] = summary.scores
    assert score.nearest_error is not None
    assert f'<th scope="row">nearest neighbor</th><td>{score.nearest_error.mean:.3f}</td>' in _text(summary)
    with pytest.raises(ValueError, match="also in the database"):
        report(tiny, tmp_path, images=photos[:4], database=photos[3:9], size=SIDE, device="cpu")


def test_samples_and_the_map(tiny_sampler: Path, photos: list[Path], tmp_path: Path) -> None:
    summary = report(tiny_sampler, tmp_path / "a", images=photos[:3], size=SIDE, samples=2, device="cpu")
    page = _text(summary)
    assert "Determined and guessed" in _headings(page)
    assert page.count("<figcaption>Sample 2</figcaption>") == 3
    assert page.count("<figcaption>Map</figcaption>") == 3
    assert "Scale of the map." in page
    none = report(tiny_sampler, tmp_path / "b", images=photos[:3], size=SIDE, samples=0, device="cpu")
    assert any("Samples are left out: none were asked for" in note for note in none.notes)


def test_perturbations_are_measured_as_by_the_study(tiny: Path, photos: list[Path], tmp_path: Path) -> None:
    names = ("dropout-20", "top-5")
    summary = report(tiny, tmp_path / "a", images=photos[:3], size=SIDE, perturbations=names, device="cpu")
    study = study_perturb(photos[:3], tmp_path / "s", inverter=tiny, perturbations=names, size=SIDE, device="cpu")
    page = _text(summary)
    for score in study.scores:
        cells = f"<td>{score.error:.3f}</td><td>{score.psnr:.1f}</td><td>{score.ssim:.3f}</td>"
        assert f'<th scope="row">{score.perturbation}</th>{cells}' in page
    assert any("top-5, for vectors only" in note for note in summary.notes)
    none = report(tiny, tmp_path / "b", images=photos[:3], size=SIDE, perturbations="top-5", device="cpu")
    assert any("top-5, for vectors only" in note for note in none.notes)
    assert not any("none were asked for, and the folder" in note for note in none.notes)


def test_the_table_of_an_earlier_study_is_shown(tiny: Path, photos: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "inverter"
    shutil.copytree(tiny, folder)
    study = study_perturb(
        photos[:3], folder / "perturb", inverter=folder, perturbations="dropout", size=SIDE, device="cpu"
    )
    page = _text(report(folder, tmp_path / "out", device="cpu"))
    assert (
        "From an earlier study (perturb/perturb.csv in the folder of the inverter), measured on 3 photographs." in page
    )
    assert f'<th scope="row">dropout</th><td>{study.scores[1].error:.3f}</td>' in page
    for rows, words in (
        ([["network", "layer"], ["hog", "hog"]], "lacks the column 'perturbation'"),
        ([["network", "layer", "perturbation", "normalized_error"], ["hog", "hog", "x", "<b>"]], "<b>"),
    ):
        write_csv(folder / "perturb.csv", rows)
        with pytest.raises(ValueError, match=rf"perturb\.csv: not a table.*{words}"):
            report(folder, tmp_path / "out", device="cpu")


class _FloatNetwork(ToyNetwork):
    """Network that also takes reconstructions, whose features are compared."""

    def layers(
        self, images: torch.Tensor, names: Iterable[str], output_layout: str = "auto"
    ) -> dict[str, torch.Tensor]:
        pixels = images if images.dtype == torch.uint8 else (255 * images).round().to(torch.uint8)
        return super().layers(pixels, names, output_layout)


def test_layers_of_a_network_need_the_network(photos: list[Path], tmp_path: Path) -> None:
    network = _FloatNetwork()
    folder = saved(network, "maps", tmp_path / "maps")
    alone = report(folder, tmp_path / "a", images=photos[:3], device="cpu")
    assert alone.scores[0].error is None
    assert any("the features cannot be computed" in note and "--network" in note for note in alone.notes)
    summary = report(folder, tmp_path / "b", images=photos[:3], network=network, device="cpu")
    representation = network.representation("maps")
    expected = evaluate(folder, photos[:3], representation=representation, device="cpu")
    assert summary.scores[0].error is not None
    assert summary.scores[0].error.mean == pytest.approx(expected.error)
    assert summary.scores[0].representation == "toys.net:make, maps"
    assert "of which the central 28 are compared" in _text(summary)


@pytest.fixture
def only_tiny(tiny: Path, use_as_pretrained: Callable[..., None]) -> Path:
    use_as_pretrained(tiny)
    return tiny


def test_a_store_is_described_and_inverted(only_tiny: Path, photos: list[Path], tmp_path: Path) -> None:
    store = extract("hog", photos, tmp_path / "photos.hog", size=SIDE)
    summary = report(tmp_path / "photos.hog", tmp_path / "out", show_count=4, device="cpu")
    [score] = summary.scores
    assert (score.images, score.inverter, score.error) == (7, "tiny", None)
    page = _text(summary)
    assert "<dt>Images</dt><dd>7</dd>" in page
    assert "<dt>Height × width, pixels</dt><dd>64×64 (7)</dd>" in page
    values = np.stack([np.asarray(store[key], np.float64) for key in store])
    for name, value in (
        ("mean", values.mean()),
        ("standard deviation", values.std()),
        ("smallest", values.min()),
        ("largest", values.max()),
    ):
        assert f'<th scope="row">{name}</th><td>{value:.4g}</td>' in page
    assert f'<th scope="row">zeros</th><td>{100 * (values == 0).mean():.1f} %</td>' in page
    keys = list(store)
    assert _keys(page) == [keys[index] for index in (0, 2, 4, 6)]
    assert 'class="comparisons pairs"' in page
    assert any("the photographs were not given" in note for note in summary.notes)


def test_a_store_is_measured_where_its_photographs_are_given(
    only_tiny: Path, photos: list[Path], photo_folder: Path, tmp_path: Path
) -> None:
    extract("hog", photos[:5], tmp_path / "photos.hog", size=SIDE)
    other = next(path for path in sorted(photo_folder.iterdir()) if path not in photos)
    given = [*photos[1:4], other]
    summary = report(tmp_path / "photos.hog", tmp_path / "out", images=given, device="cpu")
    [score] = summary.scores
    expected = evaluate(only_tiny, photos[1:4], size=SIDE, device="cpu")
    assert score.images == 3
    assert score.error is not None
    assert score.error.mean == pytest.approx(expected.error, rel=1e-3)  # features are stored in float16
    assert score.ssim == pytest.approx(expected.ssim, abs=1e-3)
    page = _text(summary)
    assert "Measured on 3 of the 7" not in page
    assert "Measured on 3 of the 5 images, whose photographs were given." in page
    assert len(_keys(page)) == 3


def test_photographs_that_cannot_be_those_of_the_store_are_left_out(
    only_tiny: Path, photos: list[Path], tmp_path: Path
) -> None:
    extract("hog", photos[:4], tmp_path / "photos.hog", size=SIDE)
    (tmp_path / "given").mkdir()
    for photo in photos[:4]:
        write_png(tmp_path / "given" / f"{photo.stem}.png", decode_file(photo)[: 80 if photo == photos[0] else 96])
    summary = report(tmp_path / "photos.hog", tmp_path / "out", images=tmp_path / "given", device="cpu")
    assert summary.scores[0].images == 3
    assert any("1 of 4 photographs are left out" in note for note in summary.notes)
    none = report(tmp_path / "photos.hog", tmp_path / "out", images=photos[5:], device="cpu")
    assert any("0 of the 2 images have a key of the store" in note for note in none.notes)


def test_images_of_different_sizes_have_no_normalized_error(only_tiny: Path, mixed: Path, tmp_path: Path) -> None:
    extract("hog", mixed, tmp_path / "mixed.hog")
    summary = report(tmp_path / "mixed.hog", tmp_path / "out", images=mixed, device="cpu")
    assert summary.scores[0].error is None
    assert any("images of 3 different sizes" in note for note in summary.notes)
    assert len(_keys(_text(summary))) == 5


def test_a_store_without_an_inverter_takes_one_among_the_sources(photos: list[Path], tmp_path: Path) -> None:
    hog = create_representation("hog", cell_size=4)
    extract(hog, photos[:3], tmp_path / "fine.hog", size=SIDE)
    alone = report(tmp_path / "fine.hog", tmp_path / "a", device="cpu")
    assert alone.scores[0].inverter == ""
    assert any("Reconstructions are left out" in note and "cell_size" in note for note in alone.notes)
    network = UShapedConfig(widths=(8,), blocks_down=(1,), blocks_up=(), head=(8,))
    Inverter(hog.spec, network).save(tmp_path / "fine")
    assert any("name it among the sources" in note for note in alone.notes)
    both = report([tmp_path / "fine.hog", tmp_path / "fine"], tmp_path / "b", device="cpu")
    assert not any("name it among the sources" in note for note in both.notes)
    assert [score.inverter for score in both.scores] == ["fine", str(tmp_path / "fine")]
    assert "Reconstructed by fine." in _text(both)


def test_features_that_are_not_finite_are_counted_and_not_inverted(
    tmp_path: Path, tiny: Path, use_as_pretrained: Callable[..., None]
) -> None:
    use_as_pretrained(tiny)
    spec = create_representation("hog").spec
    features = np.random.default_rng(0).random((2, 31, 8, 8)).astype(np.float32)
    features[1, 0, 0, 0] = np.nan
    size = (SIDE, SIDE)
    records = [FeatureRecord(key, one, size, size) for key, one in zip(("good", "bad"), features, strict=True)]
    write_features(tmp_path / "nan.safetensors", spec, records)
    summary = report(tmp_path / "nan.safetensors", tmp_path / "out", device="cpu")
    page = _text(summary)
    assert '<th scope="row">NaN or infinite</th><td>1</td>' in page
    assert _keys(page) == ["good"]
    assert any("1 of 2 images are left out" in note and "'bad'" in note for note in summary.notes)
    records = [FeatureRecord(key, features[1], size, size) for key in "abcd"]
    write_features(tmp_path / "all.safetensors", spec, records)
    summary = report(tmp_path / "all.safetensors", tmp_path / "out", device="cpu")
    assert any("4 of 4 images are left out" in note and note.endswith("'a', 'b' and 'c', ….") for note in summary.notes)
    assert "Reconstructions" not in _headings(_text(summary))


def test_several_sources_have_a_table_in_common(tiny: Path, trained: Path, photos: list[Path], tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    shutil.copytree(tiny, tmp_path / "other" / "mine")
    sources = [tiny, trained, tmp_path / "other" / "mine"]
    summary = report(sources, tmp_path / "out", images=photos[:3], size=SIDE, show_count=3, device="cpu")
    page = _text(summary)
    assert [score.source for score in summary.scores] == list(map(str, sources))
    overview = page[page.index("<caption>Overview") : page.index("</table>")]
    for score, name in zip(summary.scores, ("tiny", str(trained), str(sources[2])), strict=True):
        assert score.error is not None
        assert f'<th scope="row">{name}</th><td>{score.error.mean:.3f}</td>' in overview
    parts = re.findall(r'<section class="part" id="section-(\d+)">\n<h2>(.*?)</h2>', page)
    assert [name for _, name in parts] == ["tiny", str(trained), str(sources[2])]
    assert re.findall(r'<a href="#section-(\d+)">(.*?)</a>', page) == parts
    assert summary.notes[0].startswith(f"{tiny}: ")


def test_hostile_names_stay_text(tiny: Path, photos: list[Path], tmp_path: Path) -> None:
    inverter = tmp_path / "<b onclick='x'>"
    shutil.copytree(tiny, inverter)
    (inverter / "MODEL_CARD.md").write_text("<script>alert(1)</script> [x](javascript:alert(1))\n")
    images = tmp_path / "images"
    (images / "<").mkdir(parents=True)
    names = ["<img src=x onerror=alert(1)>", "\"'&amp;<b>", "</script><script>alert(2)<!--"]
    for name, photo in zip(names, photos, strict=False):
        shutil.copy(photo, images / f"{name}.jpg")
    summary = report(
        inverter, tmp_path / "out", images=images, size=SIDE, title="<i>", command="x </pre>", device="cpu"
    )
    page = _text(summary)
    assert sorted(_keys(page)) == sorted(names)
    rest = page.partition("<style>")[0] + page.partition("</style>")[2]
    assert set(re.findall(r"<(\w+)", rest)).isdisjoint({"b", "i"})
    assert rest.count("<script") == 1
    assert all(text not in rest for text in ("<img src=x", "<script>alert", "onclick='"))
    assert not re.search(r"https?:|javascript:", page)


@pytest.mark.usefixtures("plots")
def test_a_report_is_the_same_every_time(trained: Path, tmp_path: Path) -> None:
    pages = [_text(report(trained, tmp_path / name, samples=2, perturbations="dropout", device="cpu")) for name in "ab"]
    assert pages[0] == pages[1]


def test_bad_images_are_named_or_left_out_and_nothing_is_half_written(
    tiny: Path, photos: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "bad.jpg").write_bytes(photos[0].read_bytes()[:300])
    images = [*photos[:3], tmp_path / "bad.jpg"]
    with pytest.raises(ValueError, match=r"bad\.jpg"):
        report(tiny, tmp_path / "out", images=images, size=SIDE, device="cpu")
    assert not (tmp_path / "out" / "index.html").exists()
    summary = report(tiny, tmp_path / "out", images=images, size=SIDE, skip_bad=True, device="cpu")
    assert summary.scores[0].images == 3
    assert [name for name, _ in summary.skipped] == [str(tmp_path / "bad.jpg")]


def test_without_matplotlib_the_plots_are_left_out(trained: Path, tmp_path: Path) -> None:
    summary = report(trained, tmp_path, perturbations="dropout", device="cpu")
    assert sum("left out: plots need matplotlib" in note for note in summary.notes) == 3
    page = _text(summary)
    assert "image/png" not in page
    assert {"Errors", "Where the error is", "Perturbed features"} <= set(_headings(page))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"show_count": 2}, r"show_count.*3.*2"),
        ({"samples": 1}, r"samples.*2.*1"),
        ({"samples": -1}, r"samples.*0.*-1"),
        ({"seed": -1}, r"seed.*0.*-1"),
        ({"size": 8}, r"size.*11.*8"),
        ({"batch_size": 0}, r"batch_size.*1.*0"),
        ({"device": "gpu"}, "gpu"),
        ({"perturbations": "shake"}, "shake"),
        ({"images": []}, "no images"),
        ({"sources": []}, "at least one.*none"),
    ],
)
def test_values_out_of_range_are_refused(
    tiny: Path, photos: list[Path], tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    arguments: dict[str, object] = {"sources": tiny, "images": photos[:2], **changes}
    with pytest.raises(ValueError, match=words):
        report(output=tmp_path / "out", **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "out" / "index.html").exists()


def test_an_output_that_cannot_be_written_is_refused_before_anything_is_measured(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="file is a file"):
        report(tiny, tmp_path / "file", images="absent")
    with pytest.raises(NotADirectoryError) as below:
        report(tiny, tmp_path / "file" / "below", images="absent")
    assert below.value.filename == str(tmp_path / "file")
    with pytest.raises(ValueError, match="path on disk"):
        report(tiny, "s3://bucket/out", images="absent")
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(PermissionError) as locked:
        report(tiny, tmp_path / "out", images="absent")
    assert locked.value.filename == str(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_other_files_are_refused(tiny: Path, photos: list[Path], tmp_path: Path) -> None:
    np.savez(tmp_path / "plain.npz", a=np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"plain\.npz: is arrays without a spec"):
        report(tmp_path / "plain.npz", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="absent"):
        report("absent", tmp_path / "out")
    empty = Spec("hog", "vlfeat-uoctti", channels=31, stride=8)
    with pytest.raises(ValueError, match=r"empty.*(no images|at least one)"):
        write_features(tmp_path / "empty.safetensors", empty, [])
        report(tmp_path / "empty.safetensors", tmp_path / "out")
    with pytest.raises(ValueError, match="two images"):
        report(tiny, tmp_path / "out", images=photos[:1], size=SIDE, device="cpu")
    assert Inverter.load(tiny).training_notes == {}


def test_the_command_writes_the_page(run: Run, tiny: Path, photo_folder: Path, tmp_path: Path) -> None:
    arguments = ["report", tiny, "-o", tmp_path / "out", "--images", photo_folder, "--size", SIDE, "--show-count", 3]
    code, out, _ = run(*arguments, "--perturbations", "dropout-10,dropout-20", "--device", "cpu")
    assert code == 0
    assert re.search(r"tiny: normalized error \d\.\d+ \(.* to .*\)", out)
    assert re.search(r"wrote .*index\.html, .*B", out)
    page = (tmp_path / "out" / "index.html").read_text()
    assert '<th scope="row">dropout-20</th>' in page
    assert "preimage report" in page
    code, out, _ = run(*arguments, "--json", "--device", "cpu")
    found = json.loads(out)
    assert (code, found["scores"][0]["images"]) == (0, 20)
    assert found["scores"][0]["error"]["low"] < found["scores"][0]["error"]["mean"]
    code, _, err = run("report", "absent", "-o", tmp_path / "x")
    assert (code, "absent" in err) == (1, True)
