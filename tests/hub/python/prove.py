"""The loopback Hub by huggingface_hub's client, both ways; then Ferrotune's pushes by that client, and by olah.

    tests/hub/python/run
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
TINY = ROOT / "tests/golden/tiny-llama-2"


def say(text: str) -> None:
    print(text, flush=True)


def check(condition: bool, what: str) -> None:
    if not condition:
        raise SystemExit(f"FAIL {what}")
    say(f"ok   {what}")


@contextmanager
def loopback(programs: Path, folder: Path):
    """A running Hub: the variables by which clients find it."""
    hub = subprocess.Popen([programs / "ferrotune-loopback-hub", folder], stdout=subprocess.PIPE, text=True)
    try:
        words = hub.stdout.readline().split()
        yield dict(word.split("=", 1) for word in words if "=" in word)
    finally:
        hub.terminate()
        hub.wait()


def model(folder: Path) -> Path:
    """A small model with a large file: weights of 3 MB that no compression makes smaller."""
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        shutil.copy(TINY / name, folder / name)
    noise = b"".join(hashlib.sha256(i.to_bytes(4, "little")).digest() for i in range(100_000))
    (folder / "noise.bin").write_bytes(noise)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\nlibrary_name: transformers\n---\n\n# A model\n")
    return folder


def same(one: Path, other: Path) -> bool:
    names = sorted(p.name for p in one.iterdir() if p.is_file() and not p.name.startswith("."))
    theirs = sorted(p.name for p in other.iterdir() if p.is_file() and not p.name.startswith("."))
    return names == theirs and all((one / n).read_bytes() == (other / n).read_bytes() for n in names)


def client(steps: str, variables: dict[str, str], xet: bool) -> None:
    """Runs steps in a process of its own: huggingface_hub reads its variables once."""
    environment = os.environ | variables | {"HF_HUB_DISABLE_XET": "0" if xet else "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    subprocess.run([sys.executable, "-c", steps], env=environment, check=True)


PUSH = """
from huggingface_hub import HfApi
api = HfApi()
assert api.whoami()["name"] == "me"
api.create_repo("{id}", private=True, exist_ok=True)
commit = api.upload_folder(repo_id="{id}", folder_path="{folder}")
info = api.model_info("{id}")
assert info.sha == commit.oid and info.private, info
assert "model.safetensors" in api.list_repo_files("{id}")
"""
FETCH = """
from huggingface_hub import snapshot_download
print(snapshot_download("{id}", local_dir="{folder}"))
"""
CARD = """
from huggingface_hub import ModelCard
card = ModelCard.load("{file}")
print({{key: value for key, value in card.data.to_dict().items()}})
assert card.data.library_name in ("peft", "transformers") and card.data.pipeline_tag == "text-generation", card.data
"""


def both_ways(programs: Path, root: Path) -> None:
    for xet in (True, False):
        name = "by Xet" if xet else "by LFS"
        with loopback(programs, root / f"hub-{xet}") as variables:
            source, copy = model(root / f"source-{xet}"), root / f"copy-{xet}"
            client(PUSH.format(id="me/tiny", folder=source), variables, xet)
            client(FETCH.format(id="me/tiny", folder=copy), variables, xet)
            check(same(source, copy), f"huggingface_hub gets back what it pushed {name}")
            ours = ferrotune(programs, variables, root / f"cache-{xet}", "fetch", "hf:me/tiny").strip()
            check((Path(ours) / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes(),
                  f"ferrotune fetches what huggingface_hub pushed {name}")


def ferrotune(programs: Path, variables: dict[str, str], cache: Path, *arguments: str) -> str:
    environment = os.environ | variables | {"HF_HOME": str(cache), "HF_HUB_CACHE": str(cache / "hub")}
    done = subprocess.run([programs / "ferrotune", *arguments], env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def ours(programs: Path, root: Path) -> None:
    """What Ferrotune pushes is what huggingface_hub fetches; a merged model's files and card are in order."""
    merged = root / "merged"
    ferrotune(programs, {}, root / "none", "merge", "--model", str(TINY), "--adapter", str(TINY / "lora"), "--out", str(merged))
    client(CARD.format(file=merged / "README.md"), {}, True)
    with loopback(programs, root / "hub-ours") as variables:
        told = json.loads(ferrotune(programs, variables, root / "cache", "push", str(merged), "--repo", "team/merged", "--json"))
        check(told["sent"] == len([p for p in merged.iterdir()]), "ferrotune pushes a merged model")
        copy = root / "copy-ours"
        client(FETCH.format(id="team/merged", folder=copy), variables, False)
        check(same(merged, copy), "huggingface_hub fetches what ferrotune pushed")


def peak(programs: Path, variables: dict[str, str], cache: Path, *arguments: str) -> int:
    """The most memory, in bytes, that one ferrotune had."""
    environment = os.environ | variables | {"HF_HOME": str(cache), "HF_HUB_CACHE": str(cache / "hub")}
    started = subprocess.Popen([programs / "ferrotune", *arguments], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(started.pid, 0)
    started.returncode = os.waitstatus_to_exitcode(status)
    check(started.returncode == 0, f"ferrotune {arguments[0]}")
    return usage.ru_maxrss * 1024


def large(programs: Path, root: Path) -> None:
    """A model of 1 GB goes up and down, and never is in memory."""
    folder = root / "large"
    shutil.copytree(model(root / "small"), folder)
    with open(folder / "model.safetensors", "wb") as file:
        for _ in range(256):
            file.write(os.urandom(4 << 20))
    with loopback(programs, root / "hub-large") as variables:
        idle = peak(programs, variables, root / "cache-large", "--version")
        up = peak(programs, variables, root / "cache-large", "push", str(folder), "--repo", "me/large")
        down = peak(programs, variables, root / "cache-large", "fetch", "hf:me/large")
        told = ", ".join(f"{name} {bytes / 1e6:.0f} MB" for name, bytes in (("idle", idle), ("up", up), ("down", down)))
        check(max(up, down) - idle <= 300e6, f"1 GB goes up and down in flat memory: {told}")
    shutil.rmtree(root / "hub-large")


def gguf_file(programs: Path, root: Path) -> None:
    from gguf import GGUFReader, quants

    for kind in ("f16", "bf16", "q8_0"):
        file = root / f"tiny-{kind}.gguf"
        ferrotune(programs, {}, root / "none", "gguf", "--model", str(ROOT / "tests/golden/tiny-llama-3.2"), "--out", str(file), "--type", kind)
        reader = GGUFReader(file)
        tensors = {tensor.name: tensor for tensor in reader.tensors}
        check(len(tensors) == 2 + 9 * 2 + 1, f"the gguf package reads {kind}: {len(tensors)} tensors")
        for tensor in tensors.values():
            values = quants.dequantize(tensor.data, tensor.tensor_type)
            if tensor.name.endswith("attn_v.weight"):
                back = quants.quantize(values, tensor.tensor_type)
                same_bytes = (back.view("uint8") == tensor.data.view("uint8")).all()
                check(bool(same_bytes), f"{kind} {tensor.name} is as the gguf package quantizes it")
        architecture = reader.fields["general.architecture"].contents()
        check(architecture == "llama", f"architecture {architecture}")


def independent(programs: Path, root: Path) -> None:
    """olah, another program that speaks the Hub's protocol for reading, serves a repository to Ferrotune."""
    repository = root / "mirrors/models/org/tiny"
    model(repository)
    git = ["git", "-C", str(repository), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-qm", "files"]):
        subprocess.run(git + command, check=True)
    port = free_port()
    settings = root / "olah.toml"
    settings.write_text(
        f'[basic]\nhost = "127.0.0.1"\nport = {port}\nssl-key = ""\nssl-cert = ""\nrepos-path = "{root}/olah"\n'
        f'hf-scheme = "http"\nhf-netloc = "127.0.0.1:9"\nhf-lfs-netloc = "127.0.0.1:9"\nmirror-scheme = "http"\n'
        f'mirror-netloc = "127.0.0.1:{port}"\nmirror-lfs-netloc = "127.0.0.1:{port}"\nmirrors-path = ["{root}/mirrors"]\n'
        f'[accessibility]\noffline = true\n[[accessibility.proxy]]\nrepo = "*"\nallow = true\n[[accessibility.cache]]\nrepo = "*"\nallow = true\n'
    )
    server = subprocess.Popen([Path(sys.executable).parent / "olah-cli", "-c", settings], cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(port, server)
        variables = {"HF_ENDPOINT": f"http://127.0.0.1:{port}"}
        client(FETCH.format(id="org/tiny", folder=root / "copy-olah"), variables, False)
        check(same(repository, root / "copy-olah"), "huggingface_hub reads from olah")
        path = Path(ferrotune(programs, variables, root / "cache-olah", "fetch", "hf:org/tiny").strip())
        check((path / "model.safetensors").read_bytes() == (repository / "model.safetensors").read_bytes(), "ferrotune reads from olah")
    finally:
        server.terminate()
        server.wait()


def free_port() -> int:
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(port: int, server: subprocess.Popen) -> None:
    import socket
    import time

    for _ in range(600):
        if server.poll() is not None:
            raise SystemExit("FAIL olah did not start")
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit("FAIL olah does not answer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=Path, required=True, help="folder with ferrotune and ferrotune-loopback-hub")
    programs = parser.parse_args().programs.resolve()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        both_ways(programs, root)
        ours(programs, root)
        large(programs, root)
        gguf_file(programs, root)
        independent(programs, root)


if __name__ == "__main__":
    main()
