"""Lets llama.cpp continue a prompt with a GGUF file that `ferrotune gguf` wrote, and compares with Ferrotune's own answer.

    pip install xllamacpp
    ferrotune gguf --model MODEL --out a.gguf --type q4_0
    ferrotune generate --model a.gguf --prompts prompts.jsonl --max-new-tokens 60 --json > ours.jsonl
    python tests/golden/check_gguf.py a.gguf --prompt prompt.txt --expected answer.txt

`prompt.txt` holds the whole text of the prompt, template included; `answer.txt` what Ferrotune wrote.
"""

import argparse
import json
import os
from pathlib import Path

import xllamacpp


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--prompt", type=Path, required=True)
    parser.add_argument("--expected", type=Path, required=True)
    arguments = parser.parse_args()
    settings = xllamacpp.CommonParams()
    settings.model.path, settings.n_ctx, settings.n_parallel = str(arguments.file), 512, 1
    server = xllamacpp.Server(settings)
    request = {"prompt": arguments.prompt.read_text(), "n_predict": 60, "temperature": 0.0, "top_k": 1}
    answer = server.handle_completions(request)
    answer = json.loads(answer) if isinstance(answer, str) else answer
    found, expected = answer["choices"][0]["text"].strip(), arguments.expected.read_text().strip()
    print("ok" if found == expected else f"FAIL\n{found}\n{expected}", flush=True)
    # The server's threads outlive it.
    os._exit(0 if found == expected else 1)


if __name__ == "__main__":
    main()
