"""The Jupyter kernel beside evcxr's own, cell by cell, on this machine.

    cargo build --release --workspace --bins --examples
    python3 benches/kernel.py

Makes `target/kernel-bench` with jupyter_client and both kernels on first use, and the prelude is compiled if it is not yet.
Ours runs with the prelude loaded; evcxr's runs without any dependency. Both are alive at once, and each cell is run in one
and then in the other. Prints a table, or with `--json` the numbers.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "target/kernel-bench"
BIN = ROOT / "target/release"
CONFIG = ROOT / "kernel/ferrotune.toml"
JUPYTER_CLIENT = "jupyter_client==8.10.0"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=15, help="trivial cells of each kind")
    parser.add_argument("--steps", type=int, default=24, help="steps of each training")
    parser.add_argument("--rounds", type=int, default=3, help="trainings in a cell and from the command line")
    parser.add_argument("--no-training", action="store_true", help="leave out what trains")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def in_environment() -> None:
    """Goes on in an environment that has jupyter_client and the kernels."""
    python = FOLDER / "bin/python"
    if not (FOLDER / "complete").exists():
        venv.create(FOLDER, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", JUPYTER_CLIENT], check=True)
        (FOLDER / "complete").touch()
    if Path(sys.prefix) != FOLDER:
        os.execv(python, [str(python), *sys.argv])
    kernel = BIN / "ferrotune-kernel"
    quiet = {"check": True, "stdout": subprocess.DEVNULL}
    subprocess.run([kernel, "install", "--prefix", FOLDER, "--config", CONFIG], **quiet)
    subprocess.run([kernel, "prebuild", "--config", CONFIG], **quiet)
    spec = {"argv": [str(BIN / "examples/stock"), "--control_file", "{connection_file}"], "display_name": "Rust", "language": "rust"}
    folder = FOLDER / "share/jupyter/kernels/stock"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kernel.json").write_text(json.dumps(spec))


class Kernel:
    """A kernel and how long it takes; seconds everywhere."""

    def __init__(self, name: str) -> None:
        from jupyter_client import KernelManager

        self.manager = KernelManager(kernel_name=name)
        started = time.monotonic()
        self.manager.start_kernel(cwd=str(ROOT), stderr=subprocess.DEVNULL)
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=600)
        self.kernel_info = time.monotonic() - started
        self.run("();")
        self.ready = time.monotonic() - started

    def run(self, code: str, on_message=lambda message: None) -> float:
        """Runs a cell, which must succeed, and returns the time until the kernel is idle."""
        started = time.monotonic()
        request = self.client.execute(code)
        while True:
            message = self.client.get_iopub_msg(timeout=1200)
            if message["parent_header"].get("msg_id") != request:
                continue
            if message["msg_type"] == "error":
                raise SystemExit("\n".join(message["content"]["traceback"]))
            on_message(message)
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                taken = time.monotonic() - started
                self.client.get_shell_msg(timeout=60)
                return taken

    def interrupt(self) -> None:
        self.manager.interrupt_kernel()

    def end(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


def starts(n: int) -> dict:
    """How long the kernels take to start, each alone."""
    seen = {"ours": [], "evcxr": []}
    for _ in range(n):
        for name, times in zip(("ferrotune", "stock"), seen.values()):
            kernel = Kernel(name)
            times.append((kernel.kernel_info, kernel.ready))
            kernel.end()
    return {
        what: {name: statistics.median(times[i] for times in all) for name, all in seen.items()}
        for i, what in enumerate(["kernel_info", "first cell done"])
    }


def trivial_cells(ours: Kernel, stock: Kernel, n: int) -> dict:
    kinds = {
        "let x = 1;": lambda i: f"let x{i} = {i};",
        "1 + 1": lambda i: f"{i} + 1",
        "println!": lambda i: f'println!("{{}}", {i});',
    }
    rows = {}
    for kind, code in kinds.items():
        pairs = [(ours.run(code(i)), stock.run(code(i))) for i in range(n)]
        rows[kind] = {
            "ours": statistics.median(a for a, _ in pairs),
            "evcxr": statistics.median(b for _, b in pairs),
            "ratio": statistics.median(a / b for a, b in pairs),
        }
    return rows


def plot_updates(ours: Kernel) -> float:
    """The longest time from an update to its arrival here. Its text is the time at which it was made."""
    code = """{
        let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64().to_string();
        let display = show::html(now());
        for _ in 0..30 {
            std::thread::sleep(std::time::Duration::from_millis(50));
            display.update(now());
        }
    }"""
    delays = []

    def arrived(message: dict) -> None:
        if message["msg_type"] == "update_display_data":
            delays.append(time.time() - float(message["content"]["data"]["text/html"]))

    ours.run(code, arrived)
    assert len(delays) == 30, delays
    return max(delays)


SETTINGS = {
    "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1, "learning_rate": 1.5e-3, "max_length": 256,
    "completion_only_loss": True, "packing": False, "gradient_checkpointing": False,
}  # fmt: skip


def session(output_dir: Path, steps: int) -> str:
    def rust(value: object) -> str:
        return str(value).lower() if isinstance(value, bool) else str(value)

    settings = "".join(f"{key}: {rust(value)}, " for key, value in SETTINGS.items())
    return f"""let mut session = prepare(RunConfig {{
        data: "datasets/orders/train.jsonl".into(), output_dir: {json.dumps(str(output_dir))}.into(),
        lora: LoraConfig {{ lora_dropout: 0.0, ..LoraConfig::default() }},
        sft: SftConfig {{ max_steps: Some({steps}), {settings} eval_strategy: Strategy::No, save_strategy: Strategy::No,
            ..SftConfig::default() }},
        ..RunConfig::default()
    }})?;"""


def in_a_cell(ours: Kernel, output_dir: Path, steps: int) -> float:
    """The median step's tokens per second."""
    ours.run(session(output_dir, steps))
    ours.run("let training = train(&mut session)?;")
    return median_speed(output_dir)


def from_the_command_line(output_dir: Path, steps: int) -> float:
    flags = [f"--{key}={str(value).lower()}" for key, value in SETTINGS.items()]
    flags += ["--data=datasets/orders/train.jsonl", f"--output_dir={output_dir}", f"--max_steps={steps}", "--lora_dropout=0"]
    flags += ["--eval_strategy=no", "--save_strategy=no"]
    subprocess.run([BIN / "ferrotune", "train", *flags], check=True, cwd=ROOT, capture_output=True)
    return median_speed(output_dir)


def median_speed(output_dir: Path) -> float:
    rows = [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text().splitlines()]
    # The first step also waits for memory.
    return statistics.median(row["tokens_per_second"] for row in rows[1:] if "loss" in row)


def interrupted(ours: Kernel, output_dir: Path) -> float:
    """The time from an interrupt of a training to the idle kernel."""
    ours.run(session(output_dir, 100_000))
    asked = []

    def stop(message: dict) -> None:
        if message["msg_type"] == "update_display_data" and not asked:
            asked.append(time.monotonic())
            ours.interrupt()

    ours.run("let training = train(&mut session)?;", stop)
    taken = time.monotonic() - asked[0]
    ours.run("assert!(training.interrupted);")
    return taken


def measure(args: argparse.Namespace) -> dict:
    import tempfile

    found = starts(3)
    ours, stock = Kernel("ferrotune"), Kernel("stock")
    found |= trivial_cells(ours, stock, args.cells)
    stock.end()
    found["update arrives"] = {"ours": plot_updates(ours)}
    if not args.no_training:
        with tempfile.TemporaryDirectory() as folder:
            found["interrupt to idle"] = {"ours": interrupted(ours, Path(folder) / "interrupted")}
            pairs = []
            for i in range(args.rounds):
                cell = in_a_cell(ours, Path(folder) / f"cell-{i}", args.steps)
                pairs.append((cell, from_the_command_line(Path(folder) / f"command-{i}", args.steps)))
            found["training, tokens/s"] = {
                "ours": statistics.median(a for a, _ in pairs),
                "command line": statistics.median(b for _, b in pairs),
                "ratio": statistics.median(a / b for a, b in pairs),
            }
    ours.end()
    return found


def main() -> None:
    args = arguments()
    in_environment()
    found = measure(args)
    if args.json:
        print(json.dumps(found, indent=1))
        return
    print(f"{'':24}{'ours':>10}{'evcxr':>10}{'ratio':>8}")
    for name, row in found.items():
        other = row.get("evcxr", row.get("command line"))
        cells = [f"{row['ours']:10.3f}", f"{other:10.3f}" if other is not None else " " * 10]
        cells.append(f"{row['ratio']:8.2f}" if "ratio" in row else "")
        print(f"{name:24}{''.join(cells)}")
    print("Seconds, except for the training's speed, which stands beside that of the command line.")


if __name__ == "__main__":
    main()
