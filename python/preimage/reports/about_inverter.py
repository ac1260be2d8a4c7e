"""Report on an inverter or a training run."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from preimage.facts import bytes_text, describe_spec
from preimage.inverters import Inverter
from preimage.io import ImageSource
from preimage.metrics import SMALLEST_FOR_SSIM
from preimage.pipelines.reconstruct import Reconstructor
from preimage.pipelines.sheet import title_of
from preimage.reports.error_sections import budget_sections, perturb_sections
from preimage.reports.options import STEPS, Options, Part, ReportScore, left_out
from preimage.reports.pictures import Picture, drawn_pictures, ranked_sections, sample_sections
from preimage.reports.sources import InverterSource, validation_images
from preimage.reports.training_sections import card_sections, training_sections
from preimage.representations import Representation
from preimage.representations.registry import class_of
from preimage.spec import Spec
from preimage.studies.base import ProgressCounter
from preimage.studies.bootstrap import Interval
from preimage.studies.compare import CompareSummary, compare
from preimage.studies.compare_report import MethodScore
from preimage.studies.layers_rows import layer_name, network_name
from preimage.studies.published import published
from preimage.viz.html import Section, Table

_SIDE = 256  # of an image whose features are described, in pixels


def inverter_part(source: InverterSource, options: Options, steps: ProgressCounter) -> Part:
    """Return the part of a report about an inverter or a training run, see `preimage.report`."""
    notes: list[str] = []
    spec = source.inverter.spec
    score = ReportScore(source=source.path, representation=features_name(spec), inverter=source.path, images=0)
    sections = [Section(source.name, kind="part"), about_inverter(source)]
    sections += training_sections(source, notes)
    steps.add(1)
    images, problem = _images(source, options)
    if images:
        assert source.representation is not None  # or there is a problem
        reconstructor = Reconstructor(source.representation, source.inverter, options.device)
        side = reconstructor.side(options.size, _side(source, options))
        compared = _compared(source.representation, source.inverter, images, side, options)
        score = _score(score, compared, spec)
        sections[0] = Section(source.name, numbers=score_numbers(score), kind="part")
        sections.append(_errors(compared, score, spec))
        options.skipped.extend(compared.skipped)
        notes += [note for note in compared.notes if not note.startswith("The plot")]  # it is not shown here
        if options.database is None:
            notes.append("The nearest neighbor is left out: no database of other photographs was given.")
        steps.add(1)

        def pictures(indices: list[int]) -> list[Picture]:
            return drawn_pictures(reconstructor, [images[index] for index in indices], side)

        sections += ranked_sections(compared.scores[0].each, options.show_count, spec, pictures)
        steps.add(1)
        sections += sample_sections(reconstructor, images, side, options, notes)
        sections += budget_sections(reconstructor, images, side, options.batch_size, notes)
        steps.add(1)
        sections += perturb_sections(source, images, side, options, notes)
        steps.add(STEPS - 4)
    else:
        notes.append(f"Errors, reconstructions, samples and the parts of the error are left out: {problem}.")
        sections += perturb_sections(source, [], _SIDE, options, notes)
        steps.add(STEPS - 1)
    sections += card_sections(source, notes)
    lead = f"How well photographs are reconstructed from {title_of(spec)} features alone."
    return Part(name=source.name, score=score, lead=lead, sections=(*sections, *left_out(notes)), notes=tuple(notes))


def features_name(spec: Spec) -> str:
    """Return the name of features in prose; of a network, with its layer."""
    layer, network = layer_name(spec), network_name(spec)
    return title_of(spec) if layer == spec.representation else f"{network}, {layer}"


def about_inverter(source: InverterSource) -> Section:
    """Return the section about the features and the inverter."""
    facts, spec = source.facts, source.inverter.spec
    terms = [("Spec", describe_spec(spec))]
    if source.representation is not None:
        side = source.representation.image_side or _SIDE
        shape = (spec.channels, *(source.representation.feature_size(side, side) or ()))
        explained = class_of(spec.representation).explain(spec, shape)
        terms.append(("Features", f"of an image of {side} × {side} pixels: {explained}"))
    terms += [
        ("Inverter", f"{facts['architecture']}, {facts['parameters']:,} parameters, {bytes_text(facts['bytes'])}"),
        ("Reconstructs", facts["reconstructs"]),
        ("Samples", "yes" if facts["can_sample"] else "no: it returns one image for the same features"),
    ]
    return Section("Features and inverter", terms=terms, kind="subsection")


def _images(source: InverterSource, options: Options) -> tuple[Sequence[ImageSource], str]:
    """Return the images to measure on; or none, and a clause that says why."""
    if source.representation is None:
        return [], f"the features cannot be computed ({source.problem})"
    region = source.inverter.output_region
    if region is not None and region.size < SMALLEST_FOR_SSIM:
        return [], f"the inverter returns images of {region.size} pixels, and SSIM needs {SMALLEST_FOR_SSIM}"
    if options.images is not None:
        return options.images, ""
    try:
        return validation_images(source.folder), ""
    except LookupError as error:
        return [], str(error)


def _side(source: InverterSource, options: Options) -> int:
    """Return the default side of images in pixels: that of the training, for the run's own validation images."""
    trained = source.inverter.training_notes.get("size")
    return trained if options.images is None and isinstance(trained, int) else _SIDE


def _compared(
    representation: Representation, inverter: Inverter, images: Sequence[ImageSource], side: int, options: Options
) -> CompareSummary:
    """Compare the inverter with the nearest neighbor, if there is a database; the study's own files are not kept."""
    with tempfile.TemporaryDirectory(prefix="preimage-report-") as folder:
        return compare(
            images,
            Path(folder) / "compare",
            representation=representation,
            methods=("ours",) if options.database is None else ("ours", "nearest"),
            inverter=inverter,
            database=options.database,
            size=side,
            seed=options.seed,
            show_count=1,
            batch_size=options.batch_size,
            device=options.device,
            skip_bad=options.skip_bad,
        )


def _score(score: ReportScore, compared: CompareSummary, spec: Spec) -> ReportScore:
    ours, *others = compared.scores
    paper = published(spec)
    return ReportScore(
        source=score.source,
        representation=score.representation,
        inverter=score.inverter,
        images=compared.images,
        error=ours.error,
        mean_image_error=compared.setting.mean_image_error,
        nearest_error=others[0].error if others else None,
        psnr=ours.psnr.mean,
        ssim=ours.ssim.mean,
        published=None if paper is None else paper.error,
    )


def score_numbers(score: ReportScore) -> list[tuple[str, str]]:
    """Return the main scores and their meaning; nothing if nothing was measured."""
    if score.error is None:
        return []
    return [
        (f"{score.error.mean:.3f}", f"normalized error ({score.error.low:.3f} to {score.error.high:.3f})"),
        (f"{score.mean_image_error:.3f}", "normalized error of the mean image"),
        (f"{score.psnr:.1f} dB", "PSNR"),
        (f"{score.ssim:.2f}", "SSIM"),
    ]


def _errors(compared: CompareSummary, score: ReportScore, spec: Spec) -> Section:
    setting = compared.setting
    size = f"{setting.side} × {setting.side} pixels"
    if setting.crop != setting.side:
        size += f", of which the central {setting.crop} are compared"
    text = (
        f"Measured on {compared.images:,} photographs of {size}. The interval contains 95 % of the means over "
        "resamples of the photographs (bootstrap)."
    )
    features = [one.feature_error for one in compared.scores if one.name == "ours" and one.feature_error is not None]
    if features:
        text += (
            f" The features of the reconstructions differ from those of the photographs by {features[0].mean:.0%} of "
            "their Euclidean norm."
        )
    others = [one for one in compared.scores if one.name != "ours"]
    return Section("Errors", text=[text], tables=[score_table(score, spec, others)], kind="subsection")


def score_table(score: ReportScore, spec: Spec, others: Sequence[MethodScore] = ()) -> Table:
    """Return the table of the inverter's scores beside those of other methods and the published ones."""
    assert score.error is not None and score.psnr is not None and score.ssim is not None
    rows = [_row("this inverter", score.error, score.psnr, score.ssim)]
    rows += [_row(one.title, one.error, one.psnr.mean, one.ssim.mean) for one in others]
    rows.append(["mean of these photographs", f"{score.mean_image_error:.3f}", "", "", ""])
    paper = published(spec)
    if paper is not None:
        figures = {"the paper's network": paper.error, **paper.others}
        rows += [[f"published: {name}", f"{error:.2f}", "", "", ""] for name, error in figures.items()]
    return Table("", ["method", "normalized error", "95 % interval", "PSNR, dB", "SSIM"], rows)


def _row(name: str, error: Interval, psnr: float, ssim: float) -> list[str]:
    return [name, f"{error.mean:.3f}", f"{error.low:.3f} to {error.high:.3f}", f"{psnr:.1f}", f"{ssim:.3f}"]
