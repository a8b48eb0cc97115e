"""Tests run on one thread per process: two processes of one thread each beat one of two on small models."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

torch.set_num_threads(1)
