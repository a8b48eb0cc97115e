"""The hours of a whole run, and their range."""

from pipeline.planning.total import described, total


def test_the_range_follows_the_spread_of_the_middle_rounds() -> None:
    found = total({"labels": 2.0, "trainings": 6.0}, 8, [[1.0, 0.9, 1.1, 9.0, 0.1], [4.0, 2.0, 4.0, 4.0, 4.4]])
    assert (found.all, found.low, found.high) == (8.0, 0.9 * 8.0, 1.1 * 8.0)
    said = described(found.as_json(), ["other"])
    assert said.startswith(
        "total: about 8 h on this machine, from 7 h 12 min to 8 h 48 min by the spread of a few real steps"
    )
    assert "(labels 2 h, trainings 6 h)" in said and said.endswith("; without other, whose views are others")
