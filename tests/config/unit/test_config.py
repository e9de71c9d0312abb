"""The configuration: defaults, file and environment; every error is one line that names place, key and remedy."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from adapters.config.renamed_keys import RENAMED_KEYS, RENAMED_VALUES
from adapters.config.sections import Config, WebConfig, key_descriptions, load, read_authorization, section_classes
from pipeline.errors import ConfigurationError, FatalError

REFERENCE = Path(__file__).resolve().parents[3] / "deploy" / "radclipd.toml"


@pytest.fixture(autouse=True)
def _clear_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*os.environ]:
        if name.upper().startswith("RADCLIPD_") or name == "CREDENTIALS_DIRECTORY":
            monkeypatch.delenv(name)


def write_config(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "radclipd.toml"
    path.write_text(text)
    return path


def load_error(path: Path) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert "\n" not in caught.value.hint
    assert caught.value.hint
    assert isinstance(caught.value, FatalError)
    return caught.value


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    config = load(write_config(tmp_path, ""))
    assert config.listener.port == 11112
    assert config.listener.calling_ae_titles == ("ORTHANC",)
    assert config.storage.min_free == 2 * 1024**3
    assert config.study.stable_age_seconds == 60


def test_the_reference_file_is_the_defaults_and_lists_every_key() -> None:
    tables = tomllib.loads(REFERENCE.read_text())
    assert [f"{table}.{key}" for table, keys in tables.items() for key in keys] == list(key_descriptions())
    assert load(REFERENCE) == Config()


def test_the_reference_file_explains_each_key_with_one_comment() -> None:
    lines = REFERENCE.read_text().splitlines()
    comments, table = {}, ""
    for above, line in zip(["", *lines], lines, strict=False):
        if header := re.fullmatch(r"\[(\w+)\]", line):
            table = header[1]
        elif key := re.match(r"(\w+) = ", line):
            comments[f"{table}.{key[1]}"] = above
    assert comments == {key: f"# {text}" for key, text in key_descriptions().items()}


def test_a_file_overrides_defaults_and_the_environment_overrides_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADCLIPD_LISTENER__PORT", "104")
    monkeypatch.setenv("RADCLIPD_LISTENER__CALLING_AE_TITLES", "PACS, GATE WAY")
    monkeypatch.setenv("RADCLIPD_LISTENER__CALLED_AE_TITLES", '["*"]')
    config = load(write_config(tmp_path, '[listener]\nport = 4000\nae_title = "AI"\n[storage]\nmin_free = "500MB"\n'))
    assert config.listener.port == 104
    assert config.listener.ae_title == "AI"
    assert config.listener.calling_ae_titles == ("PACS", "GATE WAY")
    assert config.listener.called_ae_titles == ("*",)
    assert config.storage.min_free == 500_000_000


def test_a_section_is_frozen() -> None:
    config = Config()
    with pytest.raises(ValidationError):
        config.listener.port = 1
    assert set(section_classes()) == set(Config.model_fields)


@pytest.mark.parametrize(
    ("text", "line", "key", "nearest"),
    [
        ("[listener]\nprot = 1\n", 2, "listener.prot", "listener.port"),
        ("[listener]\n\nstable_age_seconds = 1\n", 3, "listener.stable_age_seconds", "study.stable_age_seconds"),
        ("[scor]\nbatch_size = 1\n", 1, "[scor]", "[score]"),
        ("port = 1\n", 1, "port", "listener.port"),
        ("archive.hosts = 'x'\n", 1, "archive.hosts", "archive.host"),
    ],
)
def test_an_unknown_key_is_named_with_its_line_and_the_nearest_key(
    tmp_path: Path, text: str, line: int, key: str, nearest: str
) -> None:
    path = write_config(tmp_path, text)
    error = load_error(path)
    assert f"{path}, line {line}: {key} is not a" in str(error)
    assert "did you mean" in str(error)
    assert nearest in str(error).partition("did you mean")[2]
    assert nearest in error.hint


def test_the_hint_for_an_unknown_key_without_a_similar_one_is_to_remove_it(tmp_path: Path) -> None:
    error = load_error(write_config(tmp_path, "[work]\nzzzzzz = 1\n"))
    assert "did you mean" not in str(error)
    assert "remove it" in error.hint


@pytest.mark.parametrize(("old", "new"), RENAMED_KEYS.items())
def test_an_old_key_in_the_file_is_named_with_its_line_and_its_new_name(tmp_path: Path, old: str, new: str | None) -> None:
    section, _, key = old.partition(".")
    path = write_config(tmp_path, f"# a comment\n[{section}]\n{key} = 1\n")
    error = load_error(path)
    assert str(error) == f"{path}, line 3: {old} {f'is now {new}' if new else 'was removed'}"
    assert error.hint.startswith(f"{new}: {key_descriptions()[new]}" if new else "remove it")


@pytest.mark.parametrize(("old", "new"), RENAMED_KEYS.items())
def test_an_old_key_in_the_environment_is_named_with_its_new_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str | None
) -> None:
    variable = f"RADCLIPD_{old.upper().replace('.', '__')}"
    monkeypatch.setenv(variable, "1")
    error = load_error(write_config(tmp_path, ""))
    assert str(error) == f"environment variable {variable}: {old} {f'is now {new}' if new else 'was removed'}"
    assert error.hint == (f"rename it to RADCLIPD_{new.upper().replace('.', '__')}" if new else f"unset {variable}")


@pytest.mark.parametrize(("key", "old", "new"), [(key, old, new) for (key, old), new in RENAMED_VALUES.items()])
def test_an_old_value_is_named_with_its_new_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, old: str, new: str
) -> None:
    section, _, name = key.partition(".")
    path = write_config(tmp_path, f'[{section}]\n{name} = "{old}"\n')
    error = load_error(path)
    assert str(error) == f'{path}, line 2: {key} = "{old}" is now "{new}"'
    assert error.hint == f"{key}: {key_descriptions()[key]}"
    variable = f"RADCLIPD_{key.upper().replace('.', '__')}"
    monkeypatch.setenv(variable, old)
    assert str(load_error(write_config(tmp_path, ""))) == f'environment variable {variable}: {key} = "{old}" is now "{new}"'


def test_no_old_key_exists_and_every_new_key_exists() -> None:
    keys = key_descriptions()
    assert not keys.keys() & RENAMED_KEYS.keys()
    assert {new for new in RENAMED_KEYS.values() if new} <= keys.keys()
    assert {key for key, _ in RENAMED_VALUES} <= keys.keys()


def test_all_old_keys_of_a_file_are_named_in_one_line(tmp_path: Path) -> None:
    path = write_config(tmp_path, '[prefix]\ndirectory = "/srv/cache"\nfill = false\n[study]\nquiet_seconds = 5\n')
    assert str(load_error(path)) == (
        f"{path}, line 5: study.quiet_seconds is now study.stable_age_seconds (and 2 more: "
        "prefix.directory is now activation_cache.directory, prefix.fill is now activation_cache.warm)"
    )


def test_an_old_section_without_an_old_key_is_named_with_its_new_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_config(tmp_path, "[log]\n[prefix]\n")
    assert str(load_error(path)) == f"{path}, line 2: [prefix] is now [activation_cache]"
    monkeypatch.setenv("RADCLIPD_PREFIX", "{}")
    error = load_error(path)
    assert str(error) == "environment variable RADCLIPD_PREFIX: [prefix] is now [activation_cache]"
    assert error.hint == "rename it to RADCLIPD_ACTIVATION_CACHE"


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ("listener", "port = 0"),
        ("listener", 'port = "many"'),
        ("listener", "port = true"),
        ("listener", 'ae_title = "SEVENTEEN LETTERS"'),
        ("listener", "ae_title = 'BACK\\SLASH'"),
        ("listener", "calling_ae_titles = []"),
        ("listener", "max_pdu = 100"),
        ("listener", 'other_storage = "maybe"'),
        ("archive", 'host = ""'),
        ("storage", 'min_free = "lots"'),
        ("storage", 'directory = "images"'),
        ("model", 'device = "gpu"'),
        ("decision", "assumed_auc = 1.5"),
        ("work", "poll_seconds = nan"),
        ("report", 'uid_root = "1.02.3"'),
        ("labels", 'policy = "loudest"'),
        ("labels", 'accept_sr = "yes"'),
        ("labels", 'key_object_titles = { "113000" = "Mass" }'),
        ("labels", 'key_object_titles = { "113000,DCM" = "Tumor" }'),
        ("work", "lease_seconds = 0"),
        ("log", 'level = "loud"'),
        ("audit", 'syslog_host = "https://audit"'),
        ("audit", 'syslog_key_file = "/etc/key.pem"'),
        ("export", 'burned_in = "maybe"'),
        ("export", 'mask_regions = ["0,0,2,1"]'),
        ("export", 'mask_regions = ["all"]'),
    ],
)
def test_an_invalid_value_is_named_with_line_key_and_description(tmp_path: Path, section: str, line: str) -> None:
    path = write_config(tmp_path, f"# a comment\n[{section}]\n{line}\n")
    error = load_error(path)
    key = f"{section}.{line.partition(' ')[0]}"
    assert str(error).startswith(f"{path}, line 3: {key} = ")
    assert error.hint == f"{key}: {key_descriptions()[key]}"


def test_adjudication_without_an_adjudicator_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_config(tmp_path, '[labels]\npolicy = "adjudicator"\n')
    assert 'labels.adjudicators = (): policy = "adjudicator" needs a name here' in str(load_error(path))
    monkeypatch.setenv("RADCLIPD_LABELS__ADJUDICATORS", "zoe, bob")
    monkeypatch.setenv("RADCLIPD_LABELS__KEY_OBJECT_TITLES", '{"113000,DCM": "Mass=present, Edema=absent"}')
    found = load(path).labels
    assert (found.adjudicators, found.key_object_titles) == (("zoe", "bob"), {"113000,DCM": "Mass=present, Edema=absent"})


def test_several_errors_are_counted_and_named(tmp_path: Path) -> None:
    error = load_error(write_config(tmp_path, "[listener]\nport = 0\nprot = 1\n[log]\nlevel = 3\n"))
    assert "listener.port" in str(error)
    assert "(and 2 more: listener.prot, log.level)" in str(error)


def test_a_value_in_place_of_a_table_is_refused(tmp_path: Path) -> None:
    assert "archive is a table" in str(load_error(write_config(tmp_path, "archive = 3\n")))


def test_an_error_in_the_environment_names_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADCLIPD_LISTENER__PORT", "ninety")
    assert str(load_error(write_config(tmp_path, ""))).startswith(
        "environment variable RADCLIPD_LISTENER__PORT: listener.port = 'ninety'"
    )


def test_an_unknown_section_in_the_environment_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADCLIPD_LISTNER__PORT", "1")
    assert "RADCLIPD_LISTENER__" in str(load_error(write_config(tmp_path, "")))


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("RADCLIPD_LISTENER_PORT", "RADCLIPD_LISTENER__PORT"),
        ("radclipd_listener_port", "RADCLIPD_LISTENER__PORT"),
        ("RADCLIPD_LISTENERPORT", "RADCLIPD_LISTENER__PORT"),
        ("RADCLIPD_PORT", "RADCLIPD_LISTENER__PORT"),
        ("RADCLIPD_ACTIVATION_CACHE_MAX_SIZE", "RADCLIPD_ACTIVATION_CACHE__MAX_SIZE"),
        ("RADCLIPD_CATALOG_URL", "RADCLIPD_CATALOG__URL"),
        ("RADCLIPD_STORAGE_DIRECTRY", "RADCLIPD_STORAGE__DIRECTORY"),
    ],
)
def test_a_variable_without_two_underscores_is_refused_with_the_one_it_means(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, meant: str
) -> None:
    monkeypatch.setenv(variable, "1")
    error = load_error(write_config(tmp_path, ""))
    assert str(error) == f"environment variable {variable} sets no key (did you mean {meant}?)"
    assert "two underscores" in error.hint


def test_a_variable_that_resembles_no_key_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADCLIPD_XYZZY", "1")
    assert str(load_error(write_config(tmp_path, ""))) == "environment variable RADCLIPD_XYZZY sets no key"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("RADCLIPD_SERVICE_HOST", "10.96.0.9"),
        ("RADCLIPD_SERVICE_PORT", "11112"),
        ("RADCLIPD_SERVICE_PORT_DICOM", "11112"),
        ("RADCLIPD_PORT", "tcp://10.96.0.9:11112"),
        ("RADCLIPD_PORT_11112_TCP", "tcp://10.96.0.9:11112"),
        ("RADCLIPD_PORT_11112_TCP_ADDR", "10.96.0.9"),
        ("RADCLIPD_LISTENER_PORT", "tcp://10.96.0.9:11112"),  # beside a service called radclipd-listener
        ("RADCLIPD_LISTEN_FDS", "3"),
    ],
)
def test_variables_that_containers_and_the_supervisor_set_are_none_of_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert load(write_config(tmp_path, "")) == Config()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("sqlite:///var/lib/radclipd/radclipd.db", "the path is relative"),
        ("sqlite:///radclipd.db", "the path is relative"),
        ("sqlite:///./radclipd.db", "the path is relative"),
        ("sqlite+pysqlite:///var/x.db", "the path is relative"),
        ("sqlite://var/lib/x.db", "the path is relative"),
        ("sqlite:///file:/var/x.db", "the path is relative"),
        ("sqlite://", "in memory"),
        ("sqlite:///", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("sqlite+pysqlite:///:memory:", "in memory"),
        ("sqlite:////var/lib/radclipd/", "names a folder"),
        ("sqlite:////", "names a folder"),
        ("sqlite:////var/x.db?mode=ro", "remove the option mode"),
        ("sqlite:///file:/var/x.db?uri=true", "remove the option uri"),
        ("mysql://h/x", "starts with sqlite:/// or postgresql"),
    ],
)
def test_a_catalog_that_is_no_absolute_path_is_refused(tmp_path: Path, url: str, reason: str) -> None:
    path = write_config(tmp_path, f'[catalog]\nurl = "{url}"\n')
    error = load_error(path)
    assert str(error).startswith(f"{path}, line 2: catalog.url: ")
    assert reason in str(error)


@pytest.mark.parametrize("url", ["sqlite:////var/x.db", "sqlite+pysqlite:////var/x.db", "postgresql://h/x?host=/run"])
def test_a_catalog_at_an_absolute_path_or_a_server_is_accepted(tmp_path: Path, url: str) -> None:
    assert load(write_config(tmp_path, f'[catalog]\nurl = "{url}"\n')).catalog.url == url


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("http://pacs:8042", "no URL"),
        ("pacs:4242", "port"),
        ("[::1]", "IPv6"),
        ("pacs .local", "no blank"),
        ("  ", "name or an address"),
        ("user@pacs", "no URL"),
        ("pa\u0000cs", "no URL"),
    ],
)
def test_a_host_that_is_none_is_refused_before_anything_is_resolved(tmp_path: Path, host: str, reason: str) -> None:
    quoted = host.replace("\0", "\\u0000")
    assert reason in str(load_error(write_config(tmp_path, f'[archive]\nhost = "{quoted}"\n')))


@pytest.mark.parametrize("host", ["pacs", "pacs.hospital.example", "10.1.2.3", "::1", "fe80::1", "pacs_1"])
def test_names_and_addresses_of_both_families_are_hosts(tmp_path: Path, host: str) -> None:
    assert load(write_config(tmp_path, f'[archive]\nhost = " {host}"\n')).archive.host == host


def test_a_path_with_a_nul_is_refused(tmp_path: Path) -> None:
    assert "NUL" in str(load_error(write_config(tmp_path, '[storage]\ndirectory = "/srv/a\\u0000b"\n')))


def test_the_byte_order_mark_of_an_editor_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "radclipd.toml"
    path.write_bytes(b"\xef\xbb\xbf[listener]\r\nport = 11999\r\n")
    assert load(path).listener.port == 11999


@pytest.mark.parametrize(("content", "fault"), [("", "holds nothing"), ("a\nb\n", "more than one line")])
def test_a_secret_is_one_line(tmp_path: Path, content: str, fault: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text(content)
    path = write_config(tmp_path, f'[backfill]\nauthorization_file = "{secret}"\n')
    with pytest.raises(ConfigurationError, match=fault) as refused:
        read_authorization(load(path), path)
    assert "one line" in refused.value.hint


def test_invalid_toml_is_refused_with_its_line(tmp_path: Path) -> None:
    path = write_config(tmp_path, "[listener]\nport 104\n")
    error = load_error(path)
    assert str(path) in str(error)
    assert "line 2" in str(error)


def test_a_missing_or_unreadable_file_is_refused(tmp_path: Path) -> None:
    assert "no such file" in str(load_error(tmp_path / "none.toml"))
    assert str(tmp_path) in str(load_error(tmp_path))
    path = tmp_path / "latin.toml"
    path.write_bytes(b"# \xe9\n")
    assert "UTF-8" in str(load_error(path))


def test_the_environment_may_name_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADCLIPD_CONFIG", str(write_config(tmp_path, "[listener]\nport = 104\n")))
    assert load().listener.port == 104


def test_the_database_url_may_come_from_a_secret_file(tmp_path: Path) -> None:
    secret = tmp_path / "url"
    secret.write_text("postgresql+psycopg://radclipd:hush@db/radclipd\n")
    config = load(write_config(tmp_path, f'[catalog]\nurl_file = "{secret}"\n'))
    assert config.catalog.url == "postgresql+psycopg://radclipd:hush@db/radclipd"
    assert "hush" not in repr(config)


def test_the_database_url_may_be_a_systemd_credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_config(tmp_path, '[catalog]\nurl_file = "catalog-url"\n')
    assert "LoadCredential=catalog-url" in load_error(path).hint
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert "cannot read" in str(load_error(path))
    (tmp_path / "catalog-url").write_text("sqlite:////srv/catalog.db\n")
    assert load(path).catalog.url == "sqlite:////srv/catalog.db"


def test_no_error_shows_a_database_password(tmp_path: Path) -> None:
    secret = tmp_path / "url"
    secret.write_text("mysql://radclipd:hush@db/radclipd")
    for text in (f'url_file = "{secret}"', 'url = "mysql://radclipd:hush@db/radclipd"'):
        error = load_error(write_config(tmp_path, f"[catalog]\n{text}\n"))
        assert "hush" not in f"{error} {error.hint}"


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ({"host": "0.0.0.0"}, "no loopback address"),
        ({"host": "desk.hospital"}, "no loopback address"),
        ({"tls_certificate_file": "/c.pem"}, "name both or none"),
        ({"host": "0.0.0.0", "tls_certificate_file": "/c.pem", "tls_key_file": "/k.pem"}, ""),
        ({"host": "0.0.0.0", "behind_tls_proxy": True}, ""),
        ({"host": "::1"}, ""),
        ({"host": "localhost"}, ""),
    ],
)
def test_the_desk_listens_elsewhere_than_on_loopback_only_with_tls(keys: dict[str, Any], fault: str) -> None:
    if not fault:
        assert WebConfig(**keys).has_tls == (keys["host"] == "0.0.0.0")
        return
    with pytest.raises(ValidationError, match=fault):
        WebConfig(**keys)


FILES = 'certificate_file = "/c"\nkey_file = "/k"\nca_file = "/a"'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[listener]\ntls_port = 2762", "line 2: listener.tls_port needs certificates"),
        ("[archive]\ntls = true", "line 2: archive.tls needs certificates"),
        (f"[listener]\nrequire_tls = true\n[tls]\n{FILES}", "listener.require_tls = true leaves no port to senders"),
        (f"[listener]\ntls_port = 11112\n[tls]\n{FILES}", "listener.port and listener.tls_port are both 11112"),
        ('[tls]\ncertificate_file = "/c"', "certificate_file, key_file and ca_file belong together"),
        ('[tls]\ncertificate_file = "etc/c"', "an absolute path, or the bare name of a systemd credential"),
        ("[tls]\npeers = { CT1 = [] }", "'CT1' has no name"),
        ('[tls]\npeers = { CT1 = ["sha256:12"] }', "no SHA-256 fingerprint"),
        ('[listener]\ncalling_ae_titles = ["CT1@10.1.2.3/8"]', "10.1.2.3/8 has host bits set; write AE@ADDRESS"),
    ],
)
def test_a_fault_of_the_tls_configuration_is_named(tmp_path: Path, text: str, message: str) -> None:
    assert message in str(load_error(write_config(tmp_path, text)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[storage]\nslow_free = "1GiB"', "line 2: storage.slow_free = 1.0GiB is not above storage.min_free = 2.0GiB"),
        ('[storage]\nslow_free = "9GiB"\nwarn_free = "8GiB"', "storage.warn_free = 8.0GiB is not above storage.slow_free"),
        ('[retention]\nmin_free = "2GiB"', "retention.min_free = 2.0GiB is not above storage.min_free"),
        ('[storage]\nmin_free = 0\nwarn_free = "3GiB"\n[retention]\nmin_free = "1GiB"', "is not above storage.warn_free"),
    ],
)
def test_levels_of_free_space_rise(tmp_path: Path, text: str, message: str) -> None:
    assert message in str(load_error(write_config(tmp_path, text)))


def test_retention_of_what_was_committed_to_senders_is_refused(tmp_path: Path) -> None:
    text = '[listener]\nstorage_commitment = true\n[retention]\nmin_free = "9GiB"'
    assert "line 4: retention would delete what listener.storage_commitment" in str(load_error(write_config(tmp_path, text)))


def test_certificates_are_given_to_ae_titles_by_one_name_or_several(tmp_path: Path) -> None:
    text = f'[tls]\n{FILES}\npeers = {{ CT1 = "ct1.example", "*" = ["a.example", "b.example"] }}'
    assert load(write_config(tmp_path, text)).tls.peers == {"CT1": ("ct1.example",), "*": ("a.example", "b.example")}
