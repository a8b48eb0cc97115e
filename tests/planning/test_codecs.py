"""The codecs that a cache could have, side by side."""

from pipeline.cache.layout import Layout
from pipeline.planning.codecs import HARD_BYTES, codec_costs, codec_lines
from tests.support.logits import peaked


def test_plan_shows_bytes_and_hours_of_every_codec_that_goes_with_the_classes() -> None:
    views = 1_281_167 * 300
    found = codec_costs(Layout(64, 1000, 64, 32, 3, "top16"), views)
    widths = {"none": 0, "u8": 1004, "f16": 2000, "top8": 31, "top16": 52, "top32": 91, "top128": 290}
    assert {codec: costs["bytes"] for codec, costs in found.items()} == {
        codec: int(views * (HARD_BYTES + width)) for codec, width in widths.items()
    }
    assert all(costs["hours"] > 0 for costs in found.values()) and found["none"]["hours"] < found["top16"]["hours"]
    lines = codec_lines(found, "top16")
    assert [line.split()[1] for line in lines[:-1]] == list(found) == list(widths)
    assert [line for line in lines if "this cache" in line] == [lines[4]] and " 20.5 GB" in lines[4]
    assert list(codec_costs(Layout(64, 10, 64, 32, 3, "top9"), 1)) == ["none", "u8", "f16", "top8", "top9"]


def test_plan_shows_what_each_codec_loses_of_the_teachers_own_answers() -> None:
    found = codec_costs(Layout(64, 1000, 64, 32, 3, "top16"), 1, peaked(64), (1.0, 3.0))
    lines = codec_lines(found, "top16")
    assert "loss" not in found["none"] and "KL" in lines[-1]
    assert [0.01 < found[codec]["kl"][3.0] < 0.2 for codec in ("u8", "top8", "top16")] == [False, True, True]
    shown = f"{found['top16']['kl'][1.0]:.2g} at tau 1, {found['top16']['kl'][3.0]:.2g} at tau 3; argmax kept 100.0%"
    assert shown in lines[4]
