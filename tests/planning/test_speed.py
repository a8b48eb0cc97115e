"""What limits a training, and how many cores feed it."""

import pytest
import torch

from pipeline.planning.speed import Speed

GPU, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.mark.parametrize(
    ("speed", "limit", "seconds", "cores"),
    [
        (Speed(1200e-6, 15, 30e-6, 25e-6, GPU), "drawing", 80e-6, 40),  # a small model: the main process would be next
        (Speed(1200e-6, 64, 30e-6, 25e-6, GPU), "main process", 30e-6, 40),
        (Speed(1200e-6, 64, 30e-6, 300e-6, GPU), "step", 300e-6, 4),
        (Speed(1200e-6, 1, 400e-6, 900e-6, CPU), "step", 1300e-6, 1),  # one process, so both add up
        (Speed(1200e-6, 0, 100e-6, 900e-6, CPU), "drawing", 1200e-6, 2),
    ],
)
def test_the_slowest_of_drawing_main_process_and_step_is_the_limit(
    speed: Speed, limit: str, seconds: float, cores: int
) -> None:
    assert (speed.limit, speed.cores) == (limit, cores) and speed.seconds == pytest.approx(seconds)
