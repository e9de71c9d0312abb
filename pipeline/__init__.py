"""The steps of a study, from its arrival to its report, and of learning from labels. Standard library and numpy only.

Read `domain` first (the nouns), then `ports` (what the steps need of the outside), then the steps.

The fast line, one step per module, in order:

    receive          received file -> image store -> catalog row; only then Success
    settle           stable or complete study -> score job, or `ignored` with the reason in words
    score            images of settled studies -> 14 scores per image -> predictions of the study + report job
    report           predictions -> report row with its UIDs -> SR file -> send job; then SR -> archive

The slow loop:

    worklist         archive, labels, serving version -> studies to label next, each with reason and probability
      acquisition    the choice itself: active learning on arrays of scores
    labels           tables and documents (SR, KOS) of readers -> labels in the catalog, append-only
      finding_names  findings and states as readers write them
    consensus        labels of several readers -> one state per study and finding, and the conflicts
    learn            consensus -> trained and measured candidate -> serving, waiting, or rejected with the reason
    versions         the choice of the serving version: promotion, rejection, rollback, fall-back
    rescore          another version serves -> score jobs for the archive, behind arrivals
    cache_warming    idle workers -> activations of older images in the cache, for fast scoring by later versions

Archives that existed before the installation:

    backfill         folder, DICOMweb or query/retrieve -> `receive`, by ranges of days, no study twice
    archive_scoring  studies by number -> scored block by block, on one machine or a cluster

The queue and its workers:

    work             claims jobs, runs steps; finishes, retries or quarantines jobs; sizes claims; purges done jobs
    priorities       the priority of every kind of job
    backoff          the wait before another attempt
    preemption       learning and backfills pause while arrivals wait for scores
    progress         the stage of a long job, kept with the job
    group_commit     steps of many threads share one commit

Shared by all:

    domain           nouns as frozen dataclasses and enums
    rules            every decision with a medical or operational meaning, as pure functions
    figures          the state of the daemon in numbers, for metrics
    errors           the error tree: what can go wrong, and the remedy
    ports            Protocols that adapters implement: studies, images, jobs, labels, backfill, services
"""

from __future__ import annotations
