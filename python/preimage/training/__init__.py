"""Training of inverters."""

from preimage.training.config import TrainConfig
from preimage.training.display import BarDisplay, Display, LineDisplay
from preimage.training.distributed import ProcessFailedError, is_main_process
from preimage.training.trainer import TrainSummary, run
from preimage.training.validation import TrainingDivergedError

__all__ = [
    "BarDisplay",
    "Display",
    "LineDisplay",
    "ProcessFailedError",
    "TrainConfig",
    "TrainSummary",
    "TrainingDivergedError",
    "is_main_process",
    "run",
]
