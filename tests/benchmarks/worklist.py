"""Reading saved by the worklist: `python -m tests.benchmarks.worklist [--seeds 5] [--cache FOLDER] [--json]`.

Campaigns on phantom films of the site that the demonstration model has not seen, natural prevalences, one film a patient. The
mean AUC that random reading reaches with N studies read is looked for in the worklist's campaigns; ratios are studies that the
worklist reads to N, at several N, least, median and largest over single campaigns; `of_the_means` is that of the mean curves.
The films take most of the time: they are rendered and encoded once, and kept where --cache says.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import torch

from adapters.cli.fewshot import default_cache
from adapters.experiment.bases import demo_base
from adapters.experiment.phantom_source import PhantomSizes, natural_source
from adapters.experiment.worklist import CampaignOptions, run_campaigns
from pipeline.acquisition import SelectionPolicy
from tests.benchmarks.output import format_result, prints_result_alone

POOL, TEST, EDGE = 4000, 1000, 112
STUDIES, STEP = 480, 20


@prints_result_alone
def main() -> str:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    measured = measure(options.cache, options.seeds, options.workers)
    return format_result(measured, as_json=options.json)


def measure(cache: Path, seeds: int, workers: int) -> dict[str, Any]:
    """Run the campaigns and return the ratios with their basis."""
    made = run_campaigns(
        natural_source(sizes=PhantomSizes.scaled(POOL, TEST, EDGE), workers=workers),
        demo_base(),
        CampaignOptions(
            cache=cache,
            out=None,
            policy=SelectionPolicy(),
            learner="stage-1",
            studies=STUDIES,
            list_size=STEP,
            seeds=range(seeds),
            device=torch.device("cpu"),
            workers=workers,
        ),
    ).summary
    reached = made["to_reach"]
    return {
        "ratios": {f"studies_for_the_auc_of_{read}_at_random": found["each"] for read, found in reached.items()},
        "of_the_means": {read: found["ratio"] for read, found in reached.items()},
        "never_reached": {read: found["never"] for read, found in reached.items()},
        "random_auc": {read: found["auc"] for read, found in reached.items()},
        "zero_shot": made["zero_shot"],
        "all_labels": made["all_labels"],
        "seeds": made["seeds"],
    }


if __name__ == "__main__":
    main()
