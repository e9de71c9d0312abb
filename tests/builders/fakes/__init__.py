"""Fakes of the ports: small, in memory, held to the same contract tests as the real adapters."""

from __future__ import annotations
