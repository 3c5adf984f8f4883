"""lm-eval's `local-completions` against a node: `lm_eval_client.py BASE_URL`, pairs of texts as JSON on standard input.

Prints the log-likelihood of each pair's second text after its first, as JSON.
"""

import json
import sys

from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model

pairs = json.load(sys.stdin)
model = get_model("local-completions")(
    model="generator",
    base_url=sys.argv[1] + "/v1/completions",
    tokenizer_backend="remote",
    tokenized_requests=True,
    max_length=200,
    num_concurrent=1,
    max_retries=1,
)
requests = [
    Instance(request_type="loglikelihood", doc={}, arguments=tuple(pair), idx=index) for index, pair in enumerate(pairs)
]
print(json.dumps([score for score, _ in model.loglikelihood(requests)]))
