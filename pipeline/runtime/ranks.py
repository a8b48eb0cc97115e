"""How the other ranks end when one is lost, hangs or refuses: with one sentence that names it, and an exit code.

Each rank that ends writes why to the process group's store; a rank that is silent for 5 s counts as lost. A run that lost a
rank may be retried (75). If a rank refused, a retry is wrong, and every rank ends with that rank's code.
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
    """How the ranks of an initialised process group tell each other why they end."""

    def __init__(self, rank: int, world_size: int) -> None:
        import torch.distributed.distributed_c10d as c10d

        self.rank, self.world_size, self.store = rank, world_size, c10d._get_default_store()

    def refused(self, error: PipelineError) -> None:
        """Tells the others why this rank ends and closes its connections, so that they notice. Rank 0 then waits for them,
        since the store may end with its process."""
        with suppress(RuntimeError):
            self._tell({"code": error.exit_code, "text": str(error)})
            leaving = threading.Thread(target=_leave, daemon=True)  # NCCL may wait for ranks that hang
            leaving.start()
            leaving.join(_PATIENCE)
            if self.rank == 0:
                self._ends()

    def explain(self, error: RuntimeError) -> PipelineError | None:
        """The refusal that an error of the connection stands for: another rank's, or lost ranks; None for other errors."""
        if not _is_of_connection(error):
            return None
        again = "nothing saved is lost: run the same command to go on"
        if not _store_is_there():
            return RetryError(
                f"rank {self.rank} of {self.world_size}: rank 0 is lost ({_without_advice(error)}); {again}"
            )
        ends: dict[int, Any] = {}
        with suppress(RuntimeError):
            self._tell({"code": None, "text": ""})
            ends = self._ends()
        for other, end in ends.items():
            if end["code"] is not None:
                kind = _KINDS.get(end["code"], RetryError)
                return kind(f"rank {self.rank} of {self.world_size} ends because rank {other} refused: {end['text']}")
        lost = [str(other) for other in range(self.world_size) if other not in ends and other != self.rank]
        who = f"rank {', '.join(lost)} is lost or hangs" if lost else "the connection between the ranks is lost"
        return RetryError(f"rank {self.rank} of {self.world_size}: {who} ({_without_advice(error)}); {again}")

    def _tell(self, end: dict[str, Any]) -> None:
        self.store.set(f"end/{self.rank}", json.dumps(end))

    def _ends(self) -> dict[int, Any]:
        """By rank, why it ends; of those that say so within a few seconds. A refusal ends the wait."""
        found: dict[int, Any] = {}
        limit = time.monotonic() + _PATIENCE
        while len(found) < self.world_size and time.monotonic() < limit:
            for other in set(range(self.world_size)) - set(found):
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
    """Whether the store, which without torchrun lives in rank 0, still answers. Asked by a socket, since the store's own
    client prints a page when it is gone."""
    try:
        where = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
        socket.create_connection(where, timeout=_PATIENCE).close()
    except (OSError, KeyError, ValueError):
        return False
    return True


def _without_advice(error: RuntimeError) -> str:
    """The library's words without its source file and its advice."""
    text = re.sub(r"^\[.*?\]\s*", "", first_line(error))
    return text.split(". ")[0].rstrip(".")
