"""Everything outside: one folder per outside party. They do not know each other; `app` and `cli` see several."""

from __future__ import annotations
