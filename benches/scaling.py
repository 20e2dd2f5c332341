"""How training and decoding scale: batch, length, rank, threads, gradient checkpointing, instruction sets.

    cargo build --release
    python3 benches/scaling.py
    python3 benches/scaling.py --only length threads

QLoRA on SmolLM2-135M (see `training.py`). Each run is a process of its own, whose peak of memory counts nothing else, and
stands beside a run of the same sweep's first setting right before it: read the ratios.
"""

import argparse
import json
import os
import re
import subprocess
import time
from pathlib import Path

import training

BASE = {"batch": 2, "length": 512, "rank": 16}
SWEEPS = {
    "batch": [{"batch": 1}, {"batch": 2}, {"batch": 4}],
    # The same number of tokens each time.
    "length": [{"batch": 8, "length": 512}, {"batch": 4, "length": 1024}, {"batch": 2, "length": 2048}, {"batch": 1, "length": 4096}],
    "rank": [{"rank": 8}, {"rank": 16}, {"rank": 64}],
    "threads": [{"threads": 1}, {"threads": os.cpu_count()}],
    "checkpointing": [{}, {"gradient_checkpointing": True}],
    "dtype": [{"compute_dtype": "bfloat16"}, {"compute_dtype": "float32"}],
    "isa": [{}, {"isa": "avx512"}, {"isa": "avx2"}],
}


def words(setting: dict) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in setting.items()) or "as it is"


def sweep(name: str, steps: int) -> None:
    print(f"\n{name}\n\n| | tokens/s | beside the first | MB |\n|---|---|---|---|")
    first, *others = SWEEPS[name]
    run = lambda setting: training.train(**(BASE | setting), steps=steps)
    base = run(first)
    row(words(first), base, 1.0)
    for setting in others:
        before = run(first)
        result = run(setting)
        row(words(setting), result, result["tokens_per_second"] / before["tokens_per_second"])


def row(name: str, result: dict, ratio: float) -> None:
    speed, memory = result["tokens_per_second"], result["peak_rss_bytes"] / 1e6
    print(f"| {name} | {speed:.0f} | {ratio:.2f} | {memory:.0f} |", flush=True)


def decode(binary: Path, threads: int) -> tuple[float, float]:
    """Greedy tokens/s of one sequence, and the seconds of a process that makes one token."""

    def seconds(tokens: int) -> float:
        prompt = "Once upon a time there was a small coffee shop in Hanoi where"
        command = [binary, "generate", "--model", "smollm2-135m", "--load-in-4bit", "--prompt", prompt]
        command += ["--max-new-tokens", str(tokens), "--json"]
        begun = time.perf_counter()
        environment = os.environ | {"RAYON_NUM_THREADS": str(threads)}
        done = subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True, env=environment)
        if len(json.loads(done.stdout)["tokens"]) != tokens:
            raise SystemExit("the text ended early")
        return time.perf_counter() - begun

    few, many = seconds(1), seconds(201)
    return 200 / (many - few), few


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*SWEEPS, "decode"], help="these and no others")
    parser.add_argument("--steps", type=int, default=4, help="timed steps of each run")
    args = parser.parse_args()
    processor = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    print(f"{processor[1] if processor else 'unknown processor'}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}")
    for name in args.only or SWEEPS:
        if name != "decode":
            sweep(name, args.steps)
    if not args.only or "decode" in args.only:
        print("\ndecode\n\n| threads | tokens/s, one sequence | load, quantize and one token, s |\n|---|---|---|")
        for threads in sorted({1, os.cpu_count()}):
            speed, load = max(decode(training.BINARY, threads) for _ in range(3))
            print(f"| {threads} | {speed:.0f} | {load:.2f} |", flush=True)


if __name__ == "__main__":
    main()
