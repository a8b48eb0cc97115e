"""Everything that a GPU computes, on a device that is not the CPU: no tensor is left on the wrong one."""

import os
import subprocess
import sys

CHOSEN = [
    "tests/views/test_finish.py",
    "tests/stages/test_pipeline.py",  # every stage
    "tests/student/test_families.py::test_a_family_trains_resumes_and_is_loaded_by_timm[test_efficientnet]",
]
# Those need no device: refusals before any work, pages, and exports, which are computed on the CPU.
NOT_CHOSEN = "onnx or refused or is_not or replace or browser or wrong or example"


def on_the_device(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    environment = {**os.environ, "DISTIL_DEVICE": "pretend", "PYTEST_ADDOPTS": ""}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)


def test_stages_losses_and_resumed_runs_are_the_same_on_another_device() -> None:
    options = ["-p", "tests.support.accelerator", "-p", "no:xdist", "-o", "addopts=-q", "-k", f"not ({NOT_CHOSEN})"]
    found = on_the_device("-m", "pytest", *options, *CHOSEN)
    assert found.returncode == 0, found.stdout[-5000:] + found.stderr
    assert "skipped" not in found.stdout, found.stdout


def test_the_device_refuses_what_a_gpu_refuses_and_shares_no_memory() -> None:
    found = on_the_device(
        "-c",
        """
import torch
from tests.support.accelerator import PRETEND
here, there = torch.zeros(3), torch.zeros(3).to(PRETEND)
for wrong in (
    lambda: here + there,
    lambda: there.copy_(here).numpy(),
    lambda: torch.stack([here, there]),
    lambda: here[there.long()],
    lambda: torch.nn.Linear(3, 2)(there),
    lambda: torch.nn.Linear(3, 2).to(PRETEND)(here),
):
    try:
        wrong()
    except (RuntimeError, TypeError) as error:
        print(type(error).__name__)
here += 1
weight = torch.ones(3, device=PRETEND, requires_grad=True)
(weight * 2 + there).sum().backward()
print(weight.grad.device, weight.grad.tolist(), there.tolist())
""",
    )
    assert found.stdout.split("\n")[:-1] == ["RuntimeError"] * 6 + ["pretend:0 [2.0, 2.0, 2.0] [0.0, 0.0, 0.0]"], found
