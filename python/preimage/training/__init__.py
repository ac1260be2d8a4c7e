"""Training of inverters."""

from preimage.training.config import TrainConfig
from preimage.training.display import BarDisplay, Display, LineDisplay
from preimage.training.trainer import TrainSummary, run
from preimage.training.validation import TrainingDivergedError

__all__ = ["BarDisplay", "Display", "LineDisplay", "TrainConfig", "TrainSummary", "TrainingDivergedError", "run"]
