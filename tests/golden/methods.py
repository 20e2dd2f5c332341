"""References of the methods beside LoRA: full fine-tuning, DoRA, LoRA+ and prompt tuning, as PEFT and transformers train them.

    python tests/golden/methods.py

writes `methods/` and `methods.json`, for the tiny models that `models.py` made. Every run is ten steps on fixed batches, as in
`training.py`, from a saved start.
"""

import hashlib
import importlib.metadata
import json
import math
import shutil
import warnings
from pathlib import Path

import bitsandbytes.functional as bnb
import torch
from models import ALL_LINEARS, HERE, PACKAGES, generator, load_base, write_json
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import load_file, save_file
from training import HYPER, LENGTHS, STEPS, deviation, draw_batches, loss_sum
from transformers import get_cosine_schedule_with_warmup

OUT = HERE / "methods"
BASE = HERE / "tiny-llama-2"
VIRTUAL = 6
RATIO = 16.0
LEARNING_RATE = 1e-2
PLUS_LEARNING_RATE = 1e-3  # of A; B's is RATIO times that
MAX_GRAD_NORM = 0.3


def round_linears(model: torch.nn.Module) -> None:
    """Gives every linear of the decoder blocks the values that NF4 with double quantization keeps of it.

    Decoded here: on AVX-512 bitsandbytes 0.50 itself decodes rows that are no multiple of a block to other values.
    """
    for linear in model.model.modules():
        if isinstance(linear, torch.nn.Linear):
            packed, state = bnb.quantize_4bit(linear.weight.data, blocksize=64, compress_statistics=True, quant_type="nf4")
            scales = state.state2.code[state.absmax.long()] * state.state2.absmax.repeat_interleave(256)[: len(state.absmax)]
            scales = (scales + state.offset).repeat_interleave(64)
            nibbles = torch.stack([packed.flatten() >> 4, packed.flatten() & 15], 1).flatten().long()
            linear.weight.data = (state.code[nibbles] * scales[: len(nibbles)]).reshape(linear.weight.shape)


def save_adapter(model: PeftModel, folder: Path) -> None:
    model.peft_config["default"].base_model_name_or_path = BASE.name
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    saved = json.loads((folder / "adapter_config.json").read_text())
    if saved.get("target_modules"):
        saved["target_modules"].sort()  # PEFT keeps a set, whose order changes from run to run
    (folder / "adapter_config.json").write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n")


def make_dora(folder: Path) -> None:
    """Random A and B, and magnitudes that are not the rows' lengths: as made by PEFT, the adapter would be without effect."""
    random = generator(201)
    config = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=ALL_LINEARS, use_dora=True, task_type="CAUSAL_LM")
    model = get_peft_model(load_base(BASE), config)
    for key, parameter in model.named_parameters():
        with torch.no_grad():
            if "lora_A" in key:
                parameter.copy_((2 * torch.rand(parameter.shape, generator=random) - 1) * parameter.shape[1] ** -0.5)
            elif "lora_B" in key:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=random))
            elif "magnitude" in key:
                parameter.mul_(1.0 + 0.1 * torch.randn(parameter.shape, generator=random))
    save_adapter(model, folder)


def make_prompt(folder: Path) -> None:
    random = generator(202)
    config = PromptTuningConfig(num_virtual_tokens=VIRTUAL, task_type="CAUSAL_LM")
    model = get_peft_model(load_base(BASE), config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            with torch.no_grad():
                parameter.copy_(0.4 * torch.randn(parameter.shape, generator=random))
    save_adapter(model, folder)


def own_logits(model: torch.nn.Module, **inputs) -> torch.Tensor:
    """The logits of the given tokens, those of virtual ones before them left out."""
    out = model(**inputs, use_cache=False).logits
    return out[:, -inputs["input_ids"].shape[1] :]


def prompt_loss_sum(model: torch.nn.Module, micro_batch: dict) -> torch.Tensor:
    """As `training.loss_sum`; positions are PEFT's own, which count the virtual tokens."""
    sequences, trained = micro_batch["sequences"], micro_batch["trained"]
    total = torch.zeros(())
    for sequence, marks in zip(sequences, trained):
        out = own_logits(model, input_ids=torch.tensor([sequence]), attention_mask=torch.ones(1, len(sequence), dtype=torch.long))
        labels = torch.where(torch.tensor(marks), torch.tensor(sequence), -100)
        total = total + torch.nn.functional.cross_entropy(out[0, :-1], labels[1:], ignore_index=-100, reduction="sum")
    return total


def train(model: torch.nn.Module, steps: list[dict], rate: float, loss=loss_sum, optimizer=None) -> dict:
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    settings = {"betas": (HYPER["adam_beta1"], HYPER["adam_beta2"]), "eps": HYPER["adam_epsilon"], "weight_decay": 0.0}
    optimizer = optimizer or torch.optim.AdamW(parameters, lr=rate, **settings)
    schedule = get_cosine_schedule_with_warmup(optimizer, math.ceil(HYPER["warmup_ratio"] * STEPS), STEPS)
    record = {"loss": [], "grad_norm": [], "lr": []}
    for step in steps:
        count = sum(sum(map(sum, m["trained"])) for m in step["micro_batches"])
        total = 0.0
        for micro_batch in step["micro_batches"]:
            part = loss(model, micro_batch) / count
            part.backward()
            total += part.item()
        record["loss"].append(total)
        record["grad_norm"].append(torch.nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM).item())
        record["lr"].append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return record


def loraplus(model: torch.nn.Module) -> torch.optim.Optimizer:
    settings = {"betas": (HYPER["adam_beta1"], HYPER["adam_beta2"]), "eps": HYPER["adam_epsilon"], "weight_decay": 0.0}
    return create_loraplus_optimizer(model, torch.optim.AdamW, lr=PLUS_LEARNING_RATE, loraplus_lr_ratio=RATIO, **settings)


def run(name: str, start, steps: list[dict], adapter: str, loss=loss_sum, optimizer=None, quantized: bool = False) -> None:
    """Trains what `start` gives and writes `{name}.json` and, for adapters, `{name}.safetensors`."""
    rate = PLUS_LEARNING_RATE if optimizer else LEARNING_RATE
    model = start()
    record = train(model, steps, rate, loss, optimizer(model) if optimizer else None)
    value = {
        "adapter": adapter,
        "bnb_4bit_quant_type": "nf4" if quantized else "none",
        "bnb_4bit_use_double_quant": quantized,
        "learning_rate": rate,
        "max_grad_norm": MAX_GRAD_NORM,
        "loraplus_lr_ratio": RATIO if optimizer else None,
        **HYPER,
        "expected": record,
    }
    if not quantized:
        double = start().double()
        value["deviation_from_f64"] = deviation(record, train(double, steps, rate, loss, optimizer(double) if optimizer else None))
    write_json(OUT / f"{name}.json", {**value, "steps": steps})
    if adapter:
        model.save_pretrained(OUT / "saved")
        save_file(load_file(OUT / "saved/adapter_model.safetensors"), OUT / f"{name}.safetensors")
        shutil.rmtree(OUT / "saved")
    print(name, "deviation from f64:", value.get("deviation_from_f64"), "loss", record["loss"][0], record["loss"][-1])


def main() -> None:
    warnings.filterwarnings("ignore", message="Position ids are not supported")
    torch.set_num_threads(1)  # sums in one order
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    make_dora(OUT / "dora")
    make_prompt(OUT / "prompt")
    ids = json.loads((BASE / "ids.json").read_text())
    for name in ["dora", "prompt"]:
        model = PeftModel.from_pretrained(load_base(BASE), OUT / name).eval()
        with torch.no_grad():
            tables = {f"logits.{i}": own_logits(model, input_ids=torch.tensor([row]))[0].contiguous() for i, row in enumerate(ids)}
        save_file(tables, OUT / name / "logits.safetensors")
    random = generator(203)
    vocab = json.loads((BASE / "config.json").read_text())["vocab_size"]
    pool = [torch.randint(vocab, (length,), generator=random).tolist() for length in LENGTHS]
    steps = draw_batches(pool, random)

    def adapted(adapter: Path, quantized: bool = False):
        def start() -> PeftModel:
            model = load_base(BASE)
            if quantized:
                round_linears(model)
            return PeftModel.from_pretrained(model, adapter, is_trainable=True)

        return start

    def prompted() -> PeftModel:
        # PEFT loads a prompt for inference alone, so a trainable one is made and filled.
        config = PromptTuningConfig(num_virtual_tokens=VIRTUAL, task_type="CAUSAL_LM")
        model = get_peft_model(load_base(BASE), config)
        stored = load_file(OUT / "prompt/adapter_model.safetensors")["prompt_embeddings"]
        with torch.no_grad():
            model.prompt_encoder["default"].embedding.weight.copy_(stored)
        return model

    def whole() -> torch.nn.Module:
        return load_base(BASE).requires_grad_(True)

    run("train-full", whole, steps, "")
    run("train-dora", adapted(OUT / "dora"), steps, "methods/dora")
    run("train-qdora", adapted(OUT / "dora", quantized=True), steps, "methods/dora", quantized=True)
    run("train-loraplus", adapted(BASE / "lora"), steps, "tiny-llama-2/lora", optimizer=loraplus)
    run("train-prompt", prompted, steps, "methods/prompt", loss=prompt_loss_sum)
    digest = lambda path: hashlib.sha256(path.read_bytes()).hexdigest()
    manifest = {
        "command": "python tests/golden/methods.py",
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "generators": {"tests/golden/methods.py": digest(HERE / "methods.py")},
        "files": {str(p.relative_to(HERE)): digest(p) for p in sorted(OUT.rglob("*")) if p.is_file()},
    }
    write_json(HERE / "methods.json", manifest)


if __name__ == "__main__":
    main()
