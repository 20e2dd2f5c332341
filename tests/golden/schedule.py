"""Learning-rate factors of transformers' own schedules.

    python tests/golden/schedule.py      writes tests/golden/schedule.json
"""

import json
import pathlib
import tempfile

import torch
import transformers
from transformers import TrainingArguments, get_scheduler

CASES = [
    ("cosine", 0.03, 100),
    ("cosine", 0.03, 34),
    ("cosine", 0.1, 10),
    ("cosine", 0.0, 7),
    ("cosine", 1.0, 5),
    ("linear", 0.03, 50),
    ("linear", 0.25, 8),
    ("linear", 0.0, 1),
    ("constant", 0.5, 6),
    ("constant_with_warmup", 0.3, 10),
]


def factors(name: str, ratio: float, total: int) -> dict:
    args = TrainingArguments(output_dir=tempfile.gettempdir(), warmup_steps=ratio, report_to=[])
    # A number of at least 1 is a number of steps to transformers, so a ratio of 1 is spelt out.
    warmup = total if ratio == 1.0 else args.get_warmup_steps(total)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=total)
    values = []
    for _ in range(total):
        values.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return {"type": name, "warmup_ratio": ratio, "total_steps": total, "warmup_steps": warmup, "factors": values}


here = pathlib.Path(__file__)
golden = {
    "generator": "tests/golden/schedule.py",
    "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    "cases": [factors(*case) for case in CASES],
}
here.with_suffix(".json").write_text(json.dumps(golden) + "\n")
