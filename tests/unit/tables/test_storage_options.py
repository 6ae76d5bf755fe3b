"""Hadoop's settings as options of the ``deltalake`` package, or the reason why not."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from phoebe_spark.tables.storage_options import (
    ENVIRONMENT,
    Reachable,
    Unreachable,
    hadoop_settings,
    reach,
)

KEYS = {"fs.s3a.access.key": "AK", "fs.s3a.secret.key": "s3cr3t"}
S3 = {"aws_access_key_id": "AK", "aws_secret_access_key": "s3cr3t", "aws_conditional_put": "etag"}
ACCOUNT = "acc.dfs.core.windows.net"
AZURE = {"azure_storage_account_name": "acc"}
HADOOP_CLASS = "org.apache.hadoop.fs.s3a."
OAUTH = {
    "fs.azure.account.auth.type": "OAuth",
    "fs.azure.account.oauth.provider.type": "o.a.h.oauth2.ClientCredsTokenProvider",
    f"fs.azure.account.oauth2.client.id.{ACCOUNT}": "me",
    "fs.azure.account.oauth2.client.secret": "s3cr3t",
    "fs.azure.account.oauth2.client.endpoint": "https://login.microsoftonline.com/T/oauth2/token",
}


@pytest.mark.parametrize(
    ("home", "hadoop", "options"),
    [
        ("/var/phoebe", {}, {}),
        ("file:///var/phoebe", KEYS, {}),
        ("s3a://b/home", {}, {"aws_conditional_put": "etag"}),
        ("s3a://b/home", KEYS, S3),
        ("s3://b/home", {**KEYS, "fs.s3a.session.token": "t"}, {**S3, "aws_session_token": "t"}),
        (
            "s3a://b/home",
            {
                **KEYS,
                "fs.s3a.session.token": "left over",
                "fs.s3a.aws.credentials.provider": HADOOP_CLASS + "SimpleAWSCredentialsProvider",
            },
            S3,
        ),
        (
            "s3a://b/home",
            {
                **KEYS,
                "fs.s3a.bucket.b.secret.key": "own",
                "fs.s3a.bucket.c.secret.key": "no",
                "fs.s3a.endpoint.region": "eu-west-1",
            },
            {**S3, "aws_secret_access_key": "own", "aws_region": "eu-west-1"},
        ),
        (
            "s3a://b/home",
            {**KEYS, "fs.s3a.endpoint": "s3.eu-central-1.amazonaws.com"},
            {**S3, "aws_region": "eu-central-1"},
        ),
        ("s3a://b/home", {**KEYS, "fs.s3a.endpoint": "https://s3.amazonaws.com"}, S3),
        (
            "s3a://b/home",
            {
                **KEYS,
                "fs.s3a.endpoint": "minio:9000",
                "fs.s3a.path.style.access": "true",
                "fs.s3a.connection.ssl.enabled": "false",
            },
            {
                **S3,
                "aws_endpoint_url": "http://minio:9000",
                "aws_allow_http": "true",
                "aws_virtual_hosted_style_request": "false",
                "aws_region": "us-east-1",
            },
        ),
        (
            "s3a://b/home",
            {**KEYS, "fs.s3a.endpoint": "objects.example.org"},
            {
                **S3,
                "aws_endpoint_url": "https://b.objects.example.org",
                "aws_virtual_hosted_style_request": "true",
                "aws_region": "us-east-1",
            },
        ),
        (
            "s3a://b/home",
            {"fs.s3a.aws.credentials.provider": HADOOP_CLASS + "AnonymousAWSCredentialsProvider"},
            {"aws_skip_signature": "true", "aws_conditional_put": "etag"},
        ),
        (
            f"abfss://c@{ACCOUNT}/home",
            {f"fs.azure.account.key.{ACCOUNT}": "s3cr3t"},
            {**AZURE, "azure_storage_account_key": "s3cr3t"},
        ),
        (f"abfss://c@{ACCOUNT}/home", {}, AZURE),
        (
            f"abfss://c@{ACCOUNT}/home",
            OAUTH,
            {
                **AZURE,
                "azure_storage_client_id": "me",
                "azure_storage_client_secret": "s3cr3t",
                "azure_storage_tenant_id": "T",
            },
        ),
        (
            "gs://b/home",
            {"google.cloud.auth.service.account.json.keyfile": "/k.json"},
            {"google_service_account": "/k.json"},
        ),
        ("gs://b/home", {"fs.gs.auth.type": "COMPUTE_ENGINE"}, {}),
    ],
)
def test_translated(home: str, hadoop: dict[str, str], options: dict[str, str]) -> None:
    found = reach(home, hadoop)
    assert isinstance(found, Reachable)
    assert found.options == options
    assert "s3cr3t" not in repr(found), "a record in a log line shows no secret"


@pytest.mark.parametrize(
    ("home", "hadoop", "code", "says"),
    [
        ("hdfs://name/home", {}, "store_scheme", "hdfs://"),
        ("viewfs://store/home", {}, "store_scheme", "viewfs://"),
        (
            "s3a://b/home",
            {**KEYS, "fs.s3a.aws.credentials.provider": "org.acme.Vault"},
            "store_setting",
            "Vault",
        ),
        (
            "s3a://b/home",
            {"fs.s3a.aws.credentials.provider": HADOOP_CLASS + "SimpleAWSCredentialsProvider"},
            "store_no_credentials",
            "credentials.provider",
        ),
        (
            "s3a://b/home",
            {**KEYS, "hadoop.security.credential.provider.path": "jceks://s3cr3t"},
            "store_credential_store",
            "provider.path",
        ),
        (
            "s3a://b/home",
            {**KEYS, "fs.s3a.bucket.b.encryption.algorithm": "SSE-C"},
            "store_setting",
            "encryption.algorithm",
        ),
        (
            f"abfss://c@{ACCOUNT}/home",
            {"fs.azure.account.auth.type": "Custom"},
            "store_setting",
            "Custom",
        ),
        (
            f"abfss://c@{ACCOUNT}/home",
            {**OAUTH, "fs.azure.account.oauth2.client.endpoint": "https://idp/s3cr3t"},
            "store_setting",
            "client.endpoint",
        ),
        (
            "gs://b/home",
            {"fs.gs.auth.access.token.provider.impl": "org.acme.Tokens"},
            "store_setting",
            "token.provider",
        ),
    ],
)
def test_not_translated(home: str, hadoop: dict[str, str], code: str, says: str) -> None:
    found = reach(home, hadoop)
    assert isinstance(found, Unreachable)
    assert found.reason.code == code
    assert says in found.reason.message
    assert "s3cr3t" not in repr(found)


def test_settings_come_from_sparks_and_hadoops_files(tmp_path: Path) -> None:
    (tmp_path / "core-site.xml").write_text(
        "<configuration><property><name>fs.s3a.endpoint</name><value>a</value></property>"
        "<property><name>fs.s3a.access.key</name><value>b</value></property></configuration>"
    )
    (tmp_path / "spark-defaults.conf").write_text(
        "# spark.hadoop.x no\nspark.master  local\nspark.hadoop.fs.s3a.access.key=AK==\n"
    )
    environment = {"HADOOP_CONF_DIR": str(tmp_path), "SPARK_CONF_DIR": str(tmp_path)}
    assert hadoop_settings(environment) == {"fs.s3a.endpoint": "a", "fs.s3a.access.key": "AK=="}
    told = {**environment, ENVIRONMENT: orjson.dumps({"fs.s3a.access.key": "told"}).decode()}
    assert hadoop_settings(told) == {"fs.s3a.access.key": "told"}
    assert hadoop_settings({}) == {}
