"""The Python stack's QLoRA step, to compare ours with: transformers, PEFT and bitsandbytes on the CPU.

    python benches/compare/peft_qlora.py SmolLM2-135M-Instruct.Q4_1.gguf --threads 2 --compute-dtype bfloat16

LoRA r = 16 on all seven projections, dropout 0.05, NF4 with double quantization, AdamW, random ids without padding.
Prints one JSON object: {"tokens_per_second": median over the timed steps, "peak_rss_bytes": …, "config": {…}}.
"""

import argparse
import importlib.metadata
import json
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--compute-dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--steps", type=int, default=5, help="timed steps, after one that is not")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    return parser.parse_args()


def convert(args: argparse.Namespace, folder: str) -> None:
    """Writes the weights that the GGUF file decodes to as safetensors, which bitsandbytes' loading path needs."""
    import torch
    from transformers import AutoModelForCausalLM

    dtype = getattr(torch, args.compute_dtype)
    model = AutoModelForCausalLM.from_pretrained(str(args.gguf.parent), gguf_file=args.gguf.name, dtype=dtype)
    model.hf_quantizer = None  # the weights are plain numbers now, though transformers still calls them GGUF
    model.config.__dict__.pop("quantization_config", None)
    model.save_pretrained(folder)


def build(args: argparse.Namespace, folder: str):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    dtype = getattr(torch, args.compute_dtype)
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        device_map="cpu",
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        ),
    )
    model.config.use_cache = False
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.05, target_modules=targets, task_type="CAUSAL_LM")
    return get_peft_model(model, config).train()


def measure(args: argparse.Namespace, folder: str) -> dict:
    """Trains on random ids and times whole steps: forward, backward, clipping, optimizer."""
    import torch

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = build(args, folder)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=2e-4, weight_decay=0.0)
    vocabulary = model.config.vocab_size
    seconds = []
    for _ in range(args.steps + 1):
        ids = torch.randint(vocabulary, (args.batch, args.length))
        start = time.perf_counter()
        model(input_ids=ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 0.3)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
    config = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
    config["packages"] = {n: importlib.metadata.version(n) for n in ["torch", "transformers", "peft", "bitsandbytes"]}
    config["trainable_parameters"] = sum(p.numel() for p in parameters)
    return {
        "tokens_per_second": args.batch * args.length / statistics.median(seconds[1:]),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "config": config,
    }


def main() -> None:
    args = arguments()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)  # read when torch is imported
    with tempfile.TemporaryDirectory() as folder:
        # In a process of its own, so that its memory does not count in the peak.
        child = multiprocessing.get_context("spawn").Process(target=convert, args=(args, folder))
        child.start()
        child.join()
        if child.exitcode != 0:
            raise SystemExit(f"the conversion of {args.gguf} failed")
        print(json.dumps(measure(args, folder)))


if __name__ == "__main__":
    main()
