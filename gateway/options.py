"""What of the settings only the gateway can judge, before it opens anything: who may reach it, and whom it trusts."""

from __future__ import annotations

from dispatcher.kubernetes.configuration import runner_settings
from gateway.admin import admin_of, tls_of
from gateway.api.server import check_listen
from gateway.oidc.opening import make_verifier
from penstock.errors import Forbidden, InvalidInput
from penstock.production import check_service
from penstock.settings import Settings
from scaler.interface.proxy import NodeProxy, TokenFile
from watcher.options import check as check_watcher


def check(settings: Settings, *, edge: bool) -> None:
    """Refuse what can never work. Reads the files that the settings name, opens nothing and asks nobody; a host that
    is given by name is looked up. Raises InvalidInput naming the setting.
    """
    tls = tls_of(settings.gateway)
    try:
        check_listen(
            settings.http.listen, allow_remote=settings.http.allow_remote or tls is not None, where="http.listen"
        )
    except Forbidden as error:
        raise InvalidInput(error.message, where="http.listen") from error
    admin_of(settings.gateway)
    make_verifier(settings.gateway)
    if settings.gateway.scaler:
        NodeProxy(settings.gateway.scaler, TokenFile(settings.gateway.scaler_token_file))
    check_service(settings, brokers=not edge)
    runner_settings(settings)
    if edge:
        check_watcher(settings)
