"""POST /v1/chat/completions with a template that gives base models a form of conversation."""
import subprocess

import pytest

from conftest import PROGRAM, parse_events

TEMPLATE = "{role}: {content}\n"
MESSAGES = [{"role": "system", "content": "A talk."}, {"role": "user", "content": "Who is it?"}]


@pytest.fixture(scope="module")
def chat(serve):
    return serve("--chat-template", TEMPLATE)


def ask(server, status=200, **fields):
    answer = server.post("/v1/chat/completions", {"messages": MESSAGES, "temperature": 0, **fields})
    assert answer.status == status, answer.body
    return answer


def test_messages_become_the_templates_text(chat):
    answer = ask(chat, max_tokens=20).json
    assert answer["object"] == "chat.completion" and answer["id"].startswith("chatcmpl-")
    [choice] = answer["choices"]
    assert choice["message"]["role"] == "assistant"
    expected = chat.choice(prompt="system: A talk.\nuser: Who is it?\nassistant:", max_tokens=20,
                           temperature=0, stop=["\nuser: "])
    assert choice["message"]["content"] == expected["text"].lstrip(" ")
    assert not choice["message"]["content"].startswith(" ")
    assert choice["finish_reason"] == expected["finish_reason"]


def test_parts_of_text_are_joined(chat):
    parts = [{"role": "system", "content": [{"type": "text", "text": "A "},
                                            {"type": "text", "text": "talk."}]}, MESSAGES[1]]
    assert ask(chat, messages=parts, max_tokens=8).json["choices"] == \
        ask(chat, max_tokens=8).json["choices"]


def test_a_streamed_chat_joins_to_the_whole(chat):
    whole = ask(chat, max_completion_tokens=12).json["choices"][0]
    events = parse_events(ask(chat, max_completion_tokens=12, stream=True).body)
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    deltas = [event["choices"][0]["delta"] for event in events]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(d.get("content", "") for d in deltas) == whole["message"]["content"]
    assert events[-1]["choices"][0]["finish_reason"] == whole["finish_reason"]


@pytest.mark.parametrize("messages", [
    None, [], {}, "Hi", [5], [{}], [{"role": "user"}], [{"content": "a"}],
    [{"role": 5, "content": "a"}], [{"role": "user", "content": 5}],
    [{"role": "user", "content": [{"type": "image_url"}]}], [{"role": "user", "content": ["a"]}]])
def test_wrong_messages_are_refused(chat, messages):
    assert ask(chat, 400, messages=messages).error["param"] == "messages"


def test_other_fields_are_checked_too(chat):
    assert ask(chat, 400, temperature=5).error["param"] == "temperature"
    assert ask(chat, 400, max_completion_tokens=-1).error["param"] == "max_completion_tokens"


@pytest.mark.parametrize("template", ["", "{role}", "{content}{content}"])
def test_a_template_without_one_content_is_an_error(template):
    result = subprocess.run([PROGRAM, "serve", "--port", "0", "--chat-template", template],
                            capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert "--chat-template: expected one {content}" in result.stderr
