"""Ferrotune's QLoRA step beside the Python stack's, alternating, on this machine.

    cargo build --release
    python3 benches/compare/compare.py --rounds 3

Sets up the Python stack in `target/compare/venv` (transformers, PEFT, bitsandbytes, torch) unless `--python` names one
that has it. Each round runs both as whole processes, one after the other; the ratio is taken within the round.
Both train LoRA r = 16 on all seven projections, dropout 0.05, NF4 with double quantization, AdamW, on full rows of
`--length` tokens without padding, every token trained. Prints a table and a chart, or with `--json` the runs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benches"))

import training  # noqa: E402

# What caps torch's own kernels, oneDNN and MKL. bitsandbytes has no such setting.
PEER_CAPS = {
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "avx512": {"ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "MKL_ENABLE_INSTRUCTIONS": "AVX512"},
}
PACKAGES = ["torch", "transformers", "peft", "bitsandbytes", "accelerate", "gguf"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6, help="timed steps of each run, after one that is not")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--compute-dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--peer-compute-dtype", choices=["bfloat16", "float32"], help="where the peer's differs")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--isa", choices=sorted(PEER_CAPS), help="cap both at this instruction set")
    parser.add_argument("--python", type=Path, help="an interpreter that has the packages")
    parser.add_argument("--ferrotune", type=Path, default=training.BINARY)
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
    command += ["--length", args.length, "--steps", args.steps]
    command += ["--compute-dtype", args.peer_compute_dtype or args.compute_dtype]
    command += ["--gradient-checkpointing"] if args.gradient_checkpointing else []
    environment = os.environ | PEER_CAPS.get(args.isa, {})
    done = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True, env=environment)
    return json.loads(done.stdout.strip().splitlines()[-1])


def bars(rows: list[tuple[str, float]], unit: str) -> str:
    """A chart of a few numbers in text."""
    most, width = max(value for _, value in rows), max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {'█' * max(1, round(40 * value / most))} {value:.0f} {unit}" for name, value in rows)


def main() -> None:
    args = arguments()
    python, gguf = args.python or python_stack(), model_file(args.ferrotune)
    rounds = []
    for i in range(args.rounds):
        ours = training.train(
            args.ferrotune,
            batch=args.batch,
            length=args.length,
            threads=args.threads,
            steps=args.steps,
            compute_dtype=args.compute_dtype,
            gradient_checkpointing=args.gradient_checkpointing,
            isa=args.isa,
        )
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
    print(f"\nmedian ratio {statistics.median(ratios):.2f}\n")
    middle = {name: statistics.median(pair[name]["tokens_per_second"] for pair in rounds) for name in rounds[0]}
    print(bars(list(middle.items()), "tokens/s"))
    most = {name: max(pair[name]["peak_rss_bytes"] for pair in rounds) / 1e6 for name in rounds[0]}
    print(bars(list(most.items()), "MB"))


if __name__ == "__main__":
    main()
