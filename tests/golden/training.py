"""Ten-step training references: a plain PyTorch loop over PEFT models. `models.py` calls it.

Each run starts from a saved adapter and sees fixed batches, without dropout: two micro-batches of two sequences a step,
the loss normalised by the trained tokens of the whole step, AdamW, a cosine schedule with warm-up, clipping.
"""

import json
import math
import tempfile
from pathlib import Path

import bitsandbytes as bnb
import torch
from models import generator, load_base, write_json
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, get_cosine_schedule_with_warmup

STEPS = 10
ACCUMULATION = 2
LENGTHS = [3, 24, 11, 17, 8, 20, 5, 13]  # of the eight sequences that the batches are drawn from
HYPER = {
    "max_steps": STEPS,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": ACCUMULATION,
    "lr_scheduler_type": "cosine",
    "warmup_ratio": 0.2,
    "weight_decay": 0.0,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-8,
}
SMOLLM2_TEXTS = [
    'Cho mình 2 bạc xỉu size nhỏ ít đá nha. {"items": [{"name": "bạc xỉu", "quantity": 2}]}',
    "Một cà phê sữa đá mang đi, không đường.",
    "A language model predicts the next token from the ones before it, and nothing else.",
    "### Instruction:\nTranslate to French.\n\n### Response:\nBonjour le monde.",
    "0.1 + 0.2 = 0.30000000000000004 in binary floating point.",
    "Nước cam ép size lớn, thêm đá giúp em với ạ!",
    "fn main() { println!(\"Hello\"); }",
    "The quick brown fox jumps over the lazy dog near the river bank at dawn.",
]


def quantize_linears(model: torch.nn.Module) -> None:
    """Makes every linear of the decoder blocks NF4 with double quantization, as `load_in_4bit` does: all but the head."""
    for name, linear in list(model.model.named_modules()):
        if not isinstance(linear, torch.nn.Linear):
            continue
        quantized = bnb.nn.Linear4bit(
            linear.in_features,
            linear.out_features,
            bias=False,
            compute_dtype=torch.float32,
            compress_statistics=True,
            quant_type="nf4",
        )
        quantized.weight = bnb.nn.Params4bit(
            linear.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4", module=quantized
        )
        parent, _, child = name.rpartition(".")
        setattr(model.model.get_submodule(parent), child, quantized.to("cpu"))  # moving it quantizes
        assert quantized.weight.quant_state.nested
    model.is_loaded_in_4bit = True


def draw_batches(pool: list[list[int]], random: torch.Generator) -> list[dict]:
    """Steps of micro-batches. A pool smaller than the run repeats, so the loss falls; each draw masks other tokens."""
    rounds = math.ceil(STEPS * ACCUMULATION * 2 / len(pool))
    order = [i for _ in range(rounds) for i in torch.randperm(len(pool), generator=random).tolist()]
    steps = []
    for _ in range(STEPS):
        micro_batches = []
        for _ in range(ACCUMULATION):
            sequences = [pool[order.pop()] for _ in range(2)]
            trained = [(torch.rand(len(s), generator=random) < 0.7).tolist() for s in sequences]
            for row in trained:
                row[0], row[-1] = False, True  # nothing predicts the first token; each sequence trains at least one
            micro_batches.append({"sequences": sequences, "trained": trained})
        steps.append({"micro_batches": micro_batches})
    return steps


def loss_sum(model: torch.nn.Module, micro_batch: dict) -> torch.Tensor:
    """The summed cross-entropy of the trained tokens, the sequences padded on the right and the padding masked."""
    sequences, trained = micro_batch["sequences"], micro_batch["trained"]
    width = max(map(len, sequences))
    ids = torch.zeros(len(sequences), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, -100)
    for row, (sequence, marks) in enumerate(zip(sequences, trained)):
        ids[row, : len(sequence)] = torch.tensor(sequence)
        mask[row, : len(sequence)] = 1
        labels[row, : len(sequence)] = torch.where(torch.tensor(marks), torch.tensor(sequence), -100)
    positions = torch.arange(width).expand_as(ids)
    out = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits
    flat = out[:, :-1].reshape(-1, out.shape[-1])
    return torch.nn.functional.cross_entropy(flat, labels[:, 1:].reshape(-1), ignore_index=-100, reduction="sum")


def train(model: torch.nn.Module, steps: list[dict], learning_rate: float, max_grad_norm: float) -> dict:
    """Runs the loop and returns loss (mean over the step's trained tokens), gradient norm before clipping, and rate."""
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    betas = (HYPER["adam_beta1"], HYPER["adam_beta2"])
    optimizer = torch.optim.AdamW(
        parameters, lr=learning_rate, betas=betas, eps=HYPER["adam_epsilon"], weight_decay=HYPER["weight_decay"]
    )
    warmup = math.ceil(HYPER["warmup_ratio"] * STEPS)
    schedule = get_cosine_schedule_with_warmup(optimizer, warmup, STEPS)
    record = {"loss": [], "grad_norm": [], "lr": []}
    for step in steps:
        count = sum(sum(map(sum, m["trained"])) for m in step["micro_batches"])
        total = 0.0
        for micro_batch in step["micro_batches"]:
            loss = loss_sum(model, micro_batch) / count
            loss.backward()
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm)
        record["loss"].append(total)
        record["grad_norm"].append(norm.item())
        record["lr"].append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return record


def deviation(a: dict, b: dict) -> float:
    """The largest relative difference between two records' losses and gradient norms."""
    pairs = zip(a["loss"] + a["grad_norm"], b["loss"] + b["grad_norm"])
    return max(abs(x - y) / abs(y) for x, y in pairs)


def run(base: Path, adapter: Path, steps: list[dict], learning_rate: float, max_grad_norm: float, out: Path) -> None:
    """Trains `adapter` on `base` and writes `out` (batches and record) and, beside it, the adapter that results.

    `out` is `train-lora.json` or `train-qlora.json`: its name says whether the base is quantized. The resulting adapter is
    stored for tiny models only.
    """
    quantized = out.stem == "train-qlora"

    def start() -> PeftModel:
        model = load_base(base)
        if quantized:
            quantize_linears(model)
        return PeftModel.from_pretrained(model, adapter, is_trainable=True)

    model = start()
    record = train(model, steps, learning_rate, max_grad_norm)
    value = {
        "adapter": adapter.name,
        "bnb_4bit_quant_type": "nf4" if quantized else "none",
        "bnb_4bit_use_double_quant": quantized,
        "learning_rate": learning_rate,
        "max_grad_norm": max_grad_norm,
        **HYPER,
        "expected": record,
    }
    if not quantized:  # how far rounding alone moves the record: the same run with f64 weights
        value["deviation_from_f64"] = deviation(record, train(start().double(), steps, learning_rate, max_grad_norm))
    write_json(out, {**value, "steps": steps})
    if base.is_dir():
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            save_file(load_file(Path(folder) / "adapter_model.safetensors"), out.with_suffix(".safetensors"))
    print(out.parent.name, out.stem, "deviation from f64:", value.get("deviation_from_f64"))
    for row in zip(*record.values()):
        print("  loss {:.6f}  grad_norm {:.6f}  lr {:.6f}".format(*row))


def make_tiny_runs(base: Path, random: torch.Generator) -> None:
    """LoRA in f32 and QLoRA (NF4, double quantization, f32 compute) on the same batches."""
    vocab = json.loads((base / "config.json").read_text())["vocab_size"]
    pool = [torch.randint(vocab, (length,), generator=random).tolist() for length in LENGTHS]
    steps = draw_batches(pool, random)
    max_grad_norm = {"tiny-llama-2": 0.3, "tiny-llama-3.2": 3.6}[base.name]  # clips every step; clips about half of them
    for name in ["train-lora.json", "train-qlora.json"]:
        run(base, base / "lora", steps, 1e-2, max_grad_norm, base / name)


def make_smollm2_run(gguf: Path, folder: Path) -> None:
    """QLoRA on the weights that the GGUF file decodes to, quantized again to NF4."""
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    pool = [tokenizer(text, add_special_tokens=False)["input_ids"][:26] for text in SMOLLM2_TEXTS]
    steps = draw_batches(pool, generator(92))
    run(gguf, folder / "lora", steps, 2e-3, 0.3, folder / "train-qlora.json")
