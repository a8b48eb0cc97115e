"""What is said of a cache: sizes and answers that a person can read."""

from pathlib import Path

from pipeline.cache.layout import Layout
from pipeline.report.inspect_cache import inspect_cache, readable_cache
from pipeline.runtime.config import write_yaml
from tests.support import fake_teacher as fake

SHAPE = Layout(samples=150, classes=10, shard_size=64, block=16, group=3, codec="none")


def test_a_cache_is_described_in_words_that_a_person_can_read(tmp_path: Path) -> None:
    found = inspect_cache(fake.filled(tmp_path, SHAPE, 3).path, None)
    shown = write_yaml(readable_cache(found))
    assert "null" not in shown and "B" in readable_cache(found)["bytes"]["hard"]
    assert found["answers"]["top1"] is None and "top1" not in readable_cache(found)["answers"]
