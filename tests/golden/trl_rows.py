"""Checks by hand that TRL's trainers learn from the rows that `rco-node groups` writes, and prints what they report.

    rco-node groups --from RUN --to ROWS/groups.jsonl                       (and so on: see FILES)
    python trl_rows.py MODEL ROWS > trl_rows.json

MODEL is the folder of the model that the groups are of (tiny_llama here), ROWS holds the files named in FILES. Two things are checked of
every row: transformers' tokenizer makes the recorded ids of its prompt, as a text and as a conversation. Then one step each of DPO, KTO
and supervised fine-tuning is taken on the texts and on the conversations, in f32 on the CPU.

    pip install torch==2.15.0 transformers==5.23.0 trl==1.16.0 datasets==5.2.0
"""

import contextlib
import json
import os
import sys
import tempfile

import datasets
import torch
import transformers
import trl

FILES = {  # kind: the files are NAME-text.parquet and NAME-conversation.parquet
    "preference": ("trl-preference", trl.DPOTrainer, trl.DPOConfig),
    "unpaired": ("trl-unpaired", trl.KTOTrainer, trl.KTOConfig),
    "prompt-completion": ("trl-prompt-completion", trl.SFTTrainer, trl.SFTConfig),
}


def main():
    model_path, rows_path = sys.argv[1:]
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_path)
    with open(os.path.join(rows_path, "groups.jsonl")) as file:
        prefixes = {group["episode"]: group["prefix_ids"] for group in (json.loads(line)["group"] for line in file)}
    out = {"versions": {module.__name__: module.__version__ for module in (torch, transformers, trl, datasets)}}
    for kind, (name, trainer_class, config_class) in FILES.items():
        for form in ("text", "conversation"):
            path = os.path.join(rows_path, f"{name}-{form}.parquet")
            rows = datasets.load_dataset("parquet", data_files=path, split="train")
            for row in rows:
                if form == "text":
                    ids = tokenizer(row["prompt"], add_special_tokens=False).input_ids
                else:
                    ids = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
                assert ids == prefixes[row["episode"]], (kind, form, row["episode"])
            torch.manual_seed(0)
            model = transformers.AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
            with tempfile.TemporaryDirectory() as folder:
                config = config_class(
                    output_dir=folder,
                    max_steps=1,
                    per_device_train_batch_size=2,
                    logging_steps=1,
                    report_to="none",
                    use_cpu=True,
                    save_strategy="no",
                    bf16=False,
                    gradient_checkpointing=False,
                )
                trainer = trainer_class(model=model, args=config, train_dataset=rows, processing_class=tokenizer)
                with contextlib.redirect_stdout(sys.stderr):
                    trainer.train()
            logged = {key: value for entry in trainer.state.log_history for key, value in entry.items()}
            kept = {key: logged[key] for key in sorted(logged) if key.startswith(("loss", "rewards/", "train_loss", "grad_norm"))}
            out[f"{kind}, {form}"] = {"rows": len(rows), "trainer": trainer_class.__name__, **kept}
    print(json.dumps(out, indent=1))


if __name__ == "__main__":
    main()
