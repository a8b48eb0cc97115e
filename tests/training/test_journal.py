"""The speeds beside the checkpoints: those of this run, or begun anew."""

from pathlib import Path

import pytest

from pipeline.runtime.errors import IntegrityError, UsageError
from pipeline.student.export import read_log
from pipeline.training.journal import Journal
from tests.support.hostile import LONG


@pytest.mark.parametrize(
    "content", [b"", b"epoch,step\n1,2\n", b"epoch,step,task,live_fraction,val_top1\n1,3,0.5,0", b"\xff\xfe\0", LONG]
)
def test_a_log_that_is_none_is_damage_and_a_journal_that_is_none_begins_anew(
    tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = content.replace(b"epoch,step\n", b"epoch,step\n1,").replace(LONG, b"step\n" + LONG)
    (tmp_path / "log.csv").write_bytes(content + b"\n1,x\n")
    with pytest.raises(IntegrityError, match=r"log\.csv: not the log of a training"):
        read_log(tmp_path)
    (tmp_path / "log.csv").unlink()
    with pytest.raises(UsageError, match=r"log\.csv: No such file"):
        read_log(tmp_path)
    (tmp_path / "speed.csv").write_bytes(rows + b"\n1,x\n")
    journal = Journal("t", tmp_path, 5)
    journal.close()
    assert journal.rows == [] and "not the speeds of this run" in capsys.readouterr().out
