"""One contender of the CPU's training benchmark, in a process of its own: takes numbers of steps, tells their times.

Each line of the input is a number of steps to train on the trainer's own batches; the answer is a line of JSON:
milliseconds of each step, how many of them it waited for its batch, and the mean loss so far. The first line out says
what it computes in. The environment variable PREIMAGE_UPCONV, read by the package, makes the contender.
"""

from __future__ import annotations

import json
import sys
import time

import torch

from _training_setup import train_state
from preimage.pipelines.prefetch import in_order
from preimage.training import TrainConfig
from preimage.training.trainer import fastest_step

SETTLE = 0.5  # seconds in which the batches that are prepared ahead get ready, before another contender's turn


def main() -> int:
    """Ends with the input."""
    torch.set_num_threads(int(sys.argv[2]))
    config = TrainConfig.from_json(sys.argv[1])
    made, dataset = train_state(config)
    step = fastest_step(made, 0, lambda sentence: print(sentence, file=sys.stderr))
    batches = in_order(
        dataset.batch, range(config.steps), workers=config.workers, ahead=config.workers + 2, name="batch"
    )
    _say({"dtype": str(made.dtype).removeprefix("torch.")})
    done = 0
    for line in sys.stdin:
        steps, waits = [], []
        for _ in range(int(line)):
            begin = time.perf_counter()
            batch = next(batches)
            ready = time.perf_counter()
            step(batch.images, done, batch.features)
            done += 1
            steps.append(1e3 * (time.perf_counter() - begin))
            waits.append(1e3 * (ready - begin))
        loss = made.loss_sum.item() / done
        time.sleep(SETTLE)
        _say({"steps": steps, "waits": waits, "loss": loss})
    batches.close()
    return 0


def _say(answer: dict[str, object]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    sys.exit(main())
