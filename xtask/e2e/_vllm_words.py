"""Whether vLLM takes the command lines that `sagellm plan --emit` writes: its own parser says so.

Run by vLLM's Python, with a folder for each plan. Each script in it is run with a `vllm` that notes
what it is given.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.cli.serve import cmd_init
from vllm.utils.argparse_utils import FlexibleArgumentParser

NOTE = """#!/bin/sh
for word in "$@"; do printf '%s\\0' "$word"; done > "$NOTED"
printf '%s' "$CUDA_VISIBLE_DEVICES" > "$NOTED.gpus"
"""


def words_of(script):
    """What a script gives to `vllm`, and the GPUs that it lets it see."""
    with tempfile.TemporaryDirectory() as folder:
        shim = pathlib.Path(folder, "vllm")
        shim.write_text(NOTE)
        shim.chmod(0o755)
        noted = pathlib.Path(folder, "words")
        path = f"{folder}:{os.environ['PATH']}"
        subprocess.run(["sh", script], check=True, env={"PATH": path, "NOTED": str(noted)})
        gpus = noted.with_name("words.gpus").read_text().split(",")
        return noted.read_text().split("\0")[:-1], gpus


def main():
    parser = FlexibleArgumentParser(prog="vllm")
    commands = parser.add_subparsers(required=True, dest="subparser")
    for command in cmd_init():
        command.subparser_init(commands)
    checked = 0
    for folder in sys.argv[1:]:
        for script in sorted(pathlib.Path(folder).glob("engine-*.sh")):
            words, gpus = words_of(script)
            args = parser.parse_args(words)
            engine = AsyncEngineArgs.from_cli_args(args)
            ranks = engine.data_parallel_size_local or engine.data_parallel_size
            here = engine.tensor_parallel_size * engine.pipeline_parallel_size * ranks // engine.nnodes
            assert here == len(gpus), f"{script}: {here} GPUs are needed, {gpus} are seen"
            assert engine.max_num_batched_tokens >= engine.max_num_seqs, json.dumps(words)
            checked += 1
    assert checked, "there is no command line"
    print(f"vLLM's own parser takes {checked} command lines")


main()
