"""Dockerfile, compose.yaml and k8s/base agree with each other, with the services' settings and with Kubernetes."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml

from afdp.rpc.server import LIVENESS
from tests.container_files import (
    MANIFESTS,
    ROOT,
    SERVICES,
    Manifest,
    manifest_files,
    on_host,
    read_compose,
    read_images,
    read_manifests,
)

KUBERNETES = ("1.34", "1.37")
URL = "postgresql://afdp:not-to-be-shown@database.example/afdp?sslmode=verify-full"
# Who calls whom, and on which port.
CALLS = {
    ("gateway", "notary", 50051),
    ("gateway", "transparency", 8053),
    ("notary", "signer", 50052),
    ("notary", "transparency", 50053),
    ("notary", "metadata", 50054),
    ("transparency", "signer", 50052),
    ("metadata", "signer", 50052),
}

IMAGES = read_images()
COMPOSE = read_compose()
OBJECTS = read_manifests()
WORKLOADS = {
    manifest["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"]: manifest
    for (kind, _), manifest in OBJECTS.items()
    if kind in ("Deployment", "StatefulSet")
}


def pod(service: str) -> Manifest:
    template: Manifest = WORKLOADS[service]["spec"]["template"]
    return template


def container(service: str) -> Manifest:
    [only] = pod(service)["spec"]["containers"]
    found: Manifest = only
    return found


def container_ports(service: str) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container(service)["ports"]}


def service_environment(name: str) -> dict[str, str]:
    """What Kubernetes puts into a container's environment, over what the image has."""
    described, environment = container(name), dict(IMAGES[name].environment)
    for source in described["envFrom"]:
        environment |= OBJECTS["ConfigMap", source["configMapRef"]["name"]]["data"]
    for variable in described["env"]:
        if reference := variable["valueFrom"].get("configMapKeyRef"):
            environment[variable["name"]] = OBJECTS["ConfigMap", reference["name"]]["data"][reference["key"]]
        else:
            if variable["valueFrom"]["secretKeyRef"].get("optional"):
                optional = {"AFDP_REDIS_URL": "rediss://redis.example:6379/0", "AFDP_CACHE_SECRET": "s" * 32}
                environment[variable["name"]] = optional[variable["name"]]
                continue
            secret = "afdp-metadata-database" if name == "metadata" else "afdp-database"
            assert variable["valueFrom"]["secretKeyRef"] == {"name": secret, "key": "url"}
            environment[variable["name"]] = URL
    return environment


def effective_settings(service: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """What the service itself makes of an environment, and of nothing else."""
    command = [sys.executable, "-m", f"afdp.{service}", "config"]
    return subprocess.run(command, env=dict(environment), capture_output=True, text=True, timeout=60, check=False)


def default_of(service: str, setting: str) -> Any:
    schema = getattr(importlib.import_module(f"afdp.{service}.config"), f"{service.capitalize()}Settings")
    return schema.model_fields[setting].default


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    return all(labels.get(name) == value for name, value in selector.get("matchLabels", {}).items())


# Kubernetes


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("file", manifest_files(), ids=lambda file: file.name)
def test_every_object_fits_the_schema_of_kubernetes(file: Path, version: str) -> None:
    for manifest in yaml.safe_load_all(file.read_text()):
        kubernetes_validate.validate(manifest, version, strict=True)


def test_a_misspelt_field_would_not_fit_the_schema() -> None:
    manifest = yaml.safe_load((MANIFESTS / "signer.yaml").read_text().split("\n---\n")[0].replace("fsGroup", "fsgroup"))
    with pytest.raises(kubernetes_validate.ValidationError, match="fsgroup"):
        kubernetes_validate.validate(manifest, KUBERNETES[-1], strict=True)


def test_the_kustomization_lists_exactly_the_files_beside_it() -> None:
    kustomization = yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text())
    assert sorted(kustomization["resources"]) == [file.name for file in manifest_files()]


def test_all_five_services_are_deployed_and_the_signer_once() -> None:
    assert set(WORKLOADS) == set(SERVICES)
    assert WORKLOADS["signer"]["kind"] == "StatefulSet"
    assert WORKLOADS["signer"]["spec"]["replicas"] == 1
    [claim] = WORKLOADS["signer"]["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container("signer")["volumeMounts"]}
    assert mounts[claim["metadata"]["name"]] == IMAGES["signer"].environment["AFDP_DATA_DIR"]


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_accepts_the_environment_of_its_pod_and_listens_on_the_ports_named_there(service: str) -> None:
    answer = effective_settings(service, service_environment(service))
    assert answer.returncode == 0, answer.stderr
    settings = json.loads(answer.stdout)

    ports = container_ports(service)
    first = "http" if service == "gateway" else "grpc"
    assert ports[first] == settings["port"] == default_of(service, "port")
    assert ports.get("metrics", 0) == settings["metrics_port"]
    if service == "transparency":
        assert ports["http"] == settings["http_port"] == default_of(service, "http_port")
    assert set(ports.values()) == IMAGES[service].ports
    assert settings["host"] == "0.0.0.0"
    assert "not-to-be-shown" not in answer.stdout


def test_a_name_that_is_no_setting_is_refused_so_pods_get_no_service_links() -> None:
    environment = {**service_environment("notary"), "AFDP_SIGNER_SERVICE_HOST": "10.0.0.1"}
    answer = effective_settings("notary", environment)
    assert answer.returncode == 2
    assert "AFDP_SIGNER_SERVICE_HOST" in answer.stderr
    assert [pod(service)["spec"]["enableServiceLinks"] for service in SERVICES] == [False] * len(SERVICES)


@pytest.mark.parametrize("service", SERVICES)
def test_probes_ask_ports_that_the_container_has(service: str) -> None:
    ports = container_ports(service)
    for kind in ("livenessProbe", "readinessProbe"):
        probe = container(service)[kind]
        asked = probe["httpGet"]["port"] if "httpGet" in probe else urlsplit(probe["exec"]["command"][-1]).port
        assert asked in ports or asked in ports.values()
        assert probe.get("httpGet", {"scheme": "HTTPS"})["scheme"] == "HTTPS"
    # A service that is restarted because a dependency is away makes two outages of one.
    alive = container(service)["livenessProbe"]
    if service == "gateway":
        assert alive["httpGet"]["path"] == "/health"
    else:
        assert alive["exec"]["command"] == [
            "python",
            "/opt/healthcheck.py",
            f"grpc://127.0.0.1:{ports['grpc']}/{LIVENESS}",
        ]


@pytest.mark.parametrize("service", SERVICES)
def test_a_pod_runs_without_privileges_and_ends_within_its_grace(service: str) -> None:
    spec, security = pod(service)["spec"], container(service)["securityContext"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert f"{spec['securityContext']['runAsUser']}:{spec['securityContext']['runAsGroup']}" == IMAGES[service].user
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert security == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    pause = container(service).get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    assert pause + default_of(service, "drain_seconds") < spec["terminationGracePeriodSeconds"]


def test_the_guides_names_lead_to_the_gateway_and_the_notary() -> None:
    assert OBJECTS["Deployment", "afdp-notary-service"] is WORKLOADS["notary"]
    assert container("notary")["name"] == "afdp-notary"
    assert OBJECTS["ConfigMap", "afdp-config"]["data"].keys() == {"log_level"}
    assert {
        (name, port): destinations("afdp-notary-service", port) for name, port in [("http", 443), ("grpc", 50051)]
    } == {
        ("http", 443): {("gateway", 3030)},
        ("grpc", 50051): {("notary", 50051)},
    }


def destinations(service: str, port: int) -> set[tuple[str, int]]:
    """Which pods, at which port, a Service's port leads to; a named target is sought in each selected pod."""
    described = OBJECTS["Service", service]["spec"]
    [target] = [entry["targetPort"] for entry in described["ports"] if entry["port"] == port]
    selector = {"matchLabels": described["selector"]}
    selected = [name for name in WORKLOADS if selects(selector, pod(name)["metadata"]["labels"])]
    return {(name, container_ports(name)[target]) for name in selected if target in container_ports(name)}


def peers(environment: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    """The addresses of other services in an environment."""
    for name, value in environment.items():
        found = re.fullmatch(r"(?:https://)?([a-z-]+):(\d+)", value)
        if found and (name.endswith("_ADDRESS") or name == "AFDP_LOG_URL"):
            yield found[1], int(found[2])


def test_every_address_of_a_peer_is_a_service_that_leads_to_it() -> None:
    found = {
        (caller, callee, port)
        for caller in SERVICES
        for address in peers(service_environment(caller))
        for callee, port in destinations(*address)
    }
    assert found == CALLS


def test_the_signer_signs_for_the_log_that_is_kept() -> None:
    origin = service_environment("transparency")["AFDP_LOG_ORIGIN"]
    assert origin in service_environment("signer")["AFDP_LOG_ORIGINS"].split(",")


def test_the_network_lets_through_the_calls_that_are_made_and_no_other() -> None:
    reachable = {
        (caller, callee, port)
        for caller in SERVICES
        for callee in SERVICES
        for port in container_ports(callee).values()
        if admits(caller, "egress", callee, port) and admits(callee, "ingress", caller, port)
    }
    assert reachable == CALLS


def admits(service: str, direction: str, other: str, port: int) -> bool:
    """Whether a policy that selects the service lets this traffic through (a policy without a peer means everyone)."""
    peer_key = "from" if direction == "ingress" else "to"
    own, others = pod(service)["metadata"]["labels"], pod(other)["metadata"]["labels"]
    policies = [manifest["spec"] for (kind, _), manifest in OBJECTS.items() if kind == "NetworkPolicy"]
    rules = [rule for policy in policies if selects(policy["podSelector"], own) for rule in policy.get(direction, [])]
    return any(
        port in [entry["port"] for entry in rule["ports"]]
        and (peer_key not in rule or any(selects(peer["podSelector"], others) for peer in _own_pods(rule[peer_key])))
        for rule in rules
    )


def _own_pods(entries: Sequence[Manifest]) -> list[Manifest]:
    """Those of a rule's peers that are in this namespace."""
    return [entry for entry in entries if "namespaceSelector" not in entry]


def test_all_traffic_that_no_policy_names_is_closed() -> None:
    policy = OBJECTS["NetworkPolicy", "afdp-default"]["spec"]
    assert policy["podSelector"] == {}
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}


@pytest.mark.parametrize("service", SERVICES)
def test_a_pod_gets_the_certificate_of_its_own_service_and_no_other(service: str) -> None:
    mounts = {mount["name"]: mount["mountPath"] for mount in container(service)["volumeMounts"]}
    secrets = {
        volume["name"]: volume["secret"]["secretName"]
        for volume in pod(service)["spec"]["volumes"]
        if "secret" in volume
    }
    environment = service_environment(service)

    assert secrets == {"tls": f"afdp-{service}-tls"}
    assert {environment[f"AFDP_TLS_{name}"] for name in ("CERT", "KEY", "CA")} == {
        f"{mounts['tls']}/{file}" for file in ("tls.crt", "tls.key", "ca.crt")
    }
    issued = {
        each["spec"]["secretName"]: each["spec"]
        for each in yaml.safe_load_all((ROOT / "k8s/cert-manager/certificates.yaml").read_text())
        if each["kind"] == "Certificate"
    }
    assert {f"afdp-{service}", "localhost"} <= set(issued[f"afdp-{service}-tls"]["dnsNames"])


def test_every_disruption_budget_covers_the_workload_it_is_named_after() -> None:
    budgets = {name: manifest for (kind, name), manifest in OBJECTS.items() if kind == "PodDisruptionBudget"}
    workloads = {WORKLOADS[service]["metadata"]["name"]: service for service in SERVICES if service != "signer"}
    assert budgets.keys() == workloads.keys()
    for name, service in workloads.items():
        selector = budgets[name]["spec"]["selector"]
        covered = [other for other in SERVICES if selects(selector, pod(other)["metadata"]["labels"])]
        assert covered == [service]


def test_kubernetes_runs_the_images_that_compose_builds() -> None:
    built = {name: COMPOSE["services"][name]["image"] for name in SERVICES}
    assert {name: container(name)["image"] for name in SERVICES} == built


# Compose


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of what the containers log in to PostgreSQL with, by volume, made as compose.yaml makes them."""
    names = ("database-secret", "metadata-secret", "vault", "redis-secret", "redis-clients")
    folders = {name: tmp_path_factory.mktemp(name) for name in names}
    command = [sys.executable, ROOT / "deploy/container/secrets.py", *folders.values()]
    subprocess.run(command, check=True, timeout=30)
    return folders


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_accepts_the_environment_of_its_container(service: str, secrets: dict[str, Path]) -> None:
    described = {**IMAGES[service].environment, **COMPOSE["services"][service]["environment"]}
    volumes = [volume.split(":") for volume in COMPOSE["services"][service].get("volumes", [])]
    mounts = {target: secrets[name] for name, target, *_ in volumes if name in secrets}
    answer = effective_settings(service, {name: on_host(value, mounts) for name, value in described.items()})
    assert answer.returncode == 0, answer.stderr
    settings = json.loads(answer.stdout)
    assert settings["host"] == "0.0.0.0"
    assert settings["port"] == default_of(service, "port")
    assert {settings["port"], settings["metrics_port"]} - {0} <= IMAGES[service].ports


def test_only_this_machine_reaches_the_published_ports() -> None:
    published = {port: name for name, service in COMPOSE["services"].items() for port in service.get("ports", [])}
    assert published == {
        "127.0.0.1:3030:3030": "gateway",
        "127.0.0.1:50051:50051": "notary",
        "127.0.0.1:8053:8053": "transparency",
    }


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_a_container_runs_without_privileges_on_a_file_system_that_it_cannot_change(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    user = service.get("user") or IMAGES[service["build"]["target"]].user
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)


@pytest.mark.parametrize("name", sorted(COMPOSE["services"].keys() - {"certificates"}))
def test_a_container_holds_no_key_but_its_own(name: str) -> None:
    mounted = {volume.split(":")[0] for volume in COMPOSE["services"][name].get("volumes", [])}
    assert {volume for volume in mounted if volume.startswith("tls-")} <= {f"tls-{name}", "tls-authority"}
    assert "authority" not in mounted


def test_no_secret_stands_in_an_environment_or_on_a_command_line() -> None:
    for service in COMPOSE["services"].values():
        for name in service.get("environment", {}):
            if re.search("PASSWORD|TOKEN|SECRET|DATABASE_URL", name):
                assert name.endswith("_FILE")


@pytest.mark.parametrize("service", SERVICES)
def test_containers_share_a_network_exactly_with_those_they_call(service: str) -> None:
    services = COMPOSE["services"]
    called = {host for host, _ in peers(services[service]["environment"])}
    assert called == {callee for caller, callee, _ in CALLS if caller == service}
    for peer in called:
        assert set(services[service]["networks"]) & set(services[peer]["networks"])
    for away in ("signer", "metadata", "postgres", "vault"):
        assert not set(services["gateway"]["networks"]) & set(services[away]["networks"])


def test_what_a_container_waits_for_can_come_true() -> None:
    services = COMPOSE["services"]
    for service in services.values():
        for other, wanted in service.get("depends_on", {}).items():
            if wanted["condition"] == "service_healthy":
                image = IMAGES.get(services[other].get("build", {}).get("target", ""))
                assert "test" in services[other].get("healthcheck", {}) or (image and image.healthcheck)
            elif wanted["condition"] == "service_completed_successfully":
                assert services[other]["restart"].startswith("on-failure")
        assert set(service.get("networks", [])) <= COMPOSE["networks"].keys()
        named = [volume.split(":")[0] for volume in service.get("volumes", [])]
        assert {volume for volume in named if not volume.startswith("./")} <= COMPOSE["volumes"].keys()
        assert all((ROOT / volume).is_dir() for volume in named if volume.startswith("./"))


# The Dockerfile


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_starts_its_service_and_holds_exactly_its_packages(service: str) -> None:
    image, packages = IMAGES[service], IMAGES[f"{service}-packages"]
    assert COMPOSE["services"][service]["build"]["target"] == service
    assert image.entrypoint == ("python", "-m", f"afdp.{service}")
    assert image.copies[-1] == (f"--from={service}-packages", "/opt/afdp", "/opt/afdp")
    assert packages.runs[-2:] == (
        f"pip install --require-hashes --requirement requirements/{service}.txt",
        "pip install --no-deps --no-index --find-links=/wheels afdp-notary",
    )
    assert image.stop_signal == "SIGTERM"
    assert str(default_of(service, "port")) in image.healthcheck[-1]


def test_what_the_dockerfile_copies_is_there_and_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    let_in = [Path(line[1:]) for line in ignored if line.startswith("!")]
    assert "*" in ignored
    for image in IMAGES.values():
        for *sources, _ in image.copies:
            for source in sources:
                if not source.startswith("--") and not source.startswith("/"):
                    assert (ROOT / source).exists()
                    assert any(Path(source) in (path, *path.parents) or path in Path(source).parents for path in let_in)


def test_every_package_of_the_wheel_is_let_into_the_build() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    pyproject = (ROOT / "pyproject.toml").read_text()
    [line] = [line for line in pyproject.splitlines() if line.startswith("only-include")]
    folders = json.loads(line.split("=", 1)[1])
    assert {f"!{folder}" for folder in folders} <= set(ignored)


def test_the_build_backend_is_the_one_that_is_used_everywhere() -> None:
    locked = {name: pins(ROOT / "requirements" / name) for name in ("build.txt", "run.txt")}
    assert locked["build.txt"].items() <= locked["run.txt"].items()


def pins(file: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", file.read_text(), re.MULTILINE))
