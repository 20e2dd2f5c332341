"""Ferrotune's QLoRA step beside the Python stack's, alternating, on this machine.

    cargo build --release
    python3 benches/compare/compare.py --rounds 3

Sets up the Python stack in `target/compare/venv` (transformers, PEFT, bitsandbytes, torch) unless `--python` names one
that has it. Each round runs both as whole processes, one after the other; the ratio is taken within the round.
Both train LoRA r = 16 on all seven projections, dropout 0.05, NF4 with double quantization, AdamW, on full rows of
`--length` tokens without padding, every token trained. Prints a table, and with `--json` the runs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ["torch", "transformers", "peft", "bitsandbytes", "accelerate", "gguf"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6, help="timed steps of each run, after one that is not")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--compute-dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--python", type=Path, help="an interpreter that has the packages")
    parser.add_argument("--ferrotune", type=Path, default=ROOT / "target/release/ferrotune")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def python_stack() -> Path:
    """The interpreter of an environment with the peer's packages, made on first use."""
    folder = ROOT / "target/compare/venv"
    python = folder / "bin/python"
    if not (folder / "complete").exists():
        print("setting up the Python stack in", folder, file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        (folder / "complete").touch()
    return python


def model_file(ferrotune: Path) -> Path:
    """The model's file, in the cache."""
    fetched = subprocess.run([ferrotune, "fetch", "smollm2-135m"], check=True, capture_output=True, text=True)
    return Path(fetched.stdout.strip().splitlines()[-1])


def run_peer(args: argparse.Namespace, python: Path, gguf: Path) -> dict:
    command = [python, ROOT / "benches/compare/peft_qlora.py", gguf, "--threads", args.threads, "--batch", args.batch]
    command += ["--length", args.length, "--steps", args.steps, "--compute-dtype", args.compute_dtype]
    command += ["--gradient-checkpointing"] if args.gradient_checkpointing else []
    done = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def run_ferrotune(args: argparse.Namespace, folder: Path) -> dict:
    """Trains on texts that are cut to `--length` tokens, which is what its metrics count."""
    data, out = folder / "data.jsonl", folder / "run"
    words = " ".join(line.strip() for line in (ROOT / "ARCHITECTURE.md").read_text().splitlines())
    with data.open("w") as file:
        for i in range(args.batch * (args.steps + 1)):
            text = words[i * 31 % len(words) :] + words * (1 + args.length // 512)
            file.write(json.dumps({"instruction": "Continue.", "output": text}) + "\n")
        # Never reached; a run wants to see a text's end.
        file.write(json.dumps({"instruction": "Continue.", "output": "The end."}) + "\n")
    settings = {
        "method": "qlora",
        "lora-dropout": 0.05,
        "bnb-4bit-compute-dtype": args.compute_dtype,
        "per-device-train-batch-size": args.batch,
        "gradient-accumulation-steps": 1,
        "max-steps": args.steps + 1,
        "max-length": args.length,
        "packing": "false",
        "shuffle": "false",
        "completion-only-loss": "false",
        "gradient-checkpointing": str(args.gradient_checkpointing).lower(),
        "eval-strategy": "no",
        "save-strategy": "no",
    }
    command = [args.ferrotune, "train", "--model", "smollm2-135m", "--data", data, "--output-dir", out]
    command += [part for key, value in settings.items() for part in (f"--{key}", value)]
    environment = os.environ | {"RAYON_NUM_THREADS": str(args.threads)}
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "loss" in row][1:]
    assert all(row["num_tokens"] == args.batch * args.length for row in rows), "a row is not full"
    return {
        "tokens_per_second": statistics.median(row["tokens_per_second"] for row in rows),
        "peak_rss_bytes": rows[-1]["peak_rss_bytes"],
    }


def main() -> None:
    args = arguments()
    python, gguf = args.python or python_stack(), model_file(args.ferrotune)
    rounds = []
    for i in range(args.rounds):
        with tempfile.TemporaryDirectory() as folder:
            ours = run_ferrotune(args, Path(folder))
        rounds.append({"ferrotune": ours, "peft": run_peer(args, python, gguf)})
        print(f"round {i + 1} of {args.rounds} done", file=sys.stderr)
    if args.json:
        print(json.dumps(rounds))
        return
    print("| round | ferrotune, tokens/s | PEFT, tokens/s | ratio | ferrotune, MB | PEFT, MB |")
    print("|---|---|---|---|---|---|")
    ratios = []
    for i, pair in enumerate(rounds):
        ours, peer = pair["ferrotune"], pair["peft"]
        ratios.append(ours["tokens_per_second"] / peer["tokens_per_second"])
        speeds = f"{ours['tokens_per_second']:.0f} | {peer['tokens_per_second']:.0f} | {ratios[-1]:.2f}"
        print(f"| {i + 1} | {speeds} | {ours['peak_rss_bytes'] / 1e6:.0f} | {peer['peak_rss_bytes'] / 1e6:.0f} |")
    print(f"\nmedian ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
