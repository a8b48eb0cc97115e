"""The hashes by which two commits are compared."""

from pathlib import Path

from bench.digest import digests


def test_results_are_hashed_and_times_are_not(tmp_path: Path) -> None:
    for work, seconds in (("before", "3.1"), ("after", "2.9")):
        for name, text in (
            ("caches/c/hard/c/0/0", "rows"),
            ("report/summary.md", "98.61"),
            ("seconds/train.json", seconds),
        ):
            path = tmp_path / work / name
            path.parent.mkdir(parents=True)
            path.write_text(text)
    before = digests(tmp_path / "before")
    assert list(before) == ["caches/c/hard/c/0/0", "report/summary.md"] and digests(tmp_path / "after") == before
    (tmp_path / "after/caches/c/hard/c/0/0").write_text("other")
    after = digests(tmp_path / "after")
    assert {name for name in after if after[name] != before[name]} == {"caches/c/hard/c/0/0"}
