"""Ten steps of torch.optim.AdamW (single-tensor form, f32, CPU) after clip_grad_norm_.

    python tests/golden/adamw.py         writes tests/golden/adamw.json
"""

import json
import pathlib

import torch

SEED = 7
SHAPES = {"a": [3, 5], "b": [9]}
STEPS = 10


def run(weight_decay: float, max_norm: float, lr: float, betas: tuple[float, float], eps: float) -> dict:
    torch.manual_seed(SEED)
    params = {name: torch.randn(shape, requires_grad=True) for name, shape in SHAPES.items()}
    initial = {name: p.detach().flatten().tolist() for name, p in params.items()}
    optimizer = torch.optim.AdamW(
        params.values(), lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, foreach=False, fused=False
    )
    steps = []
    for step in range(STEPS):
        # The rate changes from step to step and the gradients' size varies, so that some steps are clipped.
        rate = lr * (1 - step / STEPS)
        for group in optimizer.param_groups:
            group["lr"] = rate
        for p in params.values():
            p.grad = torch.randn(p.shape) * (0.03 if step % 3 else 2.0)
        grads = {name: p.grad.flatten().tolist() for name, p in params.items()}
        norm = torch.nn.utils.clip_grad_norm_(params.values(), max_norm)
        optimizer.step()
        values = {name: p.detach().flatten().tolist() for name, p in params.items()}
        steps.append({"lr": rate, "grads": grads, "grad_norm": norm.item(), "params": values})
    state = {
        name: {
            "exp_avg": optimizer.state[p]["exp_avg"].flatten().tolist(),
            "exp_avg_sq": optimizer.state[p]["exp_avg_sq"].flatten().tolist(),
        }
        for name, p in params.items()
    }
    return {
        "weight_decay": weight_decay,
        "max_norm": max_norm,
        "beta1": betas[0],
        "beta2": betas[1],
        "eps": eps,
        "shapes": SHAPES,
        "initial": initial,
        "steps": steps,
        "state": state,
    }


here = pathlib.Path(__file__)
golden = {
    "generator": "tests/golden/adamw.py",
    "versions": {"torch": torch.__version__},
    "seed": SEED,
    "cases": [
        run(0.0, 0.3, 2e-4, (0.9, 0.999), 1e-8),
        run(0.1, 1.0, 1e-2, (0.8, 0.95), 1e-6),
    ],
}
here.with_suffix(".json").write_text(json.dumps(golden) + "\n")
