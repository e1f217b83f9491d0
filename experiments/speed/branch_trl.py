"""One process of the training benchmark: the same documents through TRL's SFTTrainer; prints what it took as JSON.

python -m experiments.speed.branch_trl MODEL WORK padded|packed PRECISION
"""

import json
import resource
import sys
import time

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from experiments.speed.branch_workload import LONGEST, documents


def main(model: str, work: str, mode: str, precision: str) -> dict[str, float]:
    """Seconds of `SFTTrainer.train`, tokens that are not padding, peak memory."""
    workload = documents()
    rows = [{"input_ids": p + r, "completion_mask": [0] * len(p) + [1] * len(r)} for p, r in workload]
    shape = (
        {"packing": True, "per_device_train_batch_size": 1} if mode == "packed" else {"per_device_train_batch_size": 4}
    )
    config = SFTConfig(
        output_dir=work, max_length=LONGEST, num_train_epochs=1, learning_rate=1e-5, report_to=[], logging_steps=1000,
        save_strategy="no", use_cpu=True, bf16=precision == "bf16-mixed", gradient_checkpointing=False,
        disable_tqdm=True, **shape,
    )  # fmt: skip
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), args=config,
        train_dataset=Dataset.from_list(rows), processing_class=AutoTokenizer.from_pretrained(model),
    )  # fmt: skip
    start = time.perf_counter()
    trainer.train()
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "tokens": sum(len(p) + len(r) for p, r in workload),
        "peak_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 3),
    }


if __name__ == "__main__":
    torch.set_num_threads(2)
    print(json.dumps(main(*sys.argv[1:])))
