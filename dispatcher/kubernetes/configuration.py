"""From the settings of the installation to those of the runner: the one place that knows both."""

from __future__ import annotations

from dispatcher.kubernetes.accounts import AUTHORITIES
from dispatcher.kubernetes.settings import KubernetesSettings
from dispatcher.kubernetes.volumes import VolumeSettings
from dispatcher.sidecar.launcher import launcher_text
from penstock.settings import Settings

MIB = 2**20


def runner_settings(settings: Settings) -> KubernetesSettings:
    """What the Jobs are made of."""
    jobs = settings.jobs
    return KubernetesSettings(
        namespace=settings.kubernetes.namespace,
        sidecar_image=jobs.sidecar_image,
        sidecar_pull_policy=jobs.sidecar_pull_policy,
        sidecar_env=sidecar_environment(settings),
        sidecar_uid=jobs.sidecar_uid,
        sidecar_cpu_millis=jobs.sidecar_cpu_millis,
        sidecar_memory_bytes=jobs.sidecar_memory_mib * MIB,
        sidecar_memory_limit_bytes=jobs.sidecar_memory_limit_mib * MIB,
        input_secret=jobs.input_secret,
        output_secret=jobs.output_secret,
        launcher=launcher_text(),
        restricted=jobs.restricted,
        default_image=jobs.default_image,
        pull_policy=jobs.pull_policy,
        pull_secrets=tuple(word.strip() for word in jobs.pull_secrets.split(",") if word.strip()),
        service_account=jobs.service_account,
        priority_class=jobs.priority_class,
        runtime_class=jobs.runtime_class,
        node_selector=jobs.node_selector,
        tolerations=tuple(jobs.tolerations),
        gpu_resource=jobs.gpu_resource,
        default_cpu_millis=jobs.default_cpu_millis,
        default_memory_bytes=jobs.default_memory_mib * MIB,
        run_size_bytes=jobs.run_size_mib * MIB or None,
        grace_s=jobs.grace_s,
        start_slack_s=jobs.start_slack_s,
        pending_limit_s=jobs.pending_limit_s,
        ttl_s=jobs.ttl_s,
        node_loss_s=jobs.node_loss_s,
        owned_by_function=True,
        pending_jobs=jobs.pending,
        start_limit_s=jobs.start_limit_s,
        name_after_s=jobs.name_after_s,
    )


def volume_settings(settings: Settings) -> VolumeSettings:
    return VolumeSettings(storage_class=settings.jobs.storage_class, access_mode=settings.jobs.volume_access_mode)


def sidecar_environment(settings: Settings) -> dict[str, str]:
    """Where the store is, for both sidecars; never a credential."""
    group = settings.s3
    environment = {
        "PENSTOCK_S3_ENDPOINT": group.pod_endpoint or group.endpoint,
        "PENSTOCK_S3_REGION": group.region,
        "PENSTOCK_S3_STYLE": group.style,
    }
    if group.ca_file is not None:
        environment["PENSTOCK_S3_CA"] = f"/oscar/store/{AUTHORITIES}"
    return environment
