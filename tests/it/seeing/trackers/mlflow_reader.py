"""Prints the metrics of the one run of the experiment rco-node in a store, as MLflow has them: {name: [[step, value], ...]}."""

import json
import sys

from mlflow import MlflowClient

client = MlflowClient(tracking_uri=sys.argv[1])
experiment = client.get_experiment_by_name("rco-node")
(run,) = client.search_runs([experiment.experiment_id])
history = {
    name: [[metric.step, metric.value] for metric in client.get_metric_history(run.info.run_id, name)]
    for name in run.data.metrics
}
print(json.dumps({"figures": history, "config": run.data.params, "status": run.info.status}))
