"""What the steps need of the outside: Protocols, one file per topic. `services` joins the catalog's into a transaction."""

from __future__ import annotations
