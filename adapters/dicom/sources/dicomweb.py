"""Backfill sources over HTTP: DICOMweb (PS3.18: QIDO-RS, WADO-RS) and Orthanc's own REST API.

Instances are retrieved one at a time, in the transfer syntax in which they are stored, byte for byte.
"""

from __future__ import annotations

import http.client
import json
import re
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import SplitResult, quote, urlencode, urlsplit

from adapters.dicom.sources import incoming
from pipeline.domain import Sender
from pipeline.errors import ArchiveBusy, ArchiveUnreachable, ConfigurationError, RadclipdError, RefusedByArchive
from pipeline.ports.backfill import BackfillObject, BackfillUnit, DateRange, FindStored, ReceivedInstance, StoreObject

JSON, DICOM_JSON = "application/json", "application/dicom+json"
INSTANCE_FORMS: tuple[str, ...] = (
    'multipart/related; type="application/dicom"; transfer-syntax=*',  # as stored, PS3.18 8.7.3.5.2
    'multipart/related; type="application/dicom"',
    "application/dicom; transfer-syntax=*",
    "application/dicom",
)
"""Values of Accept for one instance, the best first. Servers refuse those that they do not know."""
UNKNOWN_FORM = {400, 406, 415, 501}
"""Statuses of such a refusal. PS3.18 8.7.8 says 406; servers that cannot parse the value say another."""
PAGE_SIZE = 500
"""Rows requested at a time."""
NOT_ALLOWED, BUSY = {401, 403}, {408, 425, 429, 500, 502, 503, 504}

# Tags as QIDO-RS names them (PS3.18 F.2)
SOP_INSTANCE_UID, MODALITY, MODALITIES_IN_STUDY = "00080018", "00080060", "00080061"
STUDY_INSTANCE_UID, SERIES_INSTANCE_UID, INSTANCES_IN_STUDY = "0020000D", "0020000E", "00201208"


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSettings:
    """Archive, modalities and access. `url`: without user or password; `authorization`: the complete value of that header."""

    url: str
    modalities: Sequence[str]
    other_storage: str = "refuse"
    authorization: str = field(default="", repr=False)
    timeout_seconds: float = 60


class _RefusedForm(RefusedByArchive):
    """The archive may not know the form of the answer that was asked for."""


class _ArchiveHttpClient:
    """GET and POST; errors are translated to RadclipdError."""

    def __init__(self, settings: WebSettings) -> None:
        parts = urlsplit(settings.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or not _has_valid_port(parts):
            raise ConfigurationError("the URL of an archive begins with http:// or https://", hint="https://HOST:PORT/dicom-web")
        if parts.username or parts.password or parts.query:
            raise ConfigurationError(
                "the URL of an archive holds a user, a password or a query", hint="put them into backfill.authorization_file"
            )
        self.url, self.host = settings.url.rstrip("/"), parts.hostname
        self._headers = {"Authorization": settings.authorization} if settings.authorization else {}
        self._timeout = settings.timeout_seconds

    def request(self, path: str, accept: str, body: bytes | None = None) -> tuple[bytes, str]:
        """Return content and Content-Type; b"" for 204. RefusedByArchive, ArchiveBusy, ArchiveUnreachable, ConfigurationError."""
        headers = {"Accept": accept, **self._headers} | ({"Content-Type": JSON} if body else {})
        request = urllib.request.Request(self.url + path, data=body, headers=headers)
        try:
            with _OPENER.open(request, timeout=self._timeout) as answer:
                return answer.read(), answer.headers.get("Content-Type", "")
        except urllib.error.HTTPError as error:
            with error:
                raise self._translate_status(error.code, path) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            # OSError: URLError with the errors of names, routes and TLS, and time-outs. HTTPException: an incomplete response.
            # ValueError: a host name that IDNA cannot encode, or a redirection to what is no URL.
            text = f"archive {self.url} cannot be reached: {_describe_failure(error)}"
            raise ArchiveUnreachable(text, hint="is it running, and the URL right?") from error

    def request_rows(self, path: str, accept: str = JSON, body: Any = None) -> list[dict[str, Any]]:
        """Return the parsed response, a list of JSON objects; [] for an empty one."""
        content, _ = self.request(path, accept, json.dumps(body).encode() if body is not None else None)
        try:
            rows = json.loads(content or b"[]")
        except ValueError as error:
            raise RefusedByArchive(
                f"archive {self.url} answers with content that is not JSON", hint="is the URL that of its API?"
            ) from error
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise RefusedByArchive(
                f"archive {self.url} answers a query with JSON that is no list of objects", hint="is the URL that of its API?"
            )
        return rows

    def _translate_status(self, code: int, path: str) -> RadclipdError:
        message = f"archive {self.url} answered {code}"
        if code in NOT_ALLOWED:
            return ConfigurationError(message, hint="backfill.authorization_file holds the value of the Authorization header")
        if code in BUSY:
            return ArchiveBusy(message, hint="see the archive's own log")
        refusal = _RefusedForm if code in UNKNOWN_FORM else RefusedByArchive
        return refusal(f"{message} to {path.split('?')[0]}", hint="see the archive's own log")


def _describe_failure(error: Exception) -> str:
    """Return the system's words, or the type: other texts may quote the Authorization header."""
    reason = getattr(error, "reason", error)
    return (reason.strerror if isinstance(reason, OSError) else None) or type(reason).__name__


def _has_valid_port(parts: SplitResult) -> bool:
    try:
        return parts.port != 0
    except ValueError:
        return False


class _SameHostRedirectHandler(urllib.request.HTTPRedirectHandler):
    """Refuses redirections to another host or out of TLS: urllib would send the Authorization header there."""

    def redirect_request(self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        here, there = urlsplit(req.full_url), urlsplit(newurl)
        if (here.scheme, here.netloc) != (there.scheme, there.netloc):
            return None  # an HTTPError
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_SameHostRedirectHandler)


class _HttpArchiveSource(ABC):
    """The common part of the HTTP sources."""

    supports_dates = True
    kind = ""

    def __init__(self, settings: WebSettings) -> None:
        self._web, self._settings = _ArchiveHttpClient(settings), settings
        self.sender = Sender("", self._web.host[:64], "")

    @property
    def name(self) -> str:
        return f"{self.kind} {self._web.url} {','.join(sorted(self._settings.modalities))}"[:255]

    def fetch(self, unit: BackfillUnit, find_stored: FindStored, store_object: StoreObject) -> int:
        found = dict(self._list_instances(unit))
        stored = find_stored(list(found))
        for uid, read in found.items():
            if uid not in stored:
                store_object(BackfillObject(uid, uid, read))
        return 0

    @abstractmethod
    def _list_instances(self, unit: BackfillUnit) -> Iterable[tuple[str, Callable[[], ReceivedInstance | None]]]:
        """Return SOPInstanceUID and a function that reads the instance, for each instance of the modalities."""

    def _parse_file(self, content: bytes) -> ReceivedInstance | None:
        return incoming.from_file(content, other_storage=self._settings.other_storage)


class DicomWebSource(_HttpArchiveSource):
    """`ports.backfill.BackfillSource` over QIDO-RS and WADO-RS."""

    kind = "dicomweb"

    def __init__(self, settings: WebSettings) -> None:
        super().__init__(settings)
        self._instance_forms = INSTANCE_FORMS  # less those that this server has refused while it took a later one

    def list_units(self, days: DateRange | None) -> list[BackfillUnit]:
        found: dict[str, BackfillUnit] = {}
        for modality in self._settings.modalities:
            query = {"ModalitiesInStudy": modality, "includefield": INSTANCES_IN_STUDY}
            if days is not None:
                query["StudyDate"] = f"{days.first:%Y%m%d}-{days.last:%Y%m%d}"
            for study in self._query_rows("/studies", query):
                uid, modalities = _get_first_value(study, STUDY_INSTANCE_UID), set(_get_values(study, MODALITIES_IN_STUDY))
                if uid and (not modalities or modalities & set(self._settings.modalities)):
                    found[uid] = BackfillUnit(
                        key=uid, study_instance_uid=uid, change_tag=_get_first_value(study, INSTANCES_IN_STUDY)
                    )
        return list(found.values())

    def _list_instances(self, unit: BackfillUnit) -> Iterator[tuple[str, Callable[[], ReceivedInstance | None]]]:
        study = f"/studies/{quote(unit.study_instance_uid)}"
        for series in self._query_rows(f"{study}/series", {}):
            if _get_first_value(series, MODALITY) not in self._settings.modalities:
                continue
            path = f"{study}/series/{quote(_get_first_value(series, SERIES_INSTANCE_UID))}/instances"
            for instance in self._query_rows(path, {}):
                uid = _get_first_value(instance, SOP_INSTANCE_UID)
                yield uid, partial(self._read_instance, f"{path}/{quote(uid)}")

    def _read_instance(self, path: str) -> ReceivedInstance | None:
        content, kind = self._request_instance(path)
        return self._parse_file(extract_single_part(content, kind))

    def _request_instance(self, path: str) -> tuple[bytes, str]:
        """Return content and Content-Type in the first form that the server knows, which is asked for first from then on."""
        refusals: list[_RefusedForm] = []
        for number, form in enumerate(self._instance_forms):
            try:
                answer = self._web.request(path, form)
            except _RefusedForm as error:
                refusals.append(error)
                continue
            self._instance_forms = self._instance_forms[number:]
            return answer
        raise refusals[0]

    def _query_rows(self, path: str, query: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """Yield rows page by page until a page has no new row: also for archives that ignore limit and offset."""
        seen: set[str] = set()
        while True:
            parameters = urlencode({**query, "limit": PAGE_SIZE, "offset": len(seen)})
            page = {json.dumps(row, sort_keys=True): row for row in self._web.request_rows(f"{path}?{parameters}", DICOM_JSON)}
            new = {text: row for text, row in page.items() if text not in seen}
            yield from new.values()
            seen |= set(new)
            if not new or len(page) < PAGE_SIZE:
                return


class OrthancSource(_HttpArchiveSource):
    """`ports.backfill.BackfillSource` over Orthanc's REST API, available without a plugin."""

    kind = "orthanc"

    def list_units(self, days: DateRange | None) -> list[BackfillUnit]:
        query = {"ModalitiesInStudy": "\\".join(self._settings.modalities)}
        if days is not None:
            query["StudyDate"] = f"{days.first:%Y%m%d}-{days.last:%Y%m%d}"
        studies = self._web.request_rows("/tools/find", body={"Level": "Study", "Expand": True, "Query": query})
        found = ((_get_main_tag(study, "StudyInstanceUID"), study) for study in studies)
        return [
            BackfillUnit(
                key=uid, study_instance_uid=uid, change_tag=str(study.get("LastUpdate", ""))[:64], locations=(study["ID"],)
            )
            for uid, study in found
            if uid
        ]

    def _list_instances(self, unit: BackfillUnit) -> Iterator[tuple[str, Callable[[], ReceivedInstance | None]]]:
        for series in self._web.request_rows(f"/studies/{unit.locations[0]}/series"):
            if _get_main_tag(series, "Modality") in self._settings.modalities:
                for instance in self._web.request_rows(f"/series/{series['ID']}/instances"):
                    path = f"/instances/{instance['ID']}/file"
                    yield _get_main_tag(instance, "SOPInstanceUID"), partial(self._read_instance, path)

    def _read_instance(self, path: str) -> ReceivedInstance | None:
        content, _ = self._web.request(path, "application/dicom")
        return self._parse_file(content)


def _get_main_tag(resource: Mapping[str, Any], keyword: str) -> str:
    """Return an element of a resource of Orthanc. RefusedByArchive where the resource is none."""
    tags = resource.get("MainDicomTags")
    if not isinstance(tags, dict) or "ID" not in resource:
        raise RefusedByArchive("a resource without MainDicomTags or ID", hint="is it Orthanc's REST API that answers there?")
    return str(tags.get(keyword, ""))


def extract_single_part(content: bytes, content_type: str) -> bytes:
    """Return the single part of a multipart/related response (RFC 2387, RFC 2046 5.1.1), or a response without parts unchanged.

    RefusedByArchive where boundary or part headers cannot be found.
    """
    if not content_type.lower().startswith("multipart/"):
        return content
    boundary = re.search(r'boundary="?([^";]+)"?', content_type, re.IGNORECASE)
    start = content.find(b"--" + boundary[1].strip().encode()) if boundary else -1
    body = content.find(b"\r\n\r\n", start)
    end = content.rfind(b"\r\n--" + boundary[1].strip().encode()) if boundary else -1
    if start < 0 or body < 0 or end < body + 4:
        raise RefusedByArchive("a multipart response cannot be parsed", hint="is it WADO-RS that answers there?")
    return content[body + 4 : end]


def _get_values(row: Mapping[str, Any], tag: str) -> list[str]:
    element = row.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return [str(value) for value in values if value is not None] if isinstance(values, list) else []


def _get_first_value(row: Mapping[str, Any], tag: str) -> str:
    return next(iter(_get_values(row, tag)), "")
