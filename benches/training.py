"""Timed training runs of the command `ferrotune`, for the scripts beside this one."""

import json
import os
import statistics
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BINARY = ROOT / "target/release/ferrotune"


def texts(count: int, length: int) -> list[dict]:
    """Records of more than `length` tokens each, and one that ends, which a run wants to see."""
    words = " ".join(line.strip() for line in (ROOT / "ARCHITECTURE.md").read_text().splitlines())
    start = lambda i: words[i * 31 % len(words) :]
    records = [{"instruction": "Continue.", "output": start(i) + words * (1 + length // 512)} for i in range(count)]
    return records + [{"instruction": "Continue.", "output": "The end."}]


def train(
    binary: Path = BINARY,
    *,
    batch: int = 2,
    length: int = 512,
    rank: int = 16,
    threads: int | None = None,
    steps: int = 6,
    compute_dtype: str = "bfloat16",
    gradient_checkpointing: bool = False,
    isa: str | None = None,
) -> dict:
    """Trains SmolLM2-135M by QLoRA on `batch` full rows of `length` tokens a step, every token trained.

    Returns `tokens_per_second`, the median over `steps` steps after one that is not timed, and `peak_rss_bytes`.
    """
    threads = threads or os.cpu_count()
    settings = {
        "method": "qlora",
        "r": rank,
        "lora-alpha": 2 * rank,
        "lora-dropout": 0.05,
        "bnb-4bit-compute-dtype": compute_dtype,
        "per-device-train-batch-size": batch,
        "gradient-accumulation-steps": 1,
        "max-steps": steps + 1,
        "max-length": length,
        "packing": "false",
        "shuffle": "false",
        "completion-only-loss": "false",
        "gradient-checkpointing": str(gradient_checkpointing).lower(),
        "eval-strategy": "no",
        "save-strategy": "no",
    }
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder) / "data.jsonl", Path(folder) / "run"
        records = texts(batch * (steps + 1), length)
        data.write_text("".join(json.dumps(record) + "\n" for record in records))
        command = [binary, "train", "--model", "smollm2-135m", "--data", data, "--output-dir", out]
        command += [part for key, value in settings.items() for part in (f"--{key}", value)]
        environment = os.environ | {"RAYON_NUM_THREADS": str(threads)}
        environment |= {"FERROTUNE_ISA": isa} if isa else {}
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=environment)
        if done.returncode != 0:
            raise SystemExit(done.stderr)
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "loss" in row][1:]
    if any(row["num_tokens"] != batch * length for row in rows):
        raise SystemExit("a row is not full")
    return {
        "tokens_per_second": statistics.median(row["tokens_per_second"] for row in rows),
        "peak_rss_bytes": rows[-1]["peak_rss_bytes"],
    }
