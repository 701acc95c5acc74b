"""What variables and URLs say of a bucket: what cannot be meant is one line, and secrets are never told."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.cli import output
from headrace.cli.featurize import main as featurize
from headrace.cli.store import main as store_command
from headrace.store.errors import HeadraceError, UsageError
from headrace.store.secrets import mask_secrets, without_secrets
from headrace.store.storage import s3_client, s3_settings
from headrace.store.storage.s3 import S3Path
from tests.helpers.commands import build, call
from tests.helpers.s3_server import KEYS

SECRET = "hidden/Pass+word"
SIGNED = f"https://b.s3.amazonaws.com/a.wav?X-Amz-Credential={SECRET}&X-Amz-Expires=60&X-Amz-Signature={SECRET}"
ENDPOINT = "AWS_ENDPOINT_URL"


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (KEYS | {ENDPOINT: "http://127.0.0.1:9", "AWS_METADATA_ENDPOINT": "http://127.0.0.1:9"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3_client, "FIRST_RETRIES", {"max_retries": 0})
    s3_client.connect.cache_clear()


@pytest.mark.parametrize(
    "variables, line",
    [
        ({ENDPOINT: ""}, "AWS_ENDPOINT_URL is set and empty"),
        ({ENDPOINT: "minio:9000"}, "'minio:9000': give it as https://HOST"),
        ({ENDPOINT: "ftp://host"}, "'ftp://host': give it as https://HOST"),
        ({ENDPOINT: "http://host:99999"}, "'http://host:99999': give it as https://HOST"),
        ({ENDPOINT: "http://[::1"}, "give it as https://HOST"),
        ({ENDPOINT: "http://a b"}, "give it as https://HOST"),
        ({ENDPOINT: "https://host/?a=b"}, "give it as https://HOST"),
        ({ENDPOINT: f"https://me:{SECRET}@host"}, "AWS_ENDPOINT_URL is 'https://***@host'"),
        ({"AWS_ENDPOINT_URL_S3": "nonsense"}, "AWS_ENDPOINT_URL_S3 is 'nonsense'"),
        ({"AWS_METADATA_ENDPOINT": "x y"}, "AWS_METADATA_ENDPOINT is 'x y'"),
        ({"AWS_REGION": ""}, "AWS_REGION is set and empty"),
        ({"AWS_REGION": "Frankfurt am Main"}, "AWS_REGION is 'Frankfurt am Main', which is no region"),
        ({"AWS_DEFAULT_REGION": "../x"}, "AWS_DEFAULT_REGION is '../x', which is no region"),
        ({"AWS_ACCESS_KEY_ID": None}, "AWS_SECRET_ACCESS_KEY is set and AWS_ACCESS_KEY_ID is not"),
        ({"AWS_SECRET_ACCESS_KEY": None}, "AWS_ACCESS_KEY_ID is set and AWS_SECRET_ACCESS_KEY is not"),
        ({"AWS_SECRET_ACCESS_KEY": f"{SECRET}\n"}, "AWS_SECRET_ACCESS_KEY holds a space, a line break"),
        ({"AWS_SESSION_TOKEN": "tökenökenöken"}, "AWS_SESSION_TOKEN holds a space"),
        ({"AWS_SKIP_SIGNATURE": "perhaps"}, 'AWS_SKIP_SIGNATURE cannot be used (failed to parse "perhaps"'),
        ({"AWS_SERVER_SIDE_ENCRYPTION": "rot13"}, "cannot be used (Invalid encryption type: rot13"),
        ({"AWS_PROFILE": "nobody", **dict.fromkeys(KEYS)}, "there are no credentials. Set AWS_ACCESS_KEY_ID"),
        ({"AWS_PROFILE": "nobody", **dict.fromkeys(KEYS)}, "(`aws configure export-credentials --format env`"),
        ({"HTTP_PROXY": f"http://me:{SECRET}@127.0.0.1:9"}, "cannot be listed at http://127.0.0.1:9"),
    ],
)
def test_odd_variables_are_one_line(
    variables: dict[str, str | None], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value) if value is not None else monkeypatch.delenv(name)
    result = call(store_command, "info", "s3://bucket/S")
    (said,) = result.stderr.splitlines()
    assert result.exit_code in (1, 2) and line in said, said
    assert SECRET not in said and "me:" not in said and "öken" not in said


@pytest.mark.parametrize(
    "text, shown",
    [
        (f"https://me:{SECRET}@host/x", "https://***@host/x"),
        ("https://me@host/x", "https://***@host/x"),
        ("see https://me:se@cr@host, and tls://a:b@h:8786", "see https://***@host, and tls://***@h:8786"),
        (f"s3://KEY:{SECRET}@bucket/x", "s3://***@bucket/x"),
        (SIGNED, "https://b.s3.amazonaws.com/a.wav?X-Amz-Credential=***&X-Amz-Expires=60&X-Amz-Signature=***"),
        (
            "https://b/x?AWSAccessKeyId=AKIA&Signature=abc%3D&Expires=1",
            "https://b/x?AWSAccessKeyId=***&Signature=***&Expires=1",
        ),
        (
            "http://127.0.0.1:9000/a@b and s3://bucket/me@home/a:b@c",
            "http://127.0.0.1:9000/a@b and s3://bucket/me@home/a:b@c",
        ),
        ("semantic tokens: 25, a key=value", "semantic tokens: 25, a key=value"),
    ],
)
def test_urls_are_shown_without_secrets(text: str, shown: str) -> None:
    assert without_secrets(text) == shown and SECRET not in mask_secrets(text)


def test_no_message_tells_a_key(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Such as one that a server repeats: in what is raised, and in what a library of somebody else says."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    error = UsageError(f"a {SECRET}", f"b {SECRET}")
    assert (str(error), error.details) == ("a ***", ("b ***",)) and error.__reduce__() == (
        UsageError,
        ("a ***", "b ***"),
    )
    output.log(f"c {SECRET}")
    output.print_error(f"d {SECRET}", f"e {SECRET}")
    assert capsys.readouterr().err == "c ***\nError: d ***\n  e ***\n"


@pytest.mark.parametrize(
    "url", [SIGNED, f"s3://KEY:{SECRET}@bucket/x", f"gs://me:{SECRET}@bucket/x", f"https://me:{SECRET}@host/x.list"]
)
def test_commands_do_not_repeat_secrets(url: str, tmp_path: Path) -> None:
    for result in (
        call(featurize, "scan", url),
        build(url, tmp_path / "S"),
        build(tmp_path, url),
        call(store_command, "info", url),
        call(store_command, "export", tmp_path, "--out", url),
        build(tmp_path, tmp_path / "S", "--scheduler", f"tls://me:{SECRET}@127.0.0.1:9"),
    ):
        assert result.exit_code in (1, 2) and SECRET not in result.output, result.output
        assert isinstance(result.exception, SystemExit)
    assert not list(tmp_path.rglob("*"))


def test_the_server_is_the_one_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS_ENDPOINT is read by the client, too, and would win over the variables that are documented."""
    monkeypatch.setenv("AWS_ENDPOINT", "http://127.0.0.1:7")
    with pytest.raises(HeadraceError, match=r"at http://127\.0\.0\.1:9"):
        S3Path("bucket", "x").check_access()
    assert s3_client.connect("bucket").config["endpoint"] == "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("variables", "refused"),
    [
        ({"AWS_REGION": "x" * 63}, False),
        ({"AWS_REGION": "x" * 64}, True),
        ({"AWS_DEFAULT_REGION": "A-9"}, False),
        ({"AWS_REGION": "a_b"}, True),
        ({"AWS_SECRET_ACCESS_KEY": "!~"}, False),
        ({"AWS_TOKEN": "\x7f"}, True),
        ({"AWS_TOKEN": " "}, True),
        ({ENDPOINT: "HTTPS://host:65535/a"}, False),
        ({ENDPOINT: "http://[::1]:1"}, False),
        ({ENDPOINT: "http://host:0"}, True),
        ({ENDPOINT: "http://host:65536"}, True),
        ({ENDPOINT: "http://"}, True),
        ({ENDPOINT: "http://host/#a"}, True),
        ({ENDPOINT: "http://host/?a"}, True),
        ({ENDPOINT: "http://me@host"}, True),
        ({ENDPOINT: "http://host/me@home"}, False),
        ({"AWS_ENDPOINT_URL_STS": "host"}, True),
        ({"AWS_ENDPOINT": "host"}, True),
        (dict.fromkeys(KEYS), False),
    ],
)
def test_each_bound_of_a_variable(
    variables: dict[str, str | None], refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value) if value is not None else monkeypatch.delenv(name)
    if not refused:
        s3_settings.check_settings()
        return
    with pytest.raises(UsageError, match=next(iter(variables))):
        s3_settings.check_settings()


def test_what_the_environment_says_is_read_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENDPOINT)
    for name in reversed(s3_settings.ENDPOINTS):
        monkeypatch.setenv(name, f"http://{name}")
        assert s3_settings.endpoint() == f"http://{name}"
    monkeypatch.setenv(s3_settings.ENDPOINTS[0], "")
    assert s3_settings.endpoint() == f"http://{s3_settings.ENDPOINTS[1]}"
    for name in s3_settings.ENDPOINTS:
        monkeypatch.delenv(name)
    assert s3_settings.endpoint() == ""
    monkeypatch.delenv("AWS_SKIP_SIGNATURE", raising=False)
    assert s3_settings.is_signing()
    for value, signing in (("1", 0), ("TRUE", 0), ("on", 0), ("Yes", 0), ("y", 0), ("0", 1), ("false", 1), ("", 1)):
        monkeypatch.setenv("AWS_SKIP_SIGNATURE", value)
        assert s3_settings.is_signing() == bool(signing), value
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    assert "aws configure" not in s3_settings.keys_missing()
    monkeypatch.setenv("AWS_PROFILE", "x")
    assert "aws configure" in s3_settings.keys_missing()


def test_a_setting_that_the_client_refuses_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ONE", "odd value")
    monkeypatch.setenv("OTHER", "odd value")
    assert "AWS_ONE cannot be used" in s3_settings.refused_setting('failed to parse "odd value"').message
    assert "OTHER" not in s3_settings.refused_setting('failed to parse "odd value"').message
    assert "A variable AWS_* cannot be used" in s3_settings.refused_setting("failed to parse odd value").message


def test_objects_are_named_by_their_urls() -> None:
    assert [s3_settings.object_url("b", key) for key in ("", "a", "a/b/")] == ["s3://b", "s3://b/a", "s3://b/a/b"]
