"""Loads an adapter that Ferrotune wrote with PEFT, strictly, and compares logits.

    ferrotune logits --model BASE --adapter ADAPTER --ids ids.json --out logits.safetensors
    python tests/golden/check_peft.py ADAPTER BASE --ids ids.json --logits logits.safetensors

BASE is a model directory or a .gguf file. Fails on a missing key, an unexpected key, a value that PEFT does not take over
unchanged, or a logit that is off by more than the bound.
"""

import argparse
import json
from pathlib import Path

import torch
from models import load_base, logits
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file


def compare(model: torch.nn.Module, ids_file: Path, logits_file: Path, bound: float) -> None:
    """Fails if any of the logits in `logits_file` is further than `bound` from what `model` computes."""
    expected = logits(model, json.loads(ids_file.read_text()))
    ours = load_file(logits_file)
    if expected.keys() != ours.keys():
        raise SystemExit(f"FAIL {logits_file}: holds {sorted(ours)}, expected {sorted(expected)}")
    worst = 0.0
    for name, table in expected.items():
        if table.shape != ours[name].shape:
            raise SystemExit(f"FAIL {name}: shape {list(ours[name].shape)}, expected {list(table.shape)}")
        error = (table - ours[name]).abs()
        error = torch.where(error.isnan(), torch.inf, error)
        place = divmod(int(error.argmax()), table.shape[1])
        worst = max(worst, error.max().item())
        if error.max() > bound:
            raise SystemExit(f"FAIL {name}{list(place)}: {ours[name][place]}, expected {table[place]}, bound {bound}")
    print(f"logits: largest difference {worst:.2e}, bound {bound}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("base", type=Path)
    parser.add_argument("--ids", type=Path)
    parser.add_argument("--logits", type=Path)
    parser.add_argument("--bound", type=float, default=1e-3)
    args = parser.parse_args()
    if (args.ids is None) != (args.logits is None):
        parser.error("--ids and --logits go together")

    model = PeftModel.from_pretrained(load_base(args.base), args.adapter).eval()
    stored = load_file(args.adapter / "adapter_model.safetensors")
    # What PEFT itself would save for this config: its keys are those that the file has to have.
    loaded = get_peft_model_state_dict(model)
    missing, unexpected = sorted(loaded.keys() - stored.keys()), sorted(stored.keys() - loaded.keys())
    if missing or unexpected:
        raise SystemExit(f"FAIL missing: {missing}\nunexpected: {unexpected}")
    changed = [key for key, value in stored.items() if not torch.equal(value.float(), loaded[key].float())]
    if changed:
        raise SystemExit(f"FAIL PEFT's values differ from the file's: {changed}")
    print(f"adapter: {len(stored)} tensors, none missing, none unexpected")
    if args.ids is not None:
        compare(model, args.ids, args.logits, args.bound)


if __name__ == "__main__":
    main()
