"""What `python -m gateway --check` refuses, each in one sentence that names the setting."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.options import check
from penstock.errors import InvalidInput
from penstock.settings import load
from tests.services.programs import usable

Check = Callable[..., None]


@pytest.fixture
def checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """Check settings that can work but for what a test says."""
    for name in list(os.environ):
        if name.startswith("PENSTOCK_"):
            monkeypatch.delenv(name)
    for name, value in usable(tmp_path).items():
        monkeypatch.setenv(name, value)
    (tmp_path / "text").write_text("short")

    def run(*, edge: bool = False, **variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(f"PENSTOCK_{name}", value.replace("HERE", str(tmp_path)))
        check(load(), edge=edge)

    return run


@pytest.mark.parametrize("edge", [False, True])
def test_what_can_work_is_let_through(checked: Check, edge: bool) -> None:
    checked(edge=edge)
    checked(
        edge=edge,
        HTTP_LISTEN="0.0.0.0:8080",
        HTTP_ALLOW_REMOTE="true",
        GATEWAY_OIDC_ISSUERS="https://sign-on.example/realm",
        GATEWAY_OIDC_AUDIENCE="penstock",
        GATEWAY_SCALER="http://scaler:9092",
        S3_PUBLIC_ENDPOINT="https://store.example",
    )


@pytest.mark.parametrize("edge", [False, True])
@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"GATEWAY_CREDENTIALS_DIR": ""}, "gateway.credentials_dir: is not set: name the folder"),
        (
            {"GATEWAY_CREDENTIALS_DIR": "HERE/nowhere"},
            "gateway.credentials_dir: the administrator's password cannot be read from HERE/nowhere: No such file",
        ),
        ({"GATEWAY_TLS_CERT": "HERE/text"}, "gateway.tls_cert, gateway.tls_key: certificate and key belong together"),
        ({"GATEWAY_TLS_KEY": "HERE/text"}, "gateway.tls_cert, gateway.tls_key: certificate and key belong together"),
        (
            {"GATEWAY_TLS_CERT": "HERE/text", "GATEWAY_TLS_KEY": "HERE/text"},
            "gateway.tls_cert: the certificate or key cannot be used",
        ),
        ({"GATEWAY_OIDC_ISSUERS": "https://sign-on.example"}, "gateway.oidc_audience: is needed with"),
        (
            {"GATEWAY_OIDC_ISSUERS": "http://sign-on.example", "GATEWAY_OIDC_AUDIENCE": "me"},
            "gateway.oidc_issuers: 'http://sign-on.example' is not an https:// address",
        ),
        ({"GATEWAY_SCALER": "scaler:9092"}, "gateway.scaler: 'scaler:9092' is no address"),
        ({"HTTP_LISTEN": "8080"}, "http.listen: give HOST:PORT such as 127.0.0.1:8080 or [::1]:8080, not '8080'"),
        ({"HTTP_LISTEN": "no-such-host.invalid:80"}, "http.listen: the host 'no-such-host.invalid' has no address"),
        ({"HTTP_LISTEN": "0.0.0.0:8080"}, "http.listen: 0.0.0.0:8080 can be reached from other machines"),
        ({"SERVICE_LISTEN": "9090"}, "service.listen: '9090' is not HOST:PORT"),
        ({"S3_ENDPOINT": ""}, "s3.endpoint: names no object store"),
        ({"S3_ENDPOINT": "minio:9000"}, "s3.endpoint: 'minio:9000' is not the URL of an object store"),
        ({"S3_POD_ENDPOINT": "minio:9000"}, "s3.pod_endpoint: 'minio:9000' is not the URL of an object store"),
        ({"S3_PUBLIC_ENDPOINT": "https://me:word@x"}, "s3.public_endpoint: the URL must not hold a user or password"),
        ({"S3_CREDENTIALS_DIR": ""}, "s3.credentials_dir: gives no account of the object store"),
        ({"S3_CREDENTIALS_DIR": "HERE/nowhere"}, "s3.credentials_dir: the store account cannot be read"),
        ({"S3_CA_FILE": "HERE/text"}, "s3.ca_file: HERE/text is not a readable PEM file of certificates"),
        ({"S3_CA_FILE": "HERE/nowhere"}, "s3.ca_file: HERE/nowhere is not a readable PEM file of certificates"),
        ({"KUBERNETES_KUBECONFIG": "HERE/nowhere"}, "kubernetes.kubeconfig: HERE/nowhere: the kubeconfig cannot be"),
        ({"KUBERNETES_CONTEXT": "there"}, "kubernetes.kubeconfig: "),
    ],
)
def test_what_never_can_is_named(
    checked: Check, edge: bool, variables: dict[str, str], says: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput) as caught:
        checked(edge=edge, **variables)
    assert caught.value.message.startswith(says.replace("HERE", str(tmp_path)))
    assert "word@" not in caught.value.message


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"KAFKA_SERVERS": ""}, "kafka.servers: names no broker: "),
        ({"KAFKA_TLS": "true", "KAFKA_CA_FILE": "HERE/text"}, "kafka.ca_file: HERE/text holds no certificates in PEM"),
        ({"KAFKA_USERNAME": "me"}, "kafka.username: user name and password go together"),
        ({"KAFKA_PASSWORD_FILE": "HERE/nowhere"}, "kafka.password_file: the password cannot be read"),
    ],
)
def test_only_the_edge_profile_does_without_kafka(
    checked: Check, variables: dict[str, str], says: str, tmp_path: Path
) -> None:
    checked(edge=True, **variables)
    with pytest.raises(InvalidInput) as caught:
        checked(**variables)
    assert caught.value.message.startswith(says.replace("HERE", str(tmp_path)))


def test_only_the_edge_profile_is_a_watcher_too(checked: Check) -> None:
    checked(NOTIFY_LISTEN="0.0.0.0:9091")
    with pytest.raises(InvalidInput, match=r"^notify\.token_file: is needed because notify\.listen"):
        checked(edge=True, NOTIFY_LISTEN="0.0.0.0:9091")


def test_a_kubeconfig_that_signs_in_by_a_plugin_cannot_work(checked: Check, tmp_path: Path) -> None:
    text = (tmp_path / "kubeconfig").read_text().replace("{token: word}", "{exec: {command: sign-in}}")
    (tmp_path / "plugin").write_text(text)
    with pytest.raises(InvalidInput, match=r"^kubernetes\.kubeconfig: .* signs in by a plugin"):
        checked(KUBERNETES_KUBECONFIG="HERE/plugin")
