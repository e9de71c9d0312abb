"""What the steps need of the outside: Protocols, one file for each topic."""

from __future__ import annotations
