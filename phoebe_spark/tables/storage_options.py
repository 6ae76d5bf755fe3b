"""How the ``deltalake`` package reaches a home: Hadoop's settings as its storage options.

A driver reaches its stores by Hadoop's settings; the ``deltalake`` package (its ``object_store``
library) has options of its own. `reach` is the whole translation, a function of the home's URI and
those settings. What it cannot say in options is an `Unreachable` with a typed reason: the events
are spooled then, and ``phoebe ingest`` writes the tables through Spark.

A companion gets the driver's settings in its environment (`ENVIRONMENT`), never in a message;
elsewhere they are read from Spark's and Hadoop's own files. Values are secrets, which no reason
names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import orjson

from phoebe_spark.errors import StoreUnreachableError
from phoebe_spark.reasons import Reason
from phoebe_spark.spark_env import spark_defaults

ENVIRONMENT = "PHOEBE_HADOOP_SETTINGS"
"""A JSON object of Hadoop's settings, as the plugin hands them to a companion."""

S3 = frozenset({"s3", "s3a"})
_AZURE = frozenset({"abfs", "abfss"})
_GOOGLE = frozenset({"gs"})

Settings = Mapping[str, str]
Writer = Literal["auto", "deltalake", "delta-spark"]


@dataclass(frozen=True, slots=True)
class Reachable:
    """``options`` for the ``deltalake`` package; ``how`` says where the credentials come from."""

    options: dict[str, str] = field(repr=False)
    how: str


@dataclass(frozen=True, slots=True)
class Unreachable:
    """Only Hadoop can reach the store; ``reason`` holds the names of settings, never a value."""

    reason: Reason


def scheme(home: str) -> str:
    """``file`` for a path."""
    return urlsplit(home).scheme.lower() if "://" in home else "file"


def reach(home: str, hadoop: Settings) -> Reachable | Unreachable:
    """Whether the ``deltalake`` package can write under ``home``, and with which options.

    ``hadoop`` are Hadoop's settings, without Spark's ``spark.hadoop.``. Options are those of
    ``object_store``'s ``AmazonS3ConfigKey``, ``AzureConfigKey`` and ``GoogleConfigKey``.
    """
    kind = scheme(home)
    given = {key: value.strip() for key, value in hadoop.items() if value and value.strip()}
    if kind == "file":
        return Reachable({}, "a local disk")
    if kind not in S3 | _AZURE | _GOOGLE:
        return _no("scheme", f"the deltalake package does not know {kind}://", scheme=kind)
    if kind in S3:
        return _s3(urlsplit(home).netloc, given)
    if key := _set(given, "hadoop.security.credential.provider.path"):
        return _stored(key)
    return _azure(urlsplit(home).netloc, given) if kind in _AZURE else _google(given)


def options_for(home: str) -> dict[str, str]:
    """The options with which ``home`` is written from this process.

    Raises `StoreUnreachableError` with the reason's sentence.
    """
    if scheme(home) == "file":
        return {}
    found = reach(home, hadoop_settings())
    if isinstance(found, Unreachable):
        raise StoreUnreachableError(f"{home} cannot be written from here: {found.reason.message}")
    return found.options


def writer_of(home: str, asked: Writer = "auto") -> Writer:
    """Who writes the tables of ``home``: by itself the ``deltalake`` package, and Spark with
    delta-spark where that cannot reach the home's store."""
    if asked != "auto":
        return asked
    found = reach(home, hadoop_settings())
    return "delta-spark" if isinstance(found, Unreachable) else "deltalake"


def _no(code: str, message: str, **args: str) -> Unreachable:
    return Unreachable(Reason(f"store_{code}", dict(args), message))


def _stored(key: str) -> Unreachable:
    return _no("credential_store", f"{key}: only Hadoop reads its credential stores", setting=key)


def _unknown(key: str, what: str) -> Unreachable:
    return _no("setting", f"{key}={what} means nothing to the deltalake package", setting=key)


def _only_hadoop(key: str) -> Unreachable:
    return _no("setting", f"{key} is set, which the deltalake package cannot follow", setting=key)


def _set(given: Settings, *keys: str) -> str | None:
    return next((key for key in keys if key in given), None)


_AMBIENT = "the machine's own credentials (environment, role of the machine or pod)"

# Which of Hadoop's providers find what ``object_store`` finds by itself.
_S3_AMBIENT = frozenset(
    {
        "EnvironmentVariableCredentialsProvider",
        "IAMInstanceCredentialsProvider",
        "InstanceProfileCredentialsProvider",
        "ContainerCredentialsProvider",
        "EC2ContainerCredentialsProviderWrapper",
        "WebIdentityTokenFileCredentialsProvider",
        "WebIdentityTokenCredentialsProvider",
    }
)
_S3_DEFAULT = (
    "TemporaryAWSCredentialsProvider",
    "SimpleAWSCredentialsProvider",
    "EnvironmentVariableCredentialsProvider",
    "IAMInstanceCredentialsProvider",
)
_S3_ONLY_HADOOP = (
    "delegation.token.binding",
    "encryption.algorithm",
    "server-side-encryption-algorithm",
    "proxy.host",
)
_AMAZON = re.compile(r"s3[.-](?:([a-z0-9-]+)\.)?amazonaws\.com(?:\.cn)?")


def _s3(bucket: str, given: Settings) -> Reachable | Unreachable:
    # A bucket's own settings (fs.s3a.bucket.<bucket>.) come before everybody's.
    own = f"fs.s3a.bucket.{bucket}."
    mine = {
        **{k.removeprefix("fs.s3a."): v for k, v in given.items() if k.startswith("fs.s3a.")},
        **{k.removeprefix(own): v for k, v in given.items() if k.startswith(own)},
    }
    if key := _set(given, "hadoop.security.credential.provider.path"):
        return _stored(key)
    if name := _set(mine, "security.credential.provider.path"):
        return _stored(f"fs.s3a.{name}")
    if name := _set(mine, *_S3_ONLY_HADOOP):
        return _only_hadoop(f"fs.s3a.{name}")
    found = _s3_credentials(mine)
    if isinstance(found, Unreachable):
        return found
    # Several may append at once: a commit is a put that fails where the object is there already.
    options = {**found.options, **_s3_place(bucket, mine), "aws_conditional_put": "etag"}
    return Reachable(options, found.how)


def _s3_credentials(mine: Settings) -> Reachable | Unreachable:
    keys = {
        option: mine[name]
        for option, name in (
            ("aws_access_key_id", "access.key"),
            ("aws_secret_access_key", "secret.key"),
            ("aws_session_token", "session.token"),
        )
        if name in mine
    }
    whole = {"aws_access_key_id", "aws_secret_access_key"} <= keys.keys()
    named = [n for n in re.split(r"[,\s]+", mine.get("aws.credentials.provider", "")) if n]
    for name in named or _S3_DEFAULT:
        provider = re.split(r"[.$]", name)[-1]
        if provider == "TemporaryAWSCredentialsProvider":
            if whole and "aws_session_token" in keys:
                return Reachable(keys, "fs.s3a.access.key, secret.key and session.token")
        elif provider == "SimpleAWSCredentialsProvider":
            if whole:
                keys.pop("aws_session_token", None)
                return Reachable(keys, "fs.s3a.access.key and secret.key")
        elif provider == "AnonymousAWSCredentialsProvider":
            return Reachable({"aws_skip_signature": "true"}, "no credentials")
        elif provider in _S3_AMBIENT:
            return Reachable({}, _AMBIENT)
        else:
            return _unknown("fs.s3a.aws.credentials.provider", provider)
    return _no("no_credentials", "none of fs.s3a.aws.credentials.provider finds credentials")


def _s3_place(bucket: str, mine: Settings) -> dict[str, str]:
    """Region and endpoint. ``object_store`` takes an endpoint of a bucket to hold its name."""
    options = {}
    region = mine.get("endpoint.region")
    given = mine.get("endpoint")
    if given is not None:
        ssl = mine.get("connection.ssl.enabled", "true").lower() != "false"
        at = urlsplit(given if "://" in given else f"{'https' if ssl else 'http'}://{given}")
        amazon = _AMAZON.fullmatch(at.hostname or "")
        if amazon is not None:
            region = region or amazon.group(1)
        else:
            by_path = mine.get("path.style.access", "false").lower() == "true"
            host = at.netloc if by_path else f"{bucket}.{at.netloc}"
            options["aws_endpoint_url"] = f"{at.scheme}://{host}{at.path.rstrip('/')}"
            options["aws_virtual_hosted_style_request"] = "false" if by_path else "true"
            region = region or "us-east-1"  # a signature names one; other stores ignore which
            if at.scheme == "http":
                options["aws_allow_http"] = "true"
    if region is not None:
        options["aws_region"] = region
    return options


_TENANT = re.compile(r"https://login\.microsoftonline\.com/([^/]+)/oauth2/(?:v2\.0/)?token/?")


def _azure(place: str, given: Settings) -> Reachable | Unreachable:
    host = place.rpartition("@")[2]
    account = host.partition(".")[0]

    def of(name: str) -> str | None:
        """An account's own setting comes before everybody's."""
        return given.get(f"{name}.{host}") or given.get(name)

    options = {"azure_storage_account_name": account}
    key = of("fs.azure.account.key")
    kind = of("fs.azure.account.auth.type") or ("SharedKey" if key else None)
    if kind is None:
        return Reachable(options, _AMBIENT)
    if kind == "SharedKey":
        provider = of("fs.azure.account.keyprovider")
        if key is None or (provider and not provider.endswith(".SimpleKeyProvider")):
            return _no("no_credentials", "fs.azure.account.key is not set for the account")
        return Reachable({**options, "azure_storage_account_key": key}, "fs.azure.account.key")
    if kind != "OAuth":
        return _unknown("fs.azure.account.auth.type", kind)
    provider = (of("fs.azure.account.oauth.provider.type") or "").rpartition(".")[2]
    if provider != "ClientCredsTokenProvider":
        return _unknown("fs.azure.account.oauth.provider.type", provider)
    client = of("fs.azure.account.oauth2.client.id")
    secret = of("fs.azure.account.oauth2.client.secret")
    tenant = _TENANT.fullmatch(of("fs.azure.account.oauth2.client.endpoint") or "")
    if client is None or secret is None:
        return _no("no_credentials", "fs.azure.account.oauth2.client.id or .secret is not set")
    if tenant is None:
        return _only_hadoop("fs.azure.account.oauth2.client.endpoint")
    options |= {
        "azure_storage_client_id": client,
        "azure_storage_client_secret": secret,
        "azure_storage_tenant_id": tenant.group(1),
    }
    return Reachable(options, "fs.azure.account.oauth2.client.id and secret")


def _google(given: Settings) -> Reachable | Unreachable:
    # The connector's versions before 3 say google.cloud. or fs.gs., the later one fs.gs. alone.
    def of(name: str) -> str | None:
        return given.get(f"fs.gs.{name}") or given.get(f"google.cloud.{name}")

    kind = of("auth.type")
    file = of("auth.service.account.json.keyfile")
    if file is not None and kind in (None, "SERVICE_ACCOUNT_JSON_KEYFILE"):
        return Reachable({"google_service_account": file}, "auth.service.account.json.keyfile")
    if kind not in (None, "COMPUTE_ENGINE", "APPLICATION_DEFAULT"):
        return _unknown("fs.gs.auth.type", kind)
    for name in (
        "auth.service.account.private.key",
        "auth.service.account.keyfile",
        "auth.access.token.provider.impl",
        "auth.access.token.provider",
    ):
        if of(name) is not None:
            return _only_hadoop(f"fs.gs.{name}")
    return Reachable({}, _AMBIENT)


def hadoop_settings(environment: Settings = os.environ) -> dict[str, str]:
    """What a driver on this machine would know: the plugin's word in a companion, else Hadoop's
    ``core-site.xml`` and Spark's ``spark-defaults.conf``, where there are any."""
    if ENVIRONMENT in environment:
        told = orjson.loads(environment[ENVIRONMENT])
        return {str(key): str(value) for key, value in told.items()}
    found: dict[str, str] = {}
    if environment.get("HADOOP_CONF_DIR"):
        found |= _core_site(Path(environment["HADOOP_CONF_DIR"]) / "core-site.xml")
    defaults = spark_defaults(environment)
    return found | {
        key.removeprefix("spark.hadoop."): value
        for key, value in defaults.items()
        if key.startswith("spark.hadoop.")
    }


def _core_site(path: Path) -> dict[str, str]:
    from xml.etree import ElementTree

    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError):
        return {}
    return {
        (p.findtext("name") or "").strip(): p.findtext("value") or "" for p in root.iter("property")
    }
