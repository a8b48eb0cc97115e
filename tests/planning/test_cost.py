"""What a run would cost, before it is made: the codecs side by side, what limits a training, how many cores feed it."""

import pytest
import torch

from pipeline.planning.cost import HARD_BYTES, codec_costs, codec_lines
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


def test_plan_shows_bytes_and_hours_of_every_codec_that_goes_with_the_classes() -> None:
    views = 1_281_167 * 300
    found = codec_costs("top16", 1000, 32, views)
    widths = {"none": 0, "u8": 1004, "f16": 2000, "top8": 31, "top16": 52, "top32": 91, "top128": 290}
    assert {codec: costs["bytes"] for codec, costs in found.items()} == {
        codec: int(views * (HARD_BYTES + width)) for codec, width in widths.items()
    }
    assert all(costs["hours"] > 0 for costs in found.values()) and found["none"]["hours"] < found["top16"]["hours"]
    lines = codec_lines(found, "top16")
    assert [line.split()[1] for line in lines] == list(found) == list(widths)
    assert [line for line in lines if "this cache" in line] == [lines[4]] and " 20.5 GB" in lines[4]
    assert list(codec_costs("top9", 10, 32, 1)) == ["none", "u8", "f16", "top8", "top9"]
