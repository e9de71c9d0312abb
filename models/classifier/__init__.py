"""From features to probabilities: prompts, head, classifier, weights of a version."""

from __future__ import annotations
