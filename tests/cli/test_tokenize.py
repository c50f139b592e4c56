"""clusterfusion tokenize and detokenize."""
import json
import subprocess
import time

import pytest
from conftest import PROGRAM, run, run_ok, shared


def test_text_gives_ids_on_one_line(tiny):
    assert run_ok("tokenize", "-m", tiny, "-p", "hello").out == b"257 258 111\n"
    assert run_ok("tokenize", "-m", tiny, stdin=b"he\nllo\n").out == b"257 10 258 111 10\n"
    assert run_ok("tokenize", "-m", tiny, stdin=b"").out == b"\n"
    assert run_ok("tokenize", "-m", tiny, "-p", "").out == b"\n"
    assert run_ok("tokenize", "-m", tiny, "-p", "", "--jsonl").out == b""


def test_the_tokenizer_may_be_a_file(tiny):
    assert run_ok("tokenize", "--tokenizer", tiny / "tokenizer.json", "-p", "he").out == b"257\n"


def test_text_may_come_from_a_file(tiny, tmp_path):
    path = tmp_path / "text"
    path.write_bytes(b"he\0ll")
    assert run_ok("tokenize", "-m", tiny, "--file", path).out == b"257 0 258\n"
    assert run_ok("tokenize", "-m", tiny, "--file", "-", stdin=b"he").out == b"257\n"


def test_special_tokens_can_be_ordinary_text(tiny):
    words = ("tokenize", "-m", tiny, "-p", "<|endoftext|>")
    assert run_ok(*words).out == b"256\n"
    assert len(run_ok(*words, "--no-special").text.split()) == 13


def test_ids_give_text_and_nothing_else(tiny):
    assert run_ok("detokenize", "-m", tiny, "--ids", "257,258,111").out == b"hello"
    for ids in (b"257 258 111\n", b"257,258,111", b" 257,\n258 ,\t111 \r\n"):
        assert run_ok("detokenize", "-m", tiny, stdin=ids).out == b"hello"
    assert run_ok("detokenize", "-m", tiny, stdin=b"").out == b""


def test_special_tokens_can_be_left_out(tiny):
    words = ("detokenize", "-m", tiny, "--ids", "257,256,258")
    assert run_ok(*words).out == b"he<|endoftext|>ll"
    assert run_ok(*words, "--skip-special").out == b"hell"


@pytest.mark.parametrize("ids, message", [
    ("1,x", 'id 1: expected an integer from 0 to 2147483647, found "x"'),
    ("1 -2", 'id 1'), ("1,,2", "id 1"), (",1", "id 0"), ("1,", "id 1"), ("1.5", 'found "1.5"'),
    ("1 2147483648", 'found "2147483648"'), ("99999999999999999999999", "id 0"),
])
def test_what_is_no_id_is_named(tiny, ids, message):
    result = run("detokenize", "-m", tiny, stdin=ids.encode())
    assert result.code == 1 and message in result.err and result.out == b""


def test_json_lines_go_both_ways(tiny):
    texts = ["hello", "", "a\u0000b", "\u00e9 \U0001F600", "line\nbreak", "  \" \\ "]
    lines = "".join(json.dumps(text) + "\n" for text in texts).encode()
    ids = run_ok("tokenize", "-m", tiny, "--jsonl", stdin=lines).out
    assert [json.loads(line) for line in ids.splitlines()][:2] == [[257, 258, 111], []]
    back = run_ok("detokenize", "-m", tiny, "--jsonl", stdin=ids).out
    assert [json.loads(line) for line in back.splitlines()] == texts


def test_each_line_is_answered_before_the_next_is_read(tiny):
    process = subprocess.Popen([PROGRAM, "tokenize", "-m", tiny, "--jsonl"],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    for text, ids in (("he", [257]), ("", []), ("hello", [257, 258, 111])):
        process.stdin.write(json.dumps(text).encode() + b"\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline()) == ids
    assert process.communicate()[0] == b"" and process.returncode == 0


def test_a_last_line_needs_no_newline(tiny):
    assert run_ok("tokenize", "-m", tiny, "--jsonl", stdin=b'"he"\r\n"ll"').out == b"[257]\n[258]\n"


@pytest.mark.parametrize("command, line, message", [
    ("tokenize", b"{}", "expected a string, found an object"),
    ("tokenize", b'"a', "line 2: column"),
    ("tokenize", b'"\\ud800"', "line 2: column"),
    ("tokenize", b'"\xff"', "line 2: column"),
    ("tokenize", b'"a" "b"', "line 2: column"),
    ("tokenize", b"", "line 2: expected JSON, found nothing"),
    ("tokenize", b"[" * 100000, "line 2: column"),
    ("detokenize", b'"a"', "expected an array, found a string"),
    ("detokenize", b"[1.5]", "id 0: expected an integer, found a real number"),
    ("detokenize", b"[1,null]", "id 1: expected an integer, found null"),
    ("detokenize", b"[-1]", "id 0: expected an integer from 0 to 2147483647, found -1"),
    ("detokenize", b"[4294967296]", "found 4294967296"),
    ("detokenize", b"[9223372036854775808]", "line 2: column"),
    ("detokenize", b"[1,]", "line 2: column"),
])
def test_a_bad_line_is_named_and_those_before_it_printed(tiny, command, line, message):
    good, printed = (b'"he"', b"[257]\n") if command == "tokenize" else (b"[257]", b'"he"\n')
    result = run(command, "-m", tiny, "--jsonl", stdin=good + b"\n" + line + b"\n" + good)
    assert result.code == 1 and result.out == printed
    assert "line 2: " in result.err and message in result.err
    assert len(result.err.splitlines()) == 1


def test_a_folder_without_a_tokenizer_is_named(bare):
    result = run("tokenize", "-m", bare, "-p", "a")
    assert result.code == 1 and f"{bare}/tokenizer.json: not found" in result.err


def test_a_missing_file_is_named(tiny):
    result = run("tokenize", "-m", tiny, "--file", "/nowhere/text")
    assert result.code == 1 and "/nowhere/text: No such file" in result.err
    result = run("tokenize", "--tokenizer", "/nowhere/tokenizer.json", "-p", "a")
    assert result.code == 1 and "/nowhere/tokenizer.json" in result.err


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"model":{"type":"WordPiece"}}'])
def test_a_bad_tokenizer_is_named(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    result = run("tokenize", "--tokenizer", path, "-p", "a")
    assert result.code == 1 and "tokenizer.json" in result.err


def test_the_reference_vectors_go_both_ways():
    tokenizer = shared("20B_tokenizer.json")
    lines = shared("tokenizer_vectors.jsonl").read_text().splitlines()
    vectors = [json.loads(line) for line in lines]
    texts = "".join(json.dumps(bytes.fromhex(vector["hex"]).decode()) + "\n" for vector in vectors)
    ids = run_ok("tokenize", "--tokenizer", tokenizer, "--jsonl", stdin=texts.encode()).out
    assert [json.loads(line) for line in ids.splitlines()] == [vector["ids"] for vector in vectors]
    back = run_ok("detokenize", "--tokenizer", tokenizer, "--jsonl", stdin=ids).out
    assert [json.loads(line) for line in back.splitlines()] == \
        [vector["decoded"] for vector in vectors]


def test_a_book_goes_through_and_back():
    tokenizer, path = shared("20B_tokenizer.json"), shared("classics.txt")
    begin = time.monotonic()
    ids = run_ok("tokenize", "--tokenizer", tokenizer, "--file", path).out
    back = run_ok("detokenize", "--tokenizer", tokenizer, stdin=ids).out
    # Both take less than 2 s; the rest is for slow and busy machines, and sanitizers.
    assert time.monotonic() - begin < 60
    assert back == path.read_bytes()


def test_input_without_end_is_refused(tiny):
    result = run("tokenize", "-m", tiny, "--file", "/dev/zero")
    assert result.code == 1 and "/dev/zero: more than 1073741824 bytes" in result.err
