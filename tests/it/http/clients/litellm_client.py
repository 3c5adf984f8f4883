"""LiteLLM against a node: `litellm_client.py BASE_URL`. Fails with the first promise that is broken."""

import importlib.metadata
import sys

import litellm

litellm.telemetry = False
SAME = {
    "model": "openai/critic",
    "api_base": sys.argv[1],
    "api_key": "unused",
    "messages": [{"role": "user", "content": "say something"}],
    "max_tokens": 8,
    "seed": 3,
    "num_retries": 0,
}

answer = litellm.completion(**SAME, n=2)
assert len(answer.choices) == 2 and answer.usage.completion_tokens > 0
assert all(choice.finish_reason in ("stop", "length") for choice in answer.choices)
text = "".join(event.choices[0].delta.content or "" for event in litellm.completion(**SAME, stream=True))
assert text == answer.choices[0].message.content, (text, answer)
scored = litellm.completion(**SAME, logprobs=True, top_logprobs=2)
assert len(scored.choices[0].logprobs.content[0].top_logprobs) == 2
written = litellm.text_completion(
    model="text-completion-openai/generator", api_base=sys.argv[1], api_key="unused", prompt="one two", max_tokens=4, seed=3
)
assert isinstance(written.choices[0].text, str) and written.usage.completion_tokens > 0
try:
    litellm.completion(**{**SAME, "model": "openai/gpt-4o"})
except litellm.NotFoundError as error:
    assert "gpt-4o" in str(error)
else:
    raise AssertionError("a model that is not there was served")
print("litellm", importlib.metadata.version("litellm"))
