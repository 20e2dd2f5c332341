"""Reference models, adapters and logits, computed by transformers and PEFT.

    python tests/golden/models.py [--gguf SmolLM2-135M-Instruct.Q4_1.gguf]

writes everything that `models.json` lists: tiny random models, PEFT adapters for them, the logits of both, and (through
`training.py`) ten-step training runs. Without `--gguf` the files of `smollm2-135m/` stay as they are.
"""

import argparse
import hashlib
import importlib.metadata
import json
import shutil
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).resolve().parent
SEED = 20240229
PACKAGES = ["torch", "transformers", "peft", "bitsandbytes", "safetensors", "gguf", "numpy"]
ALL_LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LENGTHS = [1, 7, 24, 80]  # of the sequences whose logits are stored; 80 exceeds tiny-llama-3.2's original context of 48
PROBES = 32  # columns of SmolLM2's logits that are stored at every position

TINY = {
    # As Llama 2: as many key heads as query heads, an untied head, plain rotary positions.
    "tiny-llama-2": LlamaConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        bos_token_id=1,
        eos_token_id=2,
    ),
    # As Llama 3.2: grouped heads whose size is not hidden / heads, a tied head, `llama3` scaling of the rotary frequencies.
    "tiny-llama-3.2": LlamaConfig(
        vocab_size=131,
        hidden_size=32,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=1536,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 48,
        },
        bos_token_id=1,
        eos_token_id=2,
    ),
}

# Text with accents, digits, punctuation, an emoji and special tokens, so that the tokenizer is compared too.
TEXTS = [
    "<|im_start|>user\nCho mình 2 bạc xỉu size nhỏ, ít đá nha 🧋<|im_end|>\n",
    "The capital of France is Paris, and 3 + 4 = 7.",
]


def generator(offset: int) -> torch.Generator:
    """A stream of random numbers of its own for each use, so that adding one use leaves the others' numbers alone."""
    return torch.Generator().manual_seed(SEED + offset)


def write_json(path: Path, value: dict | list) -> None:
    """Writes `value` with one top-level entry a line: small, and a change shows in a diff."""
    if isinstance(value, dict):
        body = ",\n".join(f"{json.dumps(key)}: {json.dumps(entry, ensure_ascii=False)}" for key, entry in value.items())
        text = "{\n" + body + "\n}\n"
    else:
        text = "[\n" + ",\n".join(json.dumps(entry) for entry in value) + "\n]\n"
    path.write_text(text, encoding="utf-8")


def load_base(path: str | Path) -> torch.nn.Module:
    """The causal language model in a directory or a GGUF file, in f32, with attention written out (no fused kernel)."""
    path = Path(path)
    source = {"pretrained_model_name_or_path": str(path)}
    if path.suffix == ".gguf":
        source = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    return AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32, attn_implementation="eager").eval()


def logits(model: torch.nn.Module, ids: list[list[int]]) -> dict[str, torch.Tensor]:
    """The logits [S, V] of each sequence, under the names that `ferrotune logits` gives them."""
    with torch.no_grad():
        return {f"logits.{i}": model(torch.tensor([row])).logits[0].float().contiguous() for i, row in enumerate(ids)}


def make_tiny(name: str, config: LlamaConfig, offset: int) -> Path:
    """A random model whose logits spread over several units, as a trained model's do."""
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    random = generator(offset)
    model = LlamaForCausalLM(config).float()
    for key, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=random)
        with torch.no_grad():
            if "norm" in key:
                parameter.copy_(1.0 + 0.2 * noise)
            elif "embed" in key or "lm_head" in key:
                parameter.copy_(0.4 * noise)
            else:  # queries and keys larger, so that attention has peaks
                gain = 1.5 if "q_proj" in key or "k_proj" in key else 1.0
                parameter.copy_(gain * noise / parameter.shape[1] ** 0.5)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if name == "tiny-llama-3.2":
        write_hub_form(folder)
    ids = [torch.randint(config.vocab_size, (length,), generator=random).tolist() for length in LENGTHS]
    write_json(folder / "ids.json", ids)
    save_file(logits(load_base(folder), ids), folder / "logits.safetensors")
    return folder


def write_hub_form(folder: Path) -> None:
    """The same configuration as most models on the Hub still write it: `rope_theta` and `rope_scaling` apart."""
    config = json.loads((folder / "config.json").read_text())
    scaling = config.pop("rope_parameters")
    config["rope_theta"] = scaling.pop("rope_theta")
    config["rope_scaling"] = scaling
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.45.0"
    (folder / "config-hub.json").write_text(json.dumps(config, indent=2) + "\n")


def make_adapter(model: torch.nn.Module, folder: Path, config: LoraConfig, b_std: float, offset: int) -> None:
    """Saves a PEFT adapter with random A and B: as made by PEFT, B would be zero and the adapter without effect."""
    random = generator(offset)
    peft = get_peft_model(model, config)
    for key, parameter in peft.named_parameters():
        with torch.no_grad():
            if "lora_A" in key:
                bound = parameter.shape[1] ** -0.5
                parameter.copy_((2 * torch.rand(parameter.shape, generator=random) - 1) * bound)
            elif "lora_B" in key:
                parameter.copy_(b_std * torch.randn(parameter.shape, generator=random))
    peft.peft_config["default"].base_model_name_or_path = folder.parent.name
    peft.save_pretrained(folder)
    peft.unload()
    (folder / "README.md").unlink(missing_ok=True)
    saved = json.loads((folder / "adapter_config.json").read_text())
    saved["target_modules"].sort()  # PEFT keeps a set, whose order changes from run to run
    (folder / "adapter_config.json").write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n")


def make_tiny_adapters(base: Path, offset: int) -> None:
    """Two adapters: plain LoRA on every linear, and rank-stabilised LoRA with ranks and alphas of their own."""
    plain = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=ALL_LINEARS, task_type="CAUSAL_LM")
    patterns = LoraConfig(
        r=4,
        lora_alpha=8,
        lora_dropout=0.0,
        target_modules=["q_proj", "v_proj"],
        use_rslora=True,
        rank_pattern={"layers.1.self_attn.q_proj": 2, "v_proj": 6},
        alpha_pattern={"layers.0.self_attn.v_proj": 3},
        task_type="CAUSAL_LM",
    )
    ids = json.loads((base / "ids.json").read_text())
    for name, config, b_std in [("lora", plain, 0.1), ("lora-patterns", patterns, 0.3)]:
        make_adapter(load_base(base), base / name, config, b_std, offset)
        adapted = PeftModel.from_pretrained(load_base(base), base / name).eval()
        save_file(logits(adapted, ids), base / name / "logits.safetensors")
        offset += 1


def make_smollm2(gguf: Path) -> Path:
    """What a whole [S, 49152] table of logits says, in a few numbers a position."""
    folder = HERE / "smollm2-135m"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    model = load_base(gguf)
    columns = torch.randperm(model.config.vocab_size, generator=generator(90))[:PROBES].sort().values
    rows = []
    for table in logits(model, ids).values():
        values, top = table.topk(8, dim=-1)
        rows.append(
            {
                "top_ids": top.tolist(),
                "top_values": values.tolist(),
                "logsumexp": table.logsumexp(-1).tolist(),
                "probes": table[:, columns].tolist(),
            }
        )
    write_json(folder / "logits.json", {"texts": TEXTS, "ids": ids, "probe_columns": columns.tolist(), "logits": rows})
    config = LoraConfig(r=2, lora_alpha=4, lora_dropout=0.0, target_modules=["k_proj", "v_proj"], task_type="CAUSAL_LM")
    make_adapter(model, folder / "lora", config, 0.02, 91)
    return folder


def manifest() -> dict:
    """Where the files come from. A test fails when a generator changed after they were written."""
    made = [p for d in [*TINY, "smollm2-135m"] for p in sorted((HERE / d).rglob("*")) if p.is_file()]
    digest = lambda path: hashlib.sha256(path.read_bytes()).hexdigest()
    return {
        "command": "python tests/golden/models.py --gguf SmolLM2-135M-Instruct.Q4_1.gguf",
        "seed": SEED,
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "generators": {f"tests/golden/{name}": digest(HERE / name) for name in ["models.py", "training.py"]},
        "files": {str(path.relative_to(HERE)): digest(path) for path in made},
    }


def main() -> None:
    import training

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", type=Path, help="SmolLM2-135M-Instruct.Q4_1.gguf; without it its files are kept")
    gguf = parser.parse_args().gguf
    torch.set_num_threads(1)  # sums in one order
    for i, (name, config) in enumerate(TINY.items()):
        base = make_tiny(name, config, 10 * i)
        make_tiny_adapters(base, 10 * i + 1)
        training.make_tiny_runs(base, generator(10 * i + 5))
    if gguf is not None:
        training.make_smollm2_run(gguf, make_smollm2(gguf))
    write_json(HERE / "models.json", manifest())


if __name__ == "__main__":
    main()
