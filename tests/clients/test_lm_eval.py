"""lm-evaluation-harness, unchanged, against the server; its results are those of eval."""
import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT, TIMEOUT_S, command_line

TEXT = (ROOT / "models" / "classics" / "README.md").read_text()

QUESTIONS = [
    ("Elizabeth looked at Mr.", ["Darcy", "whale", "the Count"], 0),
    ("The captain of the ship", ["was", "of of", "had seen a great many whales"], 2),
    ("It was a bright ", ["morning", "elephants", "and"], 0),
    ("\"I am very glad to see you,\" said", ["he.", "the the", "Alice"], 2),
    ("", ["The whale was seen", "whale the seen was"], 0),
    ("She opened the door\n", ["and went in", "window \u00e9toile", "\u4e00"], 0),
    ("The old man went down to the sea  \n ", ["with", "the sea was very calm"], 1),
    ("'Curiouser", ["and curiouser!'", "than a rabbit-hole"], 0),
    ("My dear Watson,\u00a0", ["said he", "whale"], 1),
    ("There was no possibility of", ["a", "taking a walk that day", "taking the"], 1),
    ("Peter flew", ["away", "to the moon and back again, and so did Wendy"], 1),
    ("A tale of two", ["cities", "citi", "Dorian Gray"], 0),
]

# The model's context is 512. Of max_length the harness keeps a token for an answer and one for the
# first context: 510 is the window that it then uses.
WINDOWS = [(512, 510), (66, 64)]


def write_tasks(folder):
    """A multiple-choice task and a perplexity task whose data are local files."""
    (folder / "questions.jsonl").write_text("".join(
        json.dumps({"context": context, "choices": choices, "answer": answer}) + "\n"
        for context, choices, answer in QUESTIONS))
    (folder / "text.jsonl").write_text(json.dumps({"text": TEXT}) + "\n")
    common = "dataset_path: json\ntest_split: test\ndataset_kwargs:\n  data_files:\n    test: "
    (folder / "choice.yaml").write_text(
        f"task: local_choice\noutput_type: multiple_choice\n{common}{folder}/questions.jsonl\n"
        "doc_to_text: context\ndoc_to_choice: choices\ndoc_to_target: answer\nmetric_list:\n"
        "  - metric: acc\n  - metric: acc_norm\n  - metric: acc_bytes\n")
    (folder / "text.yaml").write_text(
        f"task: local_text\noutput_type: loglikelihood_rolling\n{common}{folder}/text.jsonl\n"
        "doc_to_text: ''\ndoc_to_target: text\nmetric_list:\n"
        "  - metric: word_perplexity\n  - metric: byte_perplexity\n  - metric: bits_per_byte\n")


def run_harness(folder, server, max_length, *words):
    """Results of both tasks, and the samples of the first."""
    output = folder / f"output-{max_length}"
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1",
               "HF_HOME": str(folder / "cache"), "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-m", "lm_eval", "run", "--model", "local-completions",
         "--tasks", "local_choice,local_text", "--include_path", str(folder),
         "--model_args", f"model=classics,base_url={server.url}/v1/completions,"
         f"max_length={max_length}", "--output_path", str(output), "--log_samples", *words],
        capture_output=True, text=True, timeout=TIMEOUT_S, env={**os.environ, **offline},
        check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [path] = output.rglob("results_*.json")
    [samples] = output.rglob("samples_local_choice_*.jsonl")
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    return json.loads(path.read_text())["results"], sorted(lines, key=lambda line: line["doc_id"])


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    write_tasks(folder)
    return folder


@pytest.fixture(scope="module", params=WINDOWS, ids=lambda pair: f"max_length={pair[0]}")
def harness(request, tasks, server):
    """(its results, its samples, the window that eval needs)."""
    max_length, n_window = request.param
    # Several requests at a time, and one at a time: the two ways it has of asking.
    words = () if max_length == 512 else ("--batch_size", "4")
    return *run_harness(tasks, server, max_length, *words), n_window


def evaluate(*words):
    [result] = command_line("eval", *words)["results"]
    return result


def test_accuracies_and_their_errors_agree(harness, tasks):
    results, _, n_window = harness
    ours = evaluate("--tasks", tasks / "questions.jsonl", "--window", n_window)
    theirs = results["local_choice"]
    for metric in ("acc", "acc_norm", "acc_bytes"):
        assert ours[metric] == pytest.approx(theirs[f"{metric},none"]), metric
        assert ours[f"{metric}_stderr"] == pytest.approx(theirs[f"{metric}_stderr,none"]), metric
    assert 0 < theirs["acc,none"] < 1


def test_every_single_answer_agrees(harness, tmp_path):
    _, samples, n_window = harness
    assert len(samples) == len(QUESTIONS)
    for sample, (context, choices, answer) in zip(samples, QUESTIONS):
        path = tmp_path / "question.jsonl"
        path.write_text(json.dumps({"context": context, "choices": choices, "answer": answer}))
        ours = evaluate("--tasks", path, "--window", n_window)
        for metric in ("acc", "acc_norm", "acc_bytes"):
            assert ours[metric] == sample[metric], (metric, context)


def test_log_probabilities_of_the_choices_agree(harness, tmp_path):
    """What eval adds up is what score prints: here each choice whose tokens divide as texts do."""
    _, samples, _ = harness
    n_compared = 0
    for sample, (context, choices, _) in zip(samples, QUESTIONS):
        if context != context.rstrip() or context == "":
            continue
        n_context = len(command_line("score", "-p", context)["ids"])
        for choice, response in zip(choices, sample["resps"]):
            logprobs = command_line("score", "-p", f"{context} {choice}")["token_logprobs"]
            # The KV cache's half floats may round to the other side; see test_openai.py.
            assert float(response[0][0]) == pytest.approx(sum(logprobs[n_context:]), abs=2e-2)
            n_compared += 1
    assert n_compared >= 12


def test_perplexities_agree(harness, tmp_path):
    results, _, n_window = harness
    path = tmp_path / "text"
    path.write_text(TEXT)
    ours = evaluate("--file", path, "--window", n_window)
    assert ours["tokens"] > 2 * n_window
    theirs = results["local_text"]
    # The exponents differ by the rounding of sums, a few 1e-5 of them at most.
    assert ours["bits_per_byte"] == pytest.approx(theirs["bits_per_byte,none"], rel=1e-4)
    assert ours["byte_perplexity"] == pytest.approx(theirs["byte_perplexity,none"], rel=3e-4)
    assert ours["word_perplexity"] == pytest.approx(theirs["word_perplexity,none"], rel=3e-3)
