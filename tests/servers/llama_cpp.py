#!/usr/bin/env python3
"""llama.cpp's own server on loopback, for the test that asks a real server of the OpenAI kind.

    pip install xllamacpp
    python tests/servers/llama_cpp.py MODEL.gguf [--key KEY] [--port PORT] [--threads T]

Prints the base URL and serves until it is interrupted; then

    RCO_SERVER=http://127.0.0.1:PORT/v1 [RCO_SERVER_KEY=KEY] cargo test --test it real_server -- --ignored --nocapture

With the quickstart's SmolLM2 the test also compares texts and log-probabilities with the engine's own.
"""

import argparse
import time

import xllamacpp

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model")
parser.add_argument("--key", default="")
parser.add_argument("--port", type=int, default=8097)
parser.add_argument("--threads", type=int, default=1)
arguments = parser.parse_args()

params = xllamacpp.CommonParams()
params.model.path = arguments.model
params.hostnames = ["127.0.0.1"]
params.port = arguments.port
# Four places for questions, of 2,048 tokens each.
params.n_parallel = 4
params.n_ctx = 8192
params.cpuparams.n_threads = arguments.threads
params.use_jinja = True
if arguments.key:
    params.api_keys = [arguments.key]
server = xllamacpp.Server(params)
print(f"RCO_SERVER={server.listening_address}/v1", flush=True)
try:
    while True:
        time.sleep(3600)
except KeyboardInterrupt:
    pass
