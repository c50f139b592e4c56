"""clusterfusion eval, held against the formulas of lm-evaluation-harness over what score prints."""
import csv
import io
import json
import math
import re
import shutil
import statistics

import pytest
from checkpoints import write_checkpoint
from conftest import run, run_ok

PREFIX = 256  # <|endoftext|> of the small checkpoint
WORDS = "hello there, the tall hill held well; he tells all the shells"
QUESTIONS = [
    {"context": "hello", "choices": ["there", "hill", "all"], "answer": 1},
    {"context": "the tall  ", "choices": ["hill", "shell shell"], "answer": 0},
    {"context": "", "choices": ["hello", "tells"], "answer": 1},
    {"context": "he held\n", "choices": ["the sh\u00e9lls \u4e00", "x"], "answer": 0, "id": 7},
    {"context": " \t", "choices": ["all", "well", "tell"], "answer": 2},
    {"context": "ends in \u3000\u00a0", "choices": ["he", "she"], "answer": 1},
]

# The session's KV cache is filled in other portions here than there, so sums of floats differ by
# some units of the last place of a logit, 2^-24 × 16, a token.
TOLERANCE = dict(abs=2e-4, rel=1e-5)


def write_lines(path, values):
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def encode(model, text):
    return run_ok("tokenize", "-m", model, "--jsonl", stdin=json.dumps(text).encode()).json


def logprobs(model, ids):
    """Of each id but the first, given all before it."""
    text = ",".join(map(str, ids))
    return run_ok("score", "-m", model, "--ids", text, "--kv", "f32", "--format",
                  "json").json["token_logprobs"][1:]


def evaluate(*words):
    return run_ok("eval", *words, "--kv", "f32", "--format", "json").json["results"]


def rolling_windows(ids, n_window, n_context):
    """(inputs, what to predict), as the harness cuts a text; its last token need not be an input."""
    done = min(n_window, len(ids))
    yield [PREFIX] + ids[:done - 1], ids[:done]
    while done < len(ids):
        n = min(len(ids) - done, n_window - n_context + 1)
        end = done + n
        yield ids[end - n_window - 1:end - 1], ids[done:end]
        done = end


def losses_of_windows(model, ids, n_window, n_context):
    losses = []
    for inputs, targets in rolling_windows(ids, n_window, n_context):
        all_of_them = logprobs(model, inputs + targets[-1:])
        losses += [-value for value in all_of_them[-len(targets):]]
    return losses


@pytest.mark.parametrize("n_window, n_stride", [(128, 128), (16, 16), (16, 5), (7, 1), (1, 1)])
def test_perplexity_is_that_of_the_harness(tiny, tmp_path, n_window, n_stride):
    path = tmp_path / "text"
    text = WORDS + "\n caf\u00e9  \u2003x"
    path.write_text(text)
    ids = encode(tiny, text)
    losses = losses_of_windows(tiny, ids, n_window, n_window - n_stride + 1)
    assert len(losses) == len(ids)
    [row] = evaluate("-m", tiny, "--file", path, "--window", n_window, "--stride", n_stride)
    assert row["tokens"] == len(ids)
    assert row["words"] == len(re.split(r"\s+", text))
    assert row["bytes"] == len(text.encode())
    mean, total = statistics.fmean(losses), math.fsum(losses)
    error = statistics.stdev(losses) / math.sqrt(len(losses))
    assert row["loss"] == pytest.approx(mean, **TOLERANCE)
    assert row["loss_stderr"] == pytest.approx(error, **TOLERANCE)
    assert row["perplexity"] == pytest.approx(math.exp(mean), rel=2e-4)
    assert row["perplexity_stderr"] == pytest.approx(math.exp(mean) * error, rel=4e-4)
    assert row["bits_per_byte"] == pytest.approx(total / len(text.encode()) / math.log(2), rel=1e-4)
    assert row["byte_perplexity"] == pytest.approx(math.exp(total / len(text.encode())), rel=1e-3)
    assert math.log(row["word_perplexity"]) == pytest.approx(total / row["words"], rel=1e-4)


def test_the_stride_is_the_window_unless_given(tiny, tmp_path):
    path = tmp_path / "text"
    path.write_text(WORDS)
    whole = evaluate("-m", tiny, "--file", path, "--window", 20)
    assert whole == evaluate("-m", tiny, "--file", path, "--window", 20, "--stride", 20)
    assert whole != evaluate("-m", tiny, "--file", path, "--window", 20, "--stride", 10)


@pytest.mark.parametrize("text, n_words", [
    ("a", 1), ("a b", 2), (" a\n\nb ", 4), ("a\u3000b\u1680c", 3), ("a\u200bb", 1),
    ("a\x1cb\x85c", 3), ("\u00e9\u00a0", 2),
])
def test_words_are_what_white_space_divides(tiny, text, n_words):
    result = run_ok("eval", "-m", tiny, "--file", "-", "--format", "json", stdin=text.encode())
    assert result.json["results"][0]["words"] == n_words == len(re.split(r"\s+", text))


def test_one_token_has_no_standard_error(tiny):
    words = ("eval", "-m", tiny, "--file", "-")
    [row] = run_ok(*words, "--format", "json", stdin=b"a").json["results"]
    assert row["tokens"] == 1 and row["loss_stderr"] is None and row["perplexity_stderr"] is None
    assert "±" not in run_ok(*words, stdin=b"a").text
    assert ",," in run_ok(*words, "--format", "csv", stdin=b"a").text


def harness_ids(model, context, choice):
    """(context, continuation), as the harness encodes the pair."""
    if context == "":
        return [PREFIX], encode(model, choice)
    n_spaces = len(context) - len(context.rstrip())
    if n_spaces > 0:
        choice, context = context[-n_spaces:] + choice, context[:-n_spaces]
    whole, before = encode(model, context + choice), encode(model, context)
    return before or [PREFIX], whole[len(before):]


def harness_sums(model, question, delimiter=" ", n_window=128):
    sums = []
    for choice in question["choices"]:
        before, after = harness_ids(model, question["context"], delimiter + choice)
        ids = (before + after)[-(n_window + 1):]
        sums.append(math.fsum(logprobs(model, ids)[-len(after):]))
    return sums


def best(values):
    return values.index(max(values))


def expected_accuracy(model, questions, **settings):
    right = {"acc": [], "acc_norm": [], "acc_bytes": []}
    for question in questions:
        sums, choices = harness_sums(model, question, **settings), question["choices"]
        picks = {
            "acc": best(sums),
            "acc_norm": best([s / len(c) for s, c in zip(sums, choices)]),
            "acc_bytes": best([s / len(c.encode()) for s, c in zip(sums, choices)]),
        }
        for key, pick in picks.items():
            right[key].append(float(pick == question["answer"]))
    result = {}
    for key, values in right.items():
        result[key] = statistics.fmean(values)
        result[key + "_stderr"] = statistics.stdev(values) / math.sqrt(len(values))
    return result


def with_each_answer(questions):
    """Every question once for each of its choices as the answer: which is picked cannot hide."""
    return [{**question, "answer": i} for question in questions
            for i in range(len(question["choices"]))]


@pytest.mark.parametrize("delimiter", [None, "", ": "])
def test_accuracy_is_that_of_the_harness(tiny, tmp_path, delimiter):
    words = () if delimiter is None else ("--delimiter", delimiter)
    for number, question in enumerate(with_each_answer(QUESTIONS)):
        # Two of each, so that a standard error can be had of one question.
        path = write_lines(tmp_path / f"{number}.jsonl", [question, question])
        [row] = evaluate("-m", tiny, "--tasks", path, *words)
        expected = expected_accuracy(tiny, [question] * 2,
                                     delimiter=" " if delimiter is None else delimiter)
        assert row["questions"] == 2
        assert {key: row[key] for key in expected} == pytest.approx(expected), question


def test_standard_errors_are_those_of_the_sample(tiny, tmp_path):
    questions = with_each_answer(QUESTIONS)
    [row] = evaluate("-m", tiny, "--tasks", write_lines(tmp_path / "q", questions))
    expected = expected_accuracy(tiny, questions)
    assert {key: row[key] for key in expected} == pytest.approx(expected)
    for key in ("acc", "acc_norm", "acc_bytes"):
        p, n = row[key], row["questions"]
        assert row[key + "_stderr"] == pytest.approx(math.sqrt(p * (1 - p) / (n - 1)))


def test_a_long_context_loses_its_beginning_and_says_so(tiny, tmp_path):
    questions = with_each_answer([{"context": WORDS * 4, "choices": ["hill", "shell"]},
                                  {"context": "he", "choices": ["ll", "x"]}])
    path = write_lines(tmp_path / "q", questions)
    result = run_ok("eval", "-m", tiny, "--tasks", path, "--kv", "f32", "--window", 24,
                    "--format", "json")
    [row] = result.json["results"]
    assert row["truncated"] == 2
    expected = expected_accuracy(tiny, questions, n_window=24)
    assert {key: row[key] for key in expected} == pytest.approx(expected)
    assert "2 of 4 questions are longer than the window of 24 tokens" in result.err


def test_a_choice_longer_than_the_window_is_refused(tiny, tmp_path):
    path = write_lines(tmp_path / "q", [{"context": "a", "choices": ["b", "c" * 30], "answer": 0}])
    result = run("eval", "-m", tiny, "--tasks", path, "--window", 10)
    assert result.code == 1 and result.out == b""
    assert "q: line 1: choice 1: expected at most the window of 10 tokens, found 31" in result.err


def test_a_choice_without_tokens_of_its_own_is_refused(tiny, tmp_path):
    """h and e are one token together: nothing is left to score."""
    path = write_lines(tmp_path / "q", [{"context": "h", "choices": ["e", "b"], "answer": 0}])
    result = run("eval", "-m", tiny, "--tasks", path, "--delimiter", "")
    assert result.code == 1 and "line 1: choice 0: expected at least one token" in result.err


@pytest.mark.parametrize("line, message", [
    ("{", "line 2: column"),
    ("", "line 2: expected JSON, found nothing"),
    (" \r\n\t", "line 2: expected JSON, found nothing"),
    ("\ufeff{}", "line 2: column"),
    ("[1]", 'line 2: expected an object of "context", "choices" and "answer", found an array'),
    ('{"choices": ["a", "b"], "answer": 0}', 'line 2: "context": expected a string, found nothing'),
    ('{"context": 1, "choices": ["a", "b"], "answer": 0}', "found an integer"),
    ('{"context": "a", "answer": 0}', '"choices": expected an array of strings, found nothing'),
    ('{"context": "a", "choices": "bc", "answer": 0}', "found a string"),
    ('{"context": "a", "choices": [], "answer": 0}', "expected at least 2 of them, found 0"),
    ('{"context": "a", "choices": ["b"], "answer": 0}', "expected at least 2 of them, found 1"),
    ('{"context": "a", "choices": ["b", ""], "answer": 0}', "choice 1 is empty"),
    ('{"context": "a", "choices": ["b", null], "answer": 0}', "choice 1: expected a string"),
    ('{"context": "a", "choices": ["b", "c"]}', '"answer": expected the index of a choice'),
    ('{"context": "a", "choices": ["b", "c"], "answer": "b"}', "found a string"),
    ('{"context": "a", "choices": ["b", "c"], "answer": 2}', "0 to 1, found 2"),
    ('{"context": "a", "choices": ["b", "c"], "answer": -1}', "found -1"),
    ('{"context": "a", "choices": ["b", "c"], "answer": 0.5}', "found a real number"),
    ('{"context": "a", "context": "b", "choices": ["b", "c"], "answer": 0}', "duplicate"),
])
def test_a_bad_line_is_named(tiny, tmp_path, line, message):
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps(QUESTIONS[0]) + "\n" + line + "\n" + json.dumps(QUESTIONS[0]))
    result = run("eval", "-m", tiny, "--tasks", path)
    assert result.code == 1 and result.out == b""
    assert "questions.jsonl: line 2" in result.err and message in result.err


@pytest.mark.parametrize("end", ["", "\n", "\n\n\n", "\r\n \t\r\n"])
def test_what_editors_add_to_a_file_is_nothing(tiny, tmp_path, end):
    path = tmp_path / "questions.jsonl"
    path.write_bytes(("\ufeff" + "\n".join(map(json.dumps, QUESTIONS)) + end).encode())
    assert evaluate("-m", tiny, "--tasks", path)[0]["questions"] == len(QUESTIONS)


def test_questions_may_hold_zero_characters(tiny, tmp_path):
    path = write_lines(tmp_path / "q", [{"context": "a\0b", "choices": ["\0", "c\0"], "answer": 0}])
    assert evaluate("-m", tiny, "--tasks", path)[0]["questions"] == 1


@pytest.mark.parametrize("words, message", [
    (("--file", "nothing"), "nothing: No such file"),
    (("--tasks", "nothing"), "nothing: No such file"),
    (("--file", "-"), "--file: expected text of at least one token"),
    (("--tasks", "-"), "expected a question a line, found none"),
    (("--file", "-", "--window", "129"), "--window: expected at most the context of 128 tokens"),
    (("--file", "-", "--stride", "129"), "--stride: expected at most the window of 128 tokens"),
])
def test_what_cannot_be_done_is_explained(tiny, tmp_path, words, message):
    result = run("eval", "-m", tiny, *words, cwd=tmp_path)
    assert result.code == 1 and message in result.err and result.out == b""


def test_text_needs_a_tokenizer(bare, tiny, tmp_path):
    path = tmp_path / "text"
    path.write_text(WORDS)
    result = run("eval", "-m", bare, "--file", path)
    assert result.code == 1 and "give --tokenizer FILE" in result.err
    assert evaluate("-m", bare, "--tokenizer", tiny, "--file", path)[0]["tokens"] > 1


def test_a_model_without_special_tokens_is_told_what_it_lacks(tmp_path):
    model = write_checkpoint(tmp_path / "m", bos_token_id=None, eos_token_id=None)
    result = run("eval", "-m", model, "--file", "-", stdin=b"hello")
    assert result.code == 1 and "neither bos_token_id nor eos_token_id" in result.err
    path = write_lines(tmp_path / "q", [{"context": "", "choices": ["a", "b"], "answer": 0}])
    result = run("eval", "-m", model, "--tasks", path)
    assert result.code == 1 and "the context is empty" in result.err


@pytest.fixture(scope="module")
def revisions(tmp_path_factory):
    """step0, step1 and step10 of different sizes, step2 a copy of step1; and what is no checkpoint."""
    folder = tmp_path_factory.mktemp("revisions")
    for name, d_ffn in (("step0", 32), ("step1", 64), ("step10", 96)):
        write_checkpoint(folder / name, intermediate_size=d_ffn)
    shutil.copytree(folder / "step1", folder / "step2")
    (folder / "notes").mkdir()
    (folder / ".git").mkdir()
    (folder / "README").write_text("steps")
    return folder


def test_revisions_come_in_the_order_of_their_numbers(revisions, tiny, tmp_path):
    path = tmp_path / "text"
    path.write_text(WORDS)
    result = run_ok("eval", "-m", tiny, "--revisions", revisions, "--file", path, "--format",
                    "json")
    names = [row["model"] for row in result.json["results"]]
    assert names == [str(tiny), "step0", "step1", "step2", "step10"]
    assert "notes: left out" in result.err and ".git" not in result.err
    one = run_ok("eval", "-m", revisions / "step10", "--file", path, "--format", "json").json
    assert {**one["results"][0], "model": "step10"} == result.json["results"][-1]


def test_equal_weights_are_warned_of(revisions, tiny, tmp_path):
    path = write_lines(tmp_path / "q", QUESTIONS)
    words = ("eval", "--revisions", revisions, "--tasks", path)
    lines = [line for line in run_ok(*words).err.splitlines() if "warning" in line]
    assert len(lines) == 1
    assert "step2 has the same weights as step1 (hash " in lines[0]
    quiet = run_ok(*words, "--no-hash", "--format", "json")
    assert "warning" not in quiet.err
    assert all(row["hash"] is None for row in quiet.json["results"])


def test_the_hash_is_that_of_inspect(tiny, tmp_path):
    path = write_lines(tmp_path / "q", QUESTIONS)
    expected = run_ok("inspect", "-m", tiny, "--format", "json").json["hash"]
    assert evaluate("-m", tiny, "--tasks", path)[0]["hash"] == expected


def test_a_checkpoint_that_fails_is_left_out(revisions, tmp_path):
    folder = tmp_path / "revisions"
    shutil.copytree(revisions, folder)
    (folder / "step1" / "model.safetensors").write_bytes(b"no weights")
    path = write_lines(tmp_path / "q", QUESTIONS)
    for form in ("json", "csv", "table"):
        result = run("eval", "--revisions", folder, "--tasks", path, "--format", form)
        assert result.code == 1
        assert "clusterfusion eval: step1: " in result.err
        if form != "json":
            assert [word for word in ("step0", "step1,", "step2", "step10")
                    if word in result.text.replace('"', "").replace("step1 ", "step1,")] == \
                ["step0", "step2", "step10"]


def test_json_lists_what_failed(revisions, tmp_path):
    folder = tmp_path / "revisions"
    shutil.copytree(revisions, folder)
    path = write_lines(tmp_path / "q", QUESTIONS)
    words = ("eval", "--revisions", folder, "--tasks", path, "--format", "json")
    assert run(*words).json["failed"] == []
    (folder / "step1" / "model.safetensors").write_bytes(b"no weights")
    found = run(*words).json
    assert [row["model"] for row in found["results"]] == ["step0", "step2", "step10"]
    [failure] = found["failed"]
    assert set(failure) == {"model", "error"} and failure["model"] == "step1"
    assert "model.safetensors" in failure["error"]
    [failure] = run("eval", "-m", folder / "step1", "--tasks", path, "--format", "json").json[
        "failed"]
    assert failure["model"] == str(folder / "step1")


def test_a_folder_without_checkpoints_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    result = run("eval", "--revisions", tmp_path, "--file", "-", stdin=b"hello")
    assert result.code == 1 and "expected folders that hold a config.json, found none" in result.err
    result = run("eval", "--revisions", tmp_path / "nowhere", "--file", "-", stdin=b"hello")
    assert result.code == 1 and "nowhere: No such file" in result.err


@pytest.mark.parametrize("kind", ["--file", "--tasks"])
def test_the_three_forms_agree(tiny, tmp_path, kind):
    path = tmp_path / "input"
    if kind == "--file":
        path.write_text(WORDS)
    else:
        write_lines(path, QUESTIONS)
    words = ("eval", "-m", tiny, kind, path)
    [row] = run_ok(*words, "--format", "json").json["results"]
    [cells] = csv.DictReader(io.StringIO(run_ok(*words, "--format", "csv").text))
    assert list(cells) == list(row)
    for key, value in row.items():
        assert cells[key] == value if isinstance(value, str) else \
            float(cells[key]) == pytest.approx(value, rel=1e-8)
    head, line = run_ok(*words).text.splitlines()
    assert head.split()[:2] == ["model", "weights"] and len(head) == len(line)
    assert row["hash"][:8] in line
    if kind == "--file":
        assert f"{row['loss']:.4f} ± {row['loss_stderr']:.4f}" in line
    else:
        assert f"{100 * row['acc']:.2f} ± {100 * row['acc_stderr']:.2f}" in line


def test_the_bundled_model_knows_its_books(tmp_path):
    questions = [
        {"context": "Elizabeth looked at Mr.", "choices": ["Darcy", "whale"], "answer": 0},
        {"context": "The ship was on the", "choices": ["of", "sea"], "answer": 1},
        {"context": '"I am very glad to see you," said', "choices": ["he.", "the the"],
         "answer": 0},
    ]
    assert evaluate("--tasks", write_lines(tmp_path / "q", questions))[0]["acc"] == 1
