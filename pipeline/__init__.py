"""What happens to a study. Standard library and numpy only.

Nouns (`domain`): a Study has Series and Instances; an Instance is one stored DICOM file; an Image is its decoded pixels; a
Finding is one of 14; a Label is one reader's statement on one finding in one study; a Document is an SR or KOS that may hold
some; a Prediction is the probability of one finding in one study by one ModelVersion; a Report is one SR of ours; a Job is one
step that waits for a worker.

The fast line, one step a file, in order:

    receive   bytes from the listener -> image store -> catalog row; only then Success
    settle    a quiet (or complete) study -> settled + a score job, or ignored with the reason in words
    score     images -> 14 scores each -> predictions of the study + a report job
    report    predictions -> report row with its UID -> SR bytes -> a send job; then SR -> archive

The slow loop:

    worklist  archive, labels, serving version -> the studies to label next, each with the reason and its probability (`selection`)
    labels    tables, desks and documents (SR, KOS) of readers -> statements in the catalog, append-only
    resolve   statements -> one state for each study and finding, and the conflicts
    learn     one state for each -> a candidate version, measured -> the serving one, or a rejected one with the reason
    versions  which version serves: a person's word, or files that have gone bad
    rescore   another version serves -> the archive is scored again, behind whatever arrives
    fill      nothing else to do -> what lets a later version score fast, kept for films that came before

Archives that were there before:

    backfill  folder, DICOMweb or query/retrieve -> `receive`, days by days, never twice
    blocks    studies by their numbers -> scored block by block, on one machine or a cluster, as from the queue

`yielding` lets what arrives go before what is learnt, `progress` tells how far a long step is, and `standing` says in figures how
everything stands. `together` lets steps share a commit, and `pace` says how many jobs are taken at once and which.

`work` claims jobs, runs steps and retries, quarantines or finishes them. `housekeeping` looks for what is stuck.
`rules` holds every decision that has a medical or operational meaning, as pure functions. `ports` (and `*_ports`) is what the
steps need of the outside, `errors` what can go wrong and what to do then.
"""

from __future__ import annotations
