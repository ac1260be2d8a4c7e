"""``preimage tuning``: which kernels were found right and fast on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from preimage.cli._shared import Json, Output, plural, reporting

if TYPE_CHECKING:
    from rich.table import Table

    from preimage.ops.upconv.tuning import Record, Trial


@reporting
def tuning(
    clear: Annotated[bool, typer.Option("--clear", help="Forget all measurements.")] = False,
    path: Annotated[bool, typer.Option("--path", help="Print the folder where they are kept.")] = False,
    json: Json = False,
) -> None:
    """Show what was measured of the up-convolution's kernels, and which was chosen for each kind of layer.

    Kernels are tried on a GPU when a kind of layer first comes up there; after --clear they are tried again.
    """
    from preimage.ops.upconv import tuning as measured

    show = Output(json)
    where = measured.path()
    if path:
        show.say(str(where))
        show.finish({"path": where})
        return
    if clear:
        count = measured.clear()
        show.say(f"removed {plural(count, 'file')} from {where}")
        show.finish({"path": where, "removed": count})
        return
    records = measured.entries()
    if json:
        show.finish({"path": where, "entries": records})
    elif not records:
        show.say(f"nothing measured yet in {where}")
    else:
        _print(records)


def _print(records: tuple[Record, ...]) -> None:
    from rich.console import Console

    # In a pipe there is no width to fit: cut lines would help nobody.
    console = Console(width=None if Console().is_terminal else 240, highlight=False)
    machines = {tuple(sorted(record.machine.items())): record.machine for record in records}
    for number, machine in enumerate(machines.values()):
        versions = ", ".join(f"{name} {value}" for name, value in machine.items() if name != "gpu")
        console.print(("\n" if number else "") + f"{machine['gpu']} ({versions})", markup=False)
        console.print(_table([record for record in records if record.machine == machine]))


def _table(records: list[Record]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for name in ("layer", "candidate", "ms", "against torch", "error", "remark"):
        table.add_column(name, justify="right" if name in ("ms", "against torch", "error") else "left")
    for record in records:
        usual = record.entry.trials[0].milliseconds
        for number, trial in enumerate(record.entry.trials):
            ratio = usual / trial.milliseconds if usual and trial.milliseconds else None
            chosen = trial.config == record.entry.chosen
            cells = (
                record.key if number == 0 else f"  {record.entry.date}" if number == 1 else "",
                trial.name,
                "-" if trial.milliseconds is None else f"{trial.milliseconds:.4f}",
                "-" if ratio is None else f"{ratio:.2f}x",
                "-" if trial.error is None else f"{trial.error:.1e}",
                _remark(trial, chosen),
            )
            table.add_row(*map(Text, cells), style="bold" if chosen else None)
        table.add_section()
    return table


def _remark(trial: Trial, chosen: bool) -> str:
    return "chosen" if chosen else trial.reason or ""
