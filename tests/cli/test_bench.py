"""clusterfusion bench: that it measures, not what."""
import csv
import io
import json
import re
import subprocess

import pytest
from conftest import PROGRAM, run, run_ok

WORDS = ("-p", "8,16", "-n", "4", "-r", "2", "-t", "1")


def bench_json(*words):
    """The report; skips the test where the backend cannot say what bounds it."""
    report = run_ok("bench", *words, "--format", "json").json
    if report["read_gb_per_s"] is None:
        pytest.skip("this backend does not measure its ceilings")
    return report


def check_row(row):
    assert float(row["tokens_per_s"]) > 0 and float(row["ms_per_token"]) > 0
    # The mean of the inverses is at least the inverse of the mean (Jensen).
    assert float(row["tokens_per_s"]) * float(row["ms_per_token"]) >= 999.9
    assert float(row["tokens_per_s_deviation"]) >= 0
    assert float(row["ms_per_token_deviation"]) >= 0


def test_json_has_a_result_for_each_length(bare):
    report = bench_json("-m", bare, *WORDS)
    assert list(report) == ["date", "model", "backend", "backend_text", "threads", "kv", "runs",
                            "open_s", "read_gb_per_s", "results"]
    assert report["open_s"] > 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", report["date"])
    assert (report["threads"], report["runs"], report["kv"]) == (1, 2, "F16")
    assert report["read_gb_per_s"] > 0
    assert [(row["test"], row["n_tokens"]) for row in report["results"]] == \
        [("prompt", 8), ("prompt", 16), ("generate", 4)]
    for row in report["results"]:
        check_row(row)
        if row["test"] == "prompt":
            assert row["gflop_per_s"] > 0 and row["blas_gflop_per_s"] > 0
            assert row["percent_of_blas"] == pytest.approx(
                100 * row["gflop_per_s"] / row["blas_gflop_per_s"], rel=1e-6)
        else:
            assert row["percent_of_read"] == pytest.approx(
                100 * row["gb_per_s"] / report["read_gb_per_s"], rel=1e-6)


def test_the_bytes_of_a_token_are_the_weights_and_the_cache(bare):
    token_bytes = run_ok("inspect", "-m", bare, "--format", "json").json["token_bytes"]
    report = bench_json("-m", bare, "-p", "0", "-n", "100", "-r", "2")
    row = report["results"][0]
    # Positions 1 … 100 read 2 … 101 rows of 2 layers × (K and V) × 32 × 2 bytes.
    expected = token_bytes + 256 * sum(range(2, 102)) / 100
    assert row["bytes_per_token"] == pytest.approx(expected, rel=1e-6)
    assert row["gb_per_s"] * 1e9 * row["ms_per_token"] * 1e-3 == pytest.approx(expected, rel=1e-6)


def test_csv_has_a_line_for_each_length(bare):
    text = run_ok("bench", "-m", bare, *WORDS, "--format", "csv").text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(row["test"], row["tokens"]) for row in rows] == \
        [("prompt", "8"), ("prompt", "16"), ("generate", "4")]
    for row in rows:
        check_row(row)
        assert None not in row and None not in row.values()
        assert row["model"] == str(bare) and row["threads"] == "1" and row["runs"] == "2"
        assert (row["gb_per_s"] == "") == (row["test"] == "prompt")
        assert row["gflop_per_s"] == "" or row["test"] == "prompt"


def test_the_table_is_for_the_eye(bare):
    text = run_ok("bench", "-m", bare, *WORDS).text
    assert "1 threads" in text and "memory is read at" in text
    assert re.search(r"^prompt +16 +[\d.]+ ± +[\d.]+ .* % of the BLAS alone$", text, re.M)
    assert re.search(r"^generate +4 +[\d.]+ ± +[\d.]+ .* % of reading memory$", text, re.M)


def test_lengths_beyond_the_trained_context_are_allowed(bare):
    report = run_ok("bench", "-m", bare, "-p", "200", "-n", "0", "-r", "1", "--format",
                    "json").json
    assert report["results"][0]["n_tokens"] == 200
    assert report["results"][0]["tokens_per_s_deviation"] == 0


def test_depths_are_tokens_of_context_before_each_generation(bare):
    words = ("-m", bare, "-p", "0", "-n", "4,8", "-d", "0,30", "-r", "1")
    rows = run_ok("bench", *words, "--format", "json").json["results"]
    assert [(row["n_tokens"], row["depth"]) for row in rows] == [(4, 0), (8, 0), (4, 30), (8, 30)]
    # Each of the 30 positions before has a row of 2 layers × (K and V) × 32 × 2 bytes.
    assert rows[2]["bytes_per_token"] - rows[0]["bytes_per_token"] == 30 * 256
    assert re.search(r"^generate +4@30 ", run_ok("bench", *words).text, re.M)
    found = list(csv.DictReader(io.StringIO(run_ok("bench", *words, "--format", "csv").text)))
    assert [row["depth"] for row in found] == ["0", "0", "30", "30"]


def test_a_backend_without_a_clock_has_no_stages(bare, tmp_path):
    for words in (("--stages",), ("--trace", tmp_path / "token.json")):
        result = run("bench", "-m", bare, "--backend", "cpu", *WORDS, *words)
        assert result.code == 1 and "no clock" in result.err
    assert run("bench", "-m", bare, "--stages", "--format", "csv").code == 2
    assert not list(tmp_path.iterdir())


def gpu_checkpoint(folder):
    """A checkpoint that the GPU's kernel takes; skips the test where that is not to be had."""
    tool = PROGRAM.parent / "random_checkpoint"
    if not tool.exists():
        pytest.skip("random_checkpoint is not built")
    subprocess.run([tool, "--layers", "6", "pythia-14m", folder], check=True, capture_output=True)
    result = run("inspect", "-m", folder, "--backend", "cuda", "--no-hash")
    if result.code != 0:
        pytest.skip(result.err.strip())
    return folder


def test_the_stages_of_a_token_fill_its_time(tmp_path):
    folder, path = gpu_checkpoint(tmp_path / "model"), tmp_path / "token.json"
    report = run_ok("bench", "-m", folder, "--backend", "cuda", "-p", "0", "-n", "4", "-d", "20",
                    "-r", "1", "--stages", "--trace", path, "--format", "json").json
    assert report["stages"]["pos"] == 20
    for times in report["stages"]["times"]:
        assert 0 <= times["min_us"] <= times["mean_us"] <= times["max_us"] < 1e4, times
    assert {"LayerNorm", "attention", "products", "LM head"} <= \
        {times["stage"] for times in report["stages"]["times"]}
    check_trace(json.loads(path.read_text()), path.stat().st_size)


def check_trace(trace, size):
    """Trace Event format: complete events in µs, named processes and threads, no overlaps."""
    assert size < 20e6 and trace["otherData"]["title"]
    named = {(e["pid"], e.get("tid")) for e in trace["traceEvents"] if e["ph"] == "M"}
    tracks = {}
    for event in trace["traceEvents"]:
        assert event["ph"] in "XM"
        if event["ph"] == "X":
            assert event["ts"] >= 0 and event["dur"] >= 0 and event["args"]["layer"] >= 0
            assert (event["pid"], event["tid"]) in named and (event["pid"], None) in named
            tracks.setdefault((event["pid"], event["tid"]), []).append(
                (event["ts"], event["ts"] + event["dur"]))
    assert len({pid for pid, _ in tracks}) > 1
    for spans in tracks.values():
        spans.sort()
        for before, after in zip(spans, spans[1:]):
            assert before[1] <= after[0] + 0.002  # times are written to a nanosecond
