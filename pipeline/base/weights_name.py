"""Names of weights, as a configuration gives them: "timm", "hf-hub:owner/name[@revision]", or a local file."""

from typing import Literal

Key = Literal["model", "model_ema", "state_dict", "state_dict_ema"]  # of weights in a training checkpoint


def is_hub(name: str) -> bool:
    """Whether the name is "timm" (the hub's weights of the tagged model) or "hf-hub:owner/name[@revision]"."""
    return name == "timm" or name.startswith("hf-hub:")
