"""Prompts of lmms-eval's tasks for real rows: ours, and what the functions named in a task's file say themselves.

Run as a script, because lmms-eval changes the process that imports it. Argument: a JSON file with cases, each
{"task", "model", "files", "pictures", "rows"}; `rows` are ours, with their numbers in the files as "_row". Prints, per
case, [[ours, theirs] for each row]; theirs has the sizes of its pictures in the order of the prompt.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
from harness.benchmarks import lmms_prompts


def ours(case: dict[str, Any]) -> list[dict[str, Any]]:
    rows = [{k: v for k, v in row.items() if k[0] != "_"} for row in case["rows"]]
    documents = lmms_prompts.Rows(lmms_prompts.document(row, case["pictures"]) for row in rows)
    task, _ = lmms_prompts.load(case["task"], case["model"], documents)
    return [lmms_prompts.prompt(task.doc_to_messages(document)) for document in documents]


def theirs(case: dict[str, Any], data: Any) -> list[dict[str, Any]]:
    from lmms_eval.utils import load_yaml_config

    config = load_yaml_config(yaml_path=str(lmms_prompts.find(case["task"])), mode="full")
    options = config.get("lmms_eval_specific_kwargs", {})
    options = options.get(case["model"], options.get("default"))
    found = []
    for row in case["rows"]:
        doc = data[row["_row"]]
        text = config["doc_to_text"]
        text = text if isinstance(text, str) else text(doc, *([options] if options else []))
        system = []
        if "doc_to_messages" in config:
            messages = config["doc_to_messages"](doc, options)
            system = [
                part["text"] for message in messages if message["role"] == "system" for part in message["content"]
            ]
            text = text.strip()
        found.append({"text": text, "system": system, "sizes": [p.size for p in config["doc_to_visual"](doc)]})
    return found


def main() -> None:
    """Read the cases, print the pairs."""
    import datasets

    lmms_prompts.lighten()
    out = []
    for case in json.loads(Path(sys.argv[1]).read_text()):
        data = datasets.load_dataset("parquet", data_files=case["files"], split="train")
        out.append(list(zip(ours(case), theirs(case, data), strict=True)))
    print("\n" + json.dumps(out))


if __name__ == "__main__":
    main()
