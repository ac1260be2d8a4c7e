"""Choose the kernel that runs a pass on a GPU, or cuDNN: from the table of the architecture, or by a rule.

The tables, ``tables/sm_*.json``, are bundled and written by ``benchmarks/tune_upconv.py``: nothing is measured at run
time.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from preimage.ops.upconv.kernel_configs import PASSES, Config, candidates, supported

TABLES = Path(__file__).with_name("tables")
# By their names in the tables: bfloat16 and float16 are equally large and fast, and float32 has kernels only where TF32
# is allowed.
DTYPES = {"16-bit": (torch.bfloat16, torch.float16), "tf32": (torch.float32,)}
# The rule: with more output channels the arithmetic outweighs what is fused, and cuDNN is better at it. An estimate.
MOST_OUT_CHANNELS = 64

Capability = tuple[int, int]
Key = tuple[str, int, int, str]  # pass, Ci, Co, name in `DTYPES`

_NAMES = {dtype: name for name, dtypes in DTYPES.items() for dtype in dtypes}

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A line of a table: what runs one pass of one layer.

    Attributes:
        which: one of `kernel_configs.PASSES`; "pass" in the file.
        in_channels, out_channels: of the layer.
        pixels: B·H·W of the low resolution. The nearest entry serves every other size.
        dtype: a name of `DTYPES`.
        config: the kernel's configuration; ``None``, in the file the kernel "torch", where cuDNN runs the pass.
        milliseconds, torch_milliseconds: measured times of the choice and of torch; ``None`` for an estimate.
    """

    which: str
    in_channels: int
    out_channels: int
    pixels: int
    dtype: str
    config: Config | None
    milliseconds: float | None = None
    torch_milliseconds: float | None = None

    @property
    def key(self) -> Key:
        """The key for look-up; several entries of a key differ in their pixels."""
        return self.which, self.in_channels, self.out_channels, self.dtype

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, without those that are ``None``."""
        values = dataclasses.asdict(self)
        config = {"kernel": "torch"} if self.config is None else dataclasses.asdict(self.config)
        values = {"pass": values.pop("which"), **values, **config}
        del values["config"]
        return {name: value for name, value in values.items() if value is not None and (name, value) != ("split", 1)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Entry:
        """Return the entry of a `to_dict`. Raises ``ValueError`` saying which field is missing or wrong."""
        rest = dict(values)
        try:
            kernel = rest.pop("kernel")
            config = None
            if kernel != "torch":
                block, warps, stages = (rest.pop(name) for name in ("block", "num_warps", "num_stages"))
                config = Config(kernel, tuple(block), warps, stages, rest.pop("split", 1))
            entry = cls(rest.pop("pass"), config=config, **rest)
        except KeyError as error:
            raise ValueError(f"the field {error} is missing") from error
        except TypeError as error:
            raise ValueError(str(error)) from error
        if entry.which not in PASSES or entry.dtype not in list(DTYPES):
            raise ValueError(f"pass and dtype must be of {(*PASSES, *DTYPES)}, got {entry.which!r} and {entry.dtype!r}")
        numbers = [entry.in_channels, entry.out_channels, entry.pixels]
        numbers += [] if config is None else [*config.block, config.num_warps, config.num_stages, config.split]
        if not all(type(number) is int and number >= 1 for number in numbers):
            raise ValueError(f"channels, pixels and blocks must be whole numbers of at least 1, got {numbers}")
        return entry


def choose(
    which: str,
    in_channels: int,
    out_channels: int,
    pixels: int,
    dtype: torch.dtype,
    capability: Capability,
    *,
    tf32: bool,
) -> Config | None:
    """Return the configuration of the kernel that runs a pass, or ``None`` where torch (cuDNN) does.

    The arguments are those of `kernel_configs.candidates`. Entries of a table that are none of the candidates for their own
    size on this device are left out, so that a table can never name what does not run there.
    """
    if not supported(which, in_channels, out_channels, pixels, dtype, capability, tf32=tf32):
        return None
    entries = _table(capability).get((which, in_channels, out_channels, _NAMES[dtype]))
    if not entries:
        return rule(which, in_channels, out_channels, pixels, dtype, capability, tf32=tf32)
    return min(entries, key=lambda entry: max(entry.pixels, pixels) / min(entry.pixels, pixels)).config


@functools.lru_cache(maxsize=4096)  # a fraction of a millisecond, in every pass of a layer that no table has
def rule(
    which: str,
    in_channels: int,
    out_channels: int,
    pixels: int,
    dtype: torch.dtype,
    capability: Capability,
    *,
    tf32: bool,
) -> Config | None:
    """Return what `choose` does for layers that no table has: the first candidate for layers that are not deep."""
    if out_channels > MOST_OUT_CHANNELS:
        return None
    found = candidates(which, in_channels, out_channels, pixels, dtype, capability, tf32=tf32)
    return found[0] if found else None


def architectures() -> dict[Capability, Path]:
    """Return the path of each table by the compute capability that it is for, ascending."""
    found = {}
    for path in TABLES.glob("sm_*.json"):
        if match := re.fullmatch(r"sm_(\d+)(\d)", path.stem):
            found[int(match[1]), int(match[2])] = path
    return dict(sorted(found.items()))


def read_table(path: Path) -> tuple[dict[str, str] | None, list[Entry]]:
    """Return where and when a table's times were measured, and its entries; damaged entries are left out.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no table.
    """
    try:
        table = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is no JSON: {error}") from error
    if not isinstance(table, dict) or not isinstance(table.get("entries"), list):
        raise ValueError(f"{path}: is no table of kernel configurations, it has no list of entries")
    entries = []
    for number, values in enumerate(table["entries"]):
        try:
            entries.append(Entry.from_dict(values))
        except (ValueError, TypeError) as error:
            _log.warning("%s: entry %d is left out: %s", path, number, error)
    return table.get("measured"), entries


@functools.cache
def _table(capability: Capability) -> dict[Key, list[Entry]]:
    """Return what can run on a device from the table of the nearest architecture that is not above its own."""
    paths = [path for architecture, path in architectures().items() if architecture <= capability]
    if not paths:
        return {}
    try:
        _, entries = read_table(paths[-1])
    except (OSError, ValueError) as error:
        _log.warning("the up-convolution goes without its table of kernel configurations: %s", error)
        return {}
    found: dict[Key, list[Entry]] = {}
    for entry in entries:
        layer = entry.which, entry.in_channels, entry.out_channels, entry.pixels
        valid = candidates(*layer, DTYPES[entry.dtype][0], capability, tf32=True)
        if entry.config is None or entry.config in valid:
            found.setdefault(entry.key, []).append(entry)
    return found
