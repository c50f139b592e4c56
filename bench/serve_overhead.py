#!/usr/bin/env python3
"""What HTTP adds to the time of a streamed token, for one client of an idle server.

    python3 bench/serve_overhead.py CLUSTERFUSION MODEL [--tokenizer FILE] [--backend cuda]
                                    [--tokens N] [--rounds N]

In turns, N rounds: `generate` on the command line, and the same prompt streamed from `serve` of the
same model. Both times are those between the first and the last new token, over the tokens between;
the command line's by its own clock, the stream's by the arrival of events at this client. Only
tokens whose text is whole characters make an event, so it is the last event's arrival that counts.
Prints CSV: round, ms a token of each, time to the first byte in ms. The last line has the medians,
and what HTTP adds in percent.
"""

import argparse
import http.client
import json
import statistics
import subprocess
import sys
import time

PROMPT_IDS = [510, 1390, 3999, 1300, 273]


def command_line(options):
    command = [options.program, "generate", "-m", options.model, "--backend", options.backend,
               "--prompt-ids", ",".join(map(str, PROMPT_IDS)), "-n", str(options.tokens),
               "--ignore-eos", "--format", "json", *options.tokenizer]  # fmt: skip
    stats = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["stats"]
    return stats["decode_ms"] / (stats["n_tokens"] - 1)


def start(options):
    command = [options.program, "serve", "-m", options.model, "--backend", options.backend,
               "--port", "0", "--parallel", "1", *options.tokenizer]  # fmt: skip
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in server.stderr:
        if "http://" in line:
            return server, int(line.rsplit("http://", 1)[1].split(":")[1].split("/")[0].split()[0])
    sys.exit(f"serve_overhead: the server ended: {server.wait()}")


def streamed(port, n_tokens):
    """(ms a token, ms to the first event)."""
    body = {"prompt": PROMPT_IDS, "max_tokens": n_tokens, "temperature": 0, "ignore_eos": True,
            "stream": True, "stream_options": {"include_usage": True}}  # fmt: skip
    connection = http.client.HTTPConnection("127.0.0.1", port)
    begin = time.perf_counter()
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    answer, arrivals, usage = connection.getresponse(), [], None
    while line := answer.readline():
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        usage = event.get("usage") or usage
        if event["choices"]:
            arrivals.append(time.perf_counter())
    if answer.status != 200 or usage["completion_tokens"] != n_tokens:
        sys.exit(f"serve_overhead: status {answer.status}, usage {usage}")
    return 1e3 * (arrivals[-1] - arrivals[0]) / (n_tokens - 1), 1e3 * (arrivals[0] - begin)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("--tokenizer", help="of a model that has none: tokens without text make no events")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    options.tokenizer = ["--tokenizer", options.tokenizer] if options.tokenizer else []
    server, port = start(options)
    rows = []
    try:
        streamed(port, 8)
        print("round,command_line_ms,streamed_ms,first_event_ms")
        for i in range(options.rounds):
            rows.append((command_line(options), *streamed(port, options.tokens)))
            print(f"{i + 1},{rows[-1][0]:.4f},{rows[-1][1]:.4f},{rows[-1][2]:.2f}", flush=True)
    finally:
        server.terminate()
        server.wait()
    local, remote, first = (statistics.median(column) for column in zip(*rows))
    print(f"median,{local:.4f},{remote:.4f},{first:.2f}")
    print(f"# HTTP adds {100 * (remote / local - 1):.1f} %")


if __name__ == "__main__":
    main()
