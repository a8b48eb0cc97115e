"""Numbers in the units that people use."""

from pipeline.runtime import units


def test_numbers_come_in_units_that_people_use() -> None:
    sizes = {0: "0 B", 512: "512 B", 66_100: "66.1 kB", 999_600: "1 MB", 1.5e9: "1.5 GB", 3.2e18: "3200 PB"}
    assert {count: units.size(count) for count in sizes} == sizes
    times = {0: "0 s", 0.0032: "3.2 ms", 57.24: "57.2 s", 59.7: "1 min", 250: "4 min 10 s", 7500: "2 h 5 min"}
    times |= {172_800 + 90_000: "3 days 1 h", 4e-7: "0.0004 ms"}
    assert {seconds: units.duration(seconds) for seconds in times} == times
    numbers = {1234.5678: "1235", 0.833912345: "0.8339", 1.0e-5: "1e-05", 12: "12", 123456.7: "123457"}
    assert {value: units.number(value) for value in numbers} == numbers
