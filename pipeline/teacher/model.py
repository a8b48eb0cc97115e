"""The teacher: a frozen timm classifier that answers a batch of finished views with logits.

Equal weights, precision and batch shape give equal bits, so the shape is constant (short batches are padded) and all
three are in the cache's identity. A teacher in train mode would answer 99 % of views differently; it is refused.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.base import timm_models, weights
from pipeline.base.sums import require_unchanged
from pipeline.runtime.config import is_hub
from pipeline.runtime.errors import IntegrityError, UsageError
from pipeline.runtime.libraries import require_compiler
from pipeline.runtime.progress import say
from pipeline.teacher.config import Precision, TeacherConfig
from pipeline.views.recipe import Recipe


def create_teacher(config: TeacherConfig, classes: int, pretrained: bool, size: int | None = None) -> nn.Module:
    """The bare timm model with C = ``classes`` outputs (where the config picks ``outputs``: all of its weights'), on the CPU, in
    train mode: for ``fit_teacher``, and to bring ``pretrained`` weights into ``work/teachers``. ``size``: of its views in px,
    which its ``img_size`` follows.

    Raises UsageError if the weights are missing, do not fit, or have another number of classes, or if the model does not
    take this size; IntegrityError if they are damaged.
    """
    arch_args = config.arch_args if size is None else timm_models.sized(config.arch, config.arch_args, size)
    if not pretrained:
        model: Any = timm_models.create_model(config.arch, arch_args, classes)
        if size is not None:
            timm_models.require_size(model, config.arch, arch_args, size)
        return model
    if config.weights is None:
        raise UsageError(
            f"teacher {config.arch}: its config names no weights; fit it with: python -m stages.fit_teacher --teacher NAME"
        )
    if is_hub(config.weights):
        model = timm_models.from_hub(config.arch, arch_args, config.weights)
        if config.outputs is None:
            _require_classes(config, classes, model.num_classes)
        weights.require_finite(model.state_dict(), config.weights)
    else:
        state = weights.read_state(config.weights, config.weights_key)
        own = classes if config.outputs is None else timm_models.classes_of(config.arch, state)
        model = timm_models.create_model(config.arch, arch_args, own)
        weights.load_strict(model, state, config.weights)
    if size is not None:
        timm_models.require_size(model, config.arch, arch_args, size)
    return model


def read_teacher_initial(config: TeacherConfig, size: int) -> dict[str, Tensor]:
    """The weights that ``initial`` names. ``size``: of the fit's views in px, to which timm brings a hub's positions. Raises
    UsageError or IntegrityError."""
    assert config.initial is not None
    if not is_hub(config.initial):
        return weights.read_state(config.initial, config.initial_key)
    arch_args = timm_models.sized(config.arch, config.arch_args, size)
    return timm_models.from_hub(config.arch, arch_args, config.initial).state_dict()


def start_from(model: nn.Module, state: Mapping[str, Tensor], quiet: bool = False) -> None:
    """Copies the weights ``state`` of the same architecture into ``model``; a classifier that is missing or for another
    number of classes starts at zero, as in BiT, and that is said unless ``quiet``; positions must be of the same
    size. Raises UsageError (they do not fit) or IntegrityError."""
    own = model.state_dict()
    heads = [name for name in own if name.startswith(timm_models.classifiers_of(model))]
    apart = [name for name in heads if name not in state or state[name].shape != own[name].shape]
    if apart and not quiet:
        found = "missing" if apart[0] not in state else f"of {state[apart[0]].shape[0]} classes"
        say(f"initial: weights whose classifier is {found}: it starts at zero")
    beginnings = timm_models.classifiers_of(model) if apart else ()
    kept = {name: value for name, value in state.items() if not name.startswith(beginnings)}
    weights.load_strict(model, kept | {name: torch.zeros_like(own[name]) for name in heads if apart}, "initial")


def require_fit(config: TeacherConfig, classes: int | None, size: int) -> None:
    """Raises UsageError if the config's weights are not for C = ``classes`` (None: not known) or views of ``size`` px, and
    IntegrityError if they are damaged. Asks no network: a hub's weights are judged by the number of classes that timm
    knows, a local file by loading it."""
    if config.weights is None:
        return
    if not is_hub(config.weights):
        known = classes or timm_models.classes_of(config.arch, weights.read_state(config.weights, config.weights_key))
        create_teacher(config, known, pretrained=True, size=size)
    elif classes is not None and config.outputs is None:
        found = timm_models.hub_classes(config.arch, config.weights)
        _require_classes(config, classes, classes if found is None else found)


def _require_classes(config: TeacherConfig, classes: int, found: int) -> None:
    if found != classes:
        raise UsageError(
            f"teacher {config.arch}: the data has {classes} classes, its weights {config.weights} have {found}; choose a "
            f"teacher for these classes, or give it no weights and a section fit"
        )


@contextmanager
def computing(precision: Precision, device: torch.device) -> Iterator[None]:
    """One precision, whatever the caller has set: fp32 without TF32, bf16 and fp16 by autocast.

    cuDNN may choose neither by timing nor non-deterministic kernels. The caller's settings come back afterwards.
    """
    backends: Any = torch.backends
    precisions = (
        backends.cuda.matmul,
        backends.cudnn.conv,
        backends.cudnn.rnn,
        backends.mkldnn.matmul,
        backends.mkldnn.conv,
    )
    dtype = timm_models.autocast_type(precision)
    before = [backend.fp32_precision for backend in precisions]
    cudnn = (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic)
    try:
        for backend in precisions:
            backend.fp32_precision = "ieee"
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None, cache_enabled=False):
            yield
    finally:
        for backend, value in zip(precisions, before, strict=True):
            backend.fp32_precision = value
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = cudnn


@dataclass(frozen=True)
class Teacher:
    """A loaded teacher. ``batch`` is the constant number of views per forward pass."""

    config: TeacherConfig
    classes: int
    batch: int
    device: torch.device
    weights_hash: str
    model: nn.Module
    forward: Any  # the model, or its compiled form
    affine: tuple[Tensor, Tensor] | None  # scale and shift (1, 3, 1, 1): from the recipe's normalisation to its own
    buffers: Tensor  # uint8: the bytes of all buffers when loaded

    @classmethod
    def load(
        cls,
        config: TeacherConfig,
        weights_file: Path,
        classes: int,
        recipe: Recipe,
        batch: int,
        device: torch.device,
    ) -> "Teacher":
        """Loads ``weights_file`` strictly. Views will come normalised as ``recipe`` says.

        Raises UsageError (missing file, does not fit, another class count) or IntegrityError (damaged file).
        """
        require_unchanged(weights_file)
        model = create_teacher(config, classes, pretrained=False, size=recipe.size)
        weights.load_strict(model, weights.read_state(weights_file), f"{weights_file} for teacher {config.arch}")
        return cls.of(model, config, classes, recipe, batch, device)

    @classmethod
    def of(
        cls, model: nn.Module, config: TeacherConfig, classes: int, recipe: Recipe, batch: int, device: torch.device
    ) -> "Teacher":
        """``model`` with its weights, frozen and brought to ``device`` in place. Raises UsageError without a compiler that
        the config asks for."""
        if config.compile:
            require_compiler(f"teacher {config.arch}: compile")
        model.eval().requires_grad_(False)
        identity = weights.state_hash(model.state_dict())
        model.to(device)
        if config.channels_last:
            model.to(memory_format=torch.channels_last)
        affine = affine_of(recipe, config, device)
        forward = _compiled(model) if config.compile else model
        return cls(config, classes, batch, device, identity, model, forward, affine, _bytes(model))

    def identity(self) -> dict[str, Any]:
        """Everything of the teacher that decides a logit, as plain JSON values."""
        return {
            "arch": self.config.arch,
            "arch_args": dict(self.config.arch_args),
            "weights": self.weights_hash,
            "mean": list(self.config.mean),
            "std": list(self.config.std),
            "precision": self.config.precision,
            "channels_last": self.config.channels_last,
            "compile": self.config.compile,
            "batch": self.batch,
        }

    def predict(self, images: Tensor) -> Tensor:
        """Logits float32 (n, C) on the teacher's device for finished views float32 (n, 3, R, R), n <= ``batch``.

        The rows do not depend on n. Raises IntegrityError if the model is in train mode, its buffers have changed or a
        logit is not finite, and UsageError if it does not take this size or does not have C classes.
        """
        logits, sound = self.start(images)
        if not sound:
            self.refuse(logits)
        return logits

    def start(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """``predict`` without a wait: the logits, and whether they may be used, bool (). On a GPU both are still being
        computed. Where they may not, ``refuse`` says why."""
        name = self.config.arch
        n = images.shape[0]
        if not 0 < n <= self.batch:
            raise ValueError(f"teacher {name}: expected 1 to {self.batch} views, found {n}")
        if any(module.training for module in self.model.modules()):
            raise IntegrityError(f"teacher {name}: it is in train mode; something called train() on it")
        with torch.inference_mode():
            inputs = images.new_zeros((self.batch, *images.shape[1:]), device=self.device)
            inputs[:n] = images
            if self.affine is not None:
                scale, shift = self.affine
                inputs.mul_(scale).add_(shift)
            if self.config.channels_last:
                inputs = inputs.contiguous(memory_format=torch.channels_last)
            logits = self._answer(inputs)[:n]
            if tuple(logits.shape[1:]) != (self.classes,):
                raise UsageError(
                    f"teacher {name}: expected {self.classes} logits per view, found {tuple(logits.shape[1:])}"
                )
            sound = torch.isfinite(logits).all() & (_bytes(self.model) == self.buffers).all()
        return logits.clone(), sound  # outside inference mode: a tensor that a loss may save for its backward pass

    def _answer(self, inputs: Tensor) -> Tensor:
        try:
            with computing(self.config.precision, self.device):
                return self.forward(inputs).float()
        except AssertionError as error:  # timm's check of a fixed input size
            raise UsageError(
                f"teacher {self.config.arch}: can't take {inputs.shape[-1]} px views: "
                f"{error}; set img_size in its arch_args or another size in the recipe"
            ) from None

    def refuse(self, logits: Tensor) -> None:
        """Raises IntegrityError: these logits are not finite, else the model's buffers have changed."""
        name = self.config.arch
        rows = (~torch.isfinite(logits).all(dim=1)).nonzero().flatten().tolist()
        if rows:
            narrow = f", or {self.config.precision} is too narrow: try teacher.precision=fp32"
            raise IntegrityError(
                f"teacher {name}: logits that are not finite for {len(rows)} of {logits.shape[0]} views (first: row "
                f"{rows[0]}); its weights are damaged{'' if self.config.precision == 'fp32' else narrow}"
            )
        raise IntegrityError(f"teacher {name}: its buffers (batch-norm statistics) changed since it was loaded")


def _compiled(model: nn.Module) -> Any:
    """Without kernels that are chosen by timing: another process might choose others, which round in another order."""
    return torch.compile(model, dynamic=False, options={"deterministic": True})


def affine_of(recipe: Recipe, own: TeacherConfig, device: torch.device) -> tuple[Tensor, Tensor] | None:
    """Scale and shift (1, 3, 1, 1) from the recipe's normalisation to the teacher's own, worked out in doubles; None
    where they agree."""
    if recipe.mean == own.mean and recipe.std == own.std:
        return None
    scale = torch.tensor([s / o for s, o in zip(recipe.std, own.std)], device=device)
    shift = torch.tensor([(m - o) / s for m, o, s in zip(recipe.mean, own.mean, own.std)], device=device)
    return scale.view(1, 3, 1, 1), shift.view(1, 3, 1, 1)


def _bytes(model: nn.Module) -> Tensor:
    """All buffers as one uint8 tensor. Versions would be cheaper, but batch norm updates its buffers behind them."""
    parts = [buffer.detach().contiguous().reshape(-1).view(torch.uint8) for buffer in model.buffers()]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.uint8)
