"""[backfill] of the configuration."""

from __future__ import annotations

from typing import Literal

from pydantic import ByteSize, Field

from adapters.config.types import PositiveInteger, PositiveSeconds, Section, StringTuple


class BackfillConfig(Section):
    """[backfill]: an archive that is taken in by `radclipd backfill`."""

    reports: Literal["none", "all"] = Field(
        default="none", description='Studies that a backfill brought get an SR: "none" (scores are in the catalog) or "all".'
    )
    modalities: StringTuple = Field(
        default=("CR", "DX"), min_length=1, description="Series that an archive is asked for. With SR and KO its labels come, too."
    )
    days_per_query: PositiveInteger = Field(default=7, description="Days that an archive is asked for at a time.")
    max_instances_per_minute: float = Field(
        default=0, ge=0, allow_inf_nan=False, description="Instances a minute, at most; 0: no limit."
    )
    max_bytes_per_second: ByteSize = Field(default=ByteSize(0), description="Bytes a second, at most, on average; 0: no limit.")
    authorization_file: str = Field(
        default="",
        description="File that holds the Authorization header for an archive's URL; a bare name is a systemd credential.",
    )
    timeout_seconds: PositiveSeconds = Field(default=60, description="How long to wait for the archive to connect or answer.")
