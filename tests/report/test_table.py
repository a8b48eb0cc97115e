"""The table of results in a terminal."""

import pytest

from pipeline.report.table import table


def test_the_table_has_room_for_long_names_and_cuts_what_the_terminal_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    long = "a_student_with_a_name_of_many_words_that_goes_on_and_on_and_on_and_on_for_a_hundred_characters"
    shares = {"top1": 95.123456, "interval": [93.1, 96.7]}
    row = shares | {"distillation": "soft", "teacher": "t", "agreement": {"t": {"percent": 90.0}}}
    summary = {"teachers": {"regnety_of_some_length": shares}, "students": {"a": row, long: row}}
    for columns in (80, 110, 300):
        monkeypatch.setenv("COLUMNS", str(columns))
        lines = table(summary).splitlines()
        assert all(len(line) <= columns for line in lines)
        assert len({line.index("95.12") for line in lines if "95.12" in line}) == 1
        assert (long in lines[-1]) == (columns == 300) and ("…" in lines[-1]) == (columns < 300)
