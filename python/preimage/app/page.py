"""Lay out the page of the explorer, and connect its controls with an `Explorer`."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Callable
from importlib import resources
from typing import Any

from preimage.app.explorer import Explorer, InverterFacts, View
from preimage.app.settings import Settings
from preimage.errors import brief
from preimage.io import encode_png
from preimage.optional import import_optional
from preimage.pipelines.image_loading import Pixels
from preimage.representations.registry import class_of
from preimage.viz.deviation_map import MEANING, TITLE

SHOWN_SAMPLES = 4
FULL_BITS = 9  # position of the slider of bits at which features are not quantized

_LEAD = "What a photograph's features tell about it: the reconstruction is made from the features alone."
_PARTS = {
    "everything": "all",
    "descriptors only": "descriptors",
    "positions, scales, angles": "coordinates",
    "positions only": "positions",
}
_WAITING = 32  # changes that may wait, of all browsers together
_USER_ERRORS = (ValueError, TypeError, OSError, LookupError, ImportError)


def asset(name: str) -> str:
    """Return the text of a file of the page."""
    return (resources.files("preimage.app") / name).read_text(encoding="utf-8")


def data_url(image: Pixels, *, photograph: bool = True) -> str:
    """Return an image as the text of a PNG that a page contains."""
    return "data:image/png;base64," + base64.b64encode(encode_png(image, photograph=photograph)).decode()


def settings_from(facts: InverterFacts, inverter: str, board: str, other: str, *values: Any) -> Settings | None:
    """Return the settings that the controls describe; ``None`` without a photograph.

    Args:
        facts: The inverter's.
        inverter: Name of the inverter.
        board: Value of the board: JSON with the key of the photograph and the erased regions.
        other: Key of the second photograph; empty for none.
        values: Values of the other controls, in the order of `changes` in `Page`.

    Raises:
        ValueError: A value that no control has.
    """
    position, spherical, noise, dropout, smallest, largest, bits, scale, binarize, kept, parts, seed = values
    chosen = json.loads(board) if board else {}
    if not isinstance(chosen, dict) or not all(isinstance(value, str) for value in (*chosen.values(), other)):
        raise ValueError(f"the board must hold a photograph and erased regions, got {board!r:.80}")
    if not chosen.get("photograph"):
        return None
    common = Settings(
        inverter,
        chosen["photograph"],
        other=other,
        position=float(position) / 100,
        spherical=bool(spherical),
        seed=int(seed),
        erased=chosen.get("erased", "") if facts.is_map else "",
    )
    if facts.has_keypoints:
        return Settings(**(vars(common) | {"kept": float(kept), "parts": _PARTS[parts]}))
    steps = [
        *([f"noise-{noise:g}"] if noise else []),
        *([f"dropout-{dropout:g}"] if dropout else []),
        *([f"drop-smallest-{smallest:g}"] if smallest else []),
        *([f"top-{largest:g}"] if largest and not facts.is_map else []),
        *([f"quantize-{bits:g}"] if bits < FULL_BITS else []),
        *([f"scale-{scale:g}"] if scale != 100 else []),
        *(["binarize"] if binarize else []),
    ]
    return Settings(**(vars(common) | {"perturbation": "+".join(steps)}))


def pictures(view: View, facts: InverterFacts) -> str:
    """Return what the board shows, as JSON."""
    if view.psnr is None:
        error = "Between two photographs, there is no photograph to compare with."
    else:
        error = f"PSNR {view.psnr:.1f} dB, SSIM {view.ssim:.2f}"
    shape = " × ".join(map(str, view.features.shape))
    drawing = class_of(facts.spec.representation).drawing or ("strength of each cell" if facts.is_map else "")
    return json.dumps(
        {
            "message": "",
            "photograph": data_url(view.photograph),
            "features": "" if view.drawing is None else data_url(view.drawing, photograph=False),
            "reconstruction": data_url(view.reconstruction),
            "captions": {
                "photograph": f"{view.photograph.shape[1]} × {view.photograph.shape[0]} pixels",
                "features": f"{shape} numbers. " + (f"Drawn: {drawing}." if drawing else "They have no drawing."),
                "reconstruction": error,
            },
            "is_map": facts.is_map,
        }
    )


def problem(error: Exception) -> str:
    """Return the sentence of an error for the page."""
    text = str(error.args[0]) if isinstance(error, LookupError) and error.args else str(error)
    return " ".join(text.split())[:500] if isinstance(error, _USER_ERRORS) and text.strip() else brief(error)


def describe(facts: InverterFacts) -> str:
    """Return the sentence below the choice of the inverter, as HTML."""
    text = facts.explanation[:1].upper() + facts.explanation[1:]
    if facts.error is not None:
        text += f" Mean normalized error of the inverter's validation images: {facts.error:.3f}."
    return f'<p class="pi-note">{html.escape(text)}</p>'


def samples_html(samples: list[Pixels], deviation: Pixels) -> str:
    """Return samples and the map of their deviation as HTML."""
    titles = [*(f"Sample {number}" for number in range(1, SHOWN_SAMPLES + 1)), f"{TITLE}. {' '.join(MEANING)}"]
    figures = [
        f'<figure><img src="{data_url(image)}" alt="{html.escape(title)}"><figcaption>{html.escape(title)}'
        "</figcaption></figure>"
        for title, image in zip(titles, [*samples[:SHOWN_SAMPLES], deviation], strict=True)
    ]
    return f'<div class="pi-samples">{"".join(figures)}</div>'


class Page:
    """The page as `gradio.Blocks`, in the attribute `blocks`.

    Args:
        explorer: What computes the results.
    """

    def __init__(self, explorer: Explorer) -> None:
        self._gradio = import_optional("gradio")
        self._explorer = explorer
        gr = self._gradio
        # Nothing is reported to other hosts, and no version is looked up there.
        with gr.Blocks(title="preimage explore", analytics_enabled=False) as self.blocks:
            gr.HTML(f'<div class="pi-head"><h1>preimage explore</h1><p>{html.escape(_LEAD)}</p></div>')
            with gr.Row():
                with gr.Column(scale=7, min_width=320):
                    self._board = gr.HTML(
                        value="",
                        html_template=asset("board.html"),
                        js_on_load=asset("board.js"),
                        apply_default_css=False,
                        pictures="",
                        elem_id="board",
                    )
                    self._samples = gr.HTML(value="", elem_id="samples", apply_default_css=False)
                with gr.Column(scale=3, min_width=280):
                    self._add_controls()
        self.blocks.queue(max_size=_WAITING, default_concurrency_limit=1)

    def launch_options(self) -> dict[str, Any]:
        """Return the appearance of the page, for ``gradio.mount_gradio_app``."""
        gr = self._gradio
        theme = gr.themes.Default(
            primary_hue=gr.themes.colors.teal,
            neutral_hue=gr.themes.colors.stone,
            # Fonts of the system: a name that gradio knows would be loaded from another host.
            font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
            font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"],
        ).set(
            button_primary_background_fill="*primary_700",  # white text on the lighter ones is hard to read
            button_primary_background_fill_dark="*primary_700",
            button_primary_background_fill_hover="*primary_800",
            button_primary_background_fill_hover_dark="*primary_800",
        )
        return {"theme": theme, "css": asset("page.css"), "footer_links": []}

    def _add_controls(self) -> None:
        gr = self._gradio
        first = self._explorer.names[0]
        facts = self._explorer.facts(first)
        self._inverter = gr.Dropdown(self._explorer.names, value=first, label="Inverter", elem_id="inverter")
        self._about = gr.HTML(describe(facts), elem_id="about", apply_default_css=False)
        with gr.Accordion("Perturb the features", open=True):
            with gr.Column(visible=not facts.has_keypoints, elem_id="of-features") as self._of_features:
                noise = gr.Slider(0, 200, 0, step=1, label="Noise, % of the deviation", elem_id="noise")
                dropout = gr.Slider(0, 99, 0, step=1, label="Dropout, % of all", elem_id="dropout")
                smallest = gr.Slider(0, 99, 0, step=1, label="Drop the smallest, %", elem_id="smallest")
                largest = gr.Slider(
                    0, 100, 0, step=1, label="Keep only the largest", visible=not facts.is_map, elem_id="largest"
                )
                bits = gr.Slider(1, FULL_BITS, FULL_BITS, step=1, label=f"Bits ({FULL_BITS}: all)", elem_id="bits")
                scale = gr.Slider(10, 200, 100, step=5, label="Scale, %", elem_id="scale")
                binarize = gr.Checkbox(False, label="Binarize: keep only the signs", elem_id="binarize")
            with gr.Column(visible=facts.has_keypoints, elem_id="of-keypoints") as self._of_keypoints:
                kept = gr.Slider(1, 100, 100, step=1, label="Keypoints kept, %", elem_id="kept")
                parts = gr.Radio(list(_PARTS), value=next(iter(_PARTS)), label="Kept of each", elem_id="parts")
            seed = gr.Slider(0, 99, 0, step=1, label="Seed", elem_id="seed")
        with gr.Accordion("Between two photographs", open=False, elem_id="between"):
            self._other = gr.HTML(
                value="",
                html_template=asset("other.html"),
                js_on_load=asset("board.js"),
                apply_default_css=False,
                elem_id="other",
            )
            position = gr.Slider(0, 100, 0, step=1, label="Position, %", elem_id="position")
            spherical = gr.Checkbox(False, label="Along an arc", elem_id="spherical")
        with gr.Accordion("Samples", open=False, visible=facts.can_sample, elem_id="sampling") as self._sampling:
            gr.HTML(
                '<p class="pi-note">Images that the features allow, drawn at random, and where they differ.</p>',
                apply_default_css=False,
            )
            spread = gr.Slider(0, 2, 1, step=0.1, label="Spread", elem_id="spread")
            draw = gr.Button("Draw samples", elem_id="draw", size="sm")
        drawn = gr.State(0)
        self._largest = largest
        changes = [position, spherical, noise, dropout, smallest, largest, bits, scale, binarize, kept, parts, seed]
        inputs = [self._inverter, self._board, self._other, *changes]
        # Of changes that come faster than they are computed, the last one is computed; one at a time for all browsers.
        one_at_a_time: dict[str, Any] = {
            "trigger_mode": "always_last",
            "concurrency_limit": 1,
            "concurrency_id": "compute",
            "show_progress": "hidden",
            "api_name": False,
        }
        self._inverter.change(
            self._choose,
            self._inverter,
            [self._about, self._of_features, self._of_keypoints, self._largest, self._sampling],
            **one_at_a_time,
        )
        gr.on(
            [
                self._inverter.change,
                self._board.input,
                self._other.input,
                *(control.change for control in changes),
            ],
            self._update,
            inputs,
            [self._board, self._samples],
            **one_at_a_time,
        )
        draw.click(self._draw, [*inputs, spread, drawn], [self._board, self._samples, drawn], **one_at_a_time)

    def _choose(self, inverter: str) -> list[Any]:
        """Return the controls that the inverter has."""
        gr = self._gradio
        try:
            facts = self._explorer.facts(inverter)
        except Exception as error:
            return [f'<p class="pi-note">{html.escape(problem(error))}</p>', *[gr.skip()] * 4]
        return [
            describe(facts),
            gr.update(visible=not facts.has_keypoints),
            gr.update(visible=facts.has_keypoints),
            gr.update(visible=not facts.is_map),
            gr.update(visible=facts.can_sample),
        ]

    def _update(self, *values: Any) -> list[Any]:
        return self._guarded(values, lambda settings: "")

    def _draw(self, *values: Any) -> list[Any]:
        """Draw other samples than the last time."""
        *given, spread, seed = values

        def draw(settings: Settings) -> str:
            return samples_html(*self._explorer.sample(settings, spread=float(spread), seed=seed))

        return [*self._guarded(given, draw), seed + 1]

    def _guarded(self, values: Any, below: Callable[[Settings], str]) -> list[Any]:
        """Return the pictures of the board and the HTML below it, or the sentence of an error."""
        gr = self._gradio
        try:
            facts = self._explorer.facts(values[0])
            settings = settings_from(facts, *values)
            if settings is None:
                return [gr.skip(), gr.skip()]
            view = self._explorer.show(settings)
            return [gr.update(pictures=pictures(view, facts)), below(settings)]
        except Exception as error:  # also of torch, such as too little memory: the page is the only place to say so
            return [gr.update(pictures=json.dumps({"message": problem(error)})), ""]
