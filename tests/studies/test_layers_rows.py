"""Test the pairs of inverter and representation, the labels of rows, and plots of values by name."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from layer_networks import VIEWS, ToyLayer, ToyNetwork, saved, tiny_inverter
from preimage.inverters import Inverter
from preimage.inverters.output_region import OutputRegion
from preimage.representations import create_representation
from preimage.spec import Spec
from preimage.studies import layers_rows
from preimage.studies.layers import LayersStudy
from preimage.studies.layers_rows import forward_pass, layer_name, network_name, rows_for
from preimage.studies.measure import LayerScore
from preimage.viz.plots import MOST_SERIES, Values, draw_by_name


def _inverters(network: ToyNetwork, *layers: str) -> list[Inverter]:
    return [tiny_inverter(network.representation(layer).spec, VIEWS[layer]) for layer in layers]


def test_inverters_find_their_networks_by_spec() -> None:
    small, large = ToyNetwork(weights="00"), ToyNetwork(weights="ff", gain=2.0)
    inverters = [*_inverters(large, "vector"), *_inverters(small, "vector", "maps")]
    rows = rows_for(inverters, [small, large])
    assert [row.representation.network for row in rows] == [large, small, small]
    assert [row.inverter for row in rows] == inverters
    passes = [forward_pass(row.representation) for row in rows]
    assert passes[0].key != passes[1].key == passes[2].key
    assert [one.layer for one in passes] == ["vector", "vector", "maps"]
    assert [row.label for row in rows] == ["toys.net:make vector", "toys.net:make vector (2)", "maps"]
    ready = rows_for(inverters[2], small.representation("maps"))
    assert ready[0].representation == rows[2].representation, "a representation alone will do"


def test_networks_that_do_not_fit_are_named(tmp_path: Path) -> None:
    network = ToyNetwork()
    folder = saved(network, "maps", tmp_path / "mine")
    name = re.escape(str(folder))
    with pytest.raises(ValueError, match=rf"{name}.*'maps'.*toys\.net:make.*--network"):
        rows_for([folder])
    with pytest.raises(ValueError, match=r"\(inverter != network\): parameters\.weights: '0123' != 'ff'$"):
        rows_for([folder], [ToyNetwork(weights="ff")])

    class Other(ToyNetwork):
        def representation(self, layer: str, output_layout: str = "auto") -> ToyLayer:
            raise ValueError(f"no layer {layer!r}")

    with pytest.raises(ValueError, match=r"\(inverter != network\): .*'maps'$"):
        rows_for([folder], [Other()])
    with pytest.raises(ValueError, match=r"parameters\.weights: '0123' != 'ff'$"):
        rows_for([folder], [Other(), ToyNetwork(weights="ff")])
    with pytest.raises(ValueError, match=f"maps: {name} and "):
        rows_for([folder, *_inverters(network, "maps")], [network])
    with pytest.raises(ValueError, match=r"inverter.*none"):
        rows_for([])
    with pytest.raises(ValueError, match=r"neither|no such|nothing"):
        rows_for([tmp_path / "missing"])
    unknown = tiny_inverter(Spec("gist", "v", 12, None), OutputRegion(32, 32, 16))
    with pytest.raises(ValueError, match=r"gist.*representation.*'gist'"):
        rows_for([unknown])


def test_layers_of_alexnet_share_a_pass_and_have_the_papers_names(monkeypatch: pytest.MonkeyPatch) -> None:
    class Passes:
        def layers(self) -> None:
            """As `preimage.Network` has it."""

    networks = {"caffenet": Passes(), "bvlc": Passes()}

    @dataclasses.dataclass(frozen=True)
    class Layer:
        spec: Spec
        image_side = 227

        @property
        def layer(self) -> str:
            return self.spec.representation.removeprefix("alexnet-")

        @property
        def network(self) -> Passes:
            return networks[self.spec.variant]

    monkeypatch.setattr(layers_rows, "representation_from_spec", Layer)
    specs = [
        Spec(f"alexnet-{layer}", variant, 12, None, {"weights": "ab"})
        for layer, variant in (("fc8", "caffenet"), ("fc6", "caffenet"), ("fc6", "bvlc"))
    ]
    rows = rows_for([tiny_inverter(spec, OutputRegion(227, 227, 16)) for spec in specs])
    assert [row.label for row in rows] == ["FC8", "caffenet FC6", "bvlc FC6"]
    passes = [forward_pass(row.representation) for row in rows]
    assert passes[0].key == passes[1].key != passes[2].key
    assert [one.layer for one in passes] == ["fc8", "fc6", "fc6"]
    assert forward_pass(create_representation("hog")) is None


def test_what_layers_and_their_networks_are_called() -> None:
    specs = [
        Spec("network", "torch:a.b:c", 9, None, {"layer": "features.3"}),
        Spec("network", "torch:a.b:c", 9, None, {"layer": ""}),
        Spec("alexnet-conv5", "caffenet", 9, 32),
        Spec("hog", "vlfeat-uoctti", 31, 8),
    ]
    assert [layer_name(spec) for spec in specs] == ["features.3", "output", "conv5", "hog"]
    assert [network_name(spec) for spec in specs] == ["torch:a.b:c", "torch:a.b:c", "alexnet caffenet", "hog"]


def _score(representation: str, error: float, floor: float = 0.7, variant: str = "caffenet") -> LayerScore:
    layer = representation.removeprefix("alexnet-")
    shape, size = (256, 6, 6), 192
    measures = (error, floor, 20.0, 12.0, 0.3)
    return LayerScore(
        layer.upper(), "net", layer, representation, variant, shape, 227, 227, size, *measures, 9, "runs/x"
    )


def test_published_figures_stand_at_the_very_layers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Sequence[Values]] = []
    monkeypatch.setattr(
        "preimage.studies.layers.draw_by_name", lambda title, names, series, groups: drawn.append(series)
    )
    LayersStudy([_score("alexnet-conv4", 0.3), _score("alexnet-conv5", 0.4), _score("alexnet-fc8", 0.6)]).plot()
    assert [list(one.values) for one in drawn[0][2:]] == [[None, 0.35, 0.58], [None, 0.71, 0.84]]
    LayersStudy([_score("alexnet-conv5", 0.4, variant="torchvision"), _score("network", 0.5)]).plot()
    assert len(drawn[1]) == 2
    page = LayersStudy([_score("network", 0.5)]).page(np.zeros((9, 9, 3), np.uint8), None, [], "")
    assert "of CaffeNet on ImageNet" in page
    assert '<th scope="row">FC7</th><td>0.56</td><td>0.82</td>' in page


def findings(*scores: LayerScore) -> str:
    return " ".join(LayersStudy(scores).findings())


def test_findings_state_what_the_scores_show() -> None:
    text = findings(_score("a", 0.3), _score("b", 0.6, 0.71), _score("c", 0.703))
    assert "lowest for A, 0.30, and highest for C, 0.70" in text
    assert "the mean image has 0.70 to 0.71." in text
    assert "nothing is recovered from C:" in text
    text = findings(_score("a", 0.697))
    assert "from A: the error is not at least 0.005 below that of the mean image." in text
    text = findings(_score("a", 0.3))
    assert text == "The normalized error is 0.30; the mean image has 0.70."


def test_values_are_drawn_by_name() -> None:
    curve, level = Values("error", [0.2, 0.4, None]), Values("floor", [0.7, 0.7, 0.8], "level")
    picture = draw_by_name("t", ["a", "a long $name", "c"], [curve, level], ["one", "one", "two" * 20])
    assert picture.dtype == np.uint8
    assert picture.shape[1:] == (1400, 3)
    assert (picture == (0x0B, 0x72, 0x85)).all(axis=2).any()
    assert draw_by_name("t", list("abcdefghij"), [Values("e", [0.1] * 10)]).shape[1] == 2100
    for names, series, groups in (([], [], []), (["a"], [curve], []), (["a"], [], ["g", "g"])):
        with pytest.raises(ValueError, match=r"value.*group"):
            draw_by_name("t", names, series, groups)
    with pytest.raises(ValueError, match="8 curves"):
        draw_by_name("t", ["a"], [Values("p", [1.0], "points")] * 4 + [Values("c", [1.0])] * 5)


def test_several_curves_have_different_colors() -> None:
    curves = [Values(str(index), [0.1 * index, 0.1 * index + 0.05]) for index in range(MOST_SERIES)]
    picture = draw_by_name("t", ["a", "b"], [*curves, Values("floor", [0.7, 0.7], "level")])
    plot = picture[: picture.shape[0] // 2].reshape(-1, 3).astype(int)
    saturated = plot[np.ptp(plot, axis=1) > 60]
    colors, counts = np.unique(saturated, axis=0, return_counts=True)
    assert len(colors[counts > 40]) >= (MOST_SERIES - 2) // 2, "in the upper half alone"
    flat = [Values("a", [0.6, 0.7])]
    assert not np.array_equal(draw_by_name("t", ["a", "b"], flat), draw_by_name("t", ["a", "b"], flat, from_zero=False))
