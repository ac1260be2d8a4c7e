"""Test the samples that `preimage invert` writes beside the reconstructions, and their deviation."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from extractions import contents
from preimage.inverters import Inverter
from preimage.io import FeatureRecord, decode_file
from preimage.pipelines import image_loading
from preimage.pipelines.extract import extract
from preimage.pipelines.invert import invert
from preimage.pipelines.sampling import Sampling, from_gray_levels, gray_levels, pixel_deviation
from preimage.representations import create_representation
from preimage.store import FeatureStore, write_features
from sizes import pairs

HOG = create_representation("hog")


@pytest.fixture
def features(photo_folder: Path, tmp_path: Path) -> Path:
    """Return the features of 20 images of 48×48 pixels."""
    return extract(HOG, photo_folder, tmp_path / "f", size=48, dtype="float32").path


def stored(*keys: str, path: Path) -> Path:
    values = np.random.default_rng(0).random((len(keys), 31, 8, 8)).astype(np.float32)
    records = [FeatureRecord(key, value, (64, 64), (64, 64)) for key, value in zip(keys, values, strict=True)]
    write_features(path, HOG.spec, records)
    return path


def pictures(folder: Path) -> dict[str, np.ndarray]:
    return {str(path.relative_to(folder)): decode_file(path).astype(int) for path in sorted(folder.rglob("*.png"))}


def largest_difference(one: Path, other: Path) -> int:
    first, second = pictures(one), pictures(other)
    assert first.keys() == second.keys()
    return max(int(np.abs(first[name] - second[name]).max()) for name in first)


def test_samples_are_those_of_the_inverter(mixed: Path, tiny_sampler: Path, tiny: Path, tmp_path: Path) -> None:
    extract(HOG, mixed, tmp_path / "f", dtype="float32")
    file, network, out = FeatureStore(tmp_path / "f"), Inverter.load(tiny_sampler), tmp_path / "out"
    seen: list[tuple[int, int]] = []
    summary = invert(
        tmp_path / "f", out, inverter=tiny_sampler, samples=3, seed=5, batch_size=2, progress=lambda *n: seen.append(n)
    )
    assert (summary.images, summary.samples) == (5, 3)
    assert seen == [(done, 5) for done in range(1, 6)], "images are counted, not files"
    for position, (key, size) in enumerate(zip(file, pairs(file.processed_sizes), strict=True)):
        drawn = network.sample(file[key], 3, 5, size=size, positions=[position])
        for number, expected in enumerate(drawn, 1):
            picture = decode_file(out / f"{key}.sample-{number}.png")
            assert np.abs(picture - expected.permute(1, 2, 0).numpy() * 255).max() <= 0.51
        with Image.open(out / f"{key}.deviation.png") as image:
            assert image.mode == "L"
            levels = np.asarray(image)
        assert np.abs(from_gray_levels(levels) - pixel_deviation(drawn).numpy()).max() < 0.0011
        assert levels.max() > 4, "the samples differ"
    assert len(pictures(out)) == 5 * 5
    invert(tmp_path / "f", tmp_path / "plain", inverter=tiny, batch_size=2)
    for path in (tmp_path / "plain").rglob("*.png"):
        assert (out / path.relative_to(tmp_path / "plain")).read_bytes() == path.read_bytes()


def test_one_sample_has_no_deviation_and_is_the_first_of_several(
    features: Path, tiny_sampler: Path, tmp_path: Path
) -> None:
    invert(features, tmp_path / "one", inverter=tiny_sampler, samples=1)
    invert(features, tmp_path / "two", inverter=tiny_sampler, samples=2)
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert len(one) == 40
    assert len(two) == 80
    assert one.items() <= two.items()


@pytest.mark.usefixtures("one_thread")
def test_shards_write_the_samples_of_one_run(features: Path, tiny_sampler: Path, tmp_path: Path) -> None:
    options = {"inverter": tiny_sampler, "batch_size": 1, "device": "cpu", "samples": 2}
    invert(features, tmp_path / "whole", **options)  # type: ignore[arg-type]
    for i in range(3):
        invert(features, tmp_path / "shards", **options, shard=(i, 3))  # type: ignore[arg-type]
    assert contents(tmp_path / "shards") == contents(tmp_path / "whole")


def test_samples_depend_on_seed_and_spread_but_not_on_the_batch_size(
    features: Path, tiny_sampler: Path, tmp_path: Path
) -> None:
    invert(features, tmp_path / "out", inverter=tiny_sampler, samples=2)
    invert(features, tmp_path / "small", inverter=tiny_sampler, samples=2, batch_size=3)
    assert largest_difference(tmp_path / "out", tmp_path / "small") <= 1
    invert(features, tmp_path / "seed", inverter=tiny_sampler, samples=2, seed=1)
    assert largest_difference(tmp_path / "out", tmp_path / "seed") > 8
    invert(features, tmp_path / "spread", inverter=tiny_sampler, samples=2, spread=0.5)
    whole, half = (
        np.mean([picture for name, picture in pictures(tmp_path / folder).items() if "deviation" in name])
        for folder in ("out", "spread")
    )
    assert 0.4 * whole < half < 0.85 * whole


def test_samples_in_bfloat16_are_nearly_those_in_float32(features: Path, tiny_sampler: Path, tmp_path: Path) -> None:
    invert(features, tmp_path / "out", inverter=tiny_sampler, samples=2)
    invert(features, tmp_path / "short", inverter=tiny_sampler, samples=2, precision="bfloat16")
    assert 0 < largest_difference(tmp_path / "out", tmp_path / "short") <= 12


def test_samples_fit_the_memory_budget(
    features: Path, tiny_sampler: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    largest, sample = [0], Inverter.sample

    def noted(self: Inverter, values: torch.Tensor, *options: object, **more: object) -> torch.Tensor:
        largest.append(len(values))
        return sample(self, values, *options, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Inverter, "sample", noted)
    monkeypatch.setattr(image_loading, "BATCH_BYTES", 4 * image_loading.inverting_bytes(48, 48, samples=20))
    invert(features, tmp_path / "out", inverter=tiny_sampler, samples=20)
    assert max(largest) == 4


def test_nothing_is_written_if_there_can_be_no_samples(
    features: Path, tiny: Path, tiny_sampler: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"cannot sample.*--sampler"):
        invert(features, tmp_path / "out", inverter=tiny, samples=1)
    for options, words in (
        ({"samples": -1}, r"samples.*0.*-1"),
        ({"samples": 10**9}, r"samples.*1000.*1000000000"),
        ({"samples": 1, "seed": -3}, r"seed.*0.*-3"),
        ({"samples": 1, "spread": math.nan}, r"spread.*0.*nan"),
        ({"samples": 1, "spread": math.inf}, r"spread.*10.*inf"),
        ({"seed": 3}, r"samples.*3"),
        ({"spread": 0.5}, r"samples.*0\.5"),
    ):
        with pytest.raises(ValueError, match=words):
            invert(features, tmp_path / "out", inverter=tiny_sampler, **options)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("other", ["a.sample-2", "a.deviation"])
@pytest.mark.parametrize("shard", [(0, 1), (1, 2)])
def test_samples_do_not_replace_the_image_of_another_key(
    tiny_sampler: Path, tmp_path: Path, other: str, shard: tuple[int, int]
) -> None:
    path = stored("a", other, path=tmp_path / "f")
    with pytest.raises(ValueError, match=rf"'{other}'.*'a'"):
        invert(path, tmp_path / "out", inverter=tiny_sampler, samples=2, shard=shard)
    assert not (tmp_path / "out").exists()
    assert invert(path, tmp_path / "out", inverter=tiny_sampler, samples=1).images == 2


def test_long_keys_leave_no_room_for_the_names_of_samples(tiny_sampler: Path, tmp_path: Path) -> None:
    path = stored("k" * 250, path=tmp_path / "f")
    assert invert(path, tmp_path / "out", inverter=tiny_sampler).images == 1
    with pytest.raises(ValueError, match="255"):
        invert(path, tmp_path / "none", inverter=tiny_sampler, samples=1)
    assert not (tmp_path / "none").exists()


def test_gray_levels_are_deviations_up_to_a_half() -> None:
    deviation = torch.tensor([0, 0.1, 0.25, 0.5, 0.7])
    assert gray_levels(deviation).tolist() == [0, 51, 128, 255, 255]
    assert np.allclose(from_gray_levels(gray_levels(deviation).numpy())[:4], deviation[:4], atol=1e-3)
    samples = torch.zeros(2, 3, 1, 1)
    samples[1, 0] = 0.6  # in one of three channels
    assert pixel_deviation(samples).item() == pytest.approx(0.6 / math.sqrt(2) / math.sqrt(3))


def test_number_of_files() -> None:
    assert [Sampling(count).files for count in range(4)] == [1, 2, 4, 5]


def test_samples_of_an_earlier_inversion_are_named(features: Path, tiny_sampler: Path, tmp_path: Path) -> None:
    first, *others = list(FeatureStore(features))
    invert(features, tmp_path / "out", inverter=tiny_sampler, samples=3)
    before = contents(tmp_path / "out")
    assert invert(features, tmp_path / "out", inverter=tiny_sampler, samples=3).notes == ()
    (note,) = invert(features, tmp_path / "out", inverter=tiny_sampler, samples=1).notes
    names = [f"{Path(first).name}.{name}.png" for name in ("deviation", "sample-2", "sample-3")]
    assert note.startswith(f"{first!r}: {', '.join(names)} ")
    assert f"and {len(others)} more images" in note
    assert contents(tmp_path / "out") == before


def test_images_named_like_samples_are_not_named(tiny_sampler: Path, tmp_path: Path) -> None:
    path = stored("a", "a.sample-2", "a.sample-02", "b.deviation", path=tmp_path / "f")
    for _ in range(2):
        assert invert(path, tmp_path / "out", inverter=tiny_sampler, samples=1).notes == ()


@pytest.mark.parametrize("samples", [0, 2])
def test_features_out_of_scale_are_refused(tiny_sampler: Path, tmp_path: Path, samples: int) -> None:
    values = np.random.default_rng(0).random((3, 31, 8, 8)).astype(np.float32)
    values[1] = 3e38
    records = [FeatureRecord(key, value, (64, 64), (64, 64)) for key, value in zip("abc", values, strict=True)]
    write_features(tmp_path / "f", HOG.spec, records)
    with pytest.raises(ValueError, match=r"'b'.*finite.*scale"):
        invert(tmp_path / "f", tmp_path / "out", inverter=tiny_sampler, samples=samples)
    summary = invert(tmp_path / "f", tmp_path / "some", inverter=tiny_sampler, samples=samples, skip_bad=True)
    assert (summary.images, [key for key, _ in summary.skipped]) == (2, ["b"])
    files = Sampling(samples).files
    assert len(contents(tmp_path / "some")) == 2 * files
