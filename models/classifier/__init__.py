"""Features to probabilities: prompts, linear head, classifier, weights of a model version."""

from __future__ import annotations
