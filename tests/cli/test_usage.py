"""Wrong usage, help and version: what needs no model."""
import re
import subprocess

import pytest
from conftest import PROGRAM, ROOT, run, run_ok

COMMANDS = ["generate", "score", "eval", "tokenize", "detokenize", "inspect", "bench", "serve"]

WRONG = [
    ([], "expected a command"),
    (["bogus"], 'unknown command "bogus"'),
    (["--bogus"], 'unknown option "--bogus"'),
    (["help", "bogus"], 'unknown command "bogus"'),
    (["help", "score", "x"], 'unexpected argument "x"'),
    (["--version", "x"], 'unexpected argument "x"'),
    (["--help", "x"], 'unexpected argument "x"'),
    (["generate"], "expected one of --prompt, --prompt-file and --prompt-ids, found none"),
    (["generate", "-p", "a", "--prompt-ids", "1"], "found more"),
    (["generate", "-p", "a", "--prompt-file", "-"], "found more"),
    (["generate", "-p", ""], "--prompt: expected at least one character"),
    (["generate", "--prompt-ids", ""], "--prompt-ids: expected at least one id"),
    (["generate", "--prompt-ids", "1,x"], '--prompt-ids: id 1: expected an integer'),
    (["generate", "--prompt-ids", "1,,2"], "--prompt-ids: id 1"),
    (["generate", "--prompt-ids", "1,2,"], "--prompt-ids: id 2"),
    (["generate", "--prompt-ids", "-1"], 'found "-1"'),
    (["generate", "--prompt-ids", "2147483648"], "--prompt-ids: id 0"),
    (["generate", "--prompt-ids", "99999999999999999999"], "--prompt-ids: id 0"),
    (["generate", "-p", "a", "extra"], 'unexpected argument "extra"'),
    (["generate", "-p"], "--prompt: expected a value, found nothing"),
    (["generate", "--max-tokens"], "--max-tokens: expected an integer"),
    (["generate", "-p", "a", "-x"], 'unknown option "-x"'),
    (["generate", "-p", "a", "--nonsense"], 'unknown option "--nonsense"'),
    (["serve", "--api-key", ""], "--api-key: expected at least one character"),
    (["serve", "--alias", ""], "--alias: expected at least one character"),
    (["detokenize", "--ids", "a"], "--ids: id 0: expected an integer"),
    (["generate", "-p", "a", "--ignore-eos=1"], "--ignore-eos: takes no value"),
    (["generate", "-p", "a", "--help=1"], "--help: takes no value"),
    (["generate", "-p", "a", "--stop", ""], "--stop: expected a text that is not empty"),
    (["generate", "-p", "a", "--backend", "tpu"], '--backend: expected auto, cpu or cuda, found "tpu"'),
    (["generate", "-p", "a", "--format", "xml"], "--format: expected text or json"),
    (["generate", "-p", "a", "--kv", "f64"], "--kv: expected f16 or f32"),
    (["generate", "-p", "a", "--top-logprobs", "65"], "--top-logprobs: expected an integer from 0 to 64"),
    (["score"], "expected one of --prompt, --file and --ids, found none"),
    (["score", "-p", "a", "--ids", "1"], "found more"),
    (["score", "--ids", "1", "--window", "0"], "--window: expected an integer from 1"),
    (["score", "--ids", "1", "--stride", "0"], "--stride: expected an integer from 1"),
    (["score", "--ids", "1", "--window", "4", "--stride", "5"], "--stride: expected at most"),
    (["eval"], "expected one of --file and --tasks, found none"),
    (["eval", "--file", "a", "--tasks", "b"], "expected one of --file and --tasks, found both"),
    (["eval", "--file", "a", "--delimiter", "b"], "--delimiter: is for the questions of --tasks"),
    (["eval", "--tasks", "a", "--stride", "2"], "--stride: is for the text of --file"),
    (["eval", "--file", "a", "--window", "4", "--stride", "5"], "--stride: expected at most"),
    (["eval", "--file", "a", "--format", "text"], "--format: expected table, csv or json"),
    (["tokenize", "-p", "a", "--file", "-"], "expected one of --prompt and --file"),
    (["detokenize", "--ids", "1", "--file", "-"], "expected one of --ids and --file"),
    (["tokenize", "a"], 'unexpected argument "a"'),
    (["inspect", "folder"], 'unexpected argument "folder"'),
    (["inspect", "--format", "csv"], "--format: expected text or json"),
    (["bench", "-p", "128,"], "--prompt-tokens: expected up to"),
    (["bench", "-p", "a"], "--prompt-tokens: expected up to"),
    (["bench", "-n", "1,-2"], "--tokens: expected up to"),
    (["bench", "-p", ",".join(["1"] * 33)], "--prompt-tokens: expected up to 32"),
    (["bench", "-r", "0"], "--repeats: expected an integer from 1"),
    (["bench", "-p", "128", "-n", "4", "-c", "64"], "--context: expected at least 128"),
    (["serve", "--port", "65536"], "--port: expected an integer from 0 to 65535"),
    (["serve", "--parallel", "0"], "--parallel: expected an integer from 1 to 256"),
    (["serve", "8080"], 'unexpected argument "8080"'),
]


@pytest.mark.parametrize("words, message", WRONG, ids=lambda value: " ".join(value)[:40]
                         if isinstance(value, list) else "")
def test_wrong_usage_is_named_and_ends_with_2(words, message):
    result = run(*words)
    assert result.code == 2
    assert result.out == b""
    lines = result.err.splitlines()
    assert len(lines) == 2
    assert message in lines[0]
    assert lines[1].startswith('Try "clusterfusion') and lines[1].endswith('--help".')


INTEGERS = ["-n", "--max-tokens", "--top-k", "--seed", "-c", "--context", "-t", "--threads"]
REALS = ["--temperature", "--top-p", "--min-p", "--repetition-penalty", "--presence-penalty",
         "--frequency-penalty"]
NO_NUMBER = ["", " ", "x", "12abc", "1 2", " 1", "nan", "inf", "-inf", "0x10", "1e999", "--3"]


@pytest.mark.parametrize("option", INTEGERS)
@pytest.mark.parametrize("value", [*NO_NUMBER, "1.5", "1e3", "-1", "+1", "99999999999999999999999"])
def test_an_integer_is_an_integer(option, value):
    result = run("generate", "-p", "a", option, value)
    assert result.code == 2
    assert "expected an integer from" in result.err and f'found "{value}"' in result.err


@pytest.mark.parametrize("option", REALS)
@pytest.mark.parametrize("value", [*NO_NUMBER, ".", "1e", "e1", "-1001"])
def test_a_number_is_a_number(option, value):
    result = run("generate", "-p", "a", option, value)
    assert result.code == 2
    assert "expected a number from" in result.err and f'found "{value}"' in result.err


@pytest.mark.parametrize("option, value", [
    ("--temperature", "-0.1"), ("--top-p", "1.01"), ("--min-p", "1"), ("--threads", "1025"),
    ("--threads", "0"), ("--context", "16777217"), ("--context", "0"),
    ("--repetition-penalty", "-1"), ("--repetition-penalty", "0.0009"),
    ("--repetition-penalty", "1000.1"), ("--max-tokens", "2147483648"),
    ("--seed", "18446744073709551616"),
])
def test_bounds_are_kept(option, value):
    result = run("generate", "-p", "a", option, value)
    assert result.code == 2
    assert f"{option}: expected" in result.err


@pytest.mark.parametrize("value", ["0", "0.001", "1000"])
def test_the_repetition_penalty_may_be_zero_or_at_its_bounds(value):
    assert run_ok("generate", "-p", "a", "-n", 1, "--repetition-penalty", value).err != ""
    result = run("generate", "-p", "a", "--repetition-penalty", "0.0005")
    assert 'expected a number from 0.001 to 1000, or 0, found "0.0005"' in result.err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_is_whole(command):
    result = run_ok(command, "--help")
    assert result.err == ""
    for part in ("Usage: clusterfusion " + command, "Options:", "Exit codes: 0", "Examples:",
                 "-h, --help"):
        assert part in result.text
    assert result.text == run_ok("help", command).text == run_ok(command, "-h").text
    # Usage and examples may be long lines, to be copied.
    body = result.text[result.text.index("Options:"):result.text.index("Examples:")]
    assert max(map(len, body.splitlines())) <= 80


def test_help_lists_the_commands():
    result = run_ok("--help")
    assert all(re.search(f"^  {command} ", result.text, re.M) for command in COMMANDS)
    assert result.text == run_ok("help").text == run_ok("-h").text


def test_version_is_the_headers():
    header = (ROOT / "include" / "clusterfusion.h").read_text()
    numbers = re.findall(r"#define CF_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)", header)
    assert run_ok("--version").text == f"clusterfusion {'.'.join(numbers)}\n"


def test_the_manual_page_has_every_option():
    page = (ROOT / "docs" / "clusterfusion.1").read_text().replace("\\-", "-")
    for command in COMMANDS:
        for option in re.findall(r"^  (?:-\w, )?(--[a-z-]+)", run_ok(command, "--help").text, re.M):
            assert option in page, f"{command} {option}"


def test_an_empty_path_of_a_model_is_explained():
    result = run("generate", "-m", "", "-p", "a")
    assert result.code == 1 and "the model's path is empty, expected a folder" in result.err


def test_a_missing_default_model_is_explained(tmp_path):
    program = tmp_path / "bin" / "clusterfusion"
    program.parent.mkdir()
    program.write_bytes(PROGRAM.read_bytes())
    program.chmod(0o755)
    result = subprocess.run([program, "generate", "-p", "a"], capture_output=True, text=True,
                            check=False)
    assert result.returncode == 1
    assert "no --model DIR given, and the bundled one is neither" in result.stderr


def test_an_installed_program_finds_the_bundled_model(tmp_path, tiny):
    program = tmp_path / "bin" / "clusterfusion"
    program.parent.mkdir()
    program.write_bytes(PROGRAM.read_bytes())
    program.chmod(0o755)
    models = tmp_path / "share" / "clusterfusion" / "models"
    models.mkdir(parents=True)
    (models / "classics").symlink_to(tiny)
    result = subprocess.run([program, "generate", "-p", "he", "-n", "1"], capture_output=True,
                            check=False)
    assert result.returncode == 0
