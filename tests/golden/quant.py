"""Golden data of 4-bit quantization, from bitsandbytes' CPU path.

    OMP_NUM_THREADS=1 python tests/golden/quant.py [MODEL.gguf]

writes to `tests/golden/quant/`

- `cases.safetensors`: small tensors with every bit of their quantized form. Per case `<case>.values` (f32, what was
  quantized), bitsandbytes' own state dict under `<case>.weight…`, `<case>.decoded` (what it dequantizes to, as f32);
- `digests.json`: SHA-256 of larger tensors, whose values both languages make from the same formula (`pattern`);
- `smollm2.json` (with an argument): SHA-256 for each linear of SmolLM2-135M-Instruct, under transformers' names and in
  transformers' layout.

A digest is `packed` = SHA-256 of the packed bytes, `absmax` = of the absmax codes, `nested` = of the nested absmax
(f32, little-endian) followed by the offset (f32, little-endian).

Needs torch, bitsandbytes, safetensors and, for a model, gguf. One thread: torch's mean of 32768 values or more depends
on the number of threads.
"""

import hashlib
import json
import sys
from importlib.metadata import version
from pathlib import Path

import bitsandbytes.functional as bnb
import numpy as np
import torch
from safetensors.torch import save_file

SEED = 20
OUT = Path(__file__).parent / "quant"


def header(**extra) -> dict:
    packages = ["torch", "bitsandbytes", "numpy", "safetensors", "gguf"]
    return {
        "generator": "tests/golden/quant.py",
        "generator_sha256": hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
        "versions": " ".join(f"{p}={version(p)}" for p in packages),
        "seed": str(SEED),
        **extra,
    }


def quantize(values: torch.Tensor, quant_type: str, blocksize: int, double: bool):
    return bnb.quantize_4bit(values, blocksize=blocksize, quant_type=quant_type, compress_statistics=double)


def midpoints(quant_type: str) -> torch.Tensor:
    code = bnb.get_4bit_type(quant_type, device="cpu").sort().values
    return (code[:-1] + code[1:]) / 2


def ties(quant_type: str) -> torch.Tensor:
    """Every midpoint between two codes and its two neighbours, in blocks whose absmax is 1."""
    m = midpoints(quant_type)
    one = torch.ones(1)
    up, down = torch.nextafter(m, one), torch.nextafter(m, -one)
    return torch.cat([one, m, up, down, one, -m, one * 0, -up, -down, one * -0.0]).reshape(1, -1)


def inputs(quant_type: str) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(SEED)
    normal = lambda *shape: torch.randn(*shape, generator=g)
    zero_block = normal(2, 128) * 0.02
    zero_block[1, :64] = 0
    # Widths are odd or multiples of the block: for others the AVX-512 build of bitsandbytes takes the wrong absmax.
    return {
        "normal": normal(3, 128) * 0.02,
        "zero_block": zero_block,
        "heavy_tail": torch.tan(normal(5, 192)),
        "odd": normal(5, 37),
        "tiny": normal(1, 3),
        "tiny_zero": torch.zeros(1, 3),
        "bf16": (normal(4, 64) * 0.05).bfloat16(),
        "ties": ties(quant_type),
        "subnormal": normal(1, 64) * 1e-39,
        "huge": (normal(1, 64) * 1e38).clamp(-3e38, 3e38),
        "constant": torch.full((2, 64), 0.3),
    }


def cases() -> dict[str, torch.Tensor]:
    tensors = {}

    def add(name, values, quant_type, blocksize, double):
        packed, state = quantize(values, quant_type, blocksize, double)
        case = f"{name}.{quant_type}.{blocksize}.{'double' if double else 'plain'}"
        tensors[f"{case}.values"] = values.float().clone()
        tensors[f"{case}.weight"] = packed
        for key, value in state.as_dict(packed=True).items():
            tensors[f"{case}.weight.{key}"] = value.clone()
        tensors[f"{case}.decoded"] = bnb.dequantize_4bit(packed, state).float()

    for quant_type in ("nf4", "fp4"):
        for name, values in inputs(quant_type).items():
            for double in (False, True):
                add(name, values, quant_type, 64, double)
    g = torch.Generator().manual_seed(SEED + 1)
    for blocksize in (32, 256, 4096):
        add("block", torch.randn(3, 2048, generator=g), "nf4", blocksize, True)
    return tensors


def pattern(n: int, seed: int) -> torch.Tensor:
    """Heavy-tailed values in (-0.1, 0.1) from a hash of the index; every step is exact or one f32 rounding."""
    h = (np.arange(n, dtype=np.uint64) * 2654435761 + seed * 40503) & 0xFFFFFFFF
    h ^= h >> 16
    h = (h * 0x45D9F3B) & 0xFFFFFFFF
    h ^= h >> 16
    t = (h >> 8).astype(np.float32) * np.float32(2.0**-23) - np.float32(1)
    return torch.from_numpy(t * t * t * np.float32(0.1))


def sha(*arrays: torch.Tensor) -> str:
    digest = hashlib.sha256()
    for a in arrays:
        digest.update(a.contiguous().numpy().tobytes())
    return digest.hexdigest()


def digest(values: torch.Tensor, quant_type: str) -> dict:
    packed, state = quantize(values, quant_type, 64, True)
    return {
        "shape": list(values.shape),
        "packed": sha(packed),
        "absmax": sha(state.absmax),
        "nested": sha(state.state2.absmax, state.offset.reshape(1)),
    }


def digests() -> list[dict]:
    shapes = [(64, 256), (192, 576), (333, 77), (576, 1536), (1536, 1536)]
    return [
        {"seed": seed, "quant_type": quant_type, **digest(pattern(n * k, seed).reshape(n, k), quant_type)}
        for seed, (n, k) in enumerate(shapes)
        for quant_type in ("nf4", "fp4")
    ]


def smollm2(path: str) -> dict:
    from gguf import GGUFReader, dequantize

    reader = GGUFReader(path)
    field = lambda name: reader.fields[f"llama.{name}"].contents()
    heads = {"attn_q": field("attention.head_count"), "attn_k": field("attention.head_count_kv")}
    names = {
        **{f"attn_{x}": f"self_attn.{x}_proj" for x in "qkv"},
        "attn_output": "self_attn.o_proj",
        **{f"ffn_{x}": f"mlp.{x}_proj" for x in ("gate", "up", "down")},
    }
    tensors = {}
    for tensor in reader.tensors:
        match tensor.name.split("."):
            case ["blk", layer, kind, "weight"] if kind in names:
                values = dequantize(tensor.data, tensor.tensor_type)
                if kind in heads:
                    # llama.cpp interleaves the two halves of each head (rotation of neighbours); transformers keeps them apart.
                    rows, columns = values.shape
                    n = heads[kind]
                    values = values.reshape(n, rows // n // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
                values = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
                tensors[f"model.layers.{layer}.{names[kind]}.weight"] = digest(values, "nf4")
    return dict(sorted(tensors.items()))


def write_json(name: str, **content):
    (OUT / name).write_text(json.dumps(content, indent=1) + "\n")


def main():
    torch.set_num_threads(1)
    OUT.mkdir(exist_ok=True)
    save_file(cases(), OUT / "cases.safetensors", metadata=header())
    write_json("digests.json", header=header(), cases=digests())
    if len(sys.argv) > 1:
        path = Path(sys.argv[1])
        model = {"model": path.name, "model_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        write_json("smollm2.json", header=header(**model), quant_type="nf4", tensors=smollm2(sys.argv[1]))


if __name__ == "__main__":
    main()
