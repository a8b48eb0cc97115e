"""A training loop of one's own in plain torch: any model learns from the teacher's cache, with the views that it saw.

    python -m stages.configure && dvc repro cache@digits
    python examples/own_loop.py --student soft

Batches, loss and refusals are those of ``stages.train``; optimizer, schedule and everything else are yours.
"""

import argparse

import timm
import torch

from pipeline import open_run


def main(params: str, student: str, work: str, arch: str, steps: int | None) -> list[float]:
    run = open_run(params, student=student, work=work)
    device = run.loader.device
    torch.manual_seed(0)
    model = timm.create_model(arch, num_classes=len(run.classes)).to(device).train()
    steps = run.steps if steps is None else min(steps, run.steps)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses = []
    for step, batch in enumerate(run.batches(0, steps)):
        loss = run.loss(model(batch.images), batch)  # logits (B, C) of one head
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if step % 20 == 0:
            print(f"step {step} of {steps}: loss {losses[-1]:.4f}")
    model.eval()
    with torch.inference_mode():
        right = torch.cat([model(images).argmax(1) == labels for images, labels in run.validation()])
    print(f"top-1 on the validation split: {100 * float(right.float().mean()):.2f} %")
    return losses


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", default="params.yaml")
    parser.add_argument("--student", required=True)
    parser.add_argument("--work", default="work")
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--steps", type=int)
    main(**vars(parser.parse_args()))
