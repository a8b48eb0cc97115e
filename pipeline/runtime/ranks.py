"""What becomes of the other ranks when one is lost, hangs or refuses: one sentence that names it, and its exit code.

Each rank that meets an end writes it to the process group's store; who is asked for and writes nothing is lost. Retrying
is right for a lost rank (75), and wrong where a rank refused: then every rank ends with that rank's code.
"""

import json
import os
import re
import socket
import threading
import time
from contextlib import suppress
from typing import Any

from pipeline.runtime.errors import IdentityError, IntegrityError, PipelineError, RetryError, UsageError, first_line

_WORDS = re.compile(
    r"gloo|nccl|c10d|process ?group|closed by peer|reset by peer|broken pipe|timed out waiting|wait timeout", re.I
)
_PATIENCE = 5.0  # seconds in which the ranks that are left tell each other
_KINDS = {kind.exit_code: kind for kind in (UsageError, IntegrityError, IdentityError, RetryError)}


class Ranks:
    """The ends that the ranks of a process group, which is initialised, tell each other."""

    def __init__(self, rank: int, world: int) -> None:
        import torch.distributed.distributed_c10d as c10d

        self.rank, self.world, self.store = rank, world, c10d._get_default_store()

    def refused(self, error: PipelineError) -> None:
        """Tells the others why this rank ends, closes its connections, so that they notice, and waits until they have: the
        store may end with this process."""
        with suppress(RuntimeError):
            self._tell({"code": error.exit_code, "text": str(error)})
            leaving = threading.Thread(target=_leave, daemon=True)  # NCCL's may wait for ranks that hang
            leaving.start()
            leaving.join(_PATIENCE)
            if self.rank == 0:
                self._ends()

    def explain(self, error: RuntimeError) -> PipelineError | None:
        """What an error of the connection means: a rank's refusal, or lost ranks; None for any other error."""
        if not _is_of_connection(error):
            return None
        again = "nothing saved is lost: run the same command to go on"
        if not _store_is_there():
            return RetryError(f"rank {self.rank} of {self.world}: rank 0 is lost ({_plain(error)}); {again}")
        ends: dict[int, Any] = {}
        with suppress(RuntimeError):
            self._tell({"code": None, "text": ""})
            ends = self._ends()
        for other, end in ends.items():
            if end["code"] is not None:
                kind = _KINDS.get(end["code"], RetryError)
                return kind(f"rank {self.rank} of {self.world} ends because rank {other} refused: {end['text']}")
        lost = [str(other) for other in range(self.world) if other not in ends and other != self.rank]
        who = f"rank {', '.join(lost)} is lost or hangs" if lost else "the connection between the ranks is lost"
        return RetryError(f"rank {self.rank} of {self.world}: {who} ({_plain(error)}); {again}")

    def _tell(self, end: dict[str, Any]) -> None:
        self.store.set(f"end/{self.rank}", json.dumps(end))

    def _ends(self) -> dict[int, Any]:
        """The ends of all ranks that tell one within a while; a refusal ends the waiting."""
        found: dict[int, Any] = {}
        limit = time.monotonic() + _PATIENCE
        while len(found) < self.world and time.monotonic() < limit:
            for other in set(range(self.world)) - set(found):
                if self.store.check([f"end/{other}"]):
                    found[other] = json.loads(self.store.get(f"end/{other}"))
            if any(end["code"] is not None for other, end in found.items() if other != self.rank):
                break
            time.sleep(0.05)
        return found


def _leave() -> None:
    import torch

    with suppress(RuntimeError, AssertionError, ValueError):
        torch.distributed.destroy_process_group()


def _is_of_connection(error: RuntimeError) -> bool:
    import torch

    return isinstance(error, torch.distributed.DistError) or bool(_WORDS.search(str(error)))


def _store_is_there() -> bool:
    """Whether the store still answers; without torchrun it lives in rank 0. Asked by hand, since the store's own client
    prints a page when it is gone."""
    try:
        where = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
        socket.create_connection(where, timeout=_PATIENCE).close()
    except (OSError, KeyError, ValueError):
        return False
    return True


def _plain(error: RuntimeError) -> str:
    """The library's words without its source file and its advice."""
    text = re.sub(r"^\[.*?\]\s*", "", first_line(error))
    return text.split(". ")[0].rstrip(".")
