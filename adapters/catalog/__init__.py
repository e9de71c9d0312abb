"""The results database: tables, transactions, queue, views, schema."""

from __future__ import annotations
