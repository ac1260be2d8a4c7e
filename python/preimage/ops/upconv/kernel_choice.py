"""Choose the Triton kernel or cuDNN for a pass on a GPU, by the table of the device's architecture or by a rule.

The bundled tables, ``tables/sm_*.json``, are named by compute capability and written by ``benchmarks/tune_upconv.py``.
Nothing is measured at run time.
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

from preimage.ops.upconv.kernel_configs import CUDNN, PASSES, Config, candidates, supported

TABLES = Path(__file__).with_name("tables")
# Dtypes by their names in the tables. bfloat16 and float16 are equally fast; float32 has kernels only for TF32.
DTYPES = {"16-bit": (torch.bfloat16, torch.float16), "tf32": (torch.float32,)}
# Limit of the rule, an estimate: with more output channels cuDNN's convolutions are faster than ours.
MOST_OUT_CHANNELS = 64

Capability = tuple[int, int]
Key = tuple[str, int, int, str]  # pass, Ci, Co, name in `DTYPES`

_NAMES = {dtype: name for name, dtypes in DTYPES.items() for dtype in dtypes}

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Entry:
    """Entry of a table: the kernel for one pass of one layer.

    Attributes:
        which: Pass, one of `kernel_configs.PASSES`; ``"pass"`` in the file.
        in_channels: Number of input channels.
        out_channels: Number of output channels.
        pixels: B · H · W at the input resolution. Other sizes use the nearest entry.
        dtype: Name in `DTYPES`.
        config: Configuration of the kernel; ``None`` for cuDNN, which is the kernel ``"torch"`` in the file.
        milliseconds: Measured time of the kernel, or ``None`` for an estimate.
        torch_milliseconds: Measured time of torch, or ``None`` for an estimate.
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
        """Key for look-up; entries of one key differ in their pixels."""
        return self.which, self.in_channels, self.out_channels, self.dtype

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values, without those that are ``None``; ``"estimate"`` if nothing was measured."""
        values = dataclasses.asdict(self)
        config = {"kernel": "torch"} if self.config is None else dataclasses.asdict(self.config)
        values = {"pass": values.pop("which"), **values, **config}
        del values["config"]
        values["estimate"] = True if self.milliseconds is None else None
        return {name: value for name, value in values.items() if value is not None and (name, value) != ("split", 1)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Entry:
        """Return the entry with the given fields, see `to_dict`.

        Raises:
            ValueError: A field is missing or invalid.
        """
        rest = dict(values)
        if rest.pop("estimate", False) is not (rest.get("milliseconds") is None):
            raise ValueError("an entry must either have milliseconds or be an estimate")
        try:
            kernel = rest.pop("kernel")
            config = None
            if kernel != "torch":
                block, warps, stages = (rest.pop(name) for name in ("block", "num_warps", "num_stages"))
                config = Config(kernel, tuple(block), warps, stages, rest.pop("split", 1))
            entry = cls(rest.pop("pass"), config=config, **rest)
        except KeyError as error:
            raise ValueError(f"field {error} is missing") from error
        except TypeError as error:
            raise ValueError(str(error)) from error
        if entry.which not in PASSES or entry.dtype not in list(DTYPES):
            raise ValueError(f"pass and dtype must be of {(*PASSES, *DTYPES)}, got {entry.which!r} and {entry.dtype!r}")
        numbers = [entry.in_channels, entry.out_channels, entry.pixels]
        numbers += [] if config is None else [*config.block, config.num_warps, config.num_stages, config.split]
        if not all(type(number) is int and number >= 1 for number in numbers):
            raise ValueError(f"channels, pixels and blocks must be positive integers, got {numbers}")
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
    """Return the configuration of the kernel for a pass, or ``None`` for torch (cuDNN).

    The arguments are those of `kernel_configs.candidates`. Entries of a table that are not candidates for their size
    on this device are ignored, so that only kernels that can run are chosen; so are those that may spill registers,
    unless they were measured on this architecture.
    """
    if not supported(which, in_channels, out_channels, pixels, dtype, capability, tf32=tf32):
        return None
    entries = _table(capability).get((which, in_channels, out_channels, _NAMES[dtype]))
    if not entries:
        return rule(which, in_channels, out_channels, pixels, dtype, capability, tf32=tf32)
    return min(entries, key=lambda entry: max(entry.pixels, pixels) / min(entry.pixels, pixels)).config


@functools.lru_cache(maxsize=4096)  # takes a fraction of a millisecond, in every pass of a layer without an entry
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
    """Return the choice for layers without an entry: the first candidate, or cuDNN for many output channels."""
    found = candidates(which, in_channels, out_channels, pixels, dtype, capability, tf32=tf32)
    if out_channels > MOST_OUT_CHANNELS:
        return CUDNN.get(which) if found else None
    return found[0] if found else None


def architectures() -> dict[Capability, Path]:
    """Return the path of each bundled table by compute capability, in ascending order."""
    found = {}
    for path in TABLES.glob("sm_*.json"):
        if match := re.fullmatch(r"sm_(\d+)(\d)", path.stem):
            found[int(match[1]), int(match[2])] = path
    return dict(sorted(found.items()))


def read_table(path: Path) -> tuple[dict[str, str] | None, list[Entry]]:
    """Read a table.

    Returns:
        Device and date of the measurements (``None`` for estimates), and the entries; invalid ones are left out.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is not a table.
    """
    try:
        table = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(table, dict) or not isinstance(table.get("entries"), list):
        raise ValueError(f"{path}: not a table of kernel configurations, it has no list of entries")
    entries = []
    for number, values in enumerate(table["entries"]):
        try:
            entries.append(Entry.from_dict(values))
        except (ValueError, TypeError) as error:
            _log.warning("%s: entry %d is ignored: %s", path, number, error)
    return table.get("measured"), entries


@functools.cache
def _table(capability: Capability) -> dict[Key, list[Entry]]:
    """Return the valid entries of the table of the device's architecture, or else of the nearest older one."""
    tables = [table for table in architectures().items() if table[0] <= capability]
    if not tables:
        return {}
    architecture, path = tables[-1]
    try:
        _, entries = read_table(path)
    except (OSError, ValueError) as error:
        _log.warning("up-convolutions do not use the table of kernel configurations: %s", error)
        return {}
    found: dict[Key, list[Entry]] = {}
    for entry in entries:
        layer = entry.which, entry.in_channels, entry.out_channels, entry.pixels
        measured = entry.milliseconds is not None and architecture == capability
        valid = candidates(*layer, DTYPES[entry.dtype][0], capability, tf32=True, spilling=measured)
        if entry.config is None or entry.config in valid:
            found.setdefault(entry.key, []).append(entry)
    return found
