"""Offline knowledge distillation of vision transformers: a cached run is the live run."""
