"""The official OpenAI client against a node: `openai_client.py BASE_URL`. Fails with the first promise that is broken."""

import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key="unused", max_retries=0)
MESSAGES = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "say something"}]


def chat(**more):
    return client.chat.completions.create(**{"model": "critic", "messages": MESSAGES, "max_tokens": 8, "seed": 3, **more})


def complete(**more):
    return client.completions.create(**{"model": "generator", "prompt": "one two", "max_tokens": 8, "seed": 3, **more})


def refused(kind, code, call):
    try:
        call()
    except kind as error:
        assert error.code == code, (error.code, code)
        assert error.body["message"], error.body
    else:
        raise AssertionError(f"{kind.__name__} was expected")


names = {model.id for model in client.models.list()}
assert {"generator", "critic"} <= names, names
assert client.models.retrieve("critic").id == "critic"

# Whole texts.
answer = chat(n=2, logprobs=True, top_logprobs=2, stop=["\x00never"], max_completion_tokens=8)
assert [choice.index for choice in answer.choices] == [0, 1]
assert all(choice.finish_reason in ("stop", "length") for choice in answer.choices)
assert all(isinstance(choice.message.content, str) for choice in answer.choices)
assert answer.system_fingerprint.startswith("critic@"), answer.system_fingerprint
tokens = answer.choices[0].logprobs.content
assert len(tokens[0].top_logprobs) == 2 and tokens[0].logprob <= 0
assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
assert answer.usage.prompt_tokens_details.cached_tokens >= 0
assert answer._request_id.startswith("req-")
assert chat().choices[0].message.content == answer.choices[0].message.content, "the same seed"

# Streams.
streamed, usage, ends = {0: "", 1: ""}, None, []
for event in chat(n=2, stream=True, stream_options={"include_usage": True}):
    usage = event.usage or usage
    for choice in event.choices:
        streamed[choice.index] += choice.delta.content or ""
        ends += [choice.finish_reason] if choice.finish_reason else []
assert [streamed[0], streamed[1]] == [choice.message.content for choice in answer.choices], streamed
assert usage.completion_tokens == answer.usage.completion_tokens and len(ends) == 2
# The tiny model's end of a turn, so that the text does not end by its length, which this helper takes for an error.
with client.chat.completions.stream(model="critic", messages=MESSAGES, max_tokens=8, logit_bias={"258": 100}) as stream:
    for _ in stream:
        pass
    assert stream.get_final_completion().choices[0].finish_reason == "stop"
# A chat goes on with the message that the server sent.
answer = chat().choices[0].message
more = client.chat.completions.create(model="critic", messages=[*MESSAGES, answer, {"role": "user", "content": "go on"}], max_tokens=4)
assert more.choices[0].message.role == "assistant", more

raw = client.chat.completions.with_raw_response.create(model="critic", messages=MESSAGES, max_tokens=1)
assert raw.headers["x-critic-version"].isdigit()

# Completions.
text = complete(logprobs=2, echo=True)
choice = text.choices[0]
assert choice.text.startswith("one two") and choice.logprobs.token_logprobs[0] is None
assert "".join(choice.logprobs.tokens[: len("one two")]) == "one two"
assert complete(prompt=["one two", "three"]).choices[0].text == complete().choices[0].text
assert "".join(event.choices[0].text for event in complete(stream=True)) == complete().choices[0].text
assert complete(logit_bias={"113": 100}, max_tokens=3).choices[0].text == "qqq"

# Refusals.
refused(openai.NotFoundError, "model_not_found", lambda: chat(model="gpt-4o"))
refused(openai.BadRequestError, "unsupported_parameter", lambda: chat(frequency_penalty=0.5))
refused(openai.BadRequestError, "context_length_exceeded", lambda: complete(prompt="x" * 5000))
refused(openai.BadRequestError, None, lambda: chat(temperature=-1))
print("openai", openai.__version__)
