"""Scores after transformers' logits processors, in the order in which `generate` applies them.

    python tests/golden/sampling.py      writes tests/golden/sampling.json
"""

import json
import math
import pathlib

import torch
import transformers
from transformers.generation.logits_process import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

SEED = 3
VOCAB = 24
# repetition_penalty, temperature, top_k, top_p
CASES = [
    (1.0, 1.0, 0, 1.0),
    (1.3, 1.0, 0, 1.0),
    (0.8, 1.0, 0, 1.0),
    (1.0, 0.5, 0, 1.0),
    (1.0, 1.0, 5, 1.0),
    (1.0, 1.0, 0, 0.9),
    (1.0, 1.0, 0, 0.05),
    (1.2, 0.7, 8, 0.8),
    (1.0, 2.0, 100, 0.95),
]


def processed(penalty: float, temperature: float, top_k: int, top_p: float) -> dict:
    previous = torch.randint(0, VOCAB, (1, 10))
    scores = torch.randn(1, VOCAB) * 3
    steps = LogitsProcessorList()
    if penalty != 1.0:
        steps.append(RepetitionPenaltyLogitsProcessor(penalty))
    if temperature != 1.0:
        steps.append(TemperatureLogitsWarper(temperature))
    if top_k:
        steps.append(TopKLogitsWarper(top_k))
    if top_p < 1.0:
        steps.append(TopPLogitsWarper(top_p))
    out = steps(previous, scores.clone())[0].tolist()
    return {
        "repetition_penalty": penalty,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "previous": previous[0].tolist(),
        "scores": scores[0].tolist(),
        "processed": [None if math.isinf(x) else x for x in out],
    }


torch.manual_seed(SEED)
here = pathlib.Path(__file__)
golden = {
    "generator": "tests/golden/sampling.py",
    "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    "seed": SEED,
    "cases": [processed(*case) for case in CASES],
}
here.with_suffix(".json").write_text(json.dumps(golden) + "\n")
