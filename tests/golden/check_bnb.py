"""Loads what `ferrotune quantize` wrote with transformers and bitsandbytes, strictly, and compares.

    ferrotune quantize --model BASE --out DIR
    ferrotune logits --model DIR --ids ids.json --out logits.safetensors
    python tests/golden/check_bnb.py DIR --base BASE --ids ids.json --logits logits.safetensors

With `--base`, every linear's nibbles and scale codes must be those that bitsandbytes itself computes from BASE.
"""

import argparse
import json
from pathlib import Path

import bitsandbytes as bnb
import torch
from check_peft import compare
from models import load_base
from transformers import AutoModelForCausalLM


def load_quantized(folder: Path) -> torch.nn.Module:
    """The model in `folder`; fails unless every tensor of the files has its place and every place its tensor."""
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, device_map="cpu", attn_implementation="eager", output_loading_info=True
    )
    problems = {key: value for key, value in info.items() if value}
    if problems:
        raise SystemExit(f"FAIL transformers: {problems}")
    for module in linears(model).values():
        module.compute_dtype, module.compute_type_is_set = torch.float32, True
    # In evaluation mode bitsandbytes may convert the weights for a bf16 kernel; Llama has nothing else that depends on it.
    return model.train()


def linears(model: torch.nn.Module) -> dict[str, bnb.nn.Linear4bit]:
    return {name: m for name, m in model.named_modules() if isinstance(m, bnb.nn.Linear4bit)}


def compare_with_bitsandbytes(model: torch.nn.Module, base: Path) -> None:
    """Quantizes BASE with bitsandbytes, in the type that the state dict names, and compares bytes."""
    reference = dict(load_base(base).named_modules())
    quantized = linears(model)
    expected = {n for n, m in reference.items() if isinstance(m, torch.nn.Linear) and n != "lm_head"}
    if quantized.keys() != expected:
        raise SystemExit(f"FAIL linears: {sorted(quantized.keys() ^ expected)} are quantized on one side only")
    scale = 0.0
    for name, module in quantized.items():
        state = module.weight.quant_state
        packed, own = bnb.functional.quantize_4bit(
            reference[name].weight.data.to(state.dtype),
            blocksize=state.blocksize,
            compress_statistics=state.nested,
            quant_type=state.quant_type,
        )
        differ = (packed.flatten() != module.weight.data.flatten()).sum().item()
        if differ:
            raise SystemExit(f"FAIL {name}: {differ} of {packed.numel()} bytes of nibbles differ")
        if not torch.equal(own.absmax, state.absmax):
            count = (own.absmax != state.absmax).sum().item()
            raise SystemExit(f"FAIL {name}: {count} of {own.absmax.numel()} scales differ")
        if own.nested:
            pairs = [(own.state2.absmax, state.state2.absmax), (own.offset, state.offset)]
            scale = max(scale, *((a - b).abs().max().item() / a.abs().max().item() for a, b in pairs))
    if scale > 1e-6:  # the mean of the scales depends on the order of its additions
        raise SystemExit(f"FAIL second-level scales: relative difference {scale}")
    print(f"nibbles and scales: equal on {len(quantized)} linears; second-level scales within {scale:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--ids", type=Path)
    parser.add_argument("--logits", type=Path)
    parser.add_argument("--bound", type=float, default=1e-3)
    args = parser.parse_args()
    if (args.ids is None) != (args.logits is None):
        parser.error("--ids and --logits go together")
    config = json.loads((args.folder / "config.json").read_text())["quantization_config"]
    model = load_quantized(args.folder)
    print(f"transformers loads {len(linears(model))} linears as {config['bnb_4bit_quant_type']}")
    if args.base is not None:
        compare_with_bitsandbytes(model, args.base)
    if args.ids is not None:
        compare(model, args.ids, args.logits, args.bound)


if __name__ == "__main__":
    main()
