"""Pipes, terminals, full disks and Ctrl-C."""
import fcntl
import json
import os
import pty
import re
import select
import signal
import subprocess
import time

import pytest
from checkpoints import write_checkpoint
from conftest import PROGRAM, TIMEOUT_S, run, run_ok

# Longer than any test waits: the context's end is never reached.
LONG = ("--prompt-ids", "1,2,3", "-n", "2000000000", "-c", "200000", "--ignore-eos", "-t", "1")


@pytest.fixture(scope="module")
def long_tiny(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("long"))


def start(*words, **settings):
    return subprocess.Popen([PROGRAM, *map(str, words)], stdin=subprocess.DEVNULL, **settings)


def wait_until(condition):
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def catches_interrupts(process):
    with open(f"/proc/{process.pid}/status", encoding="ascii") as status:
        caught = next(line.split()[1] for line in status if line.startswith("SigCgt"))
    return int(caught, 16) >> (signal.SIGINT - 1) & 1


def processor_time(process):
    with open(f"/proc/{process.pid}/stat", encoding="utf-8") as stat:
        return sum(map(int, stat.read().rsplit(")", 1)[1].split()[11:13]))


def test_text_is_streamed_as_it_comes(long_tiny):
    process = start("generate", "-m", long_tiny, *LONG, stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE)
    first = os.read(process.stdout.fileno(), 1)
    assert first == b"\x01" and process.poll() is None
    process.kill()
    process.communicate()


def test_an_interrupt_ends_a_generation_cleanly(long_tiny):
    process = start("generate", "-m", long_tiny, *LONG, stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE)
    begin = os.read(process.stdout.fileno(), 3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130
    assert (begin + out).startswith(b"\x01\x02\x03") and out.endswith(b"\n")
    (begin + out).decode()
    assert re.fullmatch(rb"prompt 3 tokens.* generated \d+ tokens.* cancelled; logits .*\n", err)


def test_an_interrupt_leaves_the_json_complete(long_tiny):
    process = start("generate", "-m", long_tiny, *LONG, "--format", "json",
                    stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_until(lambda: catches_interrupts(process))
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130 and err == b""
    result = json.loads(out)
    assert result["finish_reason"] == "cancelled"
    assert len(result["ids"]) == len(result["logprobs"]) == result["stats"]["n_tokens"]


def test_a_second_interrupt_kills(long_tiny):
    """While nobody reads the pipe the first one cannot end it."""
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)
    process = start("generate", "-m", long_tiny, *LONG, stdout=write_end, stderr=subprocess.PIPE)
    os.close(write_end)
    wait_until(lambda: catches_interrupts(process))
    wait_until(lambda: select.select([read_end], [], [], 0)[0])
    times = [-1, processor_time(process)]
    while times[-1] != times[-2]:
        time.sleep(0.5)
        times.append(processor_time(process))
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == -signal.SIGINT
    os.close(read_end)


def test_an_interrupt_ends_scoring(long_tiny):
    process = start("score", "-m", long_tiny, "--ids", ",".join(["7"] * 60000), "--stride", "1",
                    stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_until(lambda: catches_interrupts(process))
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130
    assert out == b"" and err == b"clusterfusion score: interrupted\n"


def test_waiting_for_input_ends_at_the_first_interrupt(long_tiny):
    process = subprocess.Popen([PROGRAM, "generate", "-m", long_tiny, "--prompt-file", "-"],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=TIMEOUT_S)
    process.communicate()
    assert process.returncode == -signal.SIGINT


COMMANDS = [
    ("--version",), ("--help",), ("generate", "--help"),
    ("generate", "-p", "he", "-n", "3"), ("generate", "-p", "he", "-n", "3", "--format", "json"),
    ("score", "-p", "hello"), ("score", "-p", "hello", "--format", "json"),
    ("tokenize", "-p", "hello"), ("detokenize", "--ids", "257"), ("inspect",),
    ("inspect", "--format", "json"), ("bench", "-p", "4", "-n", "2", "-r", "1", "--format", "csv"),
]


def with_model(words, model):
    if words[0].startswith("-") or "--help" in words:
        return words
    return (words[0], "-m", model, *words[1:])


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_full_disk_is_a_failure(tiny, words):
    with open("/dev/full", "wb") as full:
        process = start(*with_model(words, tiny), stdout=full, stderr=subprocess.PIPE)
        _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1
    assert b"writing to stdout: No space left on device\n" in err


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_closed_stdout_is_a_failure(tiny, words):
    process = start(*with_model(words, tiny), stderr=subprocess.PIPE,
                    preexec_fn=lambda: os.close(1))
    _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1
    assert b"writing to stdout: Bad file descriptor\n" in err


@pytest.mark.parametrize("words", [COMMANDS[3], COMMANDS[5], COMMANDS[9]], ids=" ".join)
def test_a_pipe_that_nobody_reads_is_a_failure(tiny, words):
    read_end, write_end = os.pipe()
    os.close(read_end)
    process = start(*with_model(words, tiny), stdout=write_end, stderr=subprocess.PIPE)
    os.close(write_end)
    _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1
    assert b"writing to stdout: Broken pipe\n" in err


def test_a_generation_ends_when_its_reader_leaves(long_tiny):
    process = start("generate", "-m", long_tiny, *LONG, stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE)
    os.read(process.stdout.fileno(), 3)
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(timeout=TIMEOUT_S) == 1
    assert err == b"clusterfusion generate: writing to stdout: Broken pipe\n"


def test_closed_stderr_and_stdin_do_no_harm(tiny):
    def close():
        os.close(0)
        os.close(2)
    result = subprocess.run([PROGRAM, "generate", "-m", tiny, "-p", "hello", "-n", "0"],
                            stdout=subprocess.PIPE, preexec_fn=close, check=False)
    assert result.returncode == 0 and result.stdout == b"hello\n"


def test_progress_is_silent_in_a_pipe(tiny):
    ids = ",".join(["7"] * 3000)
    assert run_ok("score", "-m", tiny, "--ids", ids).err == ""
    assert run_ok("inspect", "-m", tiny).err == ""


def test_progress_is_shown_on_a_terminal_and_taken_away(long_tiny):
    parent, child = pty.openpty()
    process = start("score", "-m", long_tiny, "--ids", ",".join(["7"] * 60000), "--stride", "1",
                    stdout=subprocess.PIPE, stderr=child)
    os.close(child)
    seen = b""
    while seen.count(b"%") < 3:
        assert select.select([parent], [], [], TIMEOUT_S)[0], "no progress was shown"
        seen += os.read(parent, 4096)
    process.send_signal(signal.SIGINT)
    while True:
        try:
            part = os.read(parent, 4096)
        except OSError:  # what Linux answers when the other end is closed
            break
        if not part:
            break
        seen += part
    process.communicate(timeout=TIMEOUT_S)
    os.close(parent)
    assert re.search(rb"\rscore  \[[#.]{32}\] +\d+ %", seen)
    assert seen.endswith(b"\r\x1b[Kclusterfusion score: interrupted\r\n")
    assert process.returncode == 130


def test_no_bar_gets_into_the_text_of_a_terminal(tiny):
    parent, child = pty.openpty()
    process = start("generate", "-m", tiny, "-p", "hello", "-n", "0", stdout=child, stderr=child)
    os.close(child)
    seen = b""
    while True:
        try:
            part = os.read(parent, 4096)
        except OSError:
            break
        if not part:
            break
        seen += part
    process.wait(timeout=TIMEOUT_S)
    os.close(parent)
    assert re.fullmatch(rb"hello\r\nprompt 3 tokens.*\r\n", seen)


def test_numbers_keep_their_point_in_any_locale(tiny):
    environment = dict(os.environ, LC_ALL="de_DE.UTF-8", LANG="de_DE.UTF-8")
    words = ("generate", "-m", tiny, "-p", "hello", "-n", 5, "--temperature", "0.5", "--format",
             "json")
    assert run(*words, env=environment).json["logprobs"] == run(*words).json["logprobs"]
